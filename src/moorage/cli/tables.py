"""The tables people see: for each kind of entity its columns. Ages are relative, absent values are empty.

On a terminal that is too narrow the columns of least use are shortened; what people copy (names, versions, addresses) never is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from moorage import clock
from moorage.client.connection import describe

Column = str | Callable[[Mapping[str, Any]], Any]


def age(entity: Mapping[str, Any]) -> str:
    """Time since it was made."""
    return since(at(entity, "creation_context.created_at"))


def since(time: Any) -> str:
    """How long ago a time was; empty when it is none."""
    try:
        span = clock.now() - clock.parse_rfc3339(str(time))
    except ValueError:
        return ""
    return describe(max(span, span - span))


def ago(path: str) -> Column:
    """How long ago the time at a path was."""

    def cell(entity: Mapping[str, Any]) -> str:
        passed = since(at(entity, path))
        return f"{passed} ago" if passed else ""

    return cell


def at(entity: Any, path: str) -> Any:
    """The value at a dotted path, None where it ends early."""
    for name in path.split("."):
        entity = entity.get(name) if isinstance(entity, Mapping) else None
    return entity


def duration(entity: Mapping[str, Any]) -> str:
    """How long a job ran, or has run."""
    begun, ended = at(entity, "properties.StartTimeUtc"), at(entity, "properties.EndTimeUtc")
    try:
        first = clock.parse_rfc3339(str(begun))
        last: datetime = clock.parse_rfc3339(str(ended)) if ended else clock.now()
    except ValueError:
        return ""
    return describe(max(last - first, first - first))


def bare(path: str) -> Column:
    """`azureml:k8s` -> `k8s`."""
    return lambda entity: str(at(entity, path) or "").removeprefix("azureml:")


def traffic(entity: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {share}%" for name, share in (entity.get("traffic") or {}).items() if share)


def instance_types(entity: Mapping[str, Any]) -> str:
    return ", ".join(sorted(at(entity, "properties.instanceTypes") or {}))


def components(entity: Mapping[str, Any]) -> str:
    """Each installed component by name, with its state when that is not Ready."""
    installed = [row for row in entity.get("components") or [] if row["state"] != "NotInstalled"]
    return ", ".join(row["name"] if row["state"] == "Ready" else f"{row['name']} ({row['state']})" for row in installed)


TABLES: Mapping[str, Mapping[str, Column]] = {
    "jobs": {
        "Name": "name",
        "Status": "status",
        "Compute": bare("compute"),
        "Experiment": "experiment_name",
        "Type": "type",
        "Age": age,
        "Display name": "display_name",
    },
    "computes": {
        "Name": "name",
        "State": "provisioning_state",
        "Namespace": "namespace",
        "Cluster": lambda entity: str(entity.get("resource_id") or "").rpartition("/")[2],
        "Instance types": instance_types,
        "Age": age,
    },
    "assets": {"Name": "name", "Version": "version", "Type": "type", "Age": age, "Description": "description"},
    "asset containers": {"Name": "name", "Latest version": "latest_version", "Age": age, "Description": "description"},
    "environments": {"Name": "name", "Version": "version", "Image": "image", "Age": age, "Description": "description"},
    "endpoints": {
        "Name": "name",
        "State": "provisioning_state",
        "Compute": bare("compute"),
        "Traffic": traffic,
        "Scoring URI": "scoring_uri",
        "Age": age,
    },
    "deployments": {
        "Name": "name",
        "Endpoint": "endpoint_name",
        "State": "provisioning_state",
        "Model": bare("model"),
        "Instance type": "instance_type",
        "Instances": "instance_count",
        "Age": age,
    },
    "datastores": {
        "Name": "name",
        "Type": "type",
        "Account": "account_name",
        "Container": lambda entity: entity.get("container_name") or entity.get("filesystem"),
        "Default": lambda entity: "yes" if entity.get("is_default") else "",
        "Age": age,
    },
    "batch endpoints": {
        "Name": "name",
        "State": "provisioning_state",
        "Default": lambda entity: at(entity, "defaults.deployment_name"),
        "Age": age,
    },
    "batch deployments": {
        "Name": "name",
        "Endpoint": "endpoint_name",
        "State": "provisioning_state",
        "Model": bare("model"),
        "Compute": bare("compute"),
        "Age": age,
    },
    "schedules": {
        "Name": "name",
        "Enabled": "is_enabled",
        "Trigger": lambda entity: (
            at(entity, "trigger.expression") or f"every {at(entity, 'trigger.interval')} {at(entity, 'trigger.frequency')}"
        ),
        "Age": age,
    },
    "nodes": {"Name": "node_id", "State": "node_state", "Schedulable": "schedulable"},
    "clusters": {
        "Name": "name",
        "Connectivity": "connectivity_status",
        "Last heard": ago("last_connectivity_time"),
        "Kubernetes": "kubernetes_version",
        "Agent": "agent_version",
        "Nodes": lambda entity: len(entity.get("nodes") or []),
    },
    "workspaces": {"Name": "name", "Resource group": "resource_group", "Location": "location", "Age": age},
    "extensions": {"Name": "name", "State": "provisioningState", "Version": "version", "Components": components, "Message": "message"},
    "processes": {"Name": "name", "State": "state", "PID": "pid", "Address": "address", "Log": "log"},
    "settings": {"Setting": "name", "Value": "value", "From": "source"},
}


# Which columns give way on a narrow terminal, the least important first. All others are copied, or short.
_GIVE_WAY = ("Description", "Message", "Display name", "Components", "Instance types", "Image", "Experiment", "Traffic", "Trigger")
_LEAST = 6
_ELLIPSIS = "…"


def as_table(result: Any, table: str, width: int | None = None) -> str:
    """A list as rows, one entity as one row; without columns of our own, the scalar values it has.

    Args:
        width: cells that a line of the terminal has; None for as many as there are.
    """
    if result is None:
        return ""
    rows = result if isinstance(result, list) else [result]
    if not rows:
        return ""
    columns = TABLES.get(table) or _columns(rows)
    cells = [[_cell(_value(row, column)) for column in columns.values()] for row in rows]
    # What the user chose columns of is shown as it is.
    return aligned(list(columns), cells, width if table in TABLES else None)


def _value(row: Any, column: Column) -> Any:
    if callable(column):
        return column(row)
    if column == "":
        return row
    if isinstance(row, list):
        return row[int(column[1:-1])]
    return row.get(column) if column in row else at(row, column)


def _columns(rows: list[Any]) -> Mapping[str, Column]:
    if isinstance(rows[0], dict):
        names = [name for name in rows[0] if any(not isinstance(row.get(name), dict | list) for row in rows if isinstance(row, dict))]
        return {name: name for name in names}
    if isinstance(rows[0], list):
        return {f"Column{index + 1}": f"[{index}]" for index in range(len(rows[0]))}
    return {"Result": ""}


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case dict() | list():
            return f"{len(value)} items"
        case _:
            return " ".join(str(value).split())


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Columns under underlined headings, as `az` draws them; wide East Asian characters count twice.

    Args:
        width: what a line may have; columns that may give way are shortened one after another until it does.
    """
    if not rows:
        return ""
    widths = [max(_width(heading), *(_width(row[index]) for row in rows)) for index, heading in enumerate(headings)]
    if width is not None:
        widths = _fitting(headings, widths, width)
        headings = [_shortened(heading, room) for heading, room in zip(headings, widths, strict=True)]
        rows = [[_shortened(cell, room) for cell, room in zip(row, widths, strict=True)] for row in rows]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *(line(row) for row in rows)])


def _fitting(headings: Sequence[str], widths: Sequence[int], width: int) -> list[int]:
    """The columns' widths, those that give way narrowed one after another as far as it takes."""
    found = list(widths)
    over = sum(found) + 2 * (len(found) - 1) - width
    order = sorted((at for at, heading in enumerate(headings) if heading in _GIVE_WAY), key=lambda at: _GIVE_WAY.index(headings[at]))
    # First as far as the headings go, then those as well.
    for least in ([_width(heading) for heading in headings], [_LEAST] * len(headings)):
        for at in order:
            given = max(0, min(over, found[at] - least[at]))
            found[at] -= given
            over -= given
    return found


def _shortened(text: str, width: int) -> str:
    """The text, cut with an ellipsis when it is wider."""
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[:-1]
    return f"{text.rstrip()}{_ELLIPSIS}"


def _width(text: str) -> int:
    import unicodedata

    return len(text) + sum(unicodedata.east_asian_width(sign) in "WF" for sign in text if ord(sign) > 0x1100)
