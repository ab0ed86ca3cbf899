"""The schedule document: a trigger, and the pipeline it starts."""

from __future__ import annotations

import json
import re
from typing import Any

from moorage.ids import Workspace
from moorage.specs.manifest import Manifest
from moorage.wire.documents import job, pipeline
from moorage.wire.documents.assets import NAME, READ_ONLY, REFERENCE, TAGS
from moorage.wire.documents.references import parse_reference
from moorage.wire.documents.shapes import Chosen, Either, Flag, ListOf, MapOf, Number, Plain, Record, Shape, Text, choices
from moorage.wire.documents.source import Node, Path
from moorage.wire.documents.support import FIELDS
from moorage.wire.documents.uses import Resolved, Role, Use, compute_id

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MOMENT = re.compile(r"^\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?$")
_MOMENT_FIELD = Text(
    check=lambda text: None if _MOMENT.match(text) else f"'{text}' is no moment such as 2030-01-31T04:00:00; its zone stands in time_zone."
)


class _OneOrMore:
    """`hours: 4` or `hours: [4, 16]`; a list in any case."""

    says = "one or a list"

    def __init__(self, item: Shape) -> None:
        self.item = item

    def read(self, node: Node, path: Path, into: Any) -> Any:
        if isinstance(node.value, list):
            return ListOf(self.item).read(node, path, into)
        found = self.item.read(node, path, into)
        return None if found is None else [found]


_TIMES: dict[str, Shape] = {"type": Text(), "start_time": _MOMENT_FIELD, "end_time": _MOMENT_FIELD, "time_zone": Text()}
_PATTERN = Record(
    {
        "hours": _OneOrMore(Number(0, 23)),
        "minutes": _OneOrMore(Number(0, 59)),
        "week_days": _OneOrMore(Text(choices(*_DAYS))),
        "month_days": _OneOrMore(Number(1, 31)),
    },
    required=("hours", "minutes"),
)
_TRIGGER = Chosen(
    "type",
    {
        "cron": Record({**_TIMES, "expression": Text(check=lambda text: None if len(text.split()) == 5 else _not_cron(text))}, required=("expression",)),
        "recurrence": Record(
            {
                **_TIMES,
                "frequency": Text(choices("minute", "hour", "day", "week", "month")),
                "interval": Number(1),
                "schedule": _PATTERN,
            },
            required=("frequency", "interval"),
        ),
    },
)  # fmt: skip


def _not_cron(text: str) -> str:
    return f"'{text}' is no cron expression: it has five fields, minute, hour, day of the month, month, day of the week."


_OVERRIDES: dict[str, Shape] = {
    "type": Text(choices("pipeline", "command")),
    "job": REFERENCE,
    "name": Text(),
    "display_name": Text(),
    "experiment_name": Text(),
    "description": Text(empty=True),
    "tags": TAGS,
    "properties": MapOf(Plain()),
    "inputs": job.INPUTS,
    "outputs": job.OUTPUTS,
    "settings": pipeline.SETTINGS,
    "compute": job.COMPUTE_FIELD,
}
SCHEDULE = Record(
    {
        "name": NAME,
        "display_name": Text(),
        "description": Text(empty=True),
        "tags": TAGS,
        "properties": MapOf(Plain()),
        "trigger": _TRIGGER,
        "create_job": Either(REFERENCE, Record(_OVERRIDES, required=("job",))),
        "is_enabled": Flag(),
    },
    required=("name", "trigger", "create_job"),
    ignored=(*READ_ONLY, "type"),
    remedies=FIELDS["schedule"],
)


def needs(values: Manifest) -> list[Use]:
    """The job, as a document or by name, and the inputs that are given in its place."""
    given = values["create_job"]
    named = given if isinstance(given, str) else given["job"]
    found = [Use("create_job", Role.JOB, parse_reference(named))]
    return found if isinstance(given, str) else [*found, *job.input_needs(given, "create_job.")]


def body(values: Manifest, workspace: Workspace, resolved: Resolved) -> Manifest:
    """The ARM body of `PUT schedules/{name}`; `resolved` has the job as JSON: a document's properties, or `{"sourceJobId": ...}`."""
    definition: Manifest = {"jobType": "Pipeline", **json.loads(resolved["create_job"])}
    if isinstance(values["create_job"], dict):
        definition = _overridden(definition, values["create_job"], workspace, resolved)
    properties: Manifest = {
        "action": {"actionType": "CreateJob", "jobDefinition": definition},
        "trigger": _trigger(values["trigger"]),
        "tags": values.get("tags", {}),
        "properties": values.get("properties", {}),
    }
    for name, wire in (("display_name", "displayName"), ("description", "description"), ("is_enabled", "isEnabled")):
        if name in values:
            properties[wire] = values[name]
    return {"properties": properties}


def _overridden(definition: Manifest, given: Manifest, workspace: Workspace, resolved: Resolved) -> Manifest:
    found = dict(definition)
    for name, wire in (("display_name", "displayName"), ("experiment_name", "experimentName"), ("description", "description")):
        if name in given:
            found[wire] = given[name]
    for name in ("tags", "properties"):
        if name in given:
            found[name] = {**found.get(name, {}), **given[name]}
    if "inputs" in given:
        found["inputs"] = {**found.get("inputs", {}), **job.inputs_body(given, resolved, "create_job.")}
    if "outputs" in given:
        found["outputs"] = {**found.get("outputs", {}), **job.outputs_body(given)}
    if "settings" in given:
        found["settings"] = {**found.get("settings", {}), **pipeline.settings_body(given["settings"], workspace)}
    if "compute" in given:
        found["computeId"] = compute_id(workspace, given["compute"])
    return found


def _trigger(given: Manifest) -> Manifest:
    found: Manifest = {"triggerType": given["type"].capitalize(), "timeZone": given.get("time_zone", "UTC")}
    for name, value in given.items():
        if name == "schedule":
            found["schedule"] = {job.camel(part): times for part, times in value.items()}
        elif name not in ("type", "time_zone"):
            found[job.camel(name)] = value
    return found
