"""Two choices, pure: which deployment a request goes to, and which replica takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Loaded(Protocol):
    """Whatever can say how much it bears."""

    @property
    def busy(self) -> int: ...


class WeightedRotation:
    """Smooth weighted round robin (nginx's): exact shares over any window of the weights' sum, evenly interleaved, no randomness."""

    __slots__ = ("_current", "_total", "_weights")

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = {name: weight for name, weight in weights.items() if weight > 0}
        self._total = sum(self._weights.values())
        self._current = dict.fromkeys(self._weights, 0)

    def choose(self) -> str | None:
        """The next name, or None when no weight is positive."""
        best: str | None = None
        current = self._current
        for name, weight in self._weights.items():
            current[name] += weight
            if best is None or current[name] > current[best]:
                best = name
        if best is not None:
            current[best] -= self._total
        return best


def least_busy(replicas: Sequence[Loaded], limit: int, start: int) -> int | None:
    """Index of the least busy replica under `limit`; ties go round, beginning at `start`. None when all are full.

    Breaking ties by rotation is what evens out the spread (contract/router.md, "Queue semantics").
    """
    count = len(replicas)
    best: int | None = None
    lowest = limit
    for offset in range(count):
        index = (start + offset) % count
        busy = replicas[index].busy
        if busy < lowest:
            best, lowest = index, busy
            if busy == 0:
                break
    return best
