"""The kubernetesCompute document."""

from __future__ import annotations

from moorage.errors import Invalid
from moorage.ids import is_dns_label, parse_cluster_id
from moorage.specs.manifest import Manifest
from moorage.wire.documents.assets import NAME, READ_ONLY, TAGS
from moorage.wire.documents.endpoint import IDENTITY, identity_body
from moorage.wire.documents.shapes import Record, Text, choices
from moorage.wire.documents.support import FIELDS


def _cluster_problem(text: str) -> str | None:
    try:
        parse_cluster_id(text)
    except Invalid as error:
        return error.message
    return None


def _namespace_problem(text: str) -> str | None:
    if is_dns_label(text):
        return None
    return f"'{text}' is not the name of a namespace: lower-case letters, digits and '-', at most 63."


COMPUTE = Record(
    {
        "name": NAME,
        "type": Text(choices("kubernetes")),
        "description": Text(empty=True),
        "tags": TAGS,
        "resource_id": Text(check=_cluster_problem),
        "namespace": Text(check=_namespace_problem),
        "identity": IDENTITY,
    },
    required=("resource_id",),
    ignored=(*READ_ONLY, "location", "properties", "provisioning_state", "created_on"),
    remedies=FIELDS["compute"],
)


def compute_body(values: Manifest) -> Manifest:
    """The ARM body of `PUT computes/{name}`."""
    properties: Manifest = {
        "computeType": "Kubernetes",
        "resourceId": values["resource_id"],
        "properties": {"namespace": values.get("namespace", "default")},
    }
    if "description" in values:
        properties["description"] = values["description"]
    found: Manifest = {"properties": properties, "tags": values.get("tags", {})}
    if "identity" in values:
        found["identity"] = identity_body(values["identity"])
    return found
