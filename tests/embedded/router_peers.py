"""Peers for the router's tests: replicas that do what a test tells them, and a client that sees raw bytes. All on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from moorage.router.access_log import AccessLog
from moorage.router.server import Limits, Router
from moorage.specs.routing import Address, DeploymentRoute, EndpointRoute, RoutingTable

SHORT = timedelta(milliseconds=150)
LONG = timedelta(seconds=120)
KEY = "correct-key"
DIGEST = hashlib.sha256(KEY.encode()).digest()


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


async def ok(request: Request, writer: asyncio.StreamWriter) -> None:
    body = json.dumps({"length": len(request.body)}).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


async def read_message(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return head[0], headers, body


@dataclass
class ReplicaServer:
    """A replica: `behave` answers each request; what it saw is kept."""

    behave: Behaviour = ok
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    address: Address = ("", 0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                request = Request(*await read_message(reader))
                self.requests.append(request)
                self.running += 1
                self.most_running = max(self.most_running, self.running)
                try:
                    await self.behave(request, writer)
                finally:
                    self.running -= 1
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def replica(behave: Behaviour = ok) -> AsyncIterator[ReplicaServer]:
    peer = ReplicaServer(behave)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.address = server.sockets[0].getsockname()
    try:
        yield peer
    finally:
        server.close()


def table(*replicas: Address, traffic: dict[str, int] | None = None, **limits: Any) -> RoutingTable:
    """One endpoint `digits` with deployment `blue` on the given replicas; where nothing is said of time, there is more than any machine needs."""
    blue = DeploymentRoute("blue", tuple(replicas), **{"queue_wait": LONG, "timeout": LONG, **limits})
    return RoutingTable({"digits": EndpointRoute("digits", (DIGEST,), {"blue": blue}, traffic if traffic is not None else {"blue": 100})})


@dataclass
class Served:
    router: Router
    address: Address
    sink: io.BytesIO

    async def ask(
        self, body: bytes = b"{}", *, key: str | None = KEY, path: str = "/api/v1/endpoint/digits/score", **headers: str
    ) -> Answer:
        """One request on a connection of its own."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(request_bytes(body, key=key, path=path, **headers))
            return await answer(reader)
        finally:
            writer.close()

    @property
    def log(self) -> list[dict[str, Any]]:
        self.router._log.flush()
        return [json.loads(line) for line in self.sink.getvalue().splitlines()]


def request_bytes(body: bytes = b"{}", *, key: str | None = KEY, path: str = "/api/v1/endpoint/digits/score", **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: test", f"content-length: {len(body)}"]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def answer(reader: asyncio.StreamReader) -> Answer:
    line, headers, body = await read_message(reader)
    return Answer(int(line.split()[1]), headers, body)


@asynccontextmanager
async def router(routes: RoutingTable, limits: Limits | None = None, now: Callable[[], float] = time.time) -> AsyncIterator[Served]:
    sink = io.BytesIO()
    loop = asyncio.get_running_loop()
    served = Router(AccessLog(sink, loop), limits=limits, now=now)
    served.replace(routes)
    address = await served.listen("127.0.0.1", 0)
    try:
        yield Served(served, address, sink)
    finally:
        await served.drain(0.2)
