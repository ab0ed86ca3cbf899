"""Wires StatefulSets, DaemonSets and disruption budgets to the informers: what wakes which one, and what its decision gets to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from moorage.embedded.control import daemonset, disruption, statefulset
from moorage.embedded.control.loop import Loop
from moorage.embedded.control.objects import is_true
from moorage.embedded.control.pods import is_ready
from moorage.embedded.control.steps import NOTHING, Decision
from moorage.embedded.control.workloads import NAMESPACE, children, index_children, index_namespace, wake_owner, wake_self
from moorage.embedded.control.world import World
from moorage.embedded.disruptions import covers
from moorage.kube.kinds import CONTROLLER_REVISION, DAEMON_SET, DEPLOYMENT, DISRUPTION_BUDGET, NODE, POD, PVC, REPLICA_SET, STATEFUL_SET
from moorage.kube.metadata import Key, is_deleting, key_of, labels_of, name_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=15)


def stateful_sets(world: World) -> Loop:
    """The StatefulSet controller."""
    owners, pods = world.informer(STATEFUL_SET), world.informer(POD)
    history, volume_claims = world.informer(CONTROLLER_REVISION), world.informer(PVC)
    for informer in (pods, history):
        index_children(informer)
    index_namespace(volume_claims)

    def decide(key: Key) -> Decision:
        found = owners.get(key[1], key[0])
        if found is None:
            return NOTHING
        known = {name_of(one): one for one in volume_claims.find(NAMESPACE, key[0])}
        return statefulset.decide(found, children(pods, found), children(history, found), known, world.clock())

    loop = Loop(world, statefulset.COMPONENT, decide)

    def claim_changed(old: Manifest | None, new: Manifest | None) -> None:
        one = new or old
        assert one is not None
        for owner in owners.find(NAMESPACE, namespace_of(one)):
            templates = owner["spec"].get("volumeClaimTemplates") or ()
            if any(name_of(one).startswith(f"{name_of(template)}-{name_of(owner)}-") for template in templates):
                loop.queue.add(key_of(owner))

    owners.subscribe(wake_self(loop))
    for informer in (pods, history):
        informer.subscribe(wake_owner(loop, STATEFUL_SET, owners))
    volume_claims.subscribe(claim_changed)
    return loop


@dataclass(slots=True)
class _Failures:
    """How long a failed daemon pod is left alone: a second, and twice as long each time the next one on its node failed too."""

    seen: dict[tuple[str, str], tuple[timedelta, datetime]] = field(default_factory=dict)

    def holds(self, uid: str, now: datetime) -> Mapping[str, timedelta]:
        ends = {node: since + pause for (owner, node), (pause, since) in self.seen.items() if owner == uid}
        return {node: end - now for node, end in ends.items() if end > now}

    def note(self, uid: str, node: str, now: datetime) -> None:
        pause, since = self.seen.get((uid, node), (timedelta(0), now))
        fresh = not pause or now - since > 2 * _LONGEST_PAUSE
        self.seen[uid, node] = _FIRST_PAUSE if fresh else min(2 * pause, _LONGEST_PAUSE), now

    def forget(self, uid: str) -> None:
        self.seen = {key: value for key, value in self.seen.items() if key[0] != uid}


def daemon_sets(world: World) -> Loop:
    """The DaemonSet controller."""
    owners, pods, nodes, history = (world.informer(kind) for kind in (DAEMON_SET, POD, NODE, CONTROLLER_REVISION))
    for informer in (pods, history):
        index_children(informer)
    failures = _Failures()

    def decide(key: Key) -> Decision:
        found = owners.get(key[1], key[0])
        if found is None:
            return NOTHING
        now, uid = world.clock(), uid_of(found)
        known = sorted(nodes, key=name_of)
        decision = daemonset.decide(found, children(pods, found), children(history, found), known, failures.holds(uid, now), now)
        for node in daemonset.failed_on(decision):
            failures.note(uid, node, now)
        return decision

    loop = Loop(world, daemonset.COMPONENT, decide)

    def node_changed(old: Manifest | None, new: Manifest | None) -> None:
        # A node's heartbeat changes its status every few seconds and nothing that matters here.
        if old is None or new is None or _matters(old) != _matters(new):
            for owner in owners:
                loop.queue.add(key_of(owner))

    def owner_gone(old: Manifest | None, new: Manifest | None) -> None:
        if old is not None and new is None:
            failures.forget(uid_of(old))

    owners.subscribe(wake_self(loop))
    owners.subscribe(owner_gone)
    nodes.subscribe(node_changed)
    for informer in (pods, history):
        informer.subscribe(wake_owner(loop, DAEMON_SET, owners))
    return loop


def disruption_budgets(world: World) -> Loop:
    """The disruption controller's first half: budgets."""
    budgets, pods, deployments = world.informer(DISRUPTION_BUDGET), world.informer(POD), world.informer(DEPLOYMENT)
    index_namespace(budgets)
    index_namespace(pods)
    scaled = {kind.kind: world.informer(kind) for kind in (REPLICA_SET, STATEFUL_SET)}
    scale_of = disruption.scale_finder([(kind, informer.with_uid) for kind, informer in scaled.items()], deployments.with_uid)

    def decide(key: Key) -> Decision:
        found = budgets.get(key[1], key[0])
        if found is None:
            return NOTHING
        covered = [pod for pod in pods.find(NAMESPACE, key[0]) if covers(found, pod)]
        return disruption.decide(found, covered, scale_of, world.clock())

    loop = Loop(world, "disruption-controller", decide)

    def pod_changed(old: Manifest | None, new: Manifest | None) -> None:
        if old is not None and new is not None and _disrupts(old) == _disrupts(new):
            return
        for pod in (old, new):
            for budget in budgets.find(NAMESPACE, namespace_of(pod)) if pod is not None else ():
                if pod is not None and covers(budget, pod):
                    loop.queue.add(key_of(budget))

    budgets.subscribe(wake_self(loop))
    pods.subscribe(pod_changed)
    return loop


def stale_disruptions(world: World) -> Loop:
    """The disruption controller's second half: pods that were to be disrupted and were not."""
    pods = world.informer(POD)

    def decide(key: Key) -> Decision:
        found = pods.get(key[1], key[0])
        return NOTHING if found is None else disruption.clear(found, world.clock())

    loop = Loop(world, "stale-pod-disruption", decide, workers=1)

    def pod_changed(old: Manifest | None, new: Manifest | None) -> None:
        if new is not None and is_true(new, "DisruptionTarget"):
            loop.queue.add(key_of(new))

    pods.subscribe(pod_changed)
    return loop


def _disrupts(pod: Manifest) -> tuple[object, ...]:
    return is_ready(pod), is_deleting(pod), labels_of(pod), uid_of(pod)


def _matters(node: Manifest) -> tuple[object, ...]:
    spec = node.get("spec") or {}
    return labels_of(node), spec.get("taints"), spec.get("unschedulable"), uid_of(node)
