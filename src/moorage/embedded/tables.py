"""Server-side tables: the columns `kubectl get` shows for a kind, as in Kubernetes' printers, or as a definition's additionalPrinterColumns say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moorage.clock import parse_rfc3339
from moorage.embedded import columns, jsonpath
from moorage.embedded.durations import human_duration
from moorage.embedded.kinds import Resource
from moorage.embedded.views import metadata_only
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Columns:
    """A kind's columns after Name: (name, type, shown only with -o wide), and the cells of one object."""

    names: Sequence[tuple[str, str, bool]]
    cells: Callable[[Manifest, datetime], Sequence[Any]]


def table(resource: Resource, manifests: Sequence[Manifest], *, include: str, now: datetime) -> dict[str, Any]:
    """A meta.k8s.io/v1 Table. `include` says what each row carries of its object: `None`, `Metadata` or `Object`."""
    if include not in ("None", "Metadata", "Object"):
        raise Invalid(f"unrecognized includeObject value: {include!r}", code="BadRequest", target="includeObject")
    shown = _columns_of(resource)
    definitions = [_definition("Name", "string", wide=False, format_="name")]
    definitions += [_definition(name, type_, wide=wide) for name, type_, wide in shown.names]
    rows = []
    for manifest in manifests:
        row: dict[str, Any] = {"cells": [_row_name(resource, manifest), *shown.cells(manifest, now)]}
        if include == "Object":
            row["object"] = manifest
        elif include == "Metadata":
            row["object"] = metadata_only(manifest)
        rows.append(row)
    # Events come without a name column, as people read them.
    if resource.kind.kind == "Event":
        definitions = definitions[1:]
        for row in rows:
            row["cells"] = row["cells"][1:]
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": definitions, "rows": rows}


def _row_name(resource: Resource, manifest: Manifest) -> str:
    name = str(manifest["metadata"]["name"])
    if resource.kind.kind in ("StorageClass", "PriorityClass") and resource.definition is None:
        annotations = manifest["metadata"].get("annotations") or {}
        if annotations.get("storageclass.kubernetes.io/is-default-class") == "true":
            return f"{name} (default)"
    return name


def _definition(name: str, type_: str, *, wide: bool, format_: str = "") -> dict[str, Any]:
    return {"name": name, "type": type_, "format": format_, "description": "", "priority": 1 if wide else 0}


def _columns_of(resource: Resource) -> Columns:
    if resource.definition is not None:
        return _declared(resource.definition.columns) if resource.definition.columns else _AGE_ONLY
    found = columns.BY_KIND.get(resource.kind.kind)
    if found is None:
        return _AGE_ONLY
    names, cells = found
    return Columns([_parsed(name) for name in names.split()], cells)


def _parsed(text: str) -> tuple[str, str, bool]:
    """`Node~Name:string+` is the string column "Node Name", shown with -o wide only."""
    name, _, type_ = text.rstrip("+").partition(":")
    return name.replace("~", " "), type_ or "string", text.endswith("+")


_AGE_ONLY = Columns([("Age", "string", False)], lambda manifest, now: [columns.age(manifest, now)])


def _declared(declared: Sequence[Mapping[str, Any]]) -> Columns:
    def cells(manifest: Manifest, now: datetime) -> Sequence[Any]:
        return [_cell(manifest, column, now) for column in declared]

    return Columns([(column["name"], column["type"], bool(column.get("priority"))) for column in declared], cells)


def _cell(manifest: Manifest, column: Mapping[str, Any], now: datetime) -> Any:
    found = jsonpath.find(manifest, column["jsonPath"])
    if not found:
        return None
    value = found[0] if len(found) == 1 else ",".join(str(item) for item in found)
    match column["type"]:
        case "date":
            try:
                return human_duration(now - parse_rfc3339(str(value)))
            except ValueError:
                return "<invalid>"
        case "integer":
            return value if isinstance(value, int) and not isinstance(value, bool) else None
        case "number":
            return value if isinstance(value, int | float) and not isinstance(value, bool) else None
        case "boolean":
            return value if isinstance(value, bool) else None
        case _:
            return value if isinstance(value, str) else jsonpath.text(value)
