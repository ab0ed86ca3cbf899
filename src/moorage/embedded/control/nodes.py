"""Node lifecycle: a node whose heartbeat stops becomes Unknown and tainted, its pods unready, and evicted once they tolerate it no longer. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded.control.objects import condition, time_of, until
from moorage.embedded.control.pods import is_finished, is_ready
from moorage.embedded.control.scheduling.affinity import taints_of, tolerates
from moorage.embedded.control.steps import Decision, Delete, Patch, Record, Step, set_status, sooner
from moorage.kube.cluster import PatchType
from moorage.kube.kinds import NODE, POD
from moorage.kube.metadata import is_deleting, name_of, namespace_of
from moorage.specs.manifest import Manifest

COMPONENT = "node-controller"
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
_CORDONED = "node.kubernetes.io/unschedulable"
_PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
}
_OURS = frozenset({NOT_READY, UNREACHABLE, _CORDONED, *_PRESSURES.values()})
_SILENT, _NEVER = "NodeStatusUnknown", "NodeStatusNeverUpdated"
# What Kubernetes' admission gives a pod that says nothing about a lost node (DefaultTolerationSeconds).
_DEFAULT_TOLERATION = timedelta(seconds=300)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How long ago the node was last heard of, on a clock that does not jump, and how long it may be silent.

    `renewed`: it was really heard, not just given the benefit of the doubt when this controller started.
    """

    silence: timedelta
    grace: timedelta
    renewed: bool = False

    @property
    def lost(self) -> bool:
        return self.silence >= self.grace


def decide(node: Manifest, pods: Sequence[Manifest], heartbeat: Heartbeat, now: datetime) -> Decision:
    """One turn for a node and the `pods` bound to it."""
    steps: list[Step] = []
    status = node.get("status") or {}
    if heartbeat.lost and _state(status) != "Unknown":
        # Pods first: nobody on a lost node can say that they still answer, and once the node is Unknown this is not looked at again.
        for pod in pods:
            steps += _unready(pod, now)
        status = {**status, "conditions": _unknown(status, now)}
        steps += [*set_status(NODE, node, status), _announce(node, "NodeNotReady")]
    elif heartbeat.renewed and not heartbeat.lost and (condition(status, "Ready") or {}).get("reason") in (_SILENT, _NEVER):
        # The agent lives after all: its machine slept, or its process was stopped. It tells its conditions only when it starts.
        status = {**status, "conditions": _revived(status, now)}
        steps += [*set_status(NODE, node, status), _announce(node, "NodeReady")]
    taints = _taints(node, status, now)
    if taints != list(taints_of(node)):
        steps.append(Patch(NODE, node, {"spec": {"taints": taints or None}}))
    evictions, wait = _evictions(pods, taints, now)
    rest = None if heartbeat.lost else heartbeat.grace - heartbeat.silence
    return Decision([*steps, *evictions], sooner(wait, rest))


def is_lost(node: Manifest) -> bool:
    """Whether this controller has declared the node lost."""
    return (condition(node, "Ready") or {}).get("reason") in (_SILENT, _NEVER)


def _announce(node: Manifest, reason: str) -> Record:
    return Record(node, "Normal", reason, f"Node {name_of(node)} status is now: {reason}", COMPONENT)


def _state(status: Mapping[str, Any]) -> str:
    """The status of condition Ready; a node that has none yet is not ready."""
    found = condition(status, "Ready")
    return str(found.get("status")) if found else "False"


def _unknown(status: Mapping[str, Any], now: datetime) -> list[Manifest]:
    known = list(status.get("conditions") or ())
    moment = rfc3339(now)
    conditions = [
        one | {"status": "Unknown", "lastTransitionTime": moment, "reason": _SILENT, "message": "Kubelet stopped posting node status."}
        if one["type"] in ("Ready", *_PRESSURES)
        else one
        for one in known
    ]
    never = {"status": "Unknown", "lastTransitionTime": moment, "reason": _NEVER, "message": "Kubelet never posted node status."}
    types = {one["type"] for one in known}
    return [*conditions, *({"type": type, **never} for type in ("Ready", *_PRESSURES) if type not in types)]


def _revived(status: Mapping[str, Any], now: datetime) -> list[Manifest]:
    conditions = []
    for one in status.get("conditions") or ():
        if one.get("reason") in (_SILENT, _NEVER):
            good = ("True", "KubeletReady") if one["type"] == "Ready" else ("False", f"KubeletHasNo{one['type']}")
            one = {
                **one,
                "status": good[0],
                "reason": good[1],
                "message": "the node agent is heard again",
                "lastTransitionTime": rfc3339(now),
            }
        conditions.append(one)
    return conditions


def _taints(node: Manifest, status: Mapping[str, Any], now: datetime) -> list[Manifest]:
    """The node's taints as they should be: the user's, and ours as its conditions say."""
    wanted: list[tuple[str, str]] = []
    ready = condition(status, "Ready")
    if ready is None or ready.get("status") == "False":
        wanted += [(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]
    elif ready.get("status") == "Unknown":
        wanted += [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]
    wanted += [(taint, "NoSchedule") for type, taint in _PRESSURES.items() if (condition(status, type) or {}).get("status") == "True"]
    if (node.get("spec") or {}).get("unschedulable"):
        wanted.append((_CORDONED, "NoSchedule"))
    kept = [one for one in taints_of(node) if one["key"] not in _OURS or (one["key"], one.get("effect")) in wanted]
    have = {(one["key"], one.get("effect")) for one in kept}
    added = [{"key": key, "effect": effect, "timeAdded": rfc3339(now)} for key, effect in wanted if (key, effect) not in have]
    return [*kept, *added]


def _unready(pod: Manifest, now: datetime) -> list[Step]:
    if is_finished(pod) or not is_ready(pod):
        return []
    made = {"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(now)}
    written = Patch(POD, pod, {"status": {"conditions": [made]}}, "status", PatchType.STRATEGIC)
    return [written, Record(pod, "Warning", "NodeNotReady", "Node is not ready", COMPONENT)]


def _evictions(pods: Sequence[Manifest], taints: Sequence[Manifest], now: datetime) -> tuple[list[Step], timedelta | None]:
    """Pods that no longer tolerate a NoExecute taint, and when the next one will not."""
    steps: list[Step] = []
    waits: list[timedelta] = []
    hard = [one for one in taints if one.get("effect") == "NoExecute"]
    for pod in pods:
        if is_deleting(pod) or is_finished(pod):
            continue
        ends = [end for taint in hard if (end := _tolerated_until(pod, taint, now)) is not None]
        if not ends:
            continue
        if min(ends) <= now:
            words = f"Marking for deletion Pod {namespace_of(pod)}/{name_of(pod)}"
            told = Record(pod, "Normal", "TaintManagerEviction", words, "taint-eviction-controller")
            why = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "lastTransitionTime": rfc3339(now)}
            why["message"] = "Taint manager: deleting due to NoExecute taint"
            marked = Patch(POD, pod, {"status": {"conditions": [why]}}, "status", PatchType.STRATEGIC)
            steps += [told, marked, Delete(POD, pod)]
        else:
            waits.append(until(min(ends), now))
    return steps, sooner(*waits)


def _tolerated_until(pod: Manifest, taint: Mapping[str, Any], now: datetime) -> datetime | None:
    """When the pod stops tolerating a NoExecute taint; None: never."""
    since = time_of(taint.get("timeAdded"), now)
    matching = [one for one in (pod.get("spec") or {}).get("tolerations") or () if _matches(one, taint)]
    if not matching:
        return since + _DEFAULT_TOLERATION if taint["key"] in (NOT_READY, UNREACHABLE) else since
    limits = [one["tolerationSeconds"] for one in matching if one.get("tolerationSeconds") is not None]
    return since + timedelta(seconds=max(0, min(limits))) if limits else None


def _matches(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    return tolerates({"metadata": {}, "spec": {"tolerations": [toleration]}}, taint)
