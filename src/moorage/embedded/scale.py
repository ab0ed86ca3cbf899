"""The scale subresource: an object's replicas as an autoscaling/v1 Scale."""

from __future__ import annotations

from typing import Any

from moorage.embedded.patch import json_patch, merge_patch
from moorage.embedded.registry import Registry, Target, Writer
from moorage.embedded.selectors import value_at
from moorage.errors import Invalid, NotFound
from moorage.kube.cluster import PatchType
from moorage.specs.manifest import Manifest


def read(registry: Registry, target: Target) -> Manifest:
    """The Scale of an object."""
    manifest = registry.get(Target(target.resource, target.namespace, target.name)).manifest()
    return _scale(target, manifest)


async def write(registry: Registry, target: Target, scale: Manifest, writer: Writer) -> Manifest:
    """Set the replicas a Scale asks for."""
    replicas = value_at(scale, "spec.replicas")
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        raise Invalid(
            f"spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0", code="Invalid", target="spec.replicas"
        )
    patch: dict[str, Any] = {}
    here = patch
    *parents, last = _paths(target)["specReplicasPath"]
    for part in parents:
        here = here.setdefault(part, {})
    here[last] = replicas
    if asked := value_at(scale, "metadata.resourceVersion"):
        patch["metadata"] = {"resourceVersion": asked}
    whole = Target(target.resource, target.namespace, target.name)
    return _scale(target, (await registry.patch(whole, patch, PatchType.MERGE, writer)).manifest())


async def patch(registry: Registry, target: Target, body: Any, content_type: str, writer: Writer) -> Manifest:
    """Patch the Scale. A strategic patch of so flat an object is a merge patch."""
    before = read(registry, target)
    after = json_patch(before, body) if content_type == PatchType.JSON else merge_patch(before, body)
    if not isinstance(after, dict):
        raise Invalid("the patch leaves no Scale", code="BadRequest")
    if not (isinstance(body, dict) and value_at(body, "metadata.resourceVersion")):
        after["metadata"].pop("resourceVersion", None)
    return await write(registry, target, after, writer)


def _paths(target: Target) -> dict[str, list[str]]:
    definition = target.resource.definition
    declared = definition.scale if definition is not None else None
    if definition is not None and declared is None:
        raise NotFound("the server could not find the requested resource")
    defaults = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}
    return {name: (declared or defaults).get(name, default).lstrip(".").split(".") for name, default in defaults.items()}


def _scale(target: Target, manifest: Manifest) -> Manifest:
    paths = {name: ".".join(parts) for name, parts in _paths(target).items()}
    status: dict[str, Any] = {"replicas": value_at(manifest, paths["statusReplicasPath"]) or 0}
    selector = value_at(manifest, paths["labelSelectorPath"])
    if target.resource.definition is None:
        labels = value_at(manifest, "spec.selector.matchLabels") or {}
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    if selector:
        status["selector"] = selector
    meta = {
        name: manifest["metadata"][name]
        for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if name in manifest["metadata"]
    }
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": {"replicas": value_at(manifest, paths["specReplicasPath"]) or 0},
        "status": status,
    }
