"""Health and metrics on a port of their own, so that scraping never competes for, or is exposed with, the scoring port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

import httptools

Page = Callable[[], tuple[int, bytes, bytes]]


class AdminConnection(asyncio.Protocol):
    """Answers GETs of a few small pages; anything else is 404."""

    def __init__(self, pages: Mapping[bytes, Page]) -> None:
        self._pages = pages
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._transport is not None:
                self._transport.abort()

    def on_message_begin(self) -> None:
        self._target = b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_message_complete(self) -> None:
        page = self._pages.get(self._target.partition(b"?")[0])
        status, kind, body = page() if page is not None else (404, b"text/plain", b"not found\n")
        keep = self._parser.should_keep_alive()
        if self._transport is not None:
            self._transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: %b\r\n\r\n%b"
                % (status, b"OK" if status == 200 else b"No", kind, len(body), b"keep-alive" if keep else b"close", body)
            )
            if not keep:
                self._transport.close()


async def serve_pages(host: str, port: int, pages: Mapping[bytes, Page]) -> asyncio.Server:
    """Listen until the returned server is closed; OSError when the port is taken."""
    return await asyncio.get_running_loop().create_server(lambda: AdminConnection(pages), host, port)


def text_page(status: int, text: str) -> tuple[int, bytes, bytes]:
    return status, b"text/plain; charset=utf-8", text.encode()
