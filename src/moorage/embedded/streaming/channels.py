"""The five streams of exec and attach (input, two outputs, error, size of the terminal) over WebSocket channels or SPDY streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

import orjson

from moorage.embedded.backend import Asked
from moorage.embedded.streaming.spdy import Data, Opened, Reset, Spdy
from moorage.embedded.streaming.websocket import WebSocket
from moorage.specs.manifest import Manifest

WEBSOCKET_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
SPDY_PROTOCOLS = ("v4.channel.k8s.io",)
_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}
_NAMES = {number: name for name, number in _NUMBERS.items()}
_CLOSE = 255
_OPENING_SECONDS = 30


class Channels(Protocol):
    """The client's side of a talk with a container."""

    def incoming(self) -> AsyncGenerator[tuple[str, bytes]]:
        """(`stdin`, data) with no data at its end, and (`resize`, JSON); ends when the client has gone."""
        ...

    async def send(self, output: str, data: bytes) -> None:
        """ConnectionError when the client has gone."""
        ...

    async def finish(self, status: Manifest) -> None:
        """Say how it ended. The client closes once it has read this, and `incoming` ends."""
        ...


class SocketChannels:
    """Each message begins with the number of its channel; version 5 can close one."""

    def __init__(self, socket: WebSocket, protocol: str) -> None:
        self._socket = socket
        self._closable = protocol.startswith("v5.")

    async def incoming(self) -> AsyncGenerator[tuple[str, bytes]]:
        while (message := await self._socket.receive()) is not None:
            match list(message[:2]):
                case [255, number] if self._closable:
                    if number == _NUMBERS["stdin"]:
                        yield "stdin", b""
                case [number, *_] if _NAMES.get(number) in ("stdin", "resize") and len(message) > 1:
                    yield _NAMES[number], message[1:]
                case _:
                    pass  # kubectl opens every channel with an empty message

    async def send(self, output: str, data: bytes) -> None:
        await self._socket.send(bytes([_NUMBERS[output]]) + data)

    async def finish(self, status: Manifest) -> None:
        await self._socket.send(bytes([_NUMBERS["error"]]) + orjson.dumps(status))
        await self._socket.close()


class StreamChannels:
    """Each channel is a SPDY stream that the client opens, its name in the header `streamType`. Make one with `open_streams`."""

    def __init__(self, spdy: Spdy, events: AsyncGenerator[Opened | Data | Reset], streams: dict[str, int]) -> None:
        self._spdy = spdy
        self._events = events
        self._streams = streams

    async def incoming(self) -> AsyncGenerator[tuple[str, bytes]]:
        names = {number: name for name, number in self._streams.items()}
        async for event in self._events:
            name = names.get(event.stream, "")
            if isinstance(event, Data) and name in ("stdin", "resize"):
                if event.data:
                    yield name, event.data
                if event.finished and name == "stdin":
                    yield name, b""

    async def send(self, output: str, data: bytes) -> None:
        if output in self._streams:
            await self._spdy.send(self._streams[output], data)

    async def finish(self, status: Manifest) -> None:
        for name, stream in self._streams.items():
            if name != "error":
                await self._spdy.send(stream, b"", finish=True)
        await self._spdy.send(self._streams["error"], orjson.dumps(status), finish=True)


async def open_streams(spdy: Spdy, asked: Asked) -> StreamChannels | None:
    """Wait until the client has opened every stream that was asked for; None when it goes before."""
    wanted = {name for name in ("stdin", "stdout", "stderr") if getattr(asked, name)} | {"error"} | ({"resize"} if asked.tty else set())
    if asked.tty:
        wanted.discard("stderr")
    streams: dict[str, int] = {}
    events = spdy.events()
    async with asyncio.timeout(_OPENING_SECONDS):
        while not wanted <= streams.keys():
            event = await anext(events, None)
            if event is None:
                return None
            if isinstance(event, Opened):
                streams[event.headers.get("streamtype", "")] = event.stream
                await spdy.accept(event.stream)
    return StreamChannels(spdy, events, streams)
