"""ReplicaSet: as many pods of one template as asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded.control.objects import condition, selector_of
from moorage.embedded.control.pods import available_in, claim, doomed_first, from_template, is_active, is_ready
from moorage.embedded.control.steps import Create, Decision, Delete, Patch, Step, set_status, sooner
from moorage.errors import MoorageError
from moorage.kube.kinds import POD, REPLICA_SET
from moorage.kube.metadata import is_deleting, labels_of
from moorage.specs.manifest import Manifest

COMPONENT = "replicaset-controller"
_FAILURE = "ReplicaFailure"
# A turn writes at most this many pods, so that one huge set cannot hold up the others (Kubernetes' BurstReplicas).
_BURST = 500


def decide(replica_set: Manifest, candidates: Sequence[Manifest], now: datetime) -> Decision:
    """One turn for a ReplicaSet; `candidates` are the pods of its namespace that it owns or that have no controller."""
    claimed = claim(replica_set, candidates, selector_of(replica_set))
    active = [pod for pod in claimed.owned if is_active(pod)]
    steps: list[Step] = [*claimed.steps]
    if not is_deleting(replica_set):
        steps += _scale(replica_set, active, now)
    status, wait = observe(replica_set, active, now)
    # Status first: it tells of what was seen, and a refused pod (quota, validation) must not keep it from being written.
    return Decision([*set_status(REPLICA_SET, replica_set, status), *steps], wait)


def _scale(replica_set: Manifest, active: Sequence[Manifest], now: datetime) -> list[Step]:
    wanted = replica_set["spec"].get("replicas", 1)
    missing = wanted - len(active)
    if missing > 0:
        template = replica_set["spec"].get("template") or {}
        return [
            Create(
                POD, from_template(replica_set, template), announce=replica_set, component=COMPONENT, otherwise=_failure(replica_set, now)
            )
            for _ in range(min(missing, _BURST))
        ]
    return [
        Delete(POD, pod, announce=replica_set, component=COMPONENT) for pod in doomed_first(active, now)[: min(max(0, -missing), _BURST)]
    ]


def _failure(replica_set: Manifest, now: datetime) -> Callable[[MoorageError], Patch]:
    """The condition that a refused pod leaves; the first one's words stay, as Kubernetes' do."""
    status = replica_set.get("status") or {}

    def patch(error: MoorageError) -> Patch:
        made = {"type": _FAILURE, "status": "True", "lastTransitionTime": rfc3339(now), "reason": "FailedCreate", "message": str(error)}
        kept = list(status.get("conditions") or ())
        return Patch(REPLICA_SET, replica_set, {"status": {"conditions": kept if condition(status, _FAILURE) else [*kept, made]}}, "status")

    return patch


def observe(replica_set: Manifest, active: Sequence[Manifest], now: datetime) -> tuple[Mapping[str, Any], timedelta | None]:
    """The status, and when a ready pod becomes available."""
    min_ready = timedelta(seconds=replica_set["spec"].get("minReadySeconds") or 0)
    template_labels = ((replica_set["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
    labelled = sum(template_labels.items() <= dict(labels_of(pod)).items() for pod in active)
    waits = [available_in(pod, min_ready, now) for pod in active]
    available = sum(wait == timedelta(0) for wait in waits)
    status: dict[str, Any] = {"replicas": len(active), "observedGeneration": replica_set["metadata"].get("generation", 1)}
    for name, count in (
        ("fullyLabeledReplicas", labelled),
        ("readyReplicas", sum(is_ready(pod) for pod in active)),
        ("availableReplicas", available),
    ):
        if count:
            status[name] = count
    conditions = (replica_set.get("status") or {}).get("conditions") or []
    if len(active) >= replica_set["spec"].get("replicas", 1):
        conditions = [each for each in conditions if each.get("type") != _FAILURE]
    if conditions:
        status["conditions"] = conditions
    return status, sooner(*(wait for wait in waits if wait))
