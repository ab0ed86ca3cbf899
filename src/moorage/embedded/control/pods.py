"""What controllers need to know about pods: alive, ready, available since, and which one to delete first."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from moorage.embedded.control.objects import annotations_of, condition, created_at, is_controlled_by, selects, time_of
from moorage.embedded.control.steps import Patch, Step
from moorage.embedded.selectors import LabelTerm
from moorage.kube.kinds import POD, Kind
from moorage.kube.metadata import controller_of, is_deleting, labels_of, owner_reference, uid_of
from moorage.specs.manifest import Manifest

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASE_ORDER = {"Pending": 0, "Unknown": 1, "Running": 2}


def phase_of(pod: Manifest) -> str:
    phase: str = (pod.get("status") or {}).get("phase") or "Pending"
    return phase


def is_finished(pod: Manifest) -> bool:
    return phase_of(pod) in ("Succeeded", "Failed")


def is_active(pod: Manifest) -> bool:
    return not is_finished(pod) and not is_deleting(pod)


def is_ready(pod: Manifest) -> bool:
    found = condition(pod, "Ready")
    return found is not None and found.get("status") == "True"


def ready_since(pod: Manifest, now: datetime) -> datetime | None:
    found = condition(pod, "Ready")
    return time_of(found.get("lastTransitionTime"), now) if found and found.get("status") == "True" else None


def available_in(pod: Manifest, min_ready: timedelta, now: datetime) -> timedelta | None:
    """Zero when the pod is available, the wait until it is when it is ready, None when it is not ready."""
    since = ready_since(pod, now)
    return None if since is None else max(timedelta(0), since + min_ready - now)


def restarts(pod: Manifest) -> int:
    return sum(one.get("restartCount", 0) for one in (pod.get("status") or {}).get("containerStatuses") or ())


def doomed_first(pods: Sequence[Manifest], now: datetime) -> list[Manifest]:
    """The pods in the order in which a controller deletes them (Kubernetes' ActivePodsWithRanks)."""
    crowd = Counter((pod.get("spec") or {}).get("nodeName") for pod in pods if is_active(pod))

    def rank(pod: Manifest) -> tuple[Any, ...]:
        node = (pod.get("spec") or {}).get("nodeName")
        since = ready_since(pod, now)
        return (
            node is not None,
            _PHASE_ORDER.get(phase_of(pod), 0),
            since is not None,
            _deletion_cost(pod),
            -crowd[node],
            -(since or now).timestamp(),
            -restarts(pod),
            -created_at(pod, now).timestamp(),
            pod["metadata"]["name"],
        )

    return sorted(pods, key=rank)


def _deletion_cost(pod: Manifest) -> int:
    text = annotations_of(pod).get(DELETION_COST, "0")
    return int(text) if text.lstrip("-").isdigit() else 0


@dataclass(frozen=True, slots=True)
class Claim:
    """Which pods (or ReplicaSets) an owner has, and the adoptions and releases that make references say so."""

    owned: Sequence[Manifest] = ()
    steps: Sequence[Step] = field(default_factory=tuple)


def claim(owner: Manifest, candidates: Iterable[Manifest], selector: Sequence[LabelTerm], *, child: Kind = POD) -> Claim:
    """Sort candidates of the owner's namespace: keep what is ours and matches, adopt what matches and has no controller, release what no longer matches."""
    owned: list[Manifest] = []
    steps: list[Step] = []
    for one in candidates:
        matches = bool(selector) and selects(selector, labels_of(one))
        if is_controlled_by(one, owner):
            if matches:
                owned.append(one)
            elif not is_deleting(owner) and not is_deleting(one):
                steps.append(Patch(child, one, {"metadata": {"ownerReferences": _without(one, owner)}}))
        elif matches and controller_of(one) is None and not is_deleting(owner) and not is_deleting(one):
            references = [*(one["metadata"].get("ownerReferences") or ()), owner_reference(owner)]
            steps.append(Patch(child, one, {"metadata": {"ownerReferences": references}}))
            owned.append(one)
    return Claim(owned, steps)


def _without(one: Manifest, owner: Manifest) -> list[Manifest] | None:
    return [reference for reference in one["metadata"]["ownerReferences"] if reference.get("uid") != uid_of(owner)] or None


def from_template(owner: Manifest, template: Mapping[str, Any]) -> Manifest:
    """The pod a controller makes of a template: generated name, the owner's reference, a copy that may be changed."""
    metadata = template.get("metadata") or {}
    made: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{owner['metadata']['name']}-",
            "namespace": owner["metadata"]["namespace"],
            "labels": dict(metadata.get("labels") or {}),
            "annotations": dict(metadata.get("annotations") or {}),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": copy.deepcopy(dict(template.get("spec") or {})),
    }
    if metadata.get("finalizers"):
        made["metadata"]["finalizers"] = list(metadata["finalizers"])
    return made
