"""Structural schemas of custom kinds: defaulting, pruning and validation, in Kubernetes' order and words. Pure but for compiled rules kept by text."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from moorage.clock import parse_rfc3339
from moorage.embedded import cel
from moorage.errors import Invalid
from moorage.specs.quantities import is_quantity

Schema = Mapping[str, Any]
_ENVELOPE = frozenset({"apiVersion", "kind", "metadata"})
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_INT_OR_STRING = "x-kubernetes-int-or-string"
_OPEN = "x-kubernetes-preserve-unknown-fields"


@lru_cache(maxsize=512)
def _rule(text: str) -> cel.Evaluate:
    return cel.compile_rule(text)


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def set_defaults(value: Any, schema: Schema) -> None:
    """Fill in declared defaults in place, parents before children."""
    if isinstance(value, dict):
        for name, inner in (schema.get("properties") or {}).items():
            if "default" in inner and (name not in value or (value[name] is None and not inner.get("nullable"))):
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                set_defaults(value[name], inner)
        additional = schema.get("additionalProperties")
        if isinstance(additional, Mapping):
            for name in value:
                if name not in (schema.get("properties") or {}):
                    set_defaults(value[name], additional)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            set_defaults(item, schema["items"])


def prune(value: Any, schema: Schema, *, path: str = "", top: bool = True) -> list[str]:
    """Drop fields the schema does not have, and nulls it does not allow, in place; the unknown fields' paths."""
    found: list[str] = []
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        additional = schema.get("additionalProperties")
        for name in list(value):
            here = f"{path}.{name}" if path else name
            if (top or schema.get("x-kubernetes-embedded-resource")) and name in _ENVELOPE:
                continue
            if name in properties:
                if value[name] is None and not properties[name].get("nullable"):
                    del value[name]
                    continue
                found += prune(value[name], properties[name], path=here, top=False)
            elif isinstance(additional, Mapping):
                found += prune(value[name], additional, path=here, top=False)
            elif not schema.get(_OPEN) and additional is not True:
                found.append(here)
                del value[name]
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(value):
            found += prune(item, schema["items"], path=f"{path}[{index}]", top=False)
    return found


def validate(value: Any, schema: Schema, *, before: Any = None) -> list[Invalid]:
    """Everything wrong with an object, a finding per field. Rules are evaluated only where the structure is right, as Kubernetes does."""
    found = list(_structure(value, schema, "", top=True))
    return found or list(_rules(value, schema, "", before))


def _structure(value: Any, schema: Schema, path: str, *, top: bool = False) -> Iterator[Invalid]:
    if value is None and schema.get("nullable"):
        return
    wrong_type = _type_finding(value, schema, path)
    if wrong_type is not None:
        yield wrong_type
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(f'"{choice}"' for choice in schema["enum"])
        yield Invalid(f"Unsupported value: {_shown(value)}: supported values: {supported}", code="FieldValueNotSupported", target=path)
    if isinstance(value, str):
        yield from _string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(value, schema, path)
    elif isinstance(value, dict):
        yield from _object(value, schema, path, top=top)
    elif isinstance(value, list):
        yield from _array(value, schema, path)
    yield from _junctors(value, schema, path)


def _type_finding(value: Any, schema: Schema, path: str) -> Invalid | None:
    if schema.get(_INT_OR_STRING):
        allowed: tuple[type, ...] = (int, str)
        names = "integer,string"
    elif schema.get("type") in _TYPES:
        allowed, names = _TYPES[schema["type"]], schema["type"]
    else:
        return None
    if isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool)):
        return None
    actual = next((name for name, types in _TYPES.items() if type(value) in types), "null")
    return Invalid(
        f'Invalid value: "{actual}": {path or "<nil>"} in body must be of type {names}: "{actual}"',
        code="FieldValueTypeInvalid",
        target=path,
    )


def _string(value: str, schema: Schema, path: str) -> Iterator[Invalid]:
    if len(value) < schema.get("minLength", 0):
        yield _broken(value, path, f"{path} in body should be at least {schema['minLength']} chars long")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield Invalid(f"Too long: may not be more than {schema['maxLength']} bytes", code="FieldValueTooLong", target=path)
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield _broken(value, path, f"{path} in body should match '{schema['pattern']}'")
    if schema.get("format") == "date-time":
        try:
            parse_rfc3339(value)
        except ValueError:
            yield _broken(value, path, f"{path} in body must be of type date-time: {_shown(value)}")
    if schema.get("format") == "quantity" and not is_quantity(value):
        yield _broken(value, path, f"{path} in body must be a quantity")


def _number(value: float, schema: Schema, path: str) -> Iterator[Invalid]:
    if "minimum" in schema and (value < schema["minimum"] or (schema.get("exclusiveMinimum") and value == schema["minimum"])):
        words = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield _broken(value, path, f"{path} in body should be {words} {schema['minimum']}")
    if "maximum" in schema and (value > schema["maximum"] or (schema.get("exclusiveMaximum") and value == schema["maximum"])):
        words = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield _broken(value, path, f"{path} in body should be {words} {schema['maximum']}")
    if "multipleOf" in schema and value % schema["multipleOf"]:
        yield _broken(value, path, f"{path} in body should be a multiple of {schema['multipleOf']}")


def _object(value: dict[str, Any], schema: Schema, path: str, *, top: bool) -> Iterator[Invalid]:
    properties = schema.get("properties") or {}
    for name in schema.get("required") or ():
        if name not in value:
            yield Invalid("Required value", code="FieldValueRequired", target=_below(path, name))
    if "maxProperties" in schema and len(value) > schema["maxProperties"]:
        yield Invalid(f"Too many: {len(value)}: must have at most {schema['maxProperties']} items", code="FieldValueTooMany", target=path)
    if len(value) < schema.get("minProperties", 0):
        yield _broken(len(value), path, f"{path} in body should have at least {schema['minProperties']} properties")
    additional = schema.get("additionalProperties")
    for name, inner in value.items():
        if top and name in _ENVELOPE:
            continue
        if name in properties:
            yield from _structure(inner, properties[name], _below(path, name))
        elif isinstance(additional, Mapping):
            yield from _structure(inner, additional, _below(path, name))


def _array(value: list[Any], schema: Schema, path: str) -> Iterator[Invalid]:
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield Invalid(f"Too many: {len(value)}: must have at most {schema['maxItems']} items", code="FieldValueTooMany", target=path)
    if len(value) < schema.get("minItems", 0):
        yield _broken(len(value), path, f"{path} in body should have at least {schema['minItems']} items")
    yield from _duplicates(value, schema, path)
    items = schema.get("items")
    if isinstance(items, Mapping):
        for index, item in enumerate(value):
            yield from _structure(item, items, f"{path}[{index}]")


def _duplicates(value: Sequence[Any], schema: Schema, path: str) -> Iterator[Invalid]:
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys") or ()
    seen: list[Any] = []
    for index, item in enumerate(value):
        if kind == "map" and isinstance(item, Mapping):
            identity: Any = {key: item.get(key) for key in keys}
        elif kind == "set":
            identity = item
        else:
            return
        if identity in seen:
            yield Invalid(f"Duplicate value: {_shown(identity)}", code="FieldValueDuplicate", target=f"{path}[{index}]")
        seen.append(identity)


def _junctors(value: Any, schema: Schema, path: str) -> Iterator[Invalid]:
    for inner in schema.get("allOf") or ():
        yield from _structure(value, inner, path)
    if schema.get("anyOf") and not any(not list(_structure(value, inner, path)) for inner in schema["anyOf"]):
        yield _broken(value, path, f"{path} in body must validate at least one schema (anyOf)")
    if schema.get("oneOf") and sum(not list(_structure(value, inner, path)) for inner in schema["oneOf"]) != 1:
        yield _broken(value, path, f"{path} in body must validate one and only one schema (oneOf)")
    if schema.get("not") and not list(_structure(value, schema["not"], path)):
        yield _broken(value, path, f"{path} in body must not validate the schema (not)")


def _rules(value: Any, schema: Schema, path: str, before: Any) -> Iterator[Invalid]:
    for declared in schema.get("x-kubernetes-validations") or ():
        rule = declared["rule"]
        transition = re.search(r"\boldSelf\b", rule) is not None
        if transition and before is None:
            continue
        try:
            holds = _rule(rule)({"self": value, "oldSelf": before})
        except cel.EvaluationFailed as error:
            yield _broken(_type_word(value), path, f"rule evaluation error: {error}")
            continue
        if holds is not True:
            message = declared.get("message") or f"failed rule: {rule.strip()}"
            code = declared.get("reason", "FieldValueInvalid")
            yield Invalid(f"Invalid value: {_type_word(value)}: {message}", code=code, target=path + declared.get("fieldPath", ""))
    if isinstance(value, dict):
        properties, additional = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, inner in value.items():
            rules = properties.get(name, additional if isinstance(additional, Mapping) else None)
            if rules is not None:
                yield from _rules(inner, rules, _below(path, name), before.get(name) if isinstance(before, dict) else None)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from _rules(item, schema["items"], f"{path}[{index}]", _counterpart(item, schema, before))


def _counterpart(item: Any, schema: Schema, before: Any) -> Any:
    """The item of the old list that this one replaces; only map lists have such."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if not keys or not isinstance(before, list) or not isinstance(item, dict):
        return None
    return next((old for old in before if all(old.get(key) == item.get(key) for key in keys)), None)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _type_word(value: Any) -> str:
    return (
        '"' + next((name for name, types in _TYPES.items() if type(value) in types), "null") + '"'
        if not isinstance(value, str)
        else _shown(value)
    )


def _broken(value: Any, path: str, reason: str) -> Invalid:
    return Invalid(f"Invalid value: {_shown(value)}: {reason}", code="FieldValueInvalid", target=path)


def unusable(schema: Schema, path: str) -> list[Invalid]:
    """Why a schema cannot be served: constructs beyond structural schemas, patterns and rules that do not compile."""
    found: list[Invalid] = []
    if "$ref" in schema:
        found.append(Invalid("Forbidden: $ref is not supported", code="FieldValueForbidden", target=f"{path}.$ref"))
    if not schema.get("type") and not schema.get(_INT_OR_STRING) and not schema.get(_OPEN):
        found.append(
            Invalid("Required value: must not be empty for specified object fields", code="FieldValueRequired", target=f"{path}.type")
        )
    if schema.get("type") not in (None, *_TYPES):
        found.append(
            Invalid(f'Unsupported value: "{schema["type"]}": supported values: "array", "boolean", "integer", "number", "object", "string"',
                    code="FieldValueNotSupported", target=f"{path}.type")
        )  # fmt: skip
    if "pattern" in schema:
        try:
            _pattern(schema["pattern"])
        except re.error as error:
            found.append(_broken(schema["pattern"], f"{path}.pattern", f"must be a valid regular expression: {error}"))
    for index, declared in enumerate(schema.get("x-kubernetes-validations") or ()):
        try:
            _rule(declared.get("rule", ""))
        except Invalid as error:
            found.append(Invalid(error.message, code="FieldValueInvalid", target=f"{path}.x-kubernetes-validations[{index}].rule"))
    for name, inner in (schema.get("properties") or {}).items():
        found += unusable(inner, f"{path}.properties[{name}]")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            found += unusable(schema[name], f"{path}.{name}")
    return found
