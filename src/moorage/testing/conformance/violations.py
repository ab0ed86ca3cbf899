"""From an OpenAPI schema of a custom resource: its smallest object, and for every rule of the schema an object that breaks this rule alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from moorage.clock import parse_rfc3339

# What the patterns of our definitions take.
_SAMPLES = ("a", "aaa", "1", "0" * 8, "0" * 43, "0" * 64, "2026-01-01T00:00:00Z")
# Not a list for a string: where the string has a format, Kubernetes lets lists pass (kube-openapi, type.go).
_WRONG: Mapping[str, Any] = {
    "object": "wrong",
    "array": "wrong",
    "string": {"wrong": True},
    "integer": "wrong",
    "number": "wrong",
    "boolean": "wrong",
}
_SUFFICIENTLY_MANY = 1000  # of entries, beyond which a bound is not tested


def smallest(schema: Mapping[str, Any]) -> Any:
    """The least that the schema takes, its validation rules (CEL) aside."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("x-kubernetes-int-or-string"):
        return 1
    match schema["type"]:
        case "object":
            return {name: smallest(schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return [smallest(schema["items"]) for _ in range(schema.get("minItems", 0))]
        case "string":
            return next(sample for sample in _SAMPLES if _takes(schema, sample))
        case "boolean":
            return False
        case _:
            return max(schema.get("minimum", 0), 0)


def violations(schema: Mapping[str, Any], field: str) -> Iterator[tuple[str, Any]]:
    """(the field that an API server must name, a value for `field` that breaks one rule)."""
    if schema.get("x-kubernetes-int-or-string"):
        yield field, [1]
        if "pattern" in schema:
            yield field, "?"
        return
    kind = schema["type"]
    yield field, _WRONG[kind]
    yield from ((field, value) for value in _of_own(schema, kind))
    if kind == "object":
        yield from _of_properties(schema, field)
    elif kind == "array":
        yield from ((where, [value]) for where, value in violations(schema["items"], f"{field}[0]"))


def _of_own(schema: Mapping[str, Any], kind: str) -> Iterator[Any]:
    """What breaks the bounds of this very value."""
    if "enum" in schema:
        yield "no-such-value"
        return
    if "minimum" in schema:
        yield schema["minimum"] - 1
    if "maximum" in schema:
        yield schema["maximum"] + 1
    if schema.get("minLength", 0) > 0:
        yield ""
    if "maxLength" in schema:
        yield "a" * (schema["maxLength"] + 1)
    if "pattern" in schema or schema.get("format") == "date-time":
        yield "?" * max(schema.get("minLength", 1), 1)
    if schema.get("maxItems", _SUFFICIENTLY_MANY) < _SUFFICIENTLY_MANY:
        yield [smallest(schema["items"])] * (schema["maxItems"] + 1)
    if kind == "object" and schema.get("maxProperties", _SUFFICIENTLY_MANY) < _SUFFICIENTLY_MANY:
        yield {f"n{number}": smallest(schema["additionalProperties"]) for number in range(schema["maxProperties"] + 1)}


def _of_properties(schema: Mapping[str, Any], field: str) -> Iterator[tuple[str, Any]]:
    whole = smallest(schema)
    for name in schema.get("required", ()):
        # A default comes before the demand.
        if "default" not in schema["properties"][name]:
            yield f"{field}.{name}", {key: value for key, value in whole.items() if key != name}
    for name, inner in schema.get("properties", {}).items():
        yield from ((where, {**whole, name: value}) for where, value in violations(inner, f"{field}.{name}"))
    if isinstance(inner := schema.get("additionalProperties"), Mapping):
        yield from ((where, {"x": value}) for where, value in violations(inner, f"{field}.x"))


def _takes(schema: Mapping[str, Any], sample: str) -> bool:
    if schema.get("format") == "date-time":
        try:
            parse_rfc3339(sample)
        except ValueError:
            return False
    long_enough = schema.get("minLength", 0) <= len(sample) <= schema.get("maxLength", len(sample))
    return long_enough and re.search(schema.get("pattern", ""), sample) is not None
