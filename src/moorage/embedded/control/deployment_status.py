"""A Deployment's counts and its conditions Available, Progressing and ReplicaFailure, in Kubernetes' reasons and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded.control import rollout
from moorage.embedded.control.objects import condition, time_of, until
from moorage.specs.manifest import Manifest

_NO_DEADLINE = 2**31 - 1


def totals(deployment: Manifest, new: Manifest | None, old: Sequence[Manifest]) -> dict[str, Any]:
    """The counts; zero ones are left out, as Kubernetes does."""
    sets = [*old, *([new] if new else [])]

    def count(name: str, among: Sequence[Manifest]) -> int:
        return sum((one.get("status") or {}).get(name, 0) for one in among)

    ready = count("availableReplicas", sets)
    found: dict[str, Any] = {
        "replicas": count("replicas", sets),
        "updatedReplicas": count("replicas", [new] if new else []),
        "readyReplicas": count("readyReplicas", sets),
        "availableReplicas": ready,
        "unavailableReplicas": max(0, sum(rollout.size(one) for one in sets) - ready),
    }
    return {"observedGeneration": deployment["metadata"].get("generation", 1), **{name: value for name, value in found.items() if value}}


def conditions(
    deployment: Manifest, counted: Mapping[str, Any], new: Manifest | None, sets: Sequence[Manifest], now: datetime
) -> tuple[list[Manifest], timedelta | None]:
    """All conditions, and when the progress deadline is worth a look."""
    listed = [_available(deployment, counted, now)]
    progressing = _progressing(deployment, counted, new, now)
    if progressing:
        listed.append(progressing)
    for one in sets:
        if failure := condition(one, "ReplicaFailure"):
            listed.append(_set(deployment, failure["type"], failure["status"], (failure["reason"], failure["message"]), now))
            break
    return listed, _deadline_wait(deployment, counted, progressing, now)


def _available(deployment: Manifest, counted: Mapping[str, Any], now: datetime) -> Manifest:
    least = rollout.wanted(deployment) - rollout.fences(deployment).unavailable
    if counted.get("availableReplicas", 0) >= least:
        return _set(deployment, "Available", "True", ("MinimumReplicasAvailable", "Deployment has minimum availability."), now)
    return _set(deployment, "Available", "False", ("MinimumReplicasUnavailable", "Deployment does not have minimum availability."), now)


def _progressing(deployment: Manifest, counted: Mapping[str, Any], new: Manifest | None, now: datetime) -> Manifest | None:
    if _deadline(deployment) is None:
        return None
    before = condition(deployment, "Progressing")
    reason = before.get("reason") if before else None
    if deployment["spec"].get("paused"):
        return _set(deployment, "Progressing", "Unknown", ("DeploymentPaused", "Deployment is paused"), now)
    if reason == "DeploymentPaused":
        return _set(deployment, "Progressing", "Unknown", ("DeploymentResumed", "Deployment is resumed"), now)
    rolled_out = reason == "NewReplicaSetAvailable" and counted.get("updatedReplicas", 0) == counted.get("replicas", 0)
    if new is None or rolled_out:
        return before
    name = new["metadata"]["name"]
    observed = (deployment.get("status") or {}).get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1)
    if _is_complete(deployment, counted) and observed:
        return _set(deployment, "Progressing", "True", ("NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.'), now)
    if _has_progressed(deployment, counted):
        return _refreshed(deployment, ("ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.'), now)
    if before is None or reason == "NewReplicaSetAvailable":
        return _set(deployment, "Progressing", "True", ("NewReplicaSetCreated", f'Created new replica set "{name}"'), now)
    if reason != "ProgressDeadlineExceeded" and _is_late(deployment, before, now):
        return _set(
            deployment, "Progressing", "False", ("ProgressDeadlineExceeded", f'ReplicaSet "{name}" has timed out progressing.'), now
        )
    return before


def _is_complete(deployment: Manifest, counted: Mapping[str, Any]) -> bool:
    replicas = rollout.wanted(deployment)
    return all(counted.get(name, 0) == replicas for name in ("replicas", "updatedReplicas", "availableReplicas"))


def _has_progressed(deployment: Manifest, counted: Mapping[str, Any]) -> bool:
    before = deployment.get("status") or {}

    def old(status: Mapping[str, Any]) -> int:
        count: int = status.get("replicas", 0) - status.get("updatedReplicas", 0)
        return count

    more = any(counted.get(name, 0) > before.get(name, 0) for name in ("updatedReplicas", "readyReplicas", "availableReplicas"))
    return more or old(counted) < old(before)


def _is_late(deployment: Manifest, before: Manifest, now: datetime) -> bool:
    deadline = _deadline(deployment)
    return deadline is not None and time_of(before.get("lastUpdateTime"), now) + deadline <= now


def _deadline(deployment: Manifest) -> timedelta | None:
    seconds = deployment["spec"].get("progressDeadlineSeconds", 600)
    return None if seconds >= _NO_DEADLINE else timedelta(seconds=seconds)


def _deadline_wait(deployment: Manifest, counted: Mapping[str, Any], progressing: Manifest | None, now: datetime) -> timedelta | None:
    deadline = _deadline(deployment)
    if deadline is None or progressing is None or deployment["spec"].get("paused") or _is_complete(deployment, counted):
        return None
    if progressing.get("reason") in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
        return None
    return until(time_of(progressing.get("lastUpdateTime"), now) + deadline, now)


def _set(deployment: Manifest, type: str, status: str, why: tuple[str, str], now: datetime) -> Manifest:
    """The condition; untouched when status and reason are those of before, else with today's times."""
    before = condition(deployment, type)
    if before and before.get("status") == status and before.get("reason") == why[0] and before.get("message") == why[1]:
        return before
    if before and before.get("status") == status and before.get("reason") == why[0] and type != "Progressing":
        return before
    return _made(before, type, status, why, now)


def _refreshed(deployment: Manifest, why: tuple[str, str], now: datetime) -> Manifest:
    return _made(condition(deployment, "Progressing"), "Progressing", "True", why, now)


def _made(before: Manifest | None, type: str, status: str, why: tuple[str, str], now: datetime) -> Manifest:
    changed = before["lastTransitionTime"] if before and before.get("status") == status and "lastTransitionTime" in before else rfc3339(now)
    return {
        "type": type,
        "status": status,
        "lastUpdateTime": rfc3339(now),
        "lastTransitionTime": changed,
        "reason": why[0],
        "message": why[1],
    }
