"""The workspace document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moorage.specs.manifest import Manifest
from moorage.wire.documents.assets import NAME, READ_ONLY, TAGS
from moorage.wire.documents.endpoint import WORKSPACE_IDENTITY, identity_body
from moorage.wire.documents.shapes import Flag, Record, Text
from moorage.wire.documents.support import FIELDS

# Switches of the original's cloud, which documents spell out where they are off.
_SWITCHES = ("hbi_workspace", "enable_data_isolation")
_FIELDS = FIELDS["workspace"]


def _rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _FIELDS[name]) for name in _SWITCHES if values.get(name)]


WORKSPACE = Record(
    {
        **dict.fromkeys(_SWITCHES, Flag()),
        "name": NAME,
        "location": Text(),
        "resource_group": Text(),
        "display_name": Text(),
        "description": Text(empty=True),
        "tags": TAGS,
        "identity": WORKSPACE_IDENTITY,
    },
    required=("name",),
    ignored=(*READ_ONLY, "discovery_url", "mlflow_tracking_uri", "kind"),
    remedies=_FIELDS,
    rule=_rule,
)


def workspace_body(values: Manifest) -> Manifest:
    """The ARM body of `PUT workspaces/{name}`."""
    properties = {"friendlyName": values.get("display_name", values["name"])}
    if "description" in values:
        properties["description"] = values["description"]
    found: Manifest = {"location": values.get("location", "local"), "tags": values.get("tags", {}), "properties": properties}
    if "identity" in values:
        found["identity"] = identity_body(values["identity"])
    return found
