"""A request to take over its connection: who asks, which pod, which protocol; then the talk itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import parse_qsl

import orjson

from moorage.embedded import statuses
from moorage.embedded.backend import Asked, NodeBackend
from moorage.embedded.gate import Gate, attributes
from moorage.embedded.http import truth
from moorage.embedded.logs import container_of
from moorage.embedded.registry import Registry, Target
from moorage.embedded.routes import Route
from moorage.embedded.streaming import spdy, talks, websocket
from moorage.embedded.streaming.channels import SPDY_PROTOCOLS, WEBSOCKET_PROTOCOLS, Channels, SocketChannels, open_streams
from moorage.embedded.streaming.forwarding import PROTOCOL, TUNNELLED, Forwarder
from moorage.embedded.streaming.spdy import Spdy
from moorage.embedded.streaming.websocket import Tunnel, WebSocket
from moorage.embedded.streaming.wire import Connection
from moorage.errors import Invalid, MoorageError, NotFound
from moorage.kube.kinds import POD
from moorage.specs.manifest import Manifest

_SUBRESOURCES = ("/exec", "/attach", "/portforward")
_log = logging.getLogger(__name__)
_VERSION_HEADER = "x-stream-protocol-version"


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an HTTP request; names of headers in lower case, each as often as it came."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    headers: Sequence[tuple[bytes, bytes]]

    @property
    def fields(self) -> dict[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers}

    def values(self, name: str) -> list[str]:
        """Every value of a header, whether in one line or in many."""
        lines = [value.decode("latin-1") for key, value in self.headers if key == name.encode()]
        return [part.strip() for line in lines for part in line.split(",") if part.strip()]


def head(method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Head:
    path, _, query = url.decode("latin-1").partition("?")
    return Head(method.decode("ascii"), path, parse_qsl(query, keep_blank_values=True), headers)


def is_stream(path: str) -> bool:
    """Whether a path of the API may be a two-way stream."""
    return path.endswith(_SUBRESOURCES)


class Streamer:
    """Serves exec, attach and port-forward over one registry and its nodes."""

    def __init__(self, registry: Registry, backend: Callable[[], NodeBackend], gate: Gate) -> None:
        self._registry = registry
        self._backend = backend
        self._gate = gate

    async def serve(self, asked: Head, connection: Connection) -> None:
        """Answer the request and stay until its stream has ended; the connection is closed then."""
        try:
            try:
                route = self._admit(asked)
                node, pod = self._pod(route)
                if route.subresource == "portforward":
                    await self._forward(asked, connection, node, pod)
                else:
                    await self._talk(asked, connection, route, node, pod)
            except MoorageError as error:
                code, shown = statuses.failure(error)
                await refuse(connection, code, orjson.dumps(shown))
        except (ConnectionError, TimeoutError, spdy.Broken, websocket.Broken, EOFError) as error:
            _log.info("%s %s: the stream broke: %s", asked.method, asked.path, error or type(error).__name__)
        finally:
            connection.abort()

    def _admit(self, asked: Head) -> Route:
        query = dict(asked.query)
        admitted = self._gate.admit(asked.method, asked.path, query, asked.headers)
        route = admitted.route
        wanted = ("", "v1", "pods")
        if route is None or (route.group, route.version, route.plural) != wanted or route.namespace is None or not route.subresource:
            # Without a subresource it is a pod of that name, `exec`, and the rights that were asked for are those to the pod itself.
            raise NotFound("the server could not find the requested resource")
        if asked.method == "GET":
            # A WebSocket begins with GET; what it does is more than to read.
            self._gate.authorizer.authorize(admitted.user, replace(attributes("GET", asked.path, query, route), verb="create"))
        elif asked.method != "POST":
            raise Invalid("the server does not allow this method on the requested resource", code="MethodNotAllowed")
        return route

    def _pod(self, route: Route) -> tuple[str, Manifest]:
        pod = self._registry.get(Target(self._registry.catalog.of(POD), route.namespace or "", route.name)).manifest()
        node = pod["spec"].get("nodeName")
        if not node:
            raise Invalid(f"pod {route.name} does not have a host assigned", code="BadRequest")
        return node, pod

    async def _talk(self, head: Head, connection: Connection, route: Route, node: str, pod: Manifest) -> None:
        query = dict(head.query)
        command = tuple(value for name, value in head.query if name == "command") if route.subresource == "exec" else ()
        tty = truth(query, "tty")
        asked = Asked(
            container_of(pod, query.get("container") or None),
            command,
            stdin=truth(query, "stdin"),
            stdout=truth(query, "stdout"),
            stderr=truth(query, "stderr") and not tty,
            tty=tty,
        )
        if route.subresource == "exec" and not command:
            raise Invalid("you must specify at least one command for the container", code="BadRequest", target="command")
        if not (asked.stdin or asked.stdout or asked.stderr):
            raise Invalid("you must specify at least 1 of stdin, stdout, stderr", code="BadRequest")
        try:
            self._backend().running(node, pod, asked.container)
        except NotFound as missing:
            # As a kubelet says it, since clients show a plain text behind words of their own.
            await refuse(connection, 500, missing.message.encode(), "text/plain; charset=utf-8")
            return
        channels = await open_channels(head, connection, asked)
        if channels is not None:
            await talks.run(self._backend(), node, pod, asked, channels)

    async def _forward(self, head: Head, connection: Connection, node: str, pod: Manifest) -> None:
        await Forwarder(self._backend(), node, pod, await open_session(head, connection)).run()


async def open_channels(head: Head, connection: Connection, asked: Asked) -> Channels | None:
    """Agree on a protocol for exec or attach; None when the client goes before all its streams are there. Invalid (400) for none of ours."""
    if _is_websocket(head):
        protocol = _agreed(websocket.offered(head.fields), WEBSOCKET_PROTOCOLS)
        await connection.write(websocket.handshake(head.fields, protocol))
        return SocketChannels(WebSocket(connection), protocol)
    protocol = _agreed(head.values(_VERSION_HEADER), SPDY_PROTOCOLS)
    await connection.write(_spdy_handshake(protocol))
    return await open_streams(Spdy(connection), asked)


async def open_session(head: Head, connection: Connection) -> Spdy:
    """Agree on a protocol for port-forward. Invalid (400) for none of ours."""
    if _is_websocket(head):
        protocol = _agreed(websocket.offered(head.fields), (TUNNELLED,))
        await connection.write(websocket.handshake(head.fields, protocol))
        return Spdy(Tunnel(WebSocket(connection)))
    protocol = _agreed(head.values(_VERSION_HEADER), (PROTOCOL,))
    await connection.write(_spdy_handshake(protocol))
    return Spdy(connection)


def _is_websocket(head: Head) -> bool:
    return head.fields.get("upgrade", "").lower() == "websocket"


def _agreed(offered: Sequence[str], ours: Sequence[str]) -> str:
    """The client's first protocol that is ours."""
    found = next((protocol for protocol in offered if protocol in ours), None)
    if found is None:
        shown = (f"[{' '.join(each)}]" for each in (offered, ours))
        raise Invalid(
            "unable to upgrade: unable to negotiate protocol: client supports {}, server accepts {}".format(*shown), code="BadRequest"
        )
    return found


def _spdy_handshake(protocol: str) -> bytes:
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
    ).encode()


async def refuse(connection: Connection, code: int, body: bytes, content_type: str = "application/json") -> None:
    """An ordinary answer in place of the upgrade."""
    top = f"HTTP/1.1 {code} {HTTPStatus(code).phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    await connection.write(top.encode() + body)
    await connection.close()


def serving(streamer: Streamer, asked: Head, connection: Connection) -> asyncio.Task[None]:
    """The request in a task of its own."""
    return asyncio.create_task(streamer.serve(asked, connection), name=f"{asked.method} {asked.path}")
