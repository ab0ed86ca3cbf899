"""Wake-ups after commits: a bell rings, the listener re-reads. Level-triggered, so that a ring too many or one that two commits share is harmless."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta


class Bell:
    """Rung by commits that touch its topics; stays rung until somebody waited for it."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    def take(self) -> bool:
        """Whether it was rung since it was last asked: for caches, which forget then."""
        rung = self._rung.is_set()
        self._rung.clear()
        return rung

    async def wait(self, timeout: timedelta | None = None) -> bool:
        """Return once rung, or after `timeout`; whether it rang. Read the store after this, not before."""
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True


class Changes:
    """The bells of one event loop, by topic."""

    def __init__(self) -> None:
        self._bells: dict[str, set[Bell]] = {}
        self.closing = False

    @contextmanager
    def subscribe(self, *topics: str) -> Iterator[Bell]:
        """A bell for these topics (see `Transaction.touch`); subscribe before the first read, so that nothing falls in between."""
        bell = self.bell(*topics)
        try:
            yield bell
        finally:
            for topic in topics:
                listeners = self._bells.get(topic, set())
                listeners.discard(bell)
                if not listeners:
                    self._bells.pop(topic, None)

    def bell(self, *topics: str) -> Bell:
        """A bell for as long as these changes are there."""
        bell = Bell()
        for topic in topics:
            self._bells.setdefault(topic, set()).add(bell)
        return bell

    def publish(self, topics: Iterable[str]) -> None:
        for topic in topics:
            for bell in self._bells.get(topic, ()):
                bell.ring()

    def publish_all(self) -> None:
        """Ring every bell: after a gap in which notifications may have been lost."""
        self.publish(list(self._bells))

    def close(self) -> None:
        """The process is about to stop: whoever listens for as long as a connection lives sees `closing`, and ends."""
        self.closing = True
        self.publish_all()
