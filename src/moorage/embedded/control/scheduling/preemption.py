"""Preemption: which pods of lower priority have to go so that a pod has room, chosen as Kubernetes chooses. Pure.

A node's pods of lower priority are taken away in thought, and as many as possible put back, those first whose disruption budget would be broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from moorage.embedded.control.objects import condition
from moorage.embedded.control.scheduling.decide import NOT_HELPFUL, Unschedulable, refusal_of
from moorage.embedded.control.scheduling.snapshot import Room, Snapshot
from moorage.embedded.disruptions import covers
from moorage.kube.metadata import is_deleting, labels_of, name_of, uid_of
from moorage.specs.manifest import Manifest

_NO_VICTIMS = "No preemption victims found for incoming pod"
_NEVER = "not eligible due to preemptionPolicy=Never."
_TERMINATING = "not eligible due to a terminating pod on the nominated node."
# Added to a priority before sums are compared, so that fewer negative ones still weigh less (pickOneNodeForPreemption).
_OFFSET = 2**31


@dataclass(frozen=True, slots=True)
class Preemption:
    """Room on a node once its victims are gone."""

    pod: Manifest
    node: str
    victims: Sequence[Manifest]
    violations: int = 0


@dataclass(frozen=True, slots=True)
class NoPreemption:
    """Why nobody has to go. `waits`: for those that are going already, on the node the pod is nominated for."""

    message: str
    waits: bool = False


def priority_of(pod: Manifest) -> int:
    return int((pod.get("spec") or {}).get("priority") or 0)


def nominated_to(pod: Manifest) -> str | None:
    """The node on which room was made for the pod."""
    return (pod.get("status") or {}).get("nominatedNodeName") or None


def preempt(pod: Manifest, why: Unschedulable, snapshot: Snapshot, budgets: Sequence[Manifest] = ()) -> Preemption | NoPreemption:
    """Whom `pod` may push off which node, after it was refused a place."""
    if (pod.get("spec") or {}).get("preemptionPolicy") == "Never":
        return NoPreemption(f"{why.head}. preemption: {_NEVER}")
    if _is_waited_for(pod, why, snapshot):
        return NoPreemption(f"{why.head}. preemption: {_TERMINATING}", waits=True)
    found: list[Preemption] = []
    reasons: Counter[str] = Counter()
    for room in snapshot.rooms.values():
        refusal = why.refusals.get(room.name)
        if refusal is None or refusal.fixed:
            reasons[NOT_HELPFUL] += 1
            continue
        outcome = _on(pod, room, snapshot, budgets)
        if isinstance(outcome, Preemption):
            found.append(outcome)
        else:
            reasons.update(outcome)
    if found:
        return _least(found)
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    return NoPreemption(f"{why.head}. preemption: 0/{len(snapshot.rooms)} nodes are available: {listed}.")


def _is_waited_for(pod: Manifest, why: Unschedulable, snapshot: Snapshot) -> bool:
    node = nominated_to(pod)
    room = snapshot.rooms.get(node) if node else None
    refusal = why.refusals.get(node or "")
    if room is None or (refusal is not None and refusal.fixed):
        return False
    return any(priority_of(one) < priority_of(pod) and is_deleting(one) and _is_victim(one) for one in room.pods.values())


def _is_victim(pod: Manifest) -> bool:
    found = condition(pod, "DisruptionTarget") or {}
    return found.get("status") == "True" and found.get("reason") == "PreemptionByScheduler"


def _on(pod: Manifest, room: Room, snapshot: Snapshot, budgets: Sequence[Manifest]) -> Preemption | Sequence[str]:
    """The victims on one node, or the reasons why there are none."""
    lower = sorted((one for one in room.pods.values() if priority_of(one) < priority_of(pod)), key=importance)
    if not lower:
        return [_NO_VICTIMS]
    with _without(room, lower, snapshot) as put_back:
        refusal = refusal_of(pod, room, snapshot)
        if refusal is not None:
            return refusal.reasons
        breaking, others = _by_budget(lower, budgets)
        victims: list[Manifest] = []
        violations = 0
        for one in (*breaking, *others):
            put_back(one, True)
            if refusal_of(pod, room, snapshot) is not None:
                put_back(one, False)
                victims.append(one)
                violations += one in breaking
    return Preemption(pod, room.name, sorted(victims, key=importance), violations)


@contextmanager
def _without(room: Room, pods: Iterable[Manifest], snapshot: Snapshot) -> Iterator[Callable[[Manifest, bool], None]]:
    """The node without `pods`, and a way to put one back or take it away again; at the end all are back."""
    away: dict[str, Manifest] = {}

    def place(pod: Manifest, there: bool) -> None:
        if there:
            snapshot.place(away.pop(uid_of(pod)), room.name)
        else:
            away[uid_of(pod)] = pod
            snapshot.take_back(pod, room.name)

    for pod in pods:
        place(pod, False)
    try:
        yield place
    finally:
        for pod in list(away.values()):
            place(pod, True)


def importance(pod: Manifest) -> tuple[int, str, str]:
    """Sorts the more important first: higher priority, then longer running."""
    return -priority_of(pod), _started(pod), name_of(pod)


def _started(pod: Manifest) -> str:
    # Later than any time that there is: a pod that has not started has nothing to lose.
    return (pod.get("status") or {}).get("startTime") or "~"


def _by_budget(pods: Sequence[Manifest], budgets: Sequence[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    """The pods whose going would break a budget, and the rest."""
    left = {uid_of(one): (one.get("status") or {}).get("disruptionsAllowed", 0) for one in budgets}
    breaking: list[Manifest] = []
    others: list[Manifest] = []
    for pod in pods:
        breaks = False
        for budget in budgets if labels_of(pod) else ():
            pending: Mapping[str, str] = (budget.get("status") or {}).get("disruptedPods") or {}
            if covers(budget, pod) and name_of(pod) not in pending:
                left[uid_of(budget)] -= 1
                breaks = breaks or left[uid_of(budget)] < 0
        (breaking if breaks else others).append(pod)
    return breaking, others


def _least(found: Sequence[Preemption]) -> Preemption:
    """The node where it costs least: budgets broken, highest priority, sum of priorities, number, and the youngest of the highest."""
    best = min(found, key=_cost)
    equal = [one for one in found if _cost(one) == _cost(best)]
    return max(equal, key=lambda one: _started(one.victims[0]) if one.victims else "")


def _cost(one: Preemption) -> tuple[int, int, int, int]:
    priorities = [priority_of(victim) for victim in one.victims]
    return one.violations, max(priorities, default=-_OFFSET), sum(priority + _OFFSET for priority in priorities), len(priorities)
