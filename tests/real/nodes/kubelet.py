"""The one endpoint of a kubelet that the API server needs for `kubectl logs`: GET /containerLogs/NAMESPACE/POD/CONTAINER, for its certificate only."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from moorage.embedded.http import Request as ApiRequest
from moorage.embedded.logs import log_options
from moorage.embedded.node.run import Nodes
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


@asynccontextmanager
async def kubelet(cluster: Cluster, nodes: Nodes, pki: Path) -> AsyncIterator[int]:
    """Serve it on a free port of 127.0.0.1 until the block ends."""
    bound = socket.create_server(("127.0.0.1", 0))
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
