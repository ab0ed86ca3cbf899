"""Hourly housekeeping: objects nobody needs, copies of web files, operations long finished, deletions every agent has heard of.

Idempotent, so two servers may do it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from moorage.errors import MoorageError
from moorage.server.background import background
from moorage.server.services import Services
from moorage.server.webcopies import forget_unused
from moorage.store import Transaction

_EVERY = timedelta(hours=1)
_OPERATIONS_KEPT = timedelta(days=7)
# An agent away for longer than this starts afresh instead of resuming.
_DELETIONS_KEPT = timedelta(days=7)
_log = logging.getLogger(__name__)


@asynccontextmanager
async def upkeep(services: Services) -> AsyncIterator[None]:
    """Tidy up now and then every hour."""
    async with background(_repeatedly(services), name="upkeep"):
        yield


async def tidy(services: Services) -> int:
    """One round; how many objects were deleted."""

    def write(tx: Transaction) -> None:
        tx.operations.forget_finished(_OPERATIONS_KEPT)
        for cluster in tx.clusters.list():
            tx.desired.prune(cluster.id, _DELETIONS_KEPT)

    await services.store.write(write)
    await forget_unused(services.store)
    return await services.blobs.sweep()


async def _repeatedly(services: Services) -> None:
    while True:
        try:
            deleted = await tidy(services)
            _log.debug("housekeeping deleted %d objects", deleted)
        except MoorageError as error:
            _log.warning("housekeeping was put off for an hour: %s", error.message)
        await asyncio.sleep(_EVERY.total_seconds())
