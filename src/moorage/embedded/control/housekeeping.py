"""Wires what keeps the cluster clean: lost nodes, pods nobody will ever finish, and events that had their hour."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from moorage.clock import rfc3339
from moorage.embedded.control import nodes
from moorage.embedded.control.loop import Loop
from moorage.embedded.control.objects import created_at, is_true, time_of, until
from moorage.embedded.control.pods import is_finished
from moorage.embedded.control.scheduling.affinity import taints_of
from moorage.embedded.control.steps import NOTHING, Decision, Delete, Patch, Step
from moorage.embedded.control.world import World
from moorage.kube.cluster import PatchType
from moorage.kube.kinds import EVENT, LEASE, NODE, POD
from moorage.kube.metadata import Key, is_deleting, name_of, namespace_of
from moorage.specs.manifest import Manifest

_NODE = "node"
_LEASES = "kube-node-lease"
_EVENT_LIFE = timedelta(hours=1)
# Events are swept together, so that a thousand of them cost one turn and not a thousand timers.
_SWEEP = timedelta(minutes=1)
_EVERY_EVENT: Key = ("", "events")
_FINISHED = "finished"
_EVERY_FINISHED: Key = ("", "finished pods")
_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


def node_lifecycle(world: World, *, grace: timedelta) -> Loop:
    """Watches heartbeats: the node's Lease, and its Ready condition's. A node is lost when neither has changed for `grace`."""
    found_nodes, pods, leases = world.informer(NODE), world.informer(POD), world.informer(LEASE)
    pods.add_index(_NODE, lambda pod: ((pod.get("spec") or {}).get("nodeName"),))
    heard: dict[str, float] = {}
    renewed: set[str] = set()

    def decide(key: Key) -> Decision:
        node = found_nodes.get(key[1])
        if node is None:
            heard.pop(key[1], None)
            renewed.discard(key[1])
            return NOTHING
        # Measured from when a change was seen here, on a clock that does not jump: a laptop's sleep or a set clock loses no node.
        silence = timedelta(seconds=asyncio.get_running_loop().time() - heard.setdefault(key[1], asyncio.get_running_loop().time()))
        heartbeat = nodes.Heartbeat(silence, grace, renewed=key[1] in renewed)
        return nodes.decide(node, pods.find(_NODE, key[1]), heartbeat, world.clock())

    loop = Loop(world, nodes.COMPONENT, decide)

    def hear(name: str) -> None:
        heard[name] = asyncio.get_running_loop().time()

    def node_changed(old: Manifest | None, new: Manifest | None) -> None:
        one = new or old
        assert one is not None
        if new is None or old is None or _beat(old) != _beat(new):
            hear(name_of(one))
        loop.queue.add(("", name_of(one)))

    def lease_changed(old: Manifest | None, new: Manifest | None) -> None:
        if new is None or namespace_of(new) != _LEASES:
            return
        name = name_of(new)
        if old is None:
            hear(name)
        elif (old.get("spec") or {}).get("renewTime") != (new.get("spec") or {}).get("renewTime"):
            hear(name)
            renewed.add(name)
            # No turn for a beat of a healthy node: the timer that is set looks at the time of this beat when it fires.
            if (node := found_nodes.get(name)) is not None and nodes.is_lost(node):
                loop.queue.add(("", name))

    def pod_changed(old: Manifest | None, new: Manifest | None) -> None:
        name = (new.get("spec") or {}).get("nodeName") if new is not None else None
        if name and (node := found_nodes.get(name)) is not None and (node.get("spec") or {}).get("taints"):
            loop.queue.add(("", name))

    found_nodes.subscribe(node_changed)
    leases.subscribe(lease_changed)
    pods.subscribe(pod_changed)
    return loop


def _beat(node: Manifest) -> Sequence[object]:
    """What a living node agent changes, and this controller does not."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return [(one.get("type"), one.get("lastHeartbeatTime")) for one in conditions]


def pod_collector(world: World, *, quarantine: timedelta, finished: int) -> Loop:
    """Ends pods that no node agent will ever end: bound to a node that is gone or out of service, deleted before they were bound, or long finished.

    Args:
        quarantine: how long a pod may be bound to a node that does not exist, before it is given up.
        finished: as many finished pods stay; the oldest of more than that go.
    """
    found_nodes, pods = world.informer(NODE), world.informer(POD)
    pods.add_index(_NODE, lambda pod: ((pod.get("spec") or {}).get("nodeName"),))
    pods.add_index(_FINISHED, lambda pod: (True,) if is_finished(pod) else ())
    missing: dict[str, float] = {}

    def decide(key: Key) -> Decision:
        if key == _EVERY_FINISHED:
            over = sorted(pods.find(_FINISHED, True), key=_oldest_first)
            return Decision(apart=[[Delete(POD, pod, grace=timedelta(0))] for pod in over[: max(0, len(over) - finished)]])
        pod = pods.get(key[1], key[0])
        if pod is None:
            return NOTHING
        node = (pod.get("spec") or {}).get("nodeName")
        if not node:
            return Decision([Delete(POD, pod, grace=timedelta(0))] if is_deleting(pod) else [])
        if (found := found_nodes.get(node)) is not None:
            missing.pop(node, None)
            return Decision(_forced(pod) if is_deleting(pod) and _is_out_of_service(found) else [])
        clock = asyncio.get_running_loop().time()
        rest = quarantine - timedelta(seconds=clock - missing.setdefault(node, clock))
        return Decision(requeue_after=rest) if rest > timedelta(0) else Decision(_given_up(pod, world.clock()))

    loop = Loop(world, "pod-garbage-collector", decide, workers=2)

    def pod_changed(old: Manifest | None, new: Manifest | None) -> None:
        if new is None:
            return
        node = (new.get("spec") or {}).get("nodeName")
        if (not node and is_deleting(new)) or (node and _is_lost(found_nodes.get(node))):
            loop.queue.add((namespace_of(new), name_of(new)))
        if is_finished(new) and (old is None or not is_finished(old)) and len(pods.find(_FINISHED, True)) > finished:
            loop.queue.add(_EVERY_FINISHED)

    def node_changed(old: Manifest | None, new: Manifest | None) -> None:
        one = new or old
        if one is not None and _is_lost(new):
            for pod in pods.find(_NODE, name_of(one)):
                loop.queue.add((namespace_of(pod), name_of(pod)))

    pods.subscribe(pod_changed)
    found_nodes.subscribe(node_changed)
    return loop


def _is_lost(node: Manifest | None) -> bool:
    return node is None or _is_out_of_service(node)


def _is_out_of_service(node: Manifest) -> bool:
    """Somebody has said that the node is down for certain, so that nothing on it can still run."""
    return not is_true(node, "Ready") and any(one.get("key") == _OUT_OF_SERVICE for one in taints_of(node))


def _oldest_first(pod: Manifest) -> tuple[bool, str, str]:
    evicted = (pod.get("status") or {}).get("reason") == "Evicted"
    return not evicted, pod["metadata"].get("creationTimestamp") or "", name_of(pod)


def _forced(pod: Manifest) -> list[Step]:
    """Failed, and gone without grace."""
    failed = Patch(POD, pod, {"status": {"phase": "Failed"}}, "status", PatchType.STRATEGIC)
    return [*([] if is_finished(pod) else [failed]), Delete(POD, pod, grace=timedelta(0))]


def _given_up(pod: Manifest, now: datetime) -> list[Step]:
    """Failed first, so that a Job counts it, then gone without grace."""
    steps: list[Step] = []
    if not is_finished(pod):
        why = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastTransitionTime": rfc3339(now),
        }
        steps.append(Patch(POD, pod, {"status": {"phase": "Failed", "conditions": [why]}}, "status", PatchType.STRATEGIC))
    return [*steps, Delete(POD, pod, grace=timedelta(0))]


def event_sweeper(world: World) -> Loop:
    """Deletes events an hour after they were last seen."""
    events = world.informer(EVENT)

    def decide(key: Key) -> Decision:
        now = world.clock()
        ends = [(_last_seen(event, now) + _EVENT_LIFE, event) for event in events]
        over: list[list[Step]] = [[Delete(EVENT, event)] for end, event in ends if end <= now]
        left = min((end for end, _ in ends if end > now), default=None)
        return Decision(requeue_after=max(_SWEEP, until(left, now)) if left else None, apart=over)

    loop = Loop(world, "event-ttl-controller", decide, workers=1)

    def appeared(old: Manifest | None, new: Manifest | None) -> None:
        # A later event never ends before those whose timer is set.
        if old is None and new is not None and len(events) == 1:
            loop.queue.add(_EVERY_EVENT)

    events.subscribe(appeared)
    loop.queue.add(_EVERY_EVENT)
    return loop


def _last_seen(event: Manifest, now: datetime) -> datetime:
    series = event.get("series") or {}
    for text in (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime")):
        if text:
            return time_of(text, now)
    return created_at(event, now)
