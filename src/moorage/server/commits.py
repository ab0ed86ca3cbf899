"""Many small commits as few transactions: a disk makes a few hundred durable ones a second, however small they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from moorage.errors import MoorageError
from moorage.store import Store, Transaction

T = TypeVar("T")

_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A commit to come: `attempt` does it and answers how to tell whoever waits, `refuse` tells them of an error."""

    attempt: Callable[[Transaction], Callable[[], None]]
    refuse: Callable[[MoorageError], None]


class Commits:
    """Runs what arrives while a transaction is under way together in the next one; one that fails undoes nothing of the others."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """As `Store.write`."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def attempt(tx: Transaction) -> Callable[[], None]:
            result = work(tx)
            return lambda: None if future.done() else future.set_result(result)

        def refuse(error: MoorageError) -> None:
            if not future.done():
                future.set_exception(error)

        self._waiting.append(_Waiting(attempt, refuse))
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="commits")
        return await future

    async def close(self) -> None:
        """Let what was begun come to its end."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        some: list[_Waiting] = []
        unfinished = MoorageError("The service failed while it stored this. Its log has the reason.")
        try:
            while self._waiting:
                some, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
                for tell in await self._together(some):
                    tell()
        finally:
            self._task = None
            left, self._waiting = [*some, *self._waiting], []
            for each in left:
                each.refuse(unfinished)

    async def _together(self, some: Sequence[_Waiting]) -> list[Callable[[], None]]:
        def work(tx: Transaction) -> list[Callable[[], None]]:
            return [_within(tx, each) if len(some) > 1 else each.attempt(tx) for each in some]

        try:
            return await self._store.write(work)
        except MoorageError as error:
            refused = error
        return [partial(each.refuse, refused) for each in some]


def _within(tx: Transaction, each: _Waiting) -> Callable[[], None]:
    try:
        with tx.connection.begin_nested():
            return each.attempt(tx)
    except MoorageError as error:
        refused = error
    return partial(each.refuse, refused)
