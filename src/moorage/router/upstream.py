"""One connection to one replica: writes a request, parses the answer as it streams in, and goes back to the idle ones if both sides may."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from typing import Protocol, cast

import httptools

from moorage.router.replicas import Replica

CONNECT_SECONDS = 1.0
# Below uvicorn's keep-alive of 5 s, so that we, not the replica, drop an idle connection.
IDLE_SECONDS = 4.0
IDLE_PER_REPLICA = 64


class Answered(Protocol):
    """Who sent the request: told of the answer piece by piece, and of its end exactly once. `answer_flush` says that no more comes just now."""

    def answer_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Header names come in lower case."""
        ...

    def answer_body(self, data: bytes) -> None: ...

    def answer_flush(self) -> None: ...

    def answer_complete(self) -> None: ...

    def answer_broken(self, *, untouched: bool) -> None: ...

    def upstream_writable(self, writable: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """Carries one exchange at a time; `owner` is that exchange, None while idle."""

    def __init__(self, replica: Replica, loop: asyncio.AbstractEventLoop) -> None:
        self.replica = replica
        self.owner: Answered | None = None
        self.reused = False
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        # Whether the replica closed before anything of this request had arrived there, known once it is over.
        self.undelivered = False
        self._written = 0
        self._touched = False
        self._until_end = False
        self._keep = False
        self._request_sent = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._paused = False

    # Used by exchanges

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, owner: Answered) -> None:
        """Take the connection for one exchange."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self.owner = owner
        self.undelivered = False
        self._written = 0
        self._touched = False
        self._until_end = False
        self._keep = False
        self._request_sent = False
        self._headers = []

    @property
    def unsent(self) -> int:
        """Bytes written that the replica has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def write(self, data: bytes | bytearray) -> None:
        """`data` must not change afterwards."""
        self._written += len(data)
        if self._transport is not None:
            self._transport.write(data)

    def request_complete(self) -> None:
        self._request_sent = True

    def pause(self) -> None:
        if not self._paused and self._transport is not None and self.open:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None and self.open:
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Drop the connection; its owner hears nothing more."""
        self.owner = None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self in self.replica.idle:
            self.replica.idle.remove(self)
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        owner = self.owner
        if owner is None:
            # Bytes nobody asked for: the replica is confused, and so would the next request be.
            self.close()
            return
        self._touched = True
        try:
            self._parser.feed_data(data)
            owner.answer_flush()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # It may have had its answer already, and what follows is nobody's.
            left = self.owner
            self.close()
            if left is not None:
                left.answer_broken(untouched=False)

    def eof_received(self) -> bool:
        self.undelivered = self._transport is not None and _undelivered(self._transport, self._written)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        owner, self.owner = self.owner, None
        self._transport = None
        if self in self.replica.idle:
            self.replica.idle.remove(self)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if owner is None:
            return
        if self._until_end and error is None:
            owner.answer_complete()
        else:
            owner.answer_broken(untouched=not self._touched)

    def pause_writing(self) -> None:
        if self.owner is not None:
            self.owner.upstream_writable(False)

    def resume_writing(self) -> None:
        if self.owner is not None:
            self.owner.upstream_writable(True)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers = []
            return
        framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
        self._until_end = not framed and status not in (204, 304)
        self._keep = self._parser.should_keep_alive()
        if self.owner is not None:
            self.owner.answer_head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        if self.owner is not None:
            self.owner.answer_body(data)

    def on_message_complete(self) -> None:
        if 100 <= self._parser.get_status_code() < 200:
            return
        owner, self.owner = self.owner, None
        self.resume()
        if self._keep and self._request_sent and self.open and not self.replica.removed and len(self.replica.idle) < IDLE_PER_REPLICA:
            self.reused = True
            self.replica.idle.append(self)
            self._idle_timer = self._loop.call_later(IDLE_SECONDS, self.close)
        elif self._transport is not None:
            self._transport.close()
        if owner is not None:
            owner.answer_complete()


def _undelivered(transport: asyncio.Transport, written: int) -> bool:
    """Whether none of the last `written` bytes had arrived when the other side closed; asked once its end has been read.

    The end's own segment acknowledges all that had come before it, in order. After a reset, or where the system does not tell, they may have.
    """
    try:
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return False
    unacknowledged: int = struct.unpack("=i", answer)[0]
    return unacknowledged + transport.get_write_buffer_size() >= written


def idle_connection(replica: Replica) -> UpstreamConnection | None:
    """A connection to the replica that is open and unused, the most recently used first."""
    while replica.idle:
        connection = replica.idle.pop()
        assert isinstance(connection, UpstreamConnection)
        if connection.open:
            return connection
    return None


async def connect(replica: Replica, loop: asyncio.AbstractEventLoop) -> UpstreamConnection:
    """A fresh connection; OSError or TimeoutError when the replica does not answer within CONNECT_SECONDS."""
    async with asyncio.timeout(CONNECT_SECONDS):
        _, connection = await loop.create_connection(lambda: UpstreamConnection(replica, loop), *replica.address)
    if not connection.open:
        # Seen on uvloop: it is over before we hear that it began, and whoever took it would wait for its end in vain.
        raise ConnectionResetError("the connection was closed at once")
    return connection


def close_idle(replica: Replica) -> None:
    """Close the idle connections of a replica that left the table."""
    while (connection := idle_connection(replica)) is not None:
        connection.close()
