"""The fields of built-in kinds: names, numbers, types and merge rules, from Kubernetes' own files (`scripts/kubernetes_fields.py` makes fields.json).

Three things read it: the decoder of protocol buffer bodies, the check of types and unknown fields, and the merge rules of patches and applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import orjson

SCALARS = frozenset({"string", "bytes", "bool", "int32", "int64", "double"})
QUANTITY, INT_OR_STRING, TIME, MICRO_TIME, DURATION, FIELDS_V1 = (
    "api.resource.Quantity",
    "util.intstr.IntOrString",
    "meta.v1.Time",
    "meta.v1.MicroTime",
    "meta.v1.Duration",
    "meta.v1.FieldsV1",
)
# Messages that are one value in JSON.
VALUES = frozenset({QUANTITY, INT_OR_STRING, TIME, MICRO_TIME, DURATION, FIELDS_V1, "runtime.RawExtension"})


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `card` is empty, `[]` or `{}`; `merge_keys` identify items for apply, `patch_key` for strategic patches.

    The zero of a `silent` one says nothing: protocol buffers have it, JSON does not.
    """

    number: int
    name: str
    type: str
    card: str = ""
    inline: bool = False
    atomic: bool = False
    is_set: bool = False
    merge_keys: tuple[str, ...] = ()
    patch_key: str = ""
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One object type: its JSON fields by name (embedded ones already in place), and its wire fields by number."""

    name: str
    by_name: Mapping[str, Field]
    by_number: Mapping[int, Field]
    atomic: bool = False


@cache
def _tables() -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = orjson.loads((resources.files(__package__) / "fields.json").read_bytes())
    return parsed


@cache
def message(name: str) -> Message:
    """The message of that name; KeyError when there is none."""
    rows = _tables()["messages"][name]
    by_name: dict[str, Field] = {}
    by_number: dict[int, Field] = {}
    atomic = False
    for number, field_name, type_, rules in rows:
        if number == 0:
            atomic = True
            continue
        field = _field(number, field_name, type_, rules)
        by_number[number] = field
        if field.inline:
            by_name |= message(field.type).by_name
        else:
            by_name[field_name] = field
    return Message(name, by_name, by_number, atomic)


def _field(number: int, name: str, type_: str, rules: str) -> Field:
    card = type_[:2] if type_[:2] in ("[]", "{}") else ""
    given = dict(rule.partition("=")[::2] for rule in rules.split())
    return Field(
        number,
        name,
        type_.removeprefix(card),
        card,
        inline="inline" in given,
        atomic="atomic" in given,
        is_set="set" in given,
        merge_keys=tuple(given.get("map", "").split(",")) if given.get("map") else (),
        patch_key=given.get("merge", ""),
        silent="silent" in given,
    )


def kind_message(group: str, kind: str) -> Message | None:
    """The message of a built-in kind, None for one that Kubernetes does not define in protocol buffers or that we do not serve."""
    name = _tables()["kinds"].get(f"{group}/{kind}")
    return message(name) if name else None


def is_value(type_: str) -> bool:
    return type_ in SCALARS or type_ in VALUES or type_ not in _tables()["messages"]
