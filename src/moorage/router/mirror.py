"""Copies of requests, for the deployment that an endpoint mirrors to. Its answers are counted and thrown away.

A copy begins a turn after the request itself has been sent on, and nothing that it meets is felt by the caller: whatever cannot be had at once
(a slot, a place in the queue, memory) is the end of the copy, which is counted with the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from moorage.router.access_log import AccessRecord
from moorage.router.head import MIRRORED, request_head
from moorage.router.replicas import Refusal, Replica, ReplicaPool, Waiter
from moorage.router.tee import Budget, Overflow, Tee
from moorage.router.upstream import UpstreamConnection, connect, idle_connection

# What a mirrored deployment may lag behind its callers, for one request and for all of the router's (an eighth of the pod's memory). A body of any
# size is copied as long as it is read as fast as it is sent; less for one would lose the bodies that come while its connection is made.
COPY_BYTES = 8 * 1024 * 1024
ALL_BYTES = 64 * 1024 * 1024
ATTEMPTS = 3
# How long a replica may go on with a copy whose time is over, before its connection is cut and its slot handed on.
DRAIN_SECONDS = 60.0


class Drop(StrEnum):
    """Why a copy came to nothing."""

    QUEUE_FULL = "queue_full"
    WAITED_TOO_LONG = "waited_too_long"
    NO_REPLICA = "no_replica"
    BEHIND = Overflow.COPY.value
    MEMORY = Overflow.ALL.value
    INCOMPLETE = "incomplete"
    UNREACHABLE = "unreachable"
    BROKEN = "broken"
    TIMEOUT = "timeout"


_SAID = {
    Drop.QUEUE_FULL: "too many copies are pending",
    Drop.WAITED_TOO_LONG: "no replica became free in time",
    Drop.NO_REPLICA: "the deployment has no healthy replica",
    Drop.BEHIND: "the deployment is too far behind the caller",
    Drop.MEMORY: "all copies together hold too much",
    Drop.INCOMPLETE: "the request itself did not come to its end",
    Drop.UNREACHABLE: "connecting failed",
    Drop.BROKEN: "the container closed the connection without a whole answer",
    Drop.TIMEOUT: "the deployment did not answer within its request timeout",
}
_REFUSED = {Refusal.QUEUE_FULL: Drop.QUEUE_FULL, Refusal.WAITED_TOO_LONG: Drop.WAITED_TOO_LONG, Refusal.NO_REPLICA: Drop.NO_REPLICA}
Note = Callable[[AccessRecord, Drop | None], None]


@dataclass(frozen=True, slots=True)
class Original:
    """The request that is copied.

    Args:
        prefix: its request line as a replica gets it.
        headers: the caller's.
        length: of its body, None when it has none or is chunked.
        chunked: whether its body is.
        record: what is known of it.
    """

    prefix: bytes
    headers: Sequence[tuple[bytes, bytes]]
    length: int | None
    chunked: bool
    record: AccessRecord


class Mirror:
    """All copies of one router.

    Args:
        loop: the router's.
        note: told of each copy's end, once: with the reason when it was dropped, with None when the model has answered.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, note: Note) -> None:
        self.loop = loop
        self.note = note
        self.budget = Budget(ALL_BYTES)
        self._copies: set[Copy] = set()

    def copy(self, original: Original, pool: ReplicaPool, body: Sequence[bytes]) -> Copy:
        """Begin a copy for `pool` with what has come of the body so far. It is at work from the loop's next turn on."""
        made = Copy(self, original, pool)
        self._copies.add(made)
        for data in body:
            made.body(data)
        return made

    def ended(self, copy: Copy) -> None:
        """The copy holds neither memory nor a slot any more."""
        self._copies.discard(copy)

    def close(self) -> None:
        """Cut off what runs: nobody waits for its answers."""
        for copy in list(self._copies):
            copy.close()


class Copy:
    """One copy, from the caller's headers to the end of the model's answer."""

    __slots__ = (
        "_attempts",
        "_began",
        "_connecting",
        "_mirror",
        "_original",
        "_over",
        "_pool",
        "_replica",
        "_soon",
        "_tee",
        "_timer",
        "_tried",
        "_upstream",
        "_waiter",
        "_whole",
        "_writable",
        "record",
    )

    def __init__(self, mirror: Mirror, original: Original, pool: ReplicaPool) -> None:
        of = original.record
        self.record = AccessRecord(of.request_id, of.endpoint, time.time(), client=of.client, method=of.method)
        self.record.deployment, self.record.mirrored = pool.route.name, True
        self._mirror = mirror
        self._original = original
        self._pool = pool
        self._tee = Tee(COPY_BYTES, mirror.budget, chunked=original.chunked and original.length is None)
        self._began = time.monotonic()
        self._whole = False
        # Whether its end has been noted; its slot may be held longer.
        self._over = False
        self._writable = True
        self._attempts = 0
        self._tried: frozenset[tuple[str, int]] = frozenset()
        self._waiter: Waiter | None = None
        self._replica: Replica | None = None
        self._upstream: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = mirror.loop.call_soon(self._acquire)

    # Called by the exchange that is copied

    def body(self, data: bytes) -> None:
        """A piece of the caller's body."""
        if self._over:
            return
        self.record.received_bytes += len(data)
        overflow = self._tee.put(data)
        if overflow is not None:
            self._drop(Drop(overflow.value))
        elif self._upstream is not None:
            self._flush_soon()

    def complete(self) -> None:
        """The caller's request is whole: what becomes of the caller does not matter any more."""
        if self._over:
            return
        self._whole = True
        self._tee.end()
        if self._upstream is not None:
            self._flush_soon()

    def abandon(self) -> None:
        """The caller's exchange has ended. What is not whole by then never will be."""
        if not self._whole:
            self._drop(Drop.INCOMPLETE)

    # Getting a replica

    def _acquire(self) -> None:
        self._soon = None
        asked = time.monotonic()

        def granted(replica: Replica) -> None:
            self._waiter = None
            self.record.queue_seconds += time.monotonic() - asked
            self._dispatch(replica)

        def refused(reason: Refusal) -> None:
            self._waiter = None
            self.record.queue_seconds += time.monotonic() - asked
            self._drop(Drop.UNREACHABLE if self._tried else _REFUSED[reason])

        self._waiter = self._pool.acquire(granted, refused, self._tried, copy=True)

    def _dispatch(self, replica: Replica) -> None:
        self._replica = replica
        self._attempts += 1
        if self._timer is None:
            self._timer = self._mirror.loop.call_later(self._pool.route.timeout.total_seconds(), self._timed_out)
        connection = idle_connection(replica)
        if connection is not None:
            self._start(connection)
        else:
            self._connecting = self._mirror.loop.create_task(self._connect(replica))

    async def _connect(self, replica: Replica) -> None:
        try:
            connection = await connect(replica, self._mirror.loop)
        except (OSError, TimeoutError):
            self._connecting = None
            self._replica = None
            self._pool.suspect(replica)
            self._pool.release(replica)
            self._tried |= {replica.address}
            self.record.retries += 1
            if self._attempts < ATTEMPTS:
                self._acquire()
            else:
                self._drop(Drop.UNREACHABLE)
            return
        self._connecting = None
        self._start(connection)

    def _start(self, connection: UpstreamConnection) -> None:
        connection.begin(self)
        self._upstream = connection
        address = connection.replica.address
        self.record.replica = f"{address[0]}:{address[1]}"
        original = self._original
        head = request_head(original.prefix, address, self.record.request_id, self.record.deployment, original.headers)
        head.append(MIRRORED + b": true\r\n")
        if original.length is not None:
            head.append(b"content-length: %d\r\n" % original.length)
        elif original.chunked:
            head.append(b"transfer-encoding: chunked\r\n")
        head.append(b"\r\n")
        self._write(b"".join([*head, self._tee.take()]))

    def _flush_soon(self) -> None:
        """Behind the request itself, and with all that comes in the same turn."""
        if self._soon is None and self._writable:
            self._soon = self._mirror.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._soon = None
        if self._upstream is not None and self._writable:
            self._write(self._tee.take())

    def _write(self, data: bytes | bytearray) -> None:
        assert self._upstream is not None
        # First: with the last bytes the whole answer may come, and the connection be kept.
        if self._whole:
            self._upstream.request_complete()
        self._upstream.write(data)

    # Called by UpstreamConnection

    def answer_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.record.model_status = status

    def answer_body(self, data: bytes) -> None:
        self.record.sent_bytes += len(data)

    def answer_flush(self) -> None:
        """Nobody waits for it."""

    def answer_complete(self) -> None:
        self._upstream = None
        if not self._over:
            self._note(None)
        self.close()

    def answer_broken(self, *, untouched: bool) -> None:
        self._upstream = None
        if not self._over:
            self._note(Drop.BROKEN)
        self.close()

    def upstream_writable(self, writable: bool) -> None:
        self._writable = writable
        if self._over or self._upstream is None:
            return
        self._tee.stuck(0 if writable else self._upstream.unsent)
        if writable:
            self._flush_soon()

    # Ends

    def _timed_out(self) -> None:
        self._timer = None
        if self._upstream is None or not self._whole or self._tee.held:
            self._drop(Drop.TIMEOUT)
            return
        # The model has all of it, and run() cannot be interrupted: the slot stays taken until it is over.
        self._note(Drop.TIMEOUT)
        self._timer = self._mirror.loop.call_later(DRAIN_SECONDS, self.close)

    def _drop(self, reason: Drop) -> None:
        if not self._over:
            self._note(reason)
            self.close()

    def _note(self, reason: Drop | None) -> None:
        self._over = True
        self._tee.close()
        self.record.total_seconds = time.monotonic() - self._began
        if reason is not None:
            self.record.error = f"copy dropped: {_SAID[reason]}"
        self._mirror.note(self.record, reason)

    def close(self) -> None:
        """Give back all that is held: memory, place in the queue, connection, slot."""
        self._over = True
        self._tee.close()
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._soon = self._timer = None
        if self._waiter is not None:
            self._pool.cancel(self._waiter)
            self._waiter = None
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
        replica, self._replica = self._replica, None
        if replica is not None:
            self._pool.release(replica)
        self._mirror.ended(self)
