"""PodDisruptionBudgets: how many pods are healthy, how many have to be, and so how many may be evicted now. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded.control.objects import condition, time_of
from moorage.embedded.control.pods import is_finished, is_ready
from moorage.embedded.control.rollout import share
from moorage.embedded.control.steps import NOTHING, Decision, Patch, Record, Step, set_status, sooner
from moorage.embedded.disruptions import condition as allowed_condition
from moorage.kube.cluster import PatchType
from moorage.kube.kinds import DISRUPTION_BUDGET, POD
from moorage.kube.metadata import controller_of, is_deleting, name_of
from moorage.specs.manifest import Manifest

COMPONENT = "controllermanager"
# How long after an eviction the pod may be without a mark of deletion (DeletionTimeout, stalePodDisruptionTimeout).
_PATIENCE = timedelta(minutes=2)

# A pod's controller as (uid, wanted replicas); a text when it has none that can be scaled.
ScaleOf = Callable[[Manifest], tuple[str, int] | str]


def decide(budget: Manifest, pods: Sequence[Manifest], scale_of: ScaleOf, now: datetime) -> Decision:
    """One turn for a budget and the `pods` it selects."""
    notes: list[Step] = []
    if not pods:
        notes.append(Record(budget, "Normal", "NoPods", "No matching pods found", COMPONENT))
    counted = _expected(budget, pods, scale_of)
    if isinstance(counted, str):
        words = f"Failed to calculate the number of expected pods: {counted}"
        failed = Record(budget, "Warning", "CalculateExpectedPodCountFailed", words, COMPONENT)
        steps = _failed(budget, counted, now)
        return Decision([*steps, *notes, failed] if steps else [])
    expected, desired = counted
    pending, wait = _pending(budget, pods, now)
    healthy = sum(is_ready(pod) and not is_deleting(pod) and name_of(pod) not in pending for pod in pods)
    allowed = max(0, healthy - desired) if expected > 0 else 0
    generation = budget["metadata"].get("generation", 1)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": expected,
        "disruptionsAllowed": allowed,
        "conditions": [allowed_condition(budget, allowed, generation, now)],
    }
    if pending:
        status["disruptedPods"] = pending
    steps = set_status(DISRUPTION_BUDGET, budget, status)
    return Decision([*steps, *notes] if steps else [], wait)


def _failed(budget: Manifest, why: str, now: datetime) -> list[Step]:
    """Nothing may be evicted where it is not known how much is left."""
    before = budget.get("status") or {}
    generation = before.get("observedGeneration", 0)
    conditions = [allowed_condition(budget, 0, generation, now, failure=why)]
    return set_status(DISRUPTION_BUDGET, budget, {**before, "disruptionsAllowed": 0, "conditions": conditions})


def _expected(budget: Manifest, pods: Sequence[Manifest], scale_of: ScaleOf) -> tuple[int, int] | str:
    """Pods there should be, and of those the healthy ones; or why that cannot be told."""
    spec = budget["spec"]
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if most is None and not isinstance(least, str):
        return (len(pods), int(least)) if least is not None else (0, 0)
    scales: dict[str, int] = {}
    for pod in pods:
        if controller_of(pod) is None:
            continue  # unmanaged: not counted, as in Kubernetes
        found = scale_of(pod)
        if isinstance(found, str):
            return found
        scales[found[0]] = found[1]
    expected = sum(scales.values())
    if most is not None:
        return expected, max(0, expected - share(most, expected, up=True))
    return expected, share(least, expected, up=True)


def _pending(budget: Manifest, pods: Sequence[Manifest], now: datetime) -> tuple[dict[str, str], timedelta | None]:
    """Evicted pods that do not yet say that they are being deleted, and when to stop waiting for that."""
    told: dict[str, str] = (budget.get("status") or {}).get("disruptedPods") or {}
    ends = {name_of(pod): time_of(told[name_of(pod)], now) + _PATIENCE for pod in pods if name_of(pod) in told and not is_deleting(pod)}
    left = {name: told[name] for name, end in ends.items() if end >= now}
    return left, sooner(*(max(timedelta(seconds=1), ends[name] - now) for name in left))


def clear(pod: Manifest, now: datetime) -> Decision:
    """Take back DisruptionTarget from a pod that was not deleted after all."""
    found = condition(pod, "DisruptionTarget")
    if found is None or found.get("status") != "True" or is_deleting(pod) or is_finished(pod):
        return NOTHING
    if found.get("reason") == "TerminationByKubelet":
        return NOTHING
    rest = time_of(found.get("lastTransitionTime"), now) + _PATIENCE - now
    if rest > timedelta(0):
        return Decision(requeue_after=rest)
    made = {"type": "DisruptionTarget", "status": "False", "lastTransitionTime": rfc3339(now), "reason": None, "message": None}
    return Decision([Patch(POD, pod, {"status": {"conditions": [made]}}, "status", PatchType.STRATEGIC)])


def scale_finder(sets: Iterable[tuple[str, Callable[[str], Manifest | None]]], deployments: Callable[[str], Manifest | None]) -> ScaleOf:
    """Finds the size of pods' controllers.

    Args:
        sets: kinds with replicas of their own, each with a look-up by uid.
        deployments: a Deployment by uid; a ReplicaSet's size is its Deployment's where it has one.
    """
    by_kind = dict(sets)

    def scale_of(pod: Manifest) -> tuple[str, int] | str:
        reference = controller_of(pod) or {}
        found = by_kind[reference["kind"]](reference["uid"]) if reference.get("kind") in by_kind else None
        if found is None:
            group = str(reference.get("apiVersion", "")).rpartition("/")[0]
            plural = f"{str(reference.get('kind', '')).lower()}s"
            return f"{plural}{'.' + group if group else ''} does not implement the scale subresource"
        above = controller_of(found)
        if above is not None and above.get("kind") == "Deployment" and (owner := deployments(above["uid"])) is not None:
            found = owner
        return str(found["metadata"]["uid"]), int(found["spec"].get("replicas", 1))

    return scale_of
