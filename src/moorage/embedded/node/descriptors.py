"""Pipes and terminals read and written from the event loop, one piece at a time: nothing is read that nobody has asked for."""

from __future__ import annotations

import asyncio
import errno
import os


class Descriptor:
    """One end of a pipe, FIFO or terminal, owned by this object."""

    def __init__(self, number: int) -> None:
        os.set_blocking(number, False)
        self._number = number
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def closed(self) -> bool:
        return self._number < 0

    def fileno(self) -> int:
        return self._number

    async def read(self, size: int) -> bytes:
        """The next bytes; empty at the end, which for a terminal is when its last process has gone."""
        while not self.closed:
            try:
                return os.read(self._number, size)
            except BlockingIOError:
                await self._ready(reading=True)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return b""
        return b""

    async def write(self, data: bytes) -> bool:
        """Write all of it; False when nobody reads any more."""
        view = memoryview(data)
        while view and not self.closed:
            try:
                view = view[os.write(self._number, view) :]
            except BlockingIOError:
                await self._ready(reading=False)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                return False
        return not self.closed

    def close(self) -> None:
        """Close it; who waits for it sees the end."""
        if not self.closed:
            number, self._number = self._number, -1
            loop = asyncio.get_running_loop()
            loop.remove_reader(number)
            loop.remove_writer(number)
            os.close(number)
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _ready(self, *, reading: bool) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        number = self._number
        self._waiters.add(waiter)
        (loop.add_reader if reading else loop.add_writer)(number, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if self._number == number:
                (loop.remove_reader if reading else loop.remove_writer)(number)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
