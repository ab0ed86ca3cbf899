"""Serving the API over HTTPS on loopback, from a bound socket to a clean stop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import uvicorn

from moorage.embedded.api import Api
from moorage.embedded.local import LocalCluster
from moorage.embedded.streaming.protocol import StreamingProtocol
from moorage.embedded.streaming.requests import is_stream
from moorage.errors import Unavailable
from moorage.identity.pki import ServerCertificate

_BACKLOG = 1024
_GRACEFUL_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Serving:
    """A running API server."""

    host: str
    port: int
    api: Api

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"


@asynccontextmanager
async def serve_api(
    cluster: LocalCluster, certificate: ServerCertificate, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Serving]:
    """Serve `cluster` (its store, node backend and tokens) until the block ends; port 0 takes a free one. The cluster stays open.

    Raises Unavailable when the port is taken.
    """
    bound = _bind(host, port)
    address, taken = bound.getsockname()[:2]
    api = Api(cluster.registry, lambda: cluster.backend, cluster.tokens, address=f"{address}:{taken}")
    config = uvicorn.Config(
        api,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ssl_certfile=certificate.certificate_path,
        ssl_keyfile=str(certificate.key_path),
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
        # The streams of exec, attach and port-forward are taken over in our own protocol.
        http=cast("type[asyncio.Protocol]", partial(StreamingProtocol, takeover=api.take_over, streams=is_stream)),
        ws="none",
        # The API is all kubectl talks to, and Go's TLS reads a record at a time: nothing here wants old protocol versions.
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[bound]), name="embedded-api")
    try:
        await server.ready(task)
        yield Serving(address, taken, api)
    finally:
        api.close()
        server.should_exit = True
        await task
        bound.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which belongs to whoever put the parts together, and with a moment to wait for."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._started = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A client that keeps an idle connection without reading never answers TLS's goodbye, and uvicorn would wait for it until its time-out.
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            transport = getattr(connection, "transport", None)
            if transport is not None and (cycle is None or cycle.response_complete):
                transport.abort()
        await super().shutdown(sockets)

    async def ready(self, task: asyncio.Task[None]) -> None:
        waiting = asyncio.create_task(self._started.wait())
        await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            task.result()
            raise Unavailable("the embedded API server ended while starting")


def _bind(host: str, port: int) -> socket.socket:
    # The protocol is named because asyncio turns Nagle's algorithm off only for sockets that say TCP; with it every answer costs 40 ms.
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise Unavailable(
            f"the embedded API cannot listen on {host}:{port}: {error.strerror}. Stop what uses the port or choose another.",
            target=f"{host}:{port}",
        ) from error
    return bound
