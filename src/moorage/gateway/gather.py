"""Gathering small chunks while the last ones are on their way, so that a chatty log costs one report per round trip and not one per line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from moorage.errors import MoorageError


class Gathered:
    """Reads ahead up to `limit` bytes."""

    def __init__(self, chunks: AsyncIterator[bytes], limit: int) -> None:
        self._chunks = chunks
        self._limit = limit
        self._buffer = bytearray()
        self._error: MoorageError | None = None
        self._ended = False
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()

    async def take(self) -> bytes:
        """What has come since the last time, at least one byte; empty at the end. Raises what ended the stream, after its last byte."""
        while not self._buffer and not self._ended:
            self._filled.clear()
            await self._filled.wait()
        taken = bytes(self._buffer[: self._limit])
        del self._buffer[: self._limit]
        self._drained.set()
        if not taken and self._error is not None:
            raise self._error
        return taken

    async def fill(self) -> None:
        try:
            async for chunk in self._chunks:
                self._buffer += chunk
                self._filled.set()
                while len(self._buffer) >= self._limit:
                    self._drained.clear()
                    await self._drained.wait()
        except MoorageError as error:
            self._error = error
        finally:
            self._ended = True
            self._filled.set()


@asynccontextmanager
async def gathered(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[Gathered]:
    """Read `chunks` ahead while in the block."""
    reader = Gathered(chunks, limit)
    filling = asyncio.create_task(reader.fill(), name="log reader")
    try:
        yield reader
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
