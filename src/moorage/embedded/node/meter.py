"""Rates from two readings of what containers have used. Nothing is read while nobody asks: idle nodes cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from moorage.clock import monotonic, now
from moorage.embedded.backend import Measured, Usage
from moorage.embedded.node.usage import Reading, Running, readings

# The kernel counts CPU in hundredths of a second where there is no controller: one percent of error over the shortest window.
SHORTEST_WINDOW = timedelta(seconds=1)
# An earlier reading than this says nothing about now; metrics-server's default resolution is 15 s, kubelets' own figures are up to a minute old.
LONGEST_WINDOW = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Sample:
    """What all containers had used at one moment; `steady` is that moment on the clock that nobody sets."""

    moment: datetime
    steady: float
    containers: Sequence[Running]
    used: Mapping[Path, Reading]


class Meter:
    """The usage of all containers of one process's nodes.

    Args:
        running: what runs now, by node; a node without containers has an empty list.
    """

    def __init__(self, running: Callable[[], Mapping[str, Sequence[Running]]]) -> None:
        self._running = running
        self._turn = asyncio.Lock()
        self._last: Sample | None = None
        self._latest = Measured(now(), timedelta(0), {}, {})

    async def measure(self) -> Measured:
        """See `embedded.backend.NodeBackend`. Takes as long as the shortest window when nobody has asked for long, else no time."""
        async with self._turn:
            if self._last is not None and self._latest.window and monotonic() - self._last.steady < SHORTEST_WINDOW.total_seconds():
                return self._latest
            nodes = tuple(self._running())
            before, after = self._last, await self._sample()
            if before is None or after.steady - before.steady > LONGEST_WINDOW.total_seconds():
                await asyncio.sleep(SHORTEST_WINDOW.total_seconds())
                before, after = after, await self._sample()
            self._last, self._latest = after, rates(nodes, before, after)
            return self._latest

    async def _sample(self) -> Sample:
        containers = [container for each in self._running().values() for container in each]
        moment, steady = now(), monotonic()
        return Sample(moment, steady, containers, await asyncio.to_thread(readings, containers))


def rates(nodes: Sequence[str], before: Sample, after: Sample) -> Measured:
    """What was used between two samples. Pure.

    As with metrics-server, a pod is missing while one of its running containers is in one sample only. A node's usage is that of its containers.
    """
    span = after.steady - before.steady
    pods: dict[str, dict[str, Usage]] = {}
    incomplete: set[str] = set()
    totals = dict.fromkeys(nodes, Usage(0, 0))
    for container in after.containers:
        then, seen = before.used.get(container.attempt), after.used.get(container.attempt)
        if seen is None:
            continue
        if then is None:
            incomplete.add(container.pod)
            continue
        # Less than before: an ended process whose parent refuses to wait for its children leaves no count behind.
        used = Usage(max(0, round((seen.cpu - then.cpu) / span)), seen.memory)
        pods.setdefault(container.pod, {})[container.name] = used
        if container.node in totals:
            total = totals[container.node]
            totals[container.node] = Usage(total.cpu + used.cpu, total.memory + used.memory)
    complete = {uid: found for uid, found in pods.items() if uid not in incomplete}
    return Measured(after.moment, timedelta(seconds=span), totals, complete)
