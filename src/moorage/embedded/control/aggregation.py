"""Aggregated ClusterRoles: one with an `aggregationRule` holds the rules of all the roles that its selectors find. Pure but for its wiring."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moorage.embedded.control.loop import Loop
from moorage.embedded.control.objects import selects
from moorage.embedded.control.steps import NOTHING, Decision, Patch
from moorage.embedded.control.world import World
from moorage.embedded.selectors import from_label_selector
from moorage.kube.kinds import CLUSTER_ROLE
from moorage.kube.metadata import Key, is_deleting, labels_of, name_of
from moorage.specs.manifest import Manifest


def aggregate(role: Manifest, roles: Iterable[Manifest]) -> Decision:
    """Write the rules of the selected roles into `role`: by selector and name, each once (clusterroleaggregation_controller.go)."""
    chosen = (role.get("aggregationRule") or {}).get("clusterRoleSelectors")
    if not chosen or is_deleting(role):
        return NOTHING
    by_name = sorted((other for other in roles if name_of(other) != name_of(role)), key=name_of)
    rules: list[Any] = []
    for selector in chosen:
        terms = from_label_selector(selector)
        for other in by_name:
            if selects(terms, labels_of(other)):
                rules += [rule for rule in other.get("rules") or () if rule not in rules]
    return NOTHING if rules == (role.get("rules") or []) else Decision([Patch(CLUSTER_ROLE, role, {"rules": rules})])


def cluster_roles(world: World) -> Loop:
    """Keeps aggregated roles; any change to any role may be a change to each of them."""
    roles = world.informer(CLUSTER_ROLE)

    def decide(key: Key) -> Decision:
        role = roles.get(key[1])
        return NOTHING if role is None else aggregate(role, roles)

    loop = Loop(world, "clusterrole-aggregation-controller", decide, workers=1)

    def changed(old: Manifest | None, new: Manifest | None) -> None:
        for role in roles:
            if role.get("aggregationRule"):
                loop.queue.add(("", name_of(role)))

    roles.subscribe(changed)
    return loop
