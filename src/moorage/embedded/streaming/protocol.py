"""uvicorn's HTTP connection, but for requests that take it over: they get the connection itself, with whatever has come behind their head."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from moorage.embedded.streaming.requests import Head, head
from moorage.embedded.streaming.wire import Connection

# Starts to serve a request whose connection is its own from now on.
Takeover = Callable[[Head, Connection], asyncio.Task[None]]
_UPGRADES = (b"websocket", b"spdy/3.1")
# What a request may say beside its body, as on Kubernetes (Go's DefaultMaxHeaderBytes); the parser keeps it until it is complete.
_LONGEST_HEAD = 1 << 20
_log = logging.getLogger(__name__)


class StreamingProtocol(HttpToolsProtocol):
    """One connection of a client.

    Args:
        takeover: serves what is taken over.
        streams: whether a path is one of those.
    """

    def __init__(self, *arguments: Any, takeover: Takeover, streams: Callable[[str], bool], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._takeover = takeover
        self._streams = streams
        self._head_size = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_size = 0

    def on_body(self, body: bytes) -> None:
        self._head_size -= len(body)
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._head_size += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._hand_over(data[upgrade.args[0] :])
            # Anything else that may be upgraded is answered as the ordinary request that it is as well.
        except httptools.HttpParserError:
            _log.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        else:
            if self._head_size > _LONGEST_HEAD:
                self.send_400_response("The head of the request is too long.")

    def _should_upgrade(self) -> bool:
        return self._get_upgrade() in _UPGRADES and self._streams(self.url.partition(b"?")[0].decode("latin-1"))

    def _hand_over(self, early: bytes) -> None:
        self.connections.discard(self)
        asked = head(self.scope["method"].encode(), self.url, self.headers)
        task = self._takeover(asked, Connection(self.transport, early))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
