"""What a cluster has from its first moment: namespaces and priority classes of the system, and the kinds its stored definitions define."""

from __future__ import annotations

from moorage.embedded import custom, policy
from moorage.embedded.registry import INITIAL_NAMESPACES, Registry, Target, Writer
from moorage.embedded.storage import Key
from moorage.kube.kinds import CRD, NAMESPACE, PRIORITY_CLASS
from moorage.specs.manifest import Manifest

_WRITER = Writer(manager="kube-apiserver", user="system:apiserver")
_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


async def prepare(registry: Registry) -> None:
    """Make a store ready to serve; idempotent."""
    for entry in registry.store.list(("apiextensions.k8s.io", "customresourcedefinitions")):
        registry.catalog.define(entry.key.name, custom.resources(entry.manifest()))
    for name in INITIAL_NAMESPACES:
        await _ensure(registry, Target(registry.catalog.of(NAMESPACE), "", name), {})
    for name, value in _PRIORITIES.items():
        await _ensure(
            registry,
            Target(registry.catalog.of(PRIORITY_CLASS), "", name),
            {"value": value, "globalDefault": False, "preemptionPolicy": "PreemptLowerPriority"},
        )
    await policy.ensure(registry)


async def _ensure(registry: Registry, target: Target, body: Manifest) -> None:
    key = Key(*target.resource.storage, "", target.name)
    if registry.store.latest(key) is None:
        await registry.create(target, {"metadata": {"name": target.name}, **body}, _WRITER)


__all__ = ["CRD", "prepare"]
