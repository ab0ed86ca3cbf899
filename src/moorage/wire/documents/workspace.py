"""The workspace document."""

from __future__ import annotations

from moorage.specs.manifest import Manifest
from moorage.wire.documents.assets import NAME, READ_ONLY, TAGS
from moorage.wire.documents.endpoint import IDENTITY, identity_body
from moorage.wire.documents.shapes import Record, Text
from moorage.wire.documents.support import FIELDS

WORKSPACE = Record(
    {
        "name": NAME,
        "location": Text(),
        "resource_group": Text(),
        "display_name": Text(),
        "description": Text(empty=True),
        "tags": TAGS,
        "identity": IDENTITY,
    },
    required=("name",),
    ignored=(*READ_ONLY, "discovery_url", "mlflow_tracking_uri", "kind"),
    remedies=FIELDS["workspace"],
)


def workspace_body(values: Manifest) -> Manifest:
    """The ARM body of `PUT workspaces/{name}`."""
    properties = {"friendlyName": values.get("display_name", values["name"]), "description": values.get("description", "")}
    found: Manifest = {"location": values.get("location", "local"), "tags": values.get("tags", {}), "properties": properties}
    if "identity" in values:
        found["identity"] = identity_body(values["identity"])
    return found
