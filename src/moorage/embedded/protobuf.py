"""Request bodies in Kubernetes' protocol buffer encoding, which kubectl's `create` subcommands send; decoded to plain JSON objects by the table of fields.

Answers are always JSON: clients that send this encoding accept both.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from moorage.clock import rfc3339, rfc3339_micro
from moorage.embedded import fields
from moorage.errors import Invalid

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"


def decode(body: bytes) -> dict[str, Any]:
    """The object in a body; Invalid (400) when it is damaged, (415) when its kind is not in the table."""
    if not body.startswith(_MAGIC):
        raise Invalid("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]", code="BadRequest")
    try:
        envelope = dict(_wire(memoryview(body)[len(_MAGIC) :]))
        type_meta = {number: bytes(value).decode() for number, value in _wire(envelope.get(1, memoryview(b"")))}
        api_version, kind = type_meta.get(1, ""), type_meta.get(2, "")
        group = api_version.rpartition("/")[0]
        message = fields.message("meta.v1.DeleteOptions") if kind == "DeleteOptions" else fields.kind_message(group, kind)
        if message is None:
            raise Invalid(f"{api_version} {kind} is taken as JSON or YAML only", code="UnsupportedMediaType")
        return {"apiVersion": api_version, "kind": kind, **_message(envelope.get(2, memoryview(b"")), message)}
    except (ValueError, IndexError, TypeError) as error:
        raise Invalid(f"couldn't decode the protobuf body: {error}", code="BadRequest") from error


def _wire(data: memoryview) -> Iterator[tuple[int, Any]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
                yield tag >> 3, value
            case 1:
                yield tag >> 3, data[position : position + 8]
                position += 8
            case 2:
                size, position = _varint(data, position)
                if position + size > len(data):
                    raise ValueError("unexpected end of data")
                yield tag >> 3, data[position : position + size]
                position += size
            case 5:
                yield tag >> 3, data[position : position + 4]
                position += 4
            case other:
                raise ValueError(f"unknown wire type {other}")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _message(data: memoryview, message: fields.Message) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for number, raw in _wire(data):
        field = message.by_number.get(number)
        if field is None:
            continue
        if field.card == "{}":
            entry = dict(_wire(raw))
            result.setdefault(field.name, {})[bytes(entry.get(1, b"")).decode()] = _value(entry.get(2, memoryview(b"")), field.type)
        elif field.card == "[]":
            result.setdefault(field.name, []).append(_value(raw, field.type))
        elif field.inline:
            result |= _message(raw, fields.message(field.type))
        else:
            value = _value(raw, field.type)
            # Go writes unset strings and times too; in JSON they would not be there.
            if value not in ("", None) and not (field.silent and not value):
                result[field.name] = value
    return result


def _value(raw: Any, type_: str) -> Any:
    match type_:
        case "string":
            return bytes(raw).decode()
        case "bytes":
            return base64.b64encode(raw).decode()
        case "bool":
            return bool(raw)
        case "int32" | "int64":
            return raw - (1 << 64) if raw >= 1 << 63 else raw
        case fields.QUANTITY:
            return "".join(bytes(value).decode() for number, value in _wire(raw) if number == 1)
        case fields.INT_OR_STRING:
            parts = dict(_wire(raw))
            return bytes(parts.get(3, b"")).decode() if parts.get(1) else parts.get(2, 0)
        case fields.TIME | fields.MICRO_TIME:
            parts = dict(_wire(raw))
            if 1 not in parts:
                return None
            moment = datetime.fromtimestamp(parts[1], UTC) + timedelta(microseconds=parts.get(2, 0) // 1000)
            return rfc3339(moment) if type_ == fields.TIME else rfc3339_micro(moment)
        case fields.FIELDS_V1 | "runtime.RawExtension":
            return next((orjson.loads(bytes(value)) for number, value in _wire(raw) if number == 1), {})
        case _:
            return _message(raw, fields.message(type_))
