"""What the API server asks of a kubelet, for its certificate only: /containerLogs, /exec, /attach (each /NAMESPACE/POD/CONTAINER), /portForward/NAMESPACE/POD."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from moorage.embedded.backend import Asked
from moorage.embedded.http import Request as ApiRequest
from moorage.embedded.http import truth
from moorage.embedded.logs import log_options
from moorage.embedded.node.run import Nodes
from moorage.embedded.streaming import talks
from moorage.embedded.streaming.forwarding import Forwarder
from moorage.embedded.streaming.protocol import StreamingProtocol
from moorage.embedded.streaming.requests import Head, open_channels, open_session, refuse
from moorage.embedded.streaming.wire import Connection
from moorage.embedded.tokens import ADMIN
from moorage.errors import MoorageError, NotFound
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import POD
from moorage.kube.streams import closing


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which belongs to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def application(cluster: Cluster, nodes: Nodes) -> Starlette:
    async def container_logs(request: Request) -> Response:
        names = request.path_params
        try:
            pod = await cluster.get(POD, names["pod"], names["namespace"])
            asked = ApiRequest("GET", request.url.path, dict(request.query_params), {}, b"", ADMIN)
            options = replace(log_options(asked), container=names["container"])
            chunks = nodes.logs(pod["spec"].get("nodeName") or "", names["namespace"], pod, options)
            first = await anext(chunks, b"")
        except NotFound as error:
            return PlainTextResponse(error.message, 404)
        except MoorageError as error:
            return PlainTextResponse(error.message, 400)

        async def body() -> AsyncIterator[bytes]:
            async with closing(chunks) as rest:
                yield first
                async for chunk in rest:
                    yield chunk

        return StreamingResponse(body(), media_type="text/plain")

    return Starlette(routes=[Route("/containerLogs/{namespace}/{pod}/{container}", container_logs)])


class _Streamer:
    """exec, attach and port-forward as a kubelet serves them: to the API server, which has asked already who may."""

    def __init__(self, cluster: Cluster, nodes: Nodes) -> None:
        self._cluster = cluster
        self._nodes = nodes

    def streams(self, path: str) -> bool:
        return path.startswith(("/exec/", "/attach/", "/portForward/"))

    def take_over(self, asked: Head, connection: Connection) -> asyncio.Task[None]:
        return asyncio.create_task(self._serve(asked, connection), name=asked.path)

    async def _serve(self, head: Head, connection: Connection) -> None:
        kind, namespace, name, *container = head.path.strip("/").split("/")
        try:
            pod = await self._cluster.get(POD, name, namespace)
            node = pod["spec"].get("nodeName") or ""
            if kind == "portForward":
                await Forwarder(self._nodes, node, pod, await open_session(head, connection)).run()
                return
            query = dict(head.query)
            tty = truth(query, "tty")
            asked = Asked(
                container[0],
                tuple(value for key, value in head.query if key == "command"),
                stdin=truth(query, "input"),
                stdout=truth(query, "output"),
                stderr=truth(query, "error") and not tty,
                tty=tty,
            )
            self._nodes.running(node, pod, asked.container)
            channels = await open_channels(head, connection, asked)
            if channels is not None:
                await talks.run(self._nodes, node, pod, asked, channels)
        except MoorageError as error:
            await refuse(connection, 500, error.message.encode(), "text/plain; charset=utf-8")
        finally:
            connection.abort()


@asynccontextmanager
async def kubelet(cluster: Cluster, nodes: Nodes, pki: Path) -> AsyncIterator[int]:
    """Serve it on a free port of 127.0.0.1 until the block ends."""
    bound = socket.create_server(("127.0.0.1", 0))
    streamer = _Streamer(cluster, nodes)
    config = uvicorn.Config(
        application(cluster, nodes),
        lifespan="off",
        log_config=None,
        access_log=False,
        ssl_certfile=pki / "kubelet.pem",
        ssl_keyfile=str(pki / "kubelet.key"),
        ssl_ca_certs=str(pki / "ca.pem"),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        timeout_graceful_shutdown=1,
        http=cast("type[asyncio.Protocol]", partial(StreamingProtocol, takeover=streamer.take_over, streams=streamer.streams)),
        ws="none",
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        bound.close()
