"""A build's log: stored as it grows, so that whoever waits can read along; bounded, since a builder may print for an hour."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from moorage.errors import MoorageError
from moorage.server.blobstore import BlobStore, Description

# Of the longest log; what comes after is not kept.
MOST = 16 * 1024 * 1024
_KEPT_FOR_MESSAGES = 64 * 1024
_EVERY_SECONDS = 0.5
_TEXT = "text/plain; charset=utf-8"
_log = logging.getLogger(__name__)


class BuildLog:
    """The log of one attempt; it has one writer.

    Args:
        blobs: the service's.
        address: where it is stored, `CONTAINER/PATH`.
    """

    def __init__(self, blobs: BlobStore, address: str) -> None:
        self._blobs = blobs
        self._container, _, self._name = address.partition("/")
        self._waiting = bytearray()
        self._end = bytearray()
        self._stored = 0
        self._taken = 0

    def add(self, data: bytes) -> None:
        """Take in what the builder printed."""
        self._end += data
        del self._end[:-_KEPT_FOR_MESSAGES]
        self._waiting += data[: max(0, MOST - self._taken)]
        if self._taken <= MOST < self._taken + len(data):
            self._waiting += f"\n[the rest of this log, beyond {MOST >> 20} MiB, is not kept]\n".encode()
        self._taken += len(data)

    @property
    def end(self) -> bytes:
        """Its last 64 KiB, for messages."""
        return bytes(self._end)

    @asynccontextmanager
    async def growing(self) -> AsyncIterator[None]:
        """Store what was added every half second, and all of it at the end."""
        task = asyncio.create_task(self._repeatedly())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._store()

    async def _repeatedly(self) -> None:
        while True:
            await self._store()
            await asyncio.sleep(_EVERY_SECONDS)

    async def _store(self) -> None:
        if not self._waiting:
            return
        data = bytes(self._waiting)
        try:
            # Cancelled or repeated, it is stored once: by its place in the log.
            reached = await self._blobs.append(self._container, self._name, data, at=self._stored, content_type=_TEXT)
        except MoorageError as error:
            _log.warning("a build's log cannot be stored now: %s", error.message)
            return
        del self._waiting[: max(0, reached - self._stored)]
        self._stored = max(self._stored, reached)


async def copy_log(blobs: BlobStore, source: str, target: str) -> bool:
    """Give a log to one who waited for the build, under its own address; whether there was anything."""
    container, _, name = source.partition("/")
    if not name:
        return False
    to, _, path = target.partition("/")
    try:
        blob = await blobs.get(container, name)
        await blobs.put(to, path, blobs.stream(blob), Description(_TEXT))
    except MoorageError as error:
        _log.warning("a build's log cannot be copied to %s: %s", target, error.message)
        return False
    return True
