"""The embedded cluster's API server as a raw ASGI application: authentication, routing, and the boundary where failures become Statuses.

Raw, because every request of this API is one path pattern and one verb: a router and request objects in between cost a third of the time of a
small create and give nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qsl

import orjson

from moorage.embedded import discovery, openapi, scale, statuses
from moorage.embedded.backend import NodeBackend
from moorage.embedded.gate import Gate
from moorage.embedded.http import Request, Response, accepted, answer
from moorage.embedded.logs import log_options, pod_logs
from moorage.embedded.metrics import GROUP as METRICS
from moorage.embedded.metrics import MetricsReader
from moorage.embedded.reading import Reader
from moorage.embedded.registry import Registry, Target
from moorage.embedded.reviews import GROUPS as REVIEWS
from moorage.embedded.reviews import Reviewer
from moorage.embedded.routes import Route
from moorage.embedded.streaming.requests import Head, Streamer, serving
from moorage.embedded.streaming.wire import Connection
from moorage.embedded.tokenrequests import token_request
from moorage.embedded.tokens import TokenIssuer
from moorage.embedded.writing import WriteVerbs, writer_of
from moorage.errors import Invalid, MoorageError, NotFound

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_BODY_LIMIT = 3 * 1024 * 1024
_NOT_IMPLEMENTED = frozenset(
    {("pods", "proxy"), ("services", "proxy"), ("nodes", "proxy"), ("pods", "ephemeralcontainers"), ("pods", "resize")}
)


class Api:
    """The ASGI application. `backend` is asked at each use, since nodes may come after the server. `close` ends the watches and followed logs it serves; the registry stays open."""

    def __init__(self, registry: Registry, backend: Callable[[], NodeBackend], issuer: TokenIssuer, *, address: str = "127.0.0.1") -> None:
        self._registry = registry
        self._backend = backend
        self._issuer = issuer
        self._address = address
        self._gate = Gate(registry, issuer)
        self._reviewer = Reviewer(self._gate.authenticator, self._gate.authorizer, registry.clock)
        self._reader = Reader(registry)
        self._writer = WriteVerbs(registry, self._reader)
        self._metrics = MetricsReader(registry, backend)
        self._streamer = Streamer(registry, backend, self._gate)
        self._streams: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} connections here")
        target: Target | None = None
        try:
            request, route = await self._request(scope, receive)
            if route is not None and route.group in REVIEWS:
                response = self._review(request, route)
            elif route is not None and route.group == METRICS:
                response = await self._metrics.respond(request, route)
            elif route is not None:
                target = self._target(route)
                response = await self._respond(request, target)
            else:
                response = self._system(request)
        except MoorageError as error:
            code, shown = statuses.failure(error, target)
            response = answer(shown, code)
        except Exception:  # noqa: BLE001  the HTTP boundary: whatever it is, the client gets a Status and the log the traceback
            _log.exception("%s %s failed", scope["method"], scope["path"])
            response = answer(statuses.status(500, "InternalError", "Internal error occurred; see the cluster's log"), 500)
        if response.stream is not None:
            await self._stream(response, receive, send)
        else:
            await _send(response, send)

    def take_over(self, asked: Head, connection: Connection) -> asyncio.Task[None]:
        """Serve a request for a two-way stream on its own connection; it ends with `close`."""
        task = serving(self._streamer, asked, connection)
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        return task

    def close(self) -> None:
        self._closed = True
        for task in self._streams:
            task.cancel()

    async def _request(self, scope: Scope, receive: Receive) -> tuple[Request, Route | None]:
        """The request of a caller who may make it; its body is read only then."""
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        admitted = self._gate.admit(scope["method"], path, query, scope["headers"])
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(scope["method"], path, query, headers, await _body(receive), admitted.user, admitted.guard)
        return request, admitted.route

    def _review(self, request: Request, route: Route) -> Response:
        if request.method != "POST" or route.name:
            raise Invalid("the server does not allow this method on the requested resource", code="MethodNotAllowed")
        return answer(self._reviewer.review(route.group, route.plural, route.namespace, request.mapping(), request.user), 201)

    def _target(self, route: Route) -> Target:
        """What the path addresses."""
        shown = f"{route.plural}/{route.subresource}" if route.subresource else route.plural
        resource = self._registry.catalog.at(route.group, route.version, route.plural)
        if (route.plural, route.subresource) in _NOT_IMPLEMENTED:
            raise Invalid(f"the embedded cluster does not serve {shown}", code="NotImplemented", target=route.name)
        if route.subresource and route.subresource not in resource.subresources:
            raise NotFound("the server could not find the requested resource", target=shown)
        if not resource.kind.namespaced and route.namespace is not None:
            raise NotFound("the server could not find the requested resource", target=shown)
        if resource.kind.namespaced and route.name and route.namespace is None:
            raise NotFound("the server could not find the requested resource", target=shown)
        return Target(resource, route.namespace or "", route.name, route.subresource)

    async def _respond(self, request: Request, target: Target) -> Response:
        match target.subresource:
            case "log":
                return await self._logs(request, target)
            case "binding" if request.method == "POST":
                return await self._writer.bind(request, target)
            case "eviction" if request.method == "POST":
                return await self._writer.evict(request, target)
            case "token" if request.method == "POST":
                return answer(token_request(self._registry, self._issuer, target, request.mapping() if request.body else {}), 201)
            case "scale":
                return await self._scale(request, target)
            case "exec" | "attach" | "portforward":
                raise Invalid("Upgrade request required", code="BadRequest")
        match request.method, bool(target.name):
            case "GET", named if target.subresource in ("", "status"):
                if request.flag("watch"):
                    return self._reader.watch(request, target)
                return self._reader.get(request, target) if named else self._reader.list(request, target)
            case "POST", False:
                return await self._writer.create(request, target)
            case "PUT", True:
                return await self._writer.replace(request, target)
            case "PATCH", True:
                return await self._writer.patch(request, target)
            case "DELETE", True if not target.subresource:
                return await self._writer.delete(request, target)
            case "DELETE", False:
                return await self._writer.delete_collection(request, target)
        raise Invalid("the server does not allow this method on the requested resource", code="MethodNotAllowed")

    async def _scale(self, request: Request, target: Target) -> Response:
        match request.method:
            case "GET":
                return answer(scale.read(self._registry, target))
            case "PUT":
                return answer(await scale.write(self._registry, target, request.mapping(), writer_of(request)))
            case "PATCH":
                return answer(await scale.patch(self._registry, target, request.document(), request.content_type, writer_of(request)))
        raise Invalid("the server does not allow this method on the requested resource", code="MethodNotAllowed")

    async def _logs(self, request: Request, target: Target) -> Response:
        if request.method != "GET":
            raise Invalid("the server does not allow this method on the requested resource", code="MethodNotAllowed")
        chunks = pod_logs(self._registry, self._backend(), target.namespace, target.name, log_options(request))
        # The first chunk is fetched here, because a failure before it still can be a Status.
        iterator = aiter(chunks)
        try:
            first = await anext(iterator)
        except StopAsyncIteration:
            return Response(content_type="text/plain")

        async def everything() -> AsyncGenerator[bytes]:
            yield first
            async for chunk in iterator:
                yield chunk

        return Response(content_type="text/plain", stream=everything())

    def _system(self, request: Request) -> Response:
        catalog = self._registry.catalog
        found: Any = None
        match [part for part in request.path.split("/") if part]:
            case ["healthz" | "livez" | "readyz", *_]:
                return Response(b"ok", content_type="text/plain; charset=utf-8")
            case ["version"]:
                found = discovery.version()
            case ["api"] | ["apis"] as top:
                if accepted(request.headers.get("accept", "")).form == "APIGroupDiscoveryList":
                    body = orjson.dumps(discovery.aggregated(catalog, core=top == ["api"]))
                    return Response(body, content_type=discovery.content_type())
                found = discovery.core_versions(self._address) if top == ["api"] else discovery.groups(catalog)
            case ["apis", group]:
                found = discovery.group(catalog, group)
            case ["api", version]:
                found = discovery.resource_list(catalog, "", version)
            case ["apis", group, version]:
                found = discovery.resource_list(catalog, group, version)
            case ["openapi", "v2"]:
                if request.headers.get("accept", "").startswith(openapi.V2_PROTOBUF):
                    return Response(openapi.v2_protobuf(), content_type=openapi.V2_ANSWER)
                found = openapi.v2(catalog)
            case ["openapi", "v3"]:
                found = openapi.v3_index(catalog)
            case ["openapi", "v3", *group_version]:
                place = "/".join(group_version)
                found = openapi.v3(catalog, place)
                if found is not None and openapi.current(catalog, place, request.query.get("hash")):
                    return Response(orjson.dumps(found), headers={"cache-control": "public, max-age=31536000, immutable"})
            case []:
                found = {"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}
        if found is None:
            raise NotFound("the server could not find the requested resource")
        return answer(found)

    async def _stream(self, response: Response, receive: Receive, send: Send) -> None:
        """Send a stream until it ends, the client goes, or the server stops."""
        assert response.stream is not None
        headers = [(b"content-type", response.content_type.encode()), (b"cache-control", b"no-cache, private")]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        # Headers go out before the first event; a client that waits for them would otherwise wait for a change.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        sending = asyncio.ensure_future(_send_chunks(response.stream, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        self._streams.add(sending)
        if self._closed:
            sending.cancel()
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.discard(sending)
            sending.cancel()
            gone.cancel()
            ended, _ = await asyncio.gather(sending, gone, return_exceptions=True)
        if isinstance(ended, MoorageError):
            # Half of the answer is out, so that all that is left is to end it.
            _log.warning("a stream ended early: %s", ended.message)
        elif isinstance(ended, Exception):
            raise ended
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_chunks(stream: AsyncGenerator[bytes], send: Send) -> None:
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            if chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _send(response: Response, send: Send) -> None:
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        *([] if "cache-control" in response.headers else [(b"cache-control", b"no-cache, private")]),
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in response.headers.items()),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(chunks)
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > _BODY_LIMIT:
            raise Invalid(f"Request entity too large: limit is {_BODY_LIMIT}", code="RequestEntityTooLarge")
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
