"""The arithmetic of a rolling update: how many pods a Deployment may have too many or too few, and which ReplicaSet gets or gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moorage.embedded.control.objects import annotations_of, created_at
from moorage.specs.manifest import Manifest

DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"


@dataclass(frozen=True, slots=True)
class Fences:
    """Pods allowed above and below the wanted number; never both zero, or nothing could move."""

    surge: int
    unavailable: int


def size(replica_set: Manifest) -> int:
    replicas: int = replica_set["spec"].get("replicas", 1)
    return replicas


def available(replica_set: Manifest) -> int:
    count: int = (replica_set.get("status") or {}).get("availableReplicas", 0)
    return count


def is_rolling(deployment: Manifest) -> bool:
    strategy: Mapping[str, Any] = deployment["spec"].get("strategy") or {}
    return bool(strategy.get("type", "RollingUpdate") == "RollingUpdate")


def wanted(deployment: Manifest) -> int:
    replicas: int = deployment["spec"].get("replicas", 1)
    return replicas


def fences(deployment: Manifest) -> Fences:
    """`maxSurge` rounds up, `maxUnavailable` down (Kubernetes' ResolveFenceposts)."""
    if not is_rolling(deployment):
        return Fences(0, 0)
    rolling: Mapping[str, Any] = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    replicas = wanted(deployment)
    surge = share(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = share(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Fences(surge, min(unavailable, replicas))


def share(value: Any, replicas: int, *, up: bool) -> int:
    """A number of pods, or a percentage of `replicas` rounded up or down; 0 for anything else."""
    if isinstance(value, str) and value.endswith("%") and value[:-1].isdigit():
        exact = int(value[:-1]) * replicas / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value) if isinstance(value, int) or str(value).isdigit() else 0


def by_age(sets: Sequence[Manifest], now: datetime) -> list[Manifest]:
    return sorted(sets, key=lambda one: (created_at(one, now), one["metadata"]["name"]))


def grow_new(deployment: Manifest, new: Manifest | None, sets: Sequence[Manifest]) -> int:
    """The size the new ReplicaSet should have now; `sets` are all, the new one included when it exists."""
    replicas = wanted(deployment)
    current = size(new) if new else 0
    if not is_rolling(deployment):
        return replicas
    if current > replicas:
        return replicas
    room = replicas + fences(deployment).surge - sum(size(one) for one in sets)
    return current + max(0, min(room, replicas - current))


def shrink_old(deployment: Manifest, new: Manifest, old: Sequence[Manifest], now: datetime) -> dict[str, int]:
    """New sizes, by name, of old ReplicaSets that may give up pods: broken pods first, then healthy ones as far as availability allows."""
    sets = [*old, new]
    total = sum(size(one) for one in sets)
    least = wanted(deployment) - fences(deployment).unavailable
    budget = total - least - max(0, size(new) - available(new))
    if budget <= 0 or not any(size(one) for one in old):
        return {}
    sizes = {one["metadata"]["name"]: size(one) for one in old}
    for one in by_age(old, now):
        name = one["metadata"]["name"]
        broken = min(budget, max(0, sizes[name] - available(one)))
        sizes[name] -= broken
        budget -= broken
    spare = min(budget, sum(available(one) for one in sets) - least)
    for one in by_age(old, now):
        name = one["metadata"]["name"]
        given = min(sizes[name], max(0, spare))
        sizes[name] -= given
        spare -= given
    return {one["metadata"]["name"]: sizes[one["metadata"]["name"]] for one in old if sizes[one["metadata"]["name"]] != size(one)}


def rescale(deployment: Manifest, new: Manifest | None, old: Sequence[Manifest], now: datetime) -> dict[str, int]:
    """New sizes, by name, when the Deployment's own size changes: the only live set takes it all, several share it in proportion."""
    replicas = wanted(deployment)
    sets = [*old, *([new] if new else [])]
    live = [one for one in sets if size(one)]
    if len(live) <= 1:
        only = live[0] if live else (new or (by_age(sets, now)[-1] if sets else None))
        return {only["metadata"]["name"]: replicas} if only is not None and size(only) != replicas else {}
    if new is not None and size(new) == replicas == available(new):
        return {one["metadata"]["name"]: 0 for one in old if size(one)}
    if not is_rolling(deployment):
        return {}
    allowed = replicas + fences(deployment).surge if replicas else 0
    return _proportional(live, allowed, replicas, now)


def _proportional(live: Sequence[Manifest], allowed: int, replicas: int, now: datetime) -> dict[str, int]:
    to_add = allowed - sum(size(one) for one in live)
    # Growing favours the newest of equals, shrinking the oldest, so that a rollout is not set back.
    aged = by_age(live, now)
    ordered = sorted(reversed(aged) if to_add > 0 else aged, key=size, reverse=True)
    sizes: dict[str, int] = {}
    added = 0
    for one in ordered:
        limit = annotations_of(one).get(MAXIMUM, "")
        base = int(limit) if limit.isdigit() and int(limit) > 0 else max(replicas, 1)
        share = round(size(one) * allowed / base) - size(one)
        left = to_add - added
        share = max(0, min(share, left)) if to_add > 0 else min(0, max(share, left))
        sizes[one["metadata"]["name"]] = size(one) + share
        added += share
    if ordered:
        first = ordered[0]["metadata"]["name"]
        sizes[first] = max(0, sizes[first] + to_add - added)
    return {one["metadata"]["name"]: sizes[one["metadata"]["name"]] for one in live if sizes[one["metadata"]["name"]] != size(one)}
