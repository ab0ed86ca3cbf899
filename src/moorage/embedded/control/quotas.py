"""The status of ResourceQuotas: how much of each is used. Admission counts for itself; this is what people and dashboards read."""

from __future__ import annotations

from collections.abc import Iterable

from moorage.embedded import quota
from moorage.embedded.control.garbage import Everything
from moorage.embedded.control.loop import Loop
from moorage.embedded.control.steps import NOTHING, Decision, Patch
from moorage.embedded.control.world import World
from moorage.kube.informer import Informer
from moorage.kube.kinds import Kind
from moorage.kube.metadata import Key, key_of, namespace_of
from moorage.specs.manifest import Manifest

QUOTA = Kind("", "v1", "ResourceQuota", "resourcequotas")


def decide(found: Manifest, used: quota.Usage) -> Decision:
    """Write what has changed."""
    wanted = quota.status(found, used)
    present = found.get("status") or {}
    if present.get("hard") == wanted["hard"] and present.get("used") == wanted["used"]:
        return NOTHING
    # Null takes away what the quota no longer limits.
    patch = {place: {**dict.fromkeys(present.get(place) or {}), **wanted[place]} for place in ("hard", "used")}
    return Decision([Patch(QUOTA, found, {"status": patch}, "status")])


def resource_quotas(world: World, everything: Everything) -> Loop:
    quotas = world.informer(QUOTA)

    def counted(found: Manifest) -> Iterable[quota.Usage]:
        places = quota.places(found)
        for kind, informer in everything.kinds():
            place = (kind.group, kind.plural)
            if place in places:
                for one in informer.in_namespace(namespace_of(found)):
                    if quota.counts(found, *place, one):
                        yield quota.usage(*place, one)

    def look(key: Key) -> Decision:
        found = quotas.get(key[1], key[0])
        return NOTHING if found is None else decide(found, quota.total(counted(found)))

    loop = Loop(world, "resource-quota-controller", look, workers=1)

    def changed(old: Manifest | None, new: Manifest | None) -> None:
        namespace = namespace_of(new or old or {"metadata": {}})
        for one in quotas.in_namespace(namespace):
            loop.queue.add(key_of(one))

    def appeared(informer: Informer) -> None:
        if informer.kind.namespaced:
            informer.subscribe(changed)

    everything.on_kind(appeared)
    return loop
