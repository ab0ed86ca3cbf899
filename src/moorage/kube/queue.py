"""A work queue of keys with client-go's semantics: a key waits at most once, is worked on by one worker at a time, and when added meanwhile is
handed out again afterwards. It holds no payload: whoever takes a key looks at the world as it is then."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from datetime import timedelta
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Keys to work on. Not thread-safe: everything happens on one event loop.

    Args:
        initial: pause after a key's first failure.
        maximum: longest pause between attempts at one key.
    """

    def __init__(self, *, initial: timedelta = timedelta(milliseconds=5), maximum: timedelta = timedelta(minutes=2)) -> None:
        self._initial = initial
        self._maximum = maximum
        self._ready: deque[K] = deque()
        self._queued: set[K] = set()  # wanted: in _ready, or to go there once the worker is done
        self._working: set[K] = set()
        self._delayed: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[K, int] = {}
        self._takers: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def __len__(self) -> int:
        """Keys that could be taken right now."""
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing waits and nobody works; delayed keys do not count."""
        return not self._ready and not self._working

    def add(self, key: K) -> None:
        """Ask for `key` to be worked on. Ignored after `close`."""
        if self._closed or key in self._queued:
            return
        self._queued.add(key)
        if key not in self._working:
            self._offer(key)

    def add_after(self, key: K, delay: timedelta) -> None:
        """Add `key` when `delay` is over; of several delays of one key the earliest counts."""
        if self._closed:
            return
        if delay <= timedelta(0):
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + delay.total_seconds()
        if (earlier := self._delayed.get(key)) is not None:
            if earlier[0] <= when:
                return
            earlier[1].cancel()
        self._delayed[key] = when, loop.call_at(when, self._due, key)

    def retry(self, key: K) -> timedelta:
        """Add `key` after its own growing back-off and tell how long that is."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # Shifts beyond 40 are past any maximum; the exponent must not grow without bound.
        delay = min(self._initial * (1 << min(failures, 40)), self._maximum)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded, or is gone: its next failure starts from the shortest back-off."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    async def get(self) -> K | None:
        """The next key, which the caller must give back with `done`; None once the queue is closed and empty."""
        while not self._ready:
            if self._closed:
                return None
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                if taker.done() and not taker.cancelled():
                    self._wake()  # the wake-up was ours; pass it on, or a key waits for nobody
                elif taker in self._takers:
                    self._takers.remove(taker)
                raise
        key = self._ready.popleft()
        self._queued.discard(key)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """The caller of `get` has finished with `key`."""
        self._working.discard(key)
        if key in self._queued:
            self._offer(key)

    def close(self) -> None:
        """Take no more keys and drop delayed ones; what already waits is still handed out, then every `get` answers None."""
        self._closed = True
        for _, timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        while self._takers:
            self._wake()

    def _due(self, key: K) -> None:
        del self._delayed[key]
        self.add(key)

    def _offer(self, key: K) -> None:
        self._ready.append(key)
        self._wake()

    def _wake(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return
