"""Status conditions (metav1.Condition): set without touching the time of those that did not change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from moorage.specs.manifest import Manifest

_MESSAGE_LIMIT = 32768


@dataclass(frozen=True, slots=True)
class Condition:
    """One finding about an object.

    Args:
        type: e.g. `Ready`.
        status: `True`, `False` or `Unknown`.
        reason: CamelCase cause.
        message: the same for people.
    """

    type: str
    status: str
    reason: str
    message: str = ""


def merge(earlier: Sequence[Manifest], found: Iterable[Condition], *, now: datetime, generation: int) -> list[Manifest]:
    """The conditions as they stand now; `lastTransitionTime` moves only with the status, and unmentioned ones are dropped."""
    before = {condition["type"]: condition for condition in earlier}
    return [_merged(before.get(condition.type), condition, now, generation) for condition in found]


def find(conditions: Sequence[Manifest] | None, type: str) -> Manifest | None:
    """The condition of that type, if there is one."""
    return next((condition for condition in conditions or () if condition.get("type") == type), None)


def timestamp(moment: datetime) -> str:
    """metav1.Time: seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """What `timestamp` writes, or Kubernetes in either of its forms, back."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def _merged(before: Manifest | None, condition: Condition, now: datetime, generation: int) -> Manifest:
    moved = before is None or before.get("status") != condition.status
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message[:_MESSAGE_LIMIT],
        "observedGeneration": generation,
        "lastTransitionTime": timestamp(now) if before is None or moved else before["lastTransitionTime"],
    }
