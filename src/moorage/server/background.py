"""Work of the service that goes on beside its requests. It ends with the service; should it end before, nothing but the log would tell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

_log = logging.getLogger(__name__)


@asynccontextmanager
async def background(work: Coroutine[object, object, None], *, name: str) -> AsyncIterator[None]:
    """Run `work`, which has no end of its own, for as long as the context lasts.

    Args:
        work: retries by itself what may pass, such as a database that is away. Any other error ends it, and is logged at once.
        name: of the work, for the log.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("%s broke off; nothing of it happens until the service is started again", task.get_name(), exc_info=error)
