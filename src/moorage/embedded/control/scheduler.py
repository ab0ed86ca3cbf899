"""Wires the scheduler: one turn looks at every pod that waits for a node, binds those that fit, and tells the others why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded.control.loop import Loop
from moorage.embedded.control.objects import annotations_of, condition, is_true
from moorage.embedded.control.pods import is_finished
from moorage.embedded.control.scheduling.groups import state_of, status_of
from moorage.embedded.control.scheduling.plan import GROUP, Plan, Volumes, group_of, is_waiting, plan
from moorage.embedded.control.scheduling.preemption import Preemption, nominated_to, priority_of
from moorage.embedded.control.scheduling.snapshot import Requests, Room, Snapshot
from moorage.embedded.control.scheduling.volumes import reach
from moorage.embedded.control.steps import NOTHING, Bind, Decision, Delete, Patch, Record, Step, set_status
from moorage.embedded.control.world import World
from moorage.kube.cluster import PatchType
from moorage.kube.kinds import DISRUPTION_BUDGET, NODE, POD, POD_GROUP, PV, PVC
from moorage.kube.metadata import Key, is_deleting, key_of, name_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

_TURN: Key = ("", "everything that waits")
_WAITING, _UNCONFIRMED, _GROUP = "waiting", "bound without saying so", "pod group"


class _Scheduler:
    def __init__(self, world: World) -> None:
        self._world = world
        self.nodes, self.pods, self.groups = world.informer(NODE), world.informer(POD), world.informer(POD_GROUP)
        self.claims, self.volumes = world.informer(PVC), world.informer(PV)
        self.budgets = world.informer(DISRUPTION_BUDGET)
        self._requests = Requests()
        self.pods.add_index(_WAITING, lambda pod: (True,) if is_waiting(pod) else ())
        self.pods.add_index(_UNCONFIRMED, lambda pod: (True,) if _is_unconfirmed(pod) else ())
        self.pods.add_index(_GROUP, lambda pod: (group_of(pod),))
        self.loop = Loop(world, "scheduler", self._decide, workers=1)
        self._subscribe()

    def _subscribe(self) -> None:
        self.pods.subscribe(self._pod_changed)
        self.nodes.subscribe(self._node_changed)
        for informer in (self.claims, self.volumes, self.groups):
            informer.subscribe(self._related_changed)

    def _wake(self) -> None:
        self.loop.queue.add(_TURN)

    def _pod_changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if _member(old) != _member(new):
            # What its group's status counts.
            self._wake()
        if new is None:
            if old is not None:
                self._requests.forget(old)
        elif (is_waiting(new) and (old is None or _asks(old) != _asks(new))) or _is_unconfirmed(new):
            return self._wake()
        held = old is not None and (old.get("spec") or {}).get("nodeName") and not is_finished(old)
        if held and (new is None or is_finished(new)):
            self._wake()
        return None

    def _node_changed(self, old: Manifest | None, new: Manifest | None) -> None:
        # A node's heartbeat changes its status every few seconds and nothing that matters here.
        if old is None or new is None or _offers(old) != _offers(new):
            self._wake()

    def _related_changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if old is None or new is None or (old.get("spec"), _phase(old)) != (new.get("spec"), _phase(new)):
            self._wake()

    def _decide(self, key: Key) -> Decision:
        now = self._world.clock()
        confirmed: list[list[Step]] = [[_scheduled(pod, now)] for pod in self.pods.find(_UNCONFIRMED, True)]
        waiting = self.pods.find(_WAITING, True)
        groups = {key_of(group): group for group in self.groups}
        if not waiting and not confirmed and not groups:
            return NOTHING
        snapshot = Snapshot(self.nodes, self.pods, self._requests)
        found = plan(tuple(self.pods), snapshot, groups=groups, volumes=self._reach, budgets=tuple(self.budgets))
        apart = [*confirmed, *(_steps(pod, found, now) for pod in waiting)]
        apart += [_group_steps(group, self.pods.find(_GROUP, key), found, now) for key, group in groups.items()]
        apart += [_preempted(one, waiting, now) for one in found.preemptions]
        apart += [[_nominate(pod, None)] for pod in found.denominated]
        return Decision(apart=[run for run in apart if run])

    def _reach(self, pod: Manifest, rooms: Mapping[str, Room]) -> Volumes:
        return reach(pod, self.claims, self.volumes, rooms)


def scheduler(world: World) -> Loop:
    """The one scheduler, which answers to `default-scheduler` and `volcano`."""
    return _Scheduler(world).loop


def _asks(pod: Manifest) -> tuple[Any, ...]:
    return pod.get("spec"), annotations_of(pod).get(GROUP), uid_of(pod)


def _offers(node: Manifest) -> tuple[Any, ...]:
    return node.get("spec"), node["metadata"].get("labels"), (node.get("status") or {}).get("allocatable"), uid_of(node)


def _phase(one: Manifest) -> Any:
    return (one.get("status") or {}).get("phase"), is_deleting(one)


def _is_unconfirmed(pod: Manifest) -> bool:
    """Bound, but its condition does not say so: the scheduler was stopped between the two writes, or somebody named the node by hand.

    Once the node has started on the pod, its conditions are the node's.
    """
    bound = bool((pod.get("spec") or {}).get("nodeName")) and not (pod.get("status") or {}).get("startTime")
    return bound and not is_true(pod, "PodScheduled") and not is_finished(pod) and not is_deleting(pod)


def _component(pod: Manifest) -> str:
    return (pod.get("spec") or {}).get("schedulerName") or "default-scheduler"


def _steps(pod: Manifest, found: Plan, now: datetime) -> list[Step]:
    uid = uid_of(pod)
    if (node := found.places.get(uid)) is not None:
        words = f"Successfully assigned {namespace_of(pod)}/{name_of(pod)} to {node}"
        return [Bind(pod, node), Record(pod, "Normal", "Scheduled", words, _component(pod))]
    message = found.refused.get(uid)
    before = condition(pod, "PodScheduled")
    if message is None or (before and before.get("status") == "False" and before.get("message") == message):
        return []
    reason = "Schedulable" if uid in found.possible else "Unschedulable"
    made = _condition(before, "False", now) | {"reason": reason, "message": message}
    return [_set_condition(pod, made), Record(pod, "Warning", "FailedScheduling", message, _component(pod))]


def _preempted(one: Preemption, waiting: Sequence[Manifest], now: datetime) -> list[Step]:
    """Say on the victims why they go, let them go, and keep their node for the pod."""
    steps: list[Step] = []
    component = _component(one.pod)
    words = f"{component}: preempting to accommodate a higher priority pod"
    made = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": words}
    for victim in one.victims:
        if is_deleting(victim):
            continue
        steps.append(_set_condition(victim, made | {"lastTransitionTime": rfc3339(now)}))
        steps.append(Delete(POD, victim))
        steps.append(Record(victim, "Normal", "Preempted", f"Preempted by pod {uid_of(one.pod)} on node {one.node}", component))
    below = [pod for pod in waiting if nominated_to(pod) == one.node and priority_of(pod) < priority_of(one.pod)]
    return [*steps, *(_nominate(pod, None) for pod in below), _nominate(one.pod, one.node)]


def _nominate(pod: Manifest, node: str | None) -> Patch:
    return Patch(POD, pod, {"status": {"nominatedNodeName": node}}, "status", PatchType.STRATEGIC)


def _scheduled(pod: Manifest, now: datetime) -> Patch:
    # The null fields take back what an earlier refusal said.
    return _set_condition(pod, _condition(condition(pod, "PodScheduled"), "True", now) | {"reason": None, "message": None})


def _condition(before: Manifest | None, status: str, now: datetime) -> Manifest:
    kept = before is not None and before.get("status") == status and before.get("lastTransitionTime")
    return {"type": "PodScheduled", "status": status, "lastTransitionTime": kept or rfc3339(now)}


def _set_condition(pod: Manifest, made: Manifest) -> Patch:
    # Strategic, since the node's agent writes the other conditions at the same time.
    return Patch(POD, pod, {"status": {"conditions": [made]}}, "status", PatchType.STRATEGIC)


def _member(pod: Manifest | None) -> tuple[Any, ...] | None:
    key = group_of(pod) if pod is not None else None
    return None if pod is None or key is None else (key, state_of(pod), is_deleting(pod))


def _group_steps(group: Manifest, members: Sequence[Manifest], found: Plan, now: datetime) -> list[Step]:
    alive = [pod for pod in members if not is_deleting(pod)]
    states = [state_of(pod, bound=uid_of(pod) in found.places or bool((pod.get("spec") or {}).get("nodeName"))) for pod in alive]
    refused = found.gangs.get(key_of(group))
    status = status_of(group, states, refused, now)
    steps = set_status(POD_GROUP, group, status) if status is not None else []
    said = [one.get("message") for one in (group.get("status") or {}).get("conditions") or () if one.get("type") == "Unschedulable"]
    if steps and refused is not None and refused not in said:
        steps.append(Record(group, "Warning", "Unschedulable", refused, "volcano"))
    return steps
