"""What may change of something that exists: the words about it. A change of a version, or on a job that was submitted, reaches nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents import settings
from moorage.wire.documents.assets import TAGS
from moorage.wire.documents.edits import Change, edit
from moorage.wire.documents.shapes import MapOf, Plain, Reading, Record, Shape, Text
from moorage.wire.documents.source import Node, read, refuse

_SHAPES: Mapping[str, Shape] = {
    "display_name": Text(empty=True),
    "description": Text(empty=True),
    "tags": TAGS,
    "properties": MapOf(Plain()),
    "stage": Text(empty=True),
}
# By the noun of the command.
CHANGEABLE: Mapping[str, tuple[str, ...]] = {
    "job": ("display_name", "description", "tags", "properties"),
    "model": ("description", "tags", "properties", "stage"),
    "data": ("description", "tags", "properties"),
    "environment": ("description", "tags", "properties"),
    "component": ("display_name", "description", "tags", "properties"),
}


def changed(noun: str, entity: Manifest, changes: Sequence[Change]) -> Manifest:
    """The words of `entity` with `--set` applied, those alone that are not what they were.

    Args:
        noun: one of `CHANGEABLE`.
        entity: as `show` prints it.
        changes: as the command line has them; `null` empties a field, and takes a name out of a map.

    Raises:
        Invalid: nothing is to be changed, a path leads to what cannot change, or a value has the wrong form.
    """
    fields = CHANGEABLE[noun]
    if not changes:
        raise Invalid(f"give --set FIELD=VALUE; of a {noun} {_list(fields)} can change.", target="--set")
    for change in map(edit, changes):
        if change.path and settings.steps(change.path, change.verb)[0] not in fields:
            remedy = "submit another job" if noun == "job" else "create a new version"
            raise Invalid(f"{change.where}: of a {noun} only {_list(fields)} can change; {remedy} for anything else.", target=change.verb)
    before = {name: entity[name] for name in fields if entity.get(name) is not None}
    root = read(json.dumps(before), f"the {noun} as it is")
    settings.apply(root, changes)
    _drop_nulls(root)
    reading = Reading()
    after = Record({name: _SHAPES[name] for name in fields}).read(root, (), reading)
    if reading.findings or after is None:
        raise refuse(reading.findings)
    empty: Mapping[str, object] = {"tags": {}, "properties": {}}
    named = {name: after.get(name, empty.get(name, "")) for name in fields if name in before or name in after}
    return {name: value for name, value in named.items() if value != before.get(name, empty.get(name, ""))}


def _drop_nulls(root: Node) -> None:
    for field in root.value.values() if isinstance(root.value, dict) else ():
        if isinstance(field.value, dict):
            field.value = {name: value for name, value in field.value.items() if value.value is not None}


def merge(before: Mapping[str, object], after: Mapping[str, object]) -> Manifest:
    """What turns one map into another where maps are merged: new values, and null for names that are gone."""
    gone = dict.fromkeys(name for name in before if name not in after)
    return {**{name: value for name, value in after.items() if before.get(name) != value}, **gone}


def _list(fields: Sequence[str]) -> str:
    return f"{', '.join(fields[:-1])} and {fields[-1]}"
