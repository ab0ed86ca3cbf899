"""The body of a Kubernetes compute target, and how it is answered: with its cluster's instance types and connection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from pydantic import StringConstraints

from moorage.clock import rfc3339_micro
from moorage.errors import Invalid
from moorage.ids import is_dns_label
from moorage.specs.instance_type import DEFAULT_NAME, InstanceType
from moorage.specs.manifest import Manifest
from moorage.wire.bodies import Body, read

_IDENTITIES = {"systemassigned": "SystemAssigned", "userassigned": "UserAssigned", "none": "None"}


class KubernetesProperties(Body):
    namespace: str = "default"
    default_instance_type: str | None = None
    # A string as well, since the SDK writes every value of this map as one.
    allow_unsupported_version: bool | None = None


class ComputeProperties(Body):
    compute_type: str
    resource_id: Annotated[str, StringConstraints(min_length=1)]
    description: str | None = None
    properties: KubernetesProperties | None = None

    @property
    def namespace(self) -> str:
        return (self.properties or KubernetesProperties()).namespace

    @property
    def any_version(self) -> bool:
        return bool((self.properties or KubernetesProperties()).allow_unsupported_version)


def read_compute(raw: object) -> ComputeProperties:
    """Read `properties` of a compute; Invalid for another type or a namespace Kubernetes would not take."""
    kind = str(raw.get("computeType", "")) if isinstance(raw, dict) else ""
    if kind.lower() != "kubernetes":
        raise Invalid(
            f"properties.computeType: only Kubernetes clusters can be compute targets here, not '{kind or 'nothing'}'. Use type Kubernetes.",
            target="properties.computeType",
        )
    compute = read(ComputeProperties, raw)
    if not is_dns_label(compute.namespace):
        raise Invalid(
            f"properties.properties.namespace: '{compute.namespace}' is not a Kubernetes namespace. "
            "Use up to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit.",
            target="properties.properties.namespace",
        )
    return compute


def read_identity(raw: object) -> Manifest | None:
    """The identity with its type in ARM's spelling, whatever case the client used (the SDK sends `Systemassigned`)."""
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise Invalid("identity must be an object with 'type'.", target="identity")
    kinds = [part.strip() for part in str(raw.get("type", "None")).split(",")]
    unknown = [kind for kind in kinds if kind.lower().replace("_", "") not in _IDENTITIES]
    if unknown:
        raise Invalid(f"identity.type: '{unknown[0]}' is unknown. Use SystemAssigned, UserAssigned or None.", target="identity.type")
    return {**raw, "type": ",".join(_IDENTITIES[kind.lower().replace("_", "")] for kind in kinds)}


def render_properties(
    stored: Mapping[str, object], types: Mapping[str, InstanceType], *, connectivity: str, last_heard: datetime | None, cluster: Manifest
) -> Manifest:
    """A compute's `properties.properties` as answered.

    Args:
        stored: what was PUT there.
        types: the cluster's instance types by name.
        connectivity: `Connecting`, `Connected` or `Offline`.
        last_heard: when the cluster's agent last spoke.
        cluster: further facts about it, e.g. `kubernetesVersion`.
    """
    return {
        **stored,
        "namespace": stored.get("namespace") or "default",
        "defaultInstanceType": stored.get("defaultInstanceType") or DEFAULT_NAME,
        "instanceTypes": {name: _rendered(types[name]) for name in sorted(types)},
        "connectivityStatus": connectivity,
        "lastConnectivityTime": rfc3339_micro(last_heard) if last_heard else None,
        **cluster,
    }


def _rendered(type_: InstanceType) -> Manifest:
    return {"nodeSelector": dict(type_.node_selector) or None, "resources": type_.resources()}
