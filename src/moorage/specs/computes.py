"""Compute targets: instance types, the default one, and which Kubernetes versions are supported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity

DEFAULT_INSTANCE_TYPE = "defaultinstancetype"
# The window N-2 of Kubernetes 1.37 (spec/overview.md); any patch release of these.
SUPPORTED_MINORS = (35, 36, 37)

_COMPUTE_NAME = re.compile(r"^[A-Za-z]([-A-Za-z0-9_]{0,62}[A-Za-z0-9])?$")
_VERSION = re.compile(r"^v?(?P<major>\d+)\.(?P<minor>\d+)")


@dataclass(frozen=True, slots=True)
class InstanceType:
    """A named size of machine.

    Args:
        name: what jobs and deployments ask for.
        requests: what the scheduler sets aside, by resource, as Kubernetes quantities.
        limits: the most a workload can use; the same keys and units.
        node_selector: labels a node must carry.
    """

    name: str
    requests: Mapping[str, str | int] = field(default_factory=dict)
    limits: Mapping[str, str | int] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)

    def rendered(self) -> Manifest:
        """As the compute's `properties.instanceTypes` show it."""
        return {
            "nodeSelector": dict(self.node_selector) or None,
            "resources": {"requests": dict(self.requests), "limits": dict(self.limits)},
        }


# The built-in default, when the cluster has no object of that name: requests = limits, no GPU, no selector (spec/compute.md).
BUILT_IN_DEFAULT = InstanceType(DEFAULT_INSTANCE_TYPE, {"cpu": "600m", "memory": "2Gi"}, {"cpu": "600m", "memory": "2Gi"})


def instance_types(manifests: Iterable[Manifest]) -> dict[str, InstanceType]:
    """By name, from the InstanceType objects a cluster reports; always with the default one."""
    found = {DEFAULT_INSTANCE_TYPE: BUILT_IN_DEFAULT}
    for manifest in manifests:
        name = str(manifest.get("metadata", {}).get("name", ""))
        spec = manifest.get("spec") or {}
        resources = spec.get("resources") or {}
        limits = resources.get("limits") or {}
        if name:
            found[name] = InstanceType(name, {**limits, **(resources.get("requests") or {})}, limits, spec.get("nodeSelector") or {})
    return found


def choose_instance_type(name: str | None, known: Mapping[str, InstanceType], *, target: str) -> InstanceType:
    """The type asked for, or the default; Invalid with the list when the cluster has none of that name."""
    chosen = known.get(name or DEFAULT_INSTANCE_TYPE)
    if chosen is None:
        raise Invalid(
            f"{target}: the compute has no instance type '{name}'. It has: {', '.join(sorted(known))}. "
            "Name one of these, or ask IT operations to create it (kubectl apply an InstanceType).",
            target=target,
        )
    return chosen


def check_within(resources: Mapping[str, Mapping[str, str | int]], chosen: InstanceType, *, target: str) -> None:
    """Refuse resources above the instance type's limits, saying which one is.

    Args:
        resources: `requests` and `limits`, each by resource name.
        chosen: the instance type.
        target: field the resources stand in.
    """
    for part in ("requests", "limits"):
        for resource, amount in resources.get(part, {}).items():
            most = chosen.limits.get(resource)
            where = f"{target}.{part}.{resource}"
            if most is None and "/" in resource:
                raise Invalid(f"{where}: instance type '{chosen.name}' has no {resource}. Choose another instance_type.", target=where)
            if most is not None and parse_quantity(amount, target=where) > parse_quantity(most, target=where):
                raise Invalid(
                    f"{where}: {amount} is more than the {most} that instance type '{chosen.name}' allows. Lower it or choose another instance_type.",
                    target=where,
                )
    for resource, amount in resources.get("requests", {}).items():
        ceiling = resources.get("limits", {}).get(resource)
        where = f"{target}.requests.{resource}"
        if ceiling is not None and parse_quantity(amount, target=where) > parse_quantity(ceiling, target=where):
            raise Invalid(f"{where}: the request {amount} is greater than the limit {ceiling}. Lower it.", target=where)


def check_compute_name(name: str) -> None:
    if not _COMPUTE_NAME.match(name):
        raise Invalid(
            f"'{name}' is not a compute name. Use 1 to 64 letters, digits, '-' and '_', beginning with a letter and ending with a letter or digit.",
            target="name",
        )


def check_version(version: str, *, cluster: str) -> None:
    """Refuse a cluster outside the supported window; an unreadable version is refused too, since nothing is known about it."""
    found = _VERSION.match(version)
    lowest, highest = SUPPORTED_MINORS[0], SUPPORTED_MINORS[-1]
    if found and int(found["major"]) == 1 and lowest <= int(found["minor"]) <= highest:
        return
    raise Invalid(
        f"Cluster '{cluster}' runs Kubernetes {version or 'of an unknown version'}; supported are 1.{lowest} to 1.{highest}. "
        'Upgrade it, or attach on purpose with properties.properties.allowUnsupportedVersion: "true".',
        code="UnsupportedKubernetesVersion",
        target="properties.resourceId",
    )


class Connectivity(StrEnum):
    """How a cluster's agent stands: never heard, heard lately, or silent."""

    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    OFFLINE = "Offline"


def connectivity(last_heard: datetime | None, now: datetime, silence: timedelta) -> Connectivity:
    """Judge by when the agent last spoke; `silence` is how long it may be quiet."""
    if last_heard is None:
        return Connectivity.CONNECTING
    return Connectivity.OFFLINE if now - last_heard > silence else Connectivity.CONNECTED
