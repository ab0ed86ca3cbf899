"""The page of CLI v2 documents: what each kind may say, and what is refused with which reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moorage.wire.documents.document import JOBS, SCHEMAS, SHAPES, Kind
from moorage.wire.documents.shapes import Chosen, Either, Flag, ListOf, Literal, MapOf, Number, Optional, Plain, Record, Shape, Text
from moorage.wire.documents.support import FIELDS, KINDS

Table = tuple[Sequence[str], list[Sequence[str]]]


def parts() -> Iterator[str | Table]:
    """Paragraphs and tables of the page, in order."""
    yield (
        "YAML documents of CLI v2, as `--file` takes them. Paths are relative to the file that names them. An unknown field is refused with the nearest name, "
        "a wrong value with file, line and field. A field without a value counts as left out; numbers where text is expected are taken as they were written. "
        "Beside these, documents may have what `show` prints (`id`, `creation_context` and their like); it is not read."
    )
    for kind in Kind:
        schemas = [f"`{name}`" for name, each in SCHEMAS.items() if each is kind]
        yield f"## {kind.value}"
        yield (
            f"`$schema` ends in {', '.join(schemas)}. Only Kubernetes: managed ones need a compute."
            if "online" in kind.value
            else (f"`$schema` ends in {', '.join(schemas)}.")
        )
        for title, record in _records(kind):
            if title:
                yield f"### {title}"
            yield (
                ("field", "takes", ""),
                [(f"`{name}`", _takes(shape), "required" if name in record.required else "") for name, shape in record.fields.items()],
            )
        if refused := FIELDS[kind.value]:
            yield "Refused:"
            yield ("field", "reason"), [(f"`{name}`", reason) for name, reason in refused.items()]
    yield "## Kinds that are refused"
    yield ("`$schema` or `type`", "reason"), [(f"`{name}`", reason) for name, reason in KINDS.items()]


def _records(kind: Kind) -> Iterator[tuple[str, Record]]:
    if kind is Kind.JOB:
        yield from ((f"type: {name}", record) for name, record in JOBS.items())
        return
    shape = SHAPES[kind]
    if isinstance(shape, Chosen):
        yield from ((f"{shape.by}: {name}", record) for name, record in shape.records.items())
    elif isinstance(shape, Record):
        yield "", shape


def _takes(shape: Shape) -> str:
    match shape:
        case Text(choices=None):
            return "text"
        case Text(choices=choices):
            return " or ".join(f"`{name}`" for name in choices or ())
        case Flag():
            return "true or false"
        case Number(whole=whole):
            return "whole number" if whole else "number"
        case Literal():
            return "text, number or boolean"
        case MapOf(values=values):
            return f"names to {_takes(values)}"
        case ListOf(items=items):
            return f"list of {_takes(items)}"
        case Record(fields=fields):
            return f"mapping of {', '.join(f'`{name}`' for name in fields)}"
        case Chosen(by=by, records=records):
            return f"mapping with `{by}`: {', '.join(f'`{name}`' for name in records)}"
        case Either(text=text, mapping=mapping):
            return f"{_takes(text)}, or {_takes(mapping)}"
        case Optional(shape=inner):
            return f"{_takes(inner)}, or nothing"
        case Plain():
            return "anything"
        case _:
            return str(getattr(shape, "says", "")) or "see the page of the field"
