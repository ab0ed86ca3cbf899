"""One controller at work: keys wake it, a pure decision says what to write, the world carries it out. A failing key is backed off and never takes the
rest down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from moorage.embedded.control.steps import Decision
from moorage.embedded.control.world import World
from moorage.errors import Conflict, MoorageError
from moorage.kube.metadata import Key
from moorage.kube.queue import WorkQueue

# Whether a decision still holds.
Confirm = Callable[[Key, Decision], Awaitable[bool]]
_MOMENT = timedelta(milliseconds=100)

log = logging.getLogger(__name__)


class Loop:
    """Turns of one controller.

    Args:
        name: for logs, in client-go's words (`replicaset-controller`).
        decide: what to do about a key, on the informers' present look; it must not await or write.
        workers: keys in work at once.
        confirm: asked before a decision that writes is carried out, where the informers' look is not enough; False: look again in a moment.
    """

    def __init__(
        self, world: World, name: str, decide: Callable[[Key], Decision], *, workers: int = 4, confirm: Confirm | None = None
    ) -> None:
        self.name = name
        self.queue: WorkQueue[Key] = WorkQueue()
        self._world = world
        self._decide = decide
        self._workers = workers
        self._confirm = confirm

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"{self.name} {number}")

    async def _work(self) -> None:
        while (key := await self.queue.get()) is not None:
            try:
                await self._turn(key)
            except Exception as error:  # noqa: BLE001  the controller's worker
                self._back_off(key, error)
            else:
                self.queue.forget(key)
            finally:
                self.queue.done(key)

    async def _turn(self, key: Key) -> None:
        decision = self._decide(key)
        if decision.requeue_after is not None:
            self.queue.add_after(key, decision.requeue_after)
        if self._confirm is not None and decision.steps and not await self._confirm(key, decision):
            self.queue.add_after(key, _MOMENT)
            return
        await self._world.carry_out(decision.steps)
        await self._world.carry_out_each(decision.apart)

    def _back_off(self, key: Key, error: Exception) -> None:
        pause = self.queue.retry(key).total_seconds()
        place = "/".join(part for part in key if part)
        if isinstance(error, Conflict):
            log.debug("%s: %s: %s; again in %.2f s", self.name, place, error, pause)
        elif isinstance(error, MoorageError):
            log.warning("%s: %s: %s; again in %.2f s", self.name, place, error, pause)
        else:
            log.error("%s: %s: defect; again in %.2f s", self.name, place, pause, exc_info=error)
