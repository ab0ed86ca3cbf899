"""PodDisruptionBudgets as eviction, the controller and the scheduler read them: whose pods, how many may go, and what the condition says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded.selectors import from_label_selector
from moorage.errors import Invalid
from moorage.kube.metadata import labels_of, namespace_of
from moorage.specs.manifest import Manifest

SYNC_FAILED = "SyncFailed"
_CONDITION = "DisruptionAllowed"


def covers(budget: Manifest, pod: Manifest) -> bool:
    """Whether the budget speaks of the pod; an empty selector is all pods of the namespace, none is none."""
    selector = (budget.get("spec") or {}).get("selector")
    if selector is None or namespace_of(budget) != namespace_of(pod):
        return False
    try:
        terms = from_label_selector(selector)
    except Invalid:
        # As on Kubernetes: one that cannot be read speaks of no pod. Raised from here it would end the watch of everybody's pods.
        return False
    return all(term.matches(labels_of(pod)) for term in terms)


def budgets_for(pod: Manifest, budgets: Iterable[Manifest]) -> list[Manifest]:
    return [one for one in budgets if covers(one, pod)]


def condition_of(budget: Manifest) -> Mapping[str, Any]:
    """The condition DisruptionAllowed, empty when there is none."""
    conditions = (budget.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == _CONDITION), {})


def condition(budget: Manifest, allowed: int, generation: int, now: datetime, *, failure: str | None = None) -> Manifest:
    """The condition as it should be; `failure` is why the budget could not be worked out."""
    before = condition_of(budget)
    status, reason = ("True", "SufficientPods") if allowed > 0 else ("False", "InsufficientPods")
    if failure is not None:
        status, reason = "False", SYNC_FAILED
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": _CONDITION,
        "status": status,
        "reason": reason,
        "message": failure or "",
        "observedGeneration": generation,
        "lastTransitionTime": since or rfc3339(now),
    }
