"""port-forward: pairs of SPDY streams, one for data and one for errors, each pair a connection to a port of a pod."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field

from moorage.embedded.backend import NodeBackend
from moorage.embedded.streaming.spdy import Data, Opened, Reset, Spdy
from moorage.errors import MoorageError
from moorage.specs.manifest import Manifest

PROTOCOL = "portforward.k8s.io"
TUNNELLED = f"SPDY/3.1+{PROTOCOL}"
_PIECE = 1 << 15
# Of one session at a time, those included whose other half never comes.
_MOST_STREAMS = 4096


@dataclass(slots=True)
class _Pair:
    """One connection of the client: its streams, and the pod's side of it once both are there."""

    data: int = 0
    error: int = 0
    port: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    writer: asyncio.StreamWriter | None = None
    task: asyncio.Task[None] | None = None


class Forwarder:
    """All connections of one port-forward session."""

    def __init__(self, backend: NodeBackend, node: str, pod: Manifest, spdy: Spdy) -> None:
        self._backend = backend
        self._node = node
        self._pod = pod
        self._spdy = spdy
        self._pairs: dict[str, _Pair] = {}
        self._by_stream: dict[int, str] = {}

    async def run(self) -> None:
        """Forward until the client goes."""
        try:
            async for event in self._spdy.events():
                match event:
                    case Opened():
                        await self._open(event)
                    case Data():
                        await self._deliver(event)
                    case Reset():
                        self._drop(event.stream)
        finally:
            tasks = [pair.task for pair in self._pairs.values() if pair.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _open(self, event: Opened) -> None:
        kind, request, port = (event.headers.get(name, "") for name in ("streamtype", "requestid", "port"))
        unknown = kind not in ("data", "error") or not port.isdigit() or not 0 < int(port) < 1 << 16
        if unknown or len(self._by_stream) >= _MOST_STREAMS:
            await self._spdy.reset(event.stream)
            return
        await self._spdy.accept(event.stream)
        pair = self._pairs.setdefault(request, _Pair())
        pair.port = int(port)
        self._by_stream[event.stream] = request
        setattr(pair, kind, event.stream)
        if pair.data and pair.error and pair.task is None:
            pair.task = asyncio.create_task(self._forward(request, pair), name=f"port {port}")

    async def _deliver(self, event: Data) -> None:
        """To the pod; a pod that does not read holds up its client, as over a cable."""
        pair = self._pairs.get(self._by_stream.get(event.stream, ""))
        if pair is None or event.stream != pair.data:
            return
        await pair.ready.wait()
        if pair.writer is None:
            return
        with contextlib.suppress(ConnectionError):
            if event.data:
                pair.writer.write(event.data)
                await pair.writer.drain()
            if event.finished and pair.writer.can_write_eof():
                pair.writer.write_eof()

    async def _forward(self, request: str, pair: _Pair) -> None:
        try:
            await self._carry(pair)
        finally:
            # A session may last for days and see any number of connections.
            self._pairs.pop(request, None)
            self._by_stream.pop(pair.data, None)
            self._by_stream.pop(pair.error, None)

    async def _carry(self, pair: _Pair) -> None:
        """From the pod, until the pod's side ends."""
        try:
            reader, pair.writer = await self._backend.dial(self._node, self._pod, pair.port)
        except (OSError, MoorageError) as error:
            why = error.message if isinstance(error, MoorageError) else f"connect: {_words(error)}"
            uid = self._pod["metadata"]["uid"]
            text = f"error forwarding port {pair.port} to pod {uid}, uid : failed to connect to port {pair.port} of the pod: {why}"
            await self._end(pair, text)
            return
        finally:
            pair.ready.set()
        try:
            with contextlib.suppress(ConnectionResetError):
                while data := await reader.read(_PIECE):
                    await self._spdy.send(pair.data, data)
            await self._end(pair, "")
        except ConnectionError:
            pass  # the client has gone, which `run` sees too
        finally:
            pair.writer.close()

    async def _end(self, pair: _Pair, error: str) -> None:
        if error:
            await self._spdy.send(pair.error, error.encode())
        await self._spdy.send(pair.data, b"", finish=True)
        await self._spdy.send(pair.error, b"", finish=True)

    def _drop(self, stream: int) -> None:
        request = self._by_stream.pop(stream, "")
        pair = self._pairs.get(request)
        if pair is not None and pair.task is not None and stream == pair.data:
            pair.task.cancel()


def _words(error: OSError) -> str:
    """The system's own words: event loops put others around them."""
    return os.strerror(error.errno).lower() if error.errno else str(error)
