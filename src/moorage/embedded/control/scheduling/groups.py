"""What a PodGroup's status says, in Volcano's words, checked against Volcano 1.15: phase, counts, and the conditions Scheduled and Unschedulable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from moorage.clock import rfc3339
from moorage.specs.manifest import Manifest

_READY = "tasks in gang are ready to be scheduled"


def least(group: Manifest) -> int:
    """How many members it takes at least."""
    return int((group.get("spec") or {}).get("minMember") or 1)


def state_of(pod: Manifest, *, bound: bool | None = None) -> str:
    """A member's state as Volcano counts it. `bound`: whether it has a node now, where the pod does not say so yet."""
    phase = str((pod.get("status") or {}).get("phase") or "Pending")
    if phase != "Pending":
        return phase
    return "Bound" if (bool((pod.get("spec") or {}).get("nodeName")) if bound is None else bound) else "Pending"


def ready(states: Sequence[str]) -> int:
    """How many count towards the least: those that have a node, and those that are done."""
    return sum(state in ("Bound", "Running", "Succeeded") for state in states)


def why_not(group: Manifest, states: Sequence[str], possible: int, origin: tuple[str, str] | None) -> str:
    """Why the gang does not run.

    Args:
        possible: how many of those that wait would have had a node.
        origin: the first member that had none, and why.
    """
    wanted = least(group)
    words = f"{wanted - ready(states) - possible}/{len(states)} tasks in gang unschedulable: {not_ready(group, states, possible)}"
    return words if origin is None else f"{words}. Origin reason is {origin[0]}: {origin[1]}"


def not_ready(group: Manifest, states: Sequence[str], possible: int) -> str:
    counts = Counter(states) + Counter({"minAvailable": least(group)})
    words = f"pod group is not ready, {_listed(counts)}"
    pending = states.count("Pending")
    if pending:
        words += f"; Pending: {_listed({'Schedulable': possible, 'Unschedulable': pending - possible})}"
    return words


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(sorted(f"{count} {name}" for name, count in counts.items() if count))


def status_of(group: Manifest, states: Sequence[str], refused: str | None, now: datetime) -> Manifest | None:
    """The status of a group with members; None where it has none.

    Args:
        refused: what `why_not` said of it in this turn.
    """
    if not states:
        return None
    before = group.get("status") or {}
    count = ready(states)
    over = Counter(states)
    if count >= least(group):
        phase = "Completed" if over["Succeeded"] == count else "Running"
        made: Manifest = {"type": "Scheduled", "status": "True", "reason": _READY}
    else:
        phase = "Unknown" if over["Running"] else "Inqueue"
        message = refused or why_not(group, states, 0, None)
        made = {"type": "Unschedulable", "status": "True", "reason": "NotEnoughResources", "message": message}
    return {
        **{name: value for name, value in before.items() if name not in ("running", "succeeded", "failed")},
        "phase": phase,
        "conditions": _conditions(before.get("conditions") or (), made, now),
        **{name.lower(): over[name] for name in ("Running", "Succeeded", "Failed") if over[name]},
    }


def _conditions(before: Sequence[Manifest], made: Manifest, now: datetime) -> list[Manifest]:
    """Those there were, the one of this type replaced where it says something else."""
    kept = [one for one in before if one.get("type") != made["type"]]
    same = next((one for one in before if one.get("type") == made["type"]), None)
    if same is not None and same.get("message") == made.get("message"):
        return list(before)
    return [*kept, made | {"lastTransitionTime": rfc3339(now)}]
