"""One request through the router: checks, queue, dispatch, streaming both ways, retries, time-outs, and what is said when something fails.

The status codes are the contract's (contract/router.md): 401, 404, 408, 413, 424, 429, 502, 503.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moorage.router.access_log import AccessRecord
from moorage.router.head import HOP_BY_HOP, LAST_CHUNK, framed, request_head
from moorage.router.mirror import Copy, Original
from moorage.router.replicas import Refusal, Replica, Waiter
from moorage.router.upstream import UpstreamConnection, connect, idle_connection

if TYPE_CHECKING:
    from moorage.router.connection import ClientConnection
    from moorage.router.server import Router, ServedEndpoint

# Kept for sending again when a connection turns out dead before a byte of the answer came.
REPLAY_BYTES = 64 * 1024
# Held in memory while no replica has been found; past this the client is paused.
BUFFER_BYTES = 256 * 1024
ATTEMPTS = 3
# How long a replica may go on with a request whose client has its 408 or is gone, before its connection is cut and its slot handed on.
DRAIN_SECONDS = 60.0
# Not passed back: the router says these itself.
_KEPT_BACK = HOP_BY_HOP | {b"server", b"x-request-id"}
_REASONS = {Refusal.QUEUE_FULL: 429, Refusal.WAITED_TOO_LONG: 503, Refusal.NO_REPLICA: 503}


class Exchange:
    """From the request's headers to the end of the answer. Its `client` is None once the client has gone."""

    def __init__(self, router: Router, client: ClientConnection, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.client: ClientConnection | None = client
        self.keep_alive = False
        self.http11 = True
        self.received_all = False
        self.answered = False
        self.closing = False
        self._router = router
        self._loop = router.loop
        self._method = method
        self._target = target
        self._headers = headers
        self._began = time.monotonic()  # the loop's clock stands still within one turn
        self._length: int | None = None
        self._chunked_in = False
        self._chunked_out = False
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._replay: list[bytes] | None = []
        self._replayed = 0
        self._waiter: Waiter | None = None
        self._replica: Replica | None = None
        self._upstream: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head_sent = False
        # What one turn of the parsers yields goes out in one write each way: a system call costs as much as all of the rest.
        self._asking: list[bytes] | None = None
        self._answering: list[bytes] | None = None
        # The endpoint while it is open whether this request is copied, which is decided once a replica has it.
        self._mirrored_by: ServedEndpoint | None = None
        self._copy: Copy | None = None
        self._attempts = 0
        self._tried: frozenset[tuple[str, int]] = frozenset()
        self.record = AccessRecord("", "", time.time(), client=client.peer, method=method.decode("ascii", "replace"))

    # Request side, called by ClientConnection

    def begin(self) -> None:
        """Headers are in: decide where the request goes, or refuse it."""
        wanted = self._read_headers()
        path, _, query = self._target.partition(b"?")
        parts = path.split(b"/")
        # /api/v1/endpoint/NAME/score
        if len(parts) != 6 or parts[1:4] != [b"api", b"v1", b"endpoint"] or parts[5] not in (b"score", b"swagger.json"):
            self.refuse(404, "There is nothing here. Score at /api/v1/endpoint/NAME/score.")
            return
        swagger = parts[5] == b"swagger.json"
        if self._method not in ((b"GET",) if swagger else (b"GET", b"POST", b"OPTIONS")):
            self.refuse(405, "Use POST to score.")
            return
        endpoint = self._router.endpoint(parts[4].decode("utf-8", "replace"))
        if endpoint is None:
            self.refuse(404, "There is no endpoint of that name.")
            return
        self.record.endpoint = endpoint.route.name
        if (denied := endpoint.denies(wanted["authorization"])) is not None:
            self.refuse(denied.status, denied.message)
            return
        chosen = endpoint.choose(wanted["deployment"])
        if chosen is None:
            pinned = wanted["deployment"]
            said = (
                f"The endpoint has no deployment '{pinned}'." if pinned else "No deployment of the endpoint gets traffic. Set its traffic."
            )
            self.refuse(404, said)
            return
        self.record.deployment, self._pool = chosen.route.name, chosen
        if self._length is not None and self._length > self._router.limits.body_bytes:
            self.refuse(413, f"The request is larger than {self._router.limits.body_bytes} bytes.")
            return
        if not wanted["deployment"] and not swagger:
            self._mirrored_by = endpoint
        suffix = (b"/swagger.json" if swagger else b"/score") + (b"?" + query if query else b"")
        self._prefix = self._method + b" " + suffix + b" HTTP/1.1\r\n"
        if wanted["expect"] and self.client is not None:
            self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._acquire()

    def _read_headers(self) -> dict[str, str]:
        wanted = {"authorization": "", "deployment": "", "expect": ""}
        request_id = ""
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"authorization":
                wanted["authorization"] = value.decode("latin-1")
            elif lower == b"azureml-model-deployment":
                wanted["deployment"] = value.decode("latin-1").strip()
            elif lower == b"content-length":
                self._length = int(value)
            elif lower == b"transfer-encoding":
                self._chunked_in = True
            elif lower == b"expect":
                wanted["expect"] = value.decode("latin-1")
            elif lower == b"x-request-id":
                request_id = value.decode("latin-1")
        # The scoring server refuses longer ones with 431; an id of somebody else's making goes into our log only when it is harmless.
        self.record.request_id = request_id if 0 < len(request_id) <= 100 and request_id.isprintable() else self._router.new_request_id()
        return wanted

    def body(self, data: bytes) -> None:
        """A piece of the request's body."""
        self.record.received_bytes += len(data)
        if self.answered:
            return
        if self.record.received_bytes > self._router.limits.body_bytes:
            self._leave_queue()
            self._give_up_upstream()
            self.closing = True
            self.refuse(413, f"The request is larger than {self._router.limits.body_bytes} bytes.")
            return
        if self._copy is not None:
            self._copy.body(data)
        if self._replay is not None:
            self._replay.append(data)
            self._replayed += len(data)
            if self._replayed > REPLAY_BYTES:
                self._replay = None
        if self._upstream is not None:
            self._send(data)
        else:
            self._buffer.append(data)
            self._buffered += len(data)
            if self._buffered > BUFFER_BYTES and self.client is not None:
                self.client.hold(self)

    def complete(self) -> None:
        """The request is in, whole."""
        self.received_all = True
        if self._upstream is not None:
            self._end_request()
        if self._copy is not None:
            self._copy.complete()

    def flush(self) -> None:
        """Everything that came in at once has been read."""
        asking, self._asking = self._asking, None
        if asking is not None and self._upstream is not None:
            self._upstream.write(b"".join(asking))

    def gone(self) -> None:
        """The client has gone. What waits is given up; what runs is drained, so that its slot stays exact."""
        self.client = None
        if self.answered:
            return
        self.answered = True
        self.record.status = self.record.status or 499
        self.record.error = self.record.error or "the client closed the connection"
        self._note()
        self._leave_queue()
        if self._upstream is None or not self.received_all:
            self._give_up_upstream()
        else:
            self._drain()

    # Getting a replica

    def _acquire(self) -> None:
        asked = time.monotonic()

        def granted(replica: Replica) -> None:
            self._waiter = None
            self.record.queue_seconds += time.monotonic() - asked
            self._dispatch(replica)

        def refused(reason: Refusal) -> None:
            self._waiter = None
            self.record.queue_seconds += time.monotonic() - asked
            self.refuse(_REASONS[reason], f"Not scored: {reason.value}.", retry_after=True)

        self._waiter = self._pool.acquire(granted, refused, self._tried)

    def _leave_queue(self) -> None:
        if self._waiter is not None:
            self._pool.cancel(self._waiter)
            self._waiter = None

    def _dispatch(self, replica: Replica) -> None:
        self._replica = replica
        self._attempts += 1
        if self._timer is None:
            self._timer = self._loop.call_later(self._pool.route.timeout.total_seconds(), self._timed_out)
        connection = idle_connection(replica) if self._attempts < ATTEMPTS else None
        if connection is not None:
            self._start(connection)
        else:
            self._connecting = self._loop.create_task(self._connect(replica))

    async def _connect(self, replica: Replica) -> None:
        try:
            connection = await connect(replica, self._loop)
        except (OSError, TimeoutError) as error:
            self._connecting = None
            self._pool.suspect(replica)
            self._try_again(replica, f"connecting to {replica.address[0]}:{replica.address[1]} failed: {error or 'timed out'}")
            return
        self._connecting = None
        self._start(connection)

    def _try_again(self, replica: Replica, why: str) -> None:
        """The replica got nothing of the request, or nothing it answered: another one may."""
        self._tried |= {replica.address}
        self._replica = None
        self.record.error = why
        self._pool.release(replica)
        if self.answered:
            return
        self.record.retries += 1
        self._buffer = list(self._replay) if self._replay is not None else self._buffer
        self._acquire()

    def _start(self, connection: UpstreamConnection) -> None:
        connection.begin(self)
        self._upstream = connection
        replica = connection.replica
        self.record.replica = f"{replica.address[0]}:{replica.address[1]}"
        head = request_head(self._prefix, replica.address, self.record.request_id, self.record.deployment, self._headers)
        if self._length is not None:
            head.append(b"content-length: %d\r\n" % self._length)
        elif self._chunked_in:
            head.append(b"transfer-encoding: chunked\r\n")
        head.append(b"\r\n")
        buffered, self._buffer, self._buffered = self._buffer, [], 0
        if self._mirrored_by is not None:
            self._begin_copy(self._mirrored_by, buffered)
        if self._length is None and self._chunked_in:
            head += [framed(data) for data in buffered]
        else:
            head += buffered
        if self.client is not None and self.client.reading:
            self._asking = head
        else:
            connection.write(b"".join(head))
        if self.received_all:
            self._end_request()
        elif self.client is not None:
            self.client.let_go(self)

    def _begin_copy(self, endpoint: ServedEndpoint, buffered: Sequence[bytes]) -> None:
        """Once for a request, not for each attempt: what a replica has got is copied, what is refused is not."""
        self._mirrored_by = None
        pool = endpoint.choose_mirror(self.record.deployment)
        if pool is None:
            return
        original = Original(self._prefix, self._headers, self._length, self._chunked_in, self.record)
        self._copy = self._router.mirror.copy(original, pool, buffered)
        if self.received_all:
            self._copy.complete()

    def _send(self, data: bytes) -> None:
        assert self._upstream is not None
        framing = self._chunked_in and self._length is None
        self._write_request(framed(data) if framing else data)

    def _write_request(self, data: bytes) -> None:
        assert self._upstream is not None
        if self._asking is not None:
            self._asking.append(data)
        else:
            self._upstream.write(data)

    def _end_request(self) -> None:
        assert self._upstream is not None
        if self._chunked_in and self._length is None:
            self._write_request(LAST_CHUNK)
        self._upstream.request_complete()

    # Answer side, called by UpstreamConnection

    def answer_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.record.model_status = status
        if self.client is None or self.answered:
            return
        self.record.status = 200 if status == 200 else 424
        lines = [status_line(self.record.status)]
        length, reason = None, b""
        for name, value in headers:
            if name in _KEPT_BACK:
                continue
            lines += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                length = value
            elif name == b"x-ms-run-function-failed":
                reason = value
        if status != 200:
            said = b"run() failed" if reason.lower() == b"true" else b"the model answered " + str(status).encode()
            lines += [b"ms-azureml-model-error-statuscode: ", str(status).encode(), b"\r\nms-azureml-model-error-reason: ", said, b"\r\n"]
            self.record.error = said.decode()
        self._chunked_out = length is None and self.http11 and status not in (204, 304)
        if length is None and not self._chunked_out:
            self.closing = True
        if self._chunked_out:
            lines.append(b"transfer-encoding: chunked\r\n")
        self._answering = self._head(lines)

    def answer_body(self, data: bytes) -> None:
        if self.client is None or self.answered:
            return
        self.record.sent_bytes += len(data)
        if self._answering is None:
            self._answering = []
        self._answering.append(framed(data) if self._chunked_out else data)

    def answer_flush(self) -> None:
        answering, self._answering = self._answering, None
        if answering is not None and self.client is not None and not self.answered:
            self.client.write(b"".join(answering))

    def answer_complete(self) -> None:
        self._upstream = None
        self._stop_timer()
        self._release()
        if self.answered:
            return
        if self._chunked_out:
            self._answering = [*(self._answering or ()), LAST_CHUNK]
        self.answer_flush()
        self._finish()

    def answer_broken(self, *, untouched: bool) -> None:
        upstream, self._upstream = self._upstream, None
        replica = self._replica
        if self.answered or upstream is None or replica is None:
            self._stop_timer()
            self._release()
            return
        # Scoring may have effects, so that what may have run is not sent again (RFC 9110, 9.2.2; nginx and Envoy do not either).
        harmless = upstream.undelivered or self._method != b"POST"
        if untouched and harmless and upstream.reused and self._replay is not None and self._attempts < ATTEMPTS:
            # A kept connection that the replica had closed meanwhile: the slot is still its own.
            self._buffer = list(self._replay)
            self.record.retries += 1
            self._dispatch(replica)
            return
        self._stop_timer()
        self._release()
        if self._head_sent:
            self.record.error = "the container broke off in the middle of its answer"
            self._abort()
        else:
            self.refuse(502, "The container closed the connection without an answer; the request may have run. See the deployment's log.")

    def upstream_writable(self, writable: bool) -> None:
        if self.client is not None:
            if writable:
                self.client.let_go(self)
            else:
                self.client.hold(self)

    def client_writable(self, writable: bool) -> None:
        """The client reads slower than the model answers, or has caught up."""
        if self._upstream is not None:
            if writable:
                self._upstream.resume()
            else:
                self._upstream.pause()

    # Ends

    def refuse(self, status: int, message: str, *, retry_after: bool = False) -> None:
        """Answer with an error of the router's own."""
        self._stop_timer()
        if self.answered:
            return
        self.record.status = status
        self.record.error = message
        if self.client is not None:
            body = error_body(status, message, self.record.request_id)
            lines = [status_line(status), b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)]
            if status == 401:
                lines.append(b"www-authenticate: Bearer\r\n")
            if retry_after:
                lines.append(b"retry-after: 1\r\n")
            # What is left of a large body is not worth reading; a small rest is, and the connection stays.
            if not self.received_all and (self._length is None or self._length > REPLAY_BYTES):
                self.closing = True
            self.client.write(b"".join([*self._head(lines), body]))
        self._finish()

    def _head(self, lines: Sequence[bytes]) -> list[bytes]:
        """A whole answer's head: the given lines and what every answer of ours says."""
        self._head_sent = True
        self.closing = self.closing or self._router.draining
        keep = self.keep_alive and not self.closing
        request_id = self.record.request_id.encode("latin-1", "replace")
        head = [*lines, b"x-ms-request-id: ", request_id, b"\r\nx-request-id: ", request_id, b"\r\n"]
        if self.record.deployment:
            head += [b"azureml-model-deployment: ", self.record.deployment.encode(), b"\r\n"]
        if not keep:
            head.append(b"connection: close\r\n")
        elif not self.http11:
            head.append(b"connection: keep-alive\r\n")
        head.append(b"\r\n")
        return head

    def _finish(self) -> None:
        self.answered = True
        self._note()
        if self.client is not None:
            self.client.exchange_done(self)

    def _abort(self) -> None:
        """An answer that cannot be finished: the client must not take it for whole."""
        self.answered = True
        self._note()
        if self.client is not None:
            self.client.abort()

    def _note(self) -> None:
        self.record.total_seconds = time.monotonic() - self._began
        self._router.note(self.record)
        if self._copy is not None:
            self._copy.abandon()
            self._copy = None

    def _timed_out(self) -> None:
        self._timer = None
        if self._connecting is not None:
            self._give_up_upstream()
        if self.answered:
            return
        self._leave_queue()
        seconds = self._pool.route.timeout.total_seconds()
        upstream = self._upstream
        if self._head_sent:
            self.record.error = f"the answer was not complete after {seconds:g} s"
            self._abort()
        else:
            self.refuse(408, f"The deployment did not answer within its request timeout of {seconds:g} s.")
        if upstream is not None:
            if self.received_all:
                self._drain()
            else:
                self._give_up_upstream()

    def _drain(self) -> None:
        self._stop_timer()
        if self._upstream is not None:
            self._upstream.resume()
        self._timer = self._loop.call_later(DRAIN_SECONDS, self._give_up_upstream)

    def _give_up_upstream(self) -> None:
        self._stop_timer()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
        self._release()

    def _release(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            self._pool.release(replica)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_STATUS_TEXT = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    413: "Content Too Large", 424: "Failed Dependency", 429: "Too Many Requests", 431: "Request Header Fields Too Large", 502: "Bad Gateway",
    503: "Service Unavailable",
}  # fmt: skip
_STATUS_LINES = {code: f"HTTP/1.1 {code} {text}\r\n".encode() for code, text in _STATUS_TEXT.items()}


def status_line(status: int) -> bytes:
    return _STATUS_LINES[status]


def error_body(status: int, message: str, request_id: str) -> bytes:
    """The router's own errors as JSON: what happened and the id to look for in the logs."""
    import orjson

    return orjson.dumps({"error": {"code": _STATUS_TEXT[status].replace(" ", ""), "message": message, "requestId": request_id}})
