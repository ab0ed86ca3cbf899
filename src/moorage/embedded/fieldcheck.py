"""Built-in kinds' bodies against the table of fields: wrong types are refused in the words of Go's decoder, unknown fields are dropped and reported. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from moorage.embedded import fields
from moorage.embedded.quantities import canonical
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import is_quantity

_ENVELOPE = frozenset({"apiVersion", "kind"})
# Whole objects within others (a StatefulSet's volumeClaimTemplates).
_WHOLE = frozenset({"core.v1.PersistentVolumeClaim"})
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/=]|=(?!=?$)")
_WORDS = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
_GO_TYPES = {"double": "float64", "bytes": "[]uint8"}


def check(group: str, kind: str, manifest: Manifest) -> list[str]:
    """Drop unknown fields and nulls in place, and return the unknown ones' paths; Invalid (400) when a value has the wrong type."""
    message = fields.kind_message(group, kind)
    if message is None:
        return check_metadata(manifest)
    unknown: list[str] = []
    _object(manifest, message, "", (kind, ""), unknown)
    return unknown


def check_message(name: str, kind: str, value: Manifest) -> None:
    """The same for a body that is no object of its own (`meta.v1.DeleteOptions`): drop what is unknown; Invalid (400) when a value has the wrong type."""
    _object(value, fields.message(name), "", (kind, ""), [])


def check_metadata(manifest: Manifest) -> list[str]:
    """`check` for an object of which only the metadata has a known form."""
    unknown: list[str] = []
    _object(manifest["metadata"], fields.message("meta.v1.ObjectMeta"), "metadata", ("ObjectMeta", "metadata"), unknown)
    return unknown


def _object(value: dict[str, Any], message: fields.Message, path: str, place: tuple[str, str], unknown: list[str]) -> None:
    struct = message.name.rpartition(".")[2]
    for name in list(value):
        here = f"{path}.{name}" if path else name
        field = message.by_name.get(name)
        if field is None:
            if name not in _ENVELOPE or (path and message.name not in _WHOLE):
                unknown.append(here)
                del value[name]
            continue
        if value[name] is None or (field.silent and field.card and value[name] in ([], {})):
            # Go reads null as "not set", and does not write what is empty.
            del value[name]
            continue
        _field(value[name], field, here, (struct, here), unknown)
        if field.type == fields.QUANTITY:
            value[name] = {key: canonical(amount) for key, amount in value[name].items()} if field.card else canonical(value[name])


def _field(value: Any, field: fields.Field, path: str, place: tuple[str, str], unknown: list[str]) -> None:
    match field.card:
        case "[]":
            if not isinstance(value, list):
                raise _wrong(value, place, f"[]{_go(field.type)}")
            for index, item in enumerate(value):
                _single(item, field, f"{path}[{index}]", place, unknown)
        case "{}":
            if not isinstance(value, dict):
                raise _wrong(value, place, f"map[string]{_go(field.type)}")
            for name, item in value.items():
                if item is not None or field.type != "string":
                    _single(item, field, f"{path}.{name}", place, unknown)
        case _:
            _single(value, field, path, place, unknown)


def _single(value: Any, field: fields.Field, path: str, place: tuple[str, str], unknown: list[str]) -> None:
    if not fields.is_value(field.type):
        if not isinstance(value, dict):
            raise _wrong(value, place, _go(field.type))
        _object(value, fields.message(field.type), path, place, unknown)
    elif field.type == "bytes" and isinstance(value, str):
        _base64(value, path)
    elif not _fits(value, field.type):
        if field.type == fields.QUANTITY and isinstance(value, str):
            raise Invalid(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                code="BadRequest",
                target=path,
            )
        raise _wrong(value, place, _go(field.type))


def _base64(value: str, path: str) -> None:
    """Refuse, as Go's decoder does, what is no base64, naming the first byte that is wrong."""
    text = value.replace("\n", "").replace("\r", "")
    wrong = _NO_BASE64.search(text)
    place = wrong.start() if wrong else len(text) - len(text) % 4 if len(text) % 4 else None
    if place is not None:
        raise Invalid(f"illegal base64 data at input byte {place}", code="BadRequest", target=path)


def _fits(value: Any, type_: str) -> bool:
    match type_:
        case "string" | "bytes" | fields.TIME | fields.MICRO_TIME | fields.DURATION:
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "int32" | "int64":
            return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < int(type_[3:])
        case "double":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case fields.QUANTITY:
            return is_quantity(value)
        case fields.INT_OR_STRING:
            return isinstance(value, int | str) and not isinstance(value, bool)
        case _:
            return True


def _wrong(value: Any, place: tuple[str, str], wanted: str) -> Invalid:
    struct, path = place
    return Invalid(
        f"json: cannot unmarshal {_WORDS.get(type(value), 'value')} into Go struct field {struct}.{path} of type {wanted}",
        code="BadRequest",
        target=path,
    )


def _go(type_: str) -> str:
    if type_ in fields.SCALARS:
        return _GO_TYPES.get(type_, type_)
    package, _, name = type_.rpartition(".")
    return f"{package.rpartition('.')[0].rpartition('.')[2] or package.rpartition('.')[2]}.{name}" if package else name


def strict_error(paths: Mapping[str, None] | list[str]) -> Invalid:
    """What `fieldValidation=Strict` answers to unknown fields."""
    listed = ", ".join(f'unknown field "{path}"' for path in paths)
    return Invalid(f"strict decoding error: {listed}", code="BadRequest", target=next(iter(paths), None))
