"""Instance types: named machine sizes that jobs and deployments ask for, and the built-in one for those that name none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity

DEFAULT_NAME = "defaultinstancetype"


@dataclass(frozen=True, slots=True)
class InstanceType:
    """A machine size.

    Args:
        name: of the InstanceType object.
        limits: Kubernetes resource limits, e.g. `{"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": "1"}`.
        requests: what the scheduler sets aside; the limits where the object gives none.
        node_selector: labels a node must carry.
        tolerations: taints that workloads of this type accept.
    """

    name: str
    limits: Mapping[str, str]
    requests: Mapping[str, str]
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Manifest] = ()

    def resources(self) -> Manifest:
        """A container's `resources`."""
        return {"requests": dict(self.requests), "limits": dict(self.limits)}


# The original used 1536Mi of memory in its first versions and 2Gi later (shared/spec/compute.md).
BUILT_IN = InstanceType(DEFAULT_NAME, limits={"cpu": "0.6", "memory": "2Gi"}, requests={"cpu": "0.6", "memory": "2Gi"})


def parse(manifest: Manifest) -> InstanceType:
    """An InstanceType object of the cluster."""
    spec = manifest.get("spec") or {}
    resources = spec.get("resources") or {}
    limits = {name: str(amount) for name, amount in (resources.get("limits") or {}).items()}
    requests = {name: str(amount) for name, amount in (resources.get("requests") or {}).items()}
    return InstanceType(
        name=manifest["metadata"]["name"],
        limits=limits,
        # Kubernetes takes an extended resource's request from its limit, and refuses a lower one.
        requests={**limits, **requests},
        node_selector=dict(spec.get("nodeSelector") or {}),
        tolerations=tuple(spec.get("tolerations") or ()),
    )


def choose(name: str | None, manifests: Iterable[Manifest]) -> InstanceType:
    """The named instance type, or the cluster's default, or the built-in one; Invalid with the list when the name is unknown."""
    known = {manifest["metadata"]["name"]: manifest for manifest in manifests}
    wanted = name or DEFAULT_NAME
    if wanted in known:
        return parse(known[wanted])
    if wanted == DEFAULT_NAME:
        return BUILT_IN
    names = ", ".join(sorted({*known, DEFAULT_NAME}))
    raise Invalid(
        f"The cluster has no instance type '{wanted}'. It has: {names}.", code="UnknownInstanceType", target="resources.instance_type"
    )


def narrow(chosen: InstanceType, own: Manifest) -> InstanceType:
    """The type with a deployment's own `resources` in place, which may lower but never exceed it.

    Args:
        chosen: the instance type.
        own: `{"requests": {...}, "limits": {...}}` in Kubernetes' resource names, either part optional.

    Raises:
        Invalid: naming the resource that is too large, unknown or no quantity.
    """
    limits = {name: str(amount) for name, amount in (own.get("limits") or {}).items()}
    requests = {name: str(amount) for name, amount in (own.get("requests") or {}).items()}
    for part, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            if name not in chosen.limits:
                raise _too_large(f"resources.{part}.{name}", f"{amount} is asked for, and instance type '{chosen.name}' has no {name}")
            if parse_quantity(amount, target=name) > parse_quantity(chosen.limits[name], target=name):
                raise _too_large(f"resources.{part}.{name}", f"{amount} exceeds the {chosen.limits[name]} of instance type '{chosen.name}'")
    merged = {**chosen.limits, **limits}
    asked = {name: requests.get(name) or _lower(chosen.requests.get(name, merged[name]), merged[name]) for name in merged}
    for name, amount in asked.items():
        if parse_quantity(amount, target=name) > parse_quantity(merged[name], target=name):
            raise _too_large(f"resources.requests.{name}", f"the request {amount} exceeds the limit {merged[name]}")
    return InstanceType(chosen.name, merged, asked, chosen.node_selector, chosen.tolerations)


def _lower(left: str, right: str) -> str:
    return left if parse_quantity(left, target="requests") <= parse_quantity(right, target="limits") else right


def _too_large(target: str, finding: str) -> Invalid:
    return Invalid(f"{target}: {finding}. Lower it or choose a larger instance type.", code="ResourcesExceedInstanceType", target=target)
