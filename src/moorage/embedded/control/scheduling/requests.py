"""What a pod asks of a node, in whole thousandths of each resource (millicores, thousandths of a byte, of a device)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity

Amounts = Mapping[str, int]
NO_AMOUNTS: Amounts = {}


@lru_cache(maxsize=4096)
def thousandths(quantity: str) -> int:
    """Rounded up, as Kubernetes does for requests."""
    return math.ceil(parse_quantity(quantity, target="resources") * 1000)


def amounts(quantities: Mapping[str, Any] | None) -> dict[str, int]:
    return {name: thousandths(str(value)) for name, value in (quantities or {}).items()}


def requests_of(pod: Manifest) -> Amounts:
    """The largest need at any moment of the pod's life.

    Containers and sidecars run together; an init container runs with the sidecars started before it; both peaks count (Kubernetes' PodRequests).
    A limit without a request is a request.
    """
    spec = pod.get("spec") or {}
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        total = _plus(total, _container(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        asked = _container(container)
        if container.get("restartPolicy") == "Always":
            sidecars = _plus(sidecars, asked)
            total = _plus(total, asked)
            peak = _most(peak, sidecars)
        else:
            peak = _most(peak, _plus(sidecars, asked))
    total = _most(total, peak)
    whole = spec.get("resources") or {}
    total |= {**amounts(whole.get("limits")), **amounts(whole.get("requests"))}
    return _plus(total, amounts(spec.get("overhead")))


def _container(container: Mapping[str, Any]) -> dict[str, int]:
    resources = container.get("resources") or {}
    return {**amounts(resources.get("limits")), **amounts(resources.get("requests"))}


def _plus(one: Amounts, other: Amounts) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in _names(one, other)}


def _most(one: Amounts, other: Amounts) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in _names(one, other)}


def _names(one: Amounts, other: Amounts) -> Iterable[str]:
    return {**one, **other}
