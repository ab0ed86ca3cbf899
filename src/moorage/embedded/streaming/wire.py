"""The bytes below: an upgraded connection, read as it comes and written no faster than the other side takes it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Protocol

_PIECE = 1 << 16
# A peer that vanished without a word is noticed after this much silence plus a few unanswered questions of the kernel.
_IDLE_SECONDS, _INTERVAL_SECONDS, _QUESTIONS = 30, 10, 3


class Wire(Protocol):
    """A stream of bytes in both directions."""

    async def read(self) -> bytes:
        """The next bytes, empty at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Returns once there is room for more. ConnectionError when the other side has gone."""
        ...

    async def close(self) -> None: ...


class Connection:
    """A connection taken over from HTTP; `early` is what came behind the request's head."""

    def __init__(self, transport: asyncio.Transport, early: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(_PIECE, loop)
        protocol = asyncio.StreamReaderProtocol(self._reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)
        self._room = asyncio.Lock()
        if early:
            self._reader.feed_data(early)
        _keep_alive(transport)

    async def read(self) -> bytes:
        return await self._reader.read(_PIECE)

    async def read_exactly(self, size: int) -> bytes:
        """EOFError when it ends before."""
        return await self._reader.readexactly(size)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        async with self._room:
            await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_INTERVAL_SECONDS):
                await self._writer.wait_closed()

    def abort(self) -> None:
        self._writer.transport.abort()


def _keep_alive(transport: asyncio.Transport) -> None:
    connected: socket.socket | None = transport.get_extra_info("socket")
    if connected is None:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _IDLE_SECONDS), ("TCP_KEEPINTVL", _INTERVAL_SECONDS), ("TCP_KEEPCNT", _QUESTIONS)):
        # macOS calls the first one differently and is fine with its default.
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
