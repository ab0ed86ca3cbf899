"""One client connection: parses requests with llhttp, one exchange at a time, with limits on everything a client could send without end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from moorage.router.exchange import Exchange, error_body, status_line

if TYPE_CHECKING:
    from moorage.router.server import Router

# Requests a client may send ahead while one is being answered.
PIPELINE = 16


class ClientConnection(asyncio.Protocol):
    """Owned by the Router, which closes it when it is idle or slow (`last_activity`)."""

    def __init__(self, router: Router) -> None:
        self.peer = ""
        self.last_activity = router.loop.time()
        # Whether `data_received` is at work; exchanges put off what they write until it calls their `flush`.
        self.reading = False
        self._router = router
        self._limits = router.limits
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._receiving: Exchange | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._in_head = False
        self._held: set[Exchange] = set()
        self._broken = False

    @property
    def state(self) -> str:
        """`idle` between requests, `receiving` while the client owes bytes, `answering` while we do."""
        if self._receiving is not None or self._in_head:
            return "receiving"
        return "answering" if self._current is not None else "idle"

    # Used by exchanges

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def hold(self, exchange: Exchange) -> None:
        """Stop reading until `let_go`: what comes in cannot be passed on fast enough."""
        if not self._held and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._held.add(exchange)

    def let_go(self, exchange: Exchange) -> None:
        if exchange in self._held:
            self._held.discard(exchange)
            if not self._held and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def exchange_done(self, exchange: Exchange) -> None:
        """An answer is out. The next request, if one came already, begins; or the connection closes."""
        self.let_go(exchange)
        if not exchange.keep_alive or exchange.closing or self._broken:
            self._broken = True
            self.close()
            return
        if exchange is not self._current:
            return
        if not exchange.received_all:
            # Refused before its body was in: the rest is read and dropped, then the next may come.
            return
        self._next()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        self._router.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._router.closed(self)
        for exchange in (self._current, *self._waiting):
            if exchange is not None:
                exchange.gone()
        self._current = None
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        if self._broken:
            return
        self.last_activity = self._router.loop.time()
        self.reading = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse_connection(400, "Upgrading the protocol is not supported.")
        except httptools.HttpParserError:
            if not self._broken:
                self._refuse_connection(400, "This is not a valid HTTP request.")
        finally:
            self.reading = False
            if self._current is not None:
                self._current.flush()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._current is not None:
            self._current.client_writable(False)

    def resume_writing(self) -> None:
        if self._current is not None:
            self._current.client_writable(True)

    # httptools

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._header_bytes = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._header_bytes += len(url)
        if self._header_bytes > self._limits.header_bytes:
            self._too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > self._limits.header_bytes or len(self._headers) > self._limits.headers:
            self._too_large()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._broken:
            return
        exchange = Exchange(self._router, self, self._parser.get_method(), self._target, self._headers)
        exchange.keep_alive = self._parser.should_keep_alive() and not self._router.draining
        exchange.http11 = self._parser.get_http_version() == "1.1"
        self._receiving = exchange
        if self._current is None:
            self._current = exchange
            exchange.begin()
        elif len(self._waiting) < PIPELINE:
            self._waiting.append(exchange)
            self.hold(exchange)
        else:
            self._refuse_connection(400, f"More than {PIPELINE} requests were sent ahead.")

    def on_body(self, data: bytes) -> None:
        if self._receiving is not None and not self._broken:
            self._receiving.body(data)

    def on_message_complete(self) -> None:
        exchange, self._receiving = self._receiving, None
        if exchange is None or self._broken:
            return
        exchange.complete()
        if exchange.answered and exchange is self._current:
            self._next()

    def _next(self) -> None:
        self._current = None
        if self._waiting:
            self._current = self._waiting.popleft()
            self.let_go(self._current)
            self._current.begin()

    def _too_large(self) -> None:
        if not self._broken:
            self._refuse_connection(431, "The request's headers are too large.")

    def _refuse_connection(self, status: int, message: str) -> None:
        """The stream cannot be understood any more: say why if nothing else is being said, and close."""
        self._broken = True
        if self._current is None:
            body = error_body(status, message, "")
            head = status_line(status) + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.write(head + body)
            self.close()
        else:
            self.abort()
