"""Copies under way in this process. Whoever needs one that somebody else has begun waits for that one, and nobody longer than it is asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta


class Imports:
    """Runs each copy once at a time, in the background; what becomes of it is told to whoever asks next."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}

    async def finish(self, name: str, copy: Callable[[], Awaitable[None]], *, within: timedelta) -> bool:
        """Begin the copy unless it runs; whether it ends in time. Raises what it raised, also when nobody was waiting by then."""
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.ensure_future(copy())
            task.add_done_callback(lambda ended: self._forget(name, ended))
        done, _ = await asyncio.wait({task}, timeout=within.total_seconds())
        if not done:
            return False
        self._drop(name, task)
        await task
        return True

    async def close(self) -> None:
        """End what runs; files that are copied by then stay, and the next asker goes on from there."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, name: str, ended: asyncio.Task[None]) -> None:
        # One that failed stays for the next asker. Its error counts as seen from here on: the event loop would log it.
        if ended.cancelled() or ended.exception() is None:
            self._drop(name, ended)

    def _drop(self, name: str, ended: asyncio.Task[None]) -> None:
        # Of several who waited, one may have begun it anew by the time that the next hears of the end.
        if self._running.get(name) is ended:
            del self._running[name]
