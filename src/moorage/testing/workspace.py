"""A workspace's side of the gateway protocol, in memory and over real HTTP: for tests of agents. It can be made to fail as networks do."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from moorage.kube.metadata import name_of, namespace_of
from moorage.specs.manifest import Manifest
from moorage.wire.gateway import (
    PREFIX,
    EventReport,
    GoneReport,
    InventoryReport,
    LogReport,
    Report,
    ReportBatch,
    StatusReport,
    TokenRequest,
)

Name = tuple[str, str, str]  # kind, namespace, name


class WorkspacePeer:
    """What a workspace holds about one cluster.

    Args:
        cluster: id of the registration.
        token: the agent token it accepts.
    """

    def __init__(self, cluster: str = "c1", token: str = "agent-token", token_lifetime: timedelta = timedelta(hours=1)) -> None:
        self.cluster = cluster
        self.token = token
        self.token_lifetime = token_lifetime
        self.objects: dict[Name, tuple[int, Manifest | None]] = {}
        self.revision = 0
        self.statuses: dict[Name, StatusReport] = {}
        self.gone: set[Name] = set()
        self.events: list[EventReport] = []
        self.inventory: InventoryReport | None = None
        self.logs: dict[tuple[str, str], bytearray] = {}
        self.answers: dict[str, bytes] = {}
        self.asks: list[Manifest] = []
        self.granted = 0
        self.batches = 0
        self.lines: int | None = None  # end the stream after so many lines, once
        self.refuse: Callable[[str], int | None] = lambda path: None  # status to answer with in place of the real one
        self.interfere: Callable[[str], int | None] = lambda path: None  # status that something on the way answers with, a proxy say
        self.lose: Callable[[str], bool] = lambda path: False  # take the request in, but let the answer get lost
        self.unacceptable: Callable[[Report], bool] = lambda report: False  # batches with such a report are refused whole
        self.refused = 0
        self._seen: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._port = 0
        self._server: tuple[uvicorn.Server, asyncio.Task[None], socket.socket] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def want(self, manifest: Manifest) -> None:
        await self._set((manifest["kind"], namespace_of(manifest), name_of(manifest)), manifest)

    async def unwant(self, kind: str, name: str, namespace: str = "default") -> None:
        await self._set((kind, namespace, name), None)

    async def ask(self, question: Manifest) -> None:
        self.asks.append(question)
        await self._notify()

    async def until(self, holds: Callable[[], bool], *, seconds: float = 90) -> None:
        """Wait until something was reported that makes `holds` true."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(holds)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[WorkspacePeer]:
        with socket.socket() as held:
            # Bound and never listened on: while the peer is away, no outgoing connection of this machine is given its port.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
            self._port = held.getsockname()[1]
            await self.start()
            try:
                yield self
            finally:
                await self.stop()

    async def start(self) -> None:
        """Listen; after a stop on the same port again."""
        # With the protocol named, asyncio turns Nagle's algorithm off; without it every answer takes 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen()
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(self._app(), log_config=None, lifespan="off", timeout_graceful_shutdown=0, ws="none")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listener]))
        async with asyncio.timeout(90):
            while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
                await asyncio.sleep(0.005)
        self._server = server, task, listener

    async def stop(self) -> None:
        """Be gone: every connection ends."""
        if self._server is None:
            return
        server, task, listener = self._server
        self._server = None
        server.should_exit = True
        server.force_exit = True
        await self._notify()
        await task
        listener.close()

    async def _set(self, name: Name, manifest: Manifest | None) -> None:
        self.revision += 1
        self.objects[name] = self.revision, manifest
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _app(self) -> Starlette:
        one = f"{PREFIX}/{self.cluster}"
        return Starlette(
            routes=[
                Route(f"{one}/desired", self._desired),
                Route(f"{one}/reports", self._reports, methods=["POST"]),
                Route(f"{one}/tokens", self._tokens, methods=["POST"]),
                Route(f"{one}/answers/{{id}}", self._answer, methods=["POST"]),
            ]
        )

    def _refusal(self, request: Request) -> Response | None:
        if status := self.interfere(request.url.path):
            return Response("<html>no</html>", status, media_type="text/html")
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return JSONResponse({"error": {"code": "Unauthenticated"}}, 401)
        status = self.refuse(request.url.path)
        return JSONResponse({"error": {"code": "Refused"}}, status) if status else None

    async def _desired(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        since = request.query_params.get("since")
        return StreamingResponse(self._lines(int(since) if since else None), media_type="application/x-ndjson")

    async def _lines(self, since: int | None) -> AsyncIterator[bytes]:
        server = self._server
        asked = 0
        for event in [{"type": "RESET"}] if since is None else []:
            yield _line(event)
        reached = since or 0
        first = True
        while self._server is server:
            news = sorted((revision, name, manifest) for name, (revision, manifest) in self.objects.items() if revision > reached)
            events: list[Manifest] = []
            for revision, name, manifest in news:
                if manifest is not None:
                    events.append({"type": "APPLY", "revision": revision, "object": manifest})
                else:
                    events.append({"type": "DELETE", "revision": revision, "key": _key(name)})
            if events or first:
                events.append({"type": "SYNCED", "revision": self.revision})
            events += [{"type": "ASK", "ask": question} for question in self.asks[asked:]]
            asked = len(self.asks)
            reached, first = self.revision, False
            for event in events:
                if self.lines is not None:
                    self.lines -= 1
                    if self.lines < 0:
                        self.lines = None
                        await self._notify()
                        return
                yield _line(event)
            async with self._changed:
                if self.revision == reached and asked == len(self.asks) and self._server is server:
                    await self._changed.wait()

    async def _reports(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        batch = ReportBatch.model_validate_json(await request.body())
        if any(self.unacceptable(report) for report in batch.reports):
            self.refused += 1
            await self._notify()
            return JSONResponse({"error": {"code": "InvalidRequestContent"}}, 400)
        sizes = []
        fresh = batch.sequence > self._seen.get(batch.instance, 0)
        self._seen[batch.instance] = max(batch.sequence, self._seen.get(batch.instance, 0))
        self.batches += 1
        for report in batch.reports:
            if isinstance(report, LogReport):
                stored = self.logs.setdefault((report.key.name, report.stream), bytearray())
                data = base64.b64decode(report.data)
                if report.offset <= len(stored):
                    stored += data[len(stored) - report.offset :]
                sizes.append({"key": report.key.model_dump(), "stream": report.stream, "size": len(stored)})
            elif fresh:
                self._store(report)
        await self._notify()
        if self.lose(request.url.path):
            return Response(status_code=502)
        return JSONResponse({"accepted": batch.sequence, "logs": sizes})

    def _store(self, report: StatusReport | GoneReport | InventoryReport | EventReport) -> None:
        match report:
            case StatusReport():
                self.statuses[_name(report)] = report
                self.gone.discard(_name(report))
            case GoneReport():
                self.statuses.pop(_name(report), None)
                self.gone.add(_name(report))
            case InventoryReport():
                self.inventory = report
            case EventReport():
                self.events.append(report)

    async def _tokens(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        asked = TokenRequest.model_validate_json(await request.body())
        grants = []
        for key in asked.keys:
            if self.objects.get((key.kind, key.namespace, key.name), (0, None))[1] is not None:
                self.granted += 1
                expires = (datetime.now(UTC) + self.token_lifetime).isoformat()
                grants.append(
                    {"key": key.model_dump(), "endpoint": f"{self.url}/blobstore", "token": f"t{self.granted}", "expires": expires}
                )
        return JSONResponse({"tokens": grants})

    async def _answer(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        self.answers[request.path_params["id"]] = await request.body()
        await self._notify()
        return JSONResponse({})


def _line(event: Manifest) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _key(name: Name) -> Manifest:
    return dict(zip(("kind", "namespace", "name"), name, strict=True))


def _name(report: StatusReport | GoneReport) -> Name:
    return report.key.kind, report.key.namespace, report.key.name
