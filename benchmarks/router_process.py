"""The router as in its pod, with a fixed table in place of the cluster's: `router_process.py BACKEND_PORT KEY LOG [PUBLIC_KEY ...]`. Prints its port.

Endpoints: `digits`, and the same with copies: `tenth` and `half` of the requests to a deployment that answers, `stuck` a tenth to one that never does. With public keys `tokens` as
well, which takes tokens for the audience `benchmark`.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import uvloop

from moorage.router.access_log import AccessLog
from moorage.router.server import Router
from moorage.specs.routing import DeploymentRoute, EndpointRoute, RoutingTable, TokenTerms


async def main(port: int, key: str, sink: BinaryIO, public_keys: Sequence[str]) -> None:
    # More slots than connections, so that the limits are kept but never met: the overhead is measured, not the queue.
    deaf = socket.create_server(("127.0.0.1", 0), backlog=1024)
    ports = {"blue": port, "green": port, "shadow": port, "deaf": deaf.getsockname()[1]}
    routes = {
        name: DeploymentRoute(name, (("127.0.0.1", each),), concurrency=64, queue_wait=timedelta(seconds=1)) for name, each in ports.items()
    }
    digests = (hashlib.sha256(key.encode()).digest(),) * 2
    mirrors = {"digits": {}, "tenth": {"shadow": 10}, "half": {"shadow": 50}, "stuck": {"deaf": 10}}
    endpoints = {name: EndpointRoute(name, digests, routes, {"blue": 90, "green": 10}, mirror) for name, mirror in mirrors.items()}
    if public_keys:
        endpoints["tokens"] = EndpointRoute(
            "tokens", (), routes, {"blue": 90, "green": 10}, tokens=TokenTerms("benchmark", 0, tuple(public_keys))
        )
    router = Router(AccessLog(sink, asyncio.get_running_loop()))
    router.replace(RoutingTable(endpoints))
    print((await router.listen("127.0.0.1", 0))[1], flush=True)
    # Until whoever started us goes away.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await router.drain(1.0)


if __name__ == "__main__":
    with Path(sys.argv[3]).open("wb") as sink:
        uvloop.run(main(int(sys.argv[1]), sys.argv[2], sink, sys.argv[4:]))
