"""The router as in its pod, with a fixed table in place of the cluster's: `router_process.py BACKEND_PORT KEY LOG`. Prints its port."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import uvloop

from moorage.router.access_log import AccessLog
from moorage.router.server import Router
from moorage.specs.routing import DeploymentRoute, EndpointRoute, RoutingTable


async def main(port: int, key: str, sink: BinaryIO) -> None:
    # More slots than connections, so that the limits are kept but never met: the overhead is measured, not the queue.
    routes = {
        name: DeploymentRoute(name, (("127.0.0.1", port),), concurrency=64, queue_wait=timedelta(seconds=1)) for name in ("blue", "green")
    }
    endpoint = EndpointRoute("digits", (hashlib.sha256(key.encode()).digest(),) * 2, routes, {"blue": 90, "green": 10})
    router = Router(AccessLog(sink, asyncio.get_running_loop()))
    router.replace(RoutingTable({"digits": endpoint}))
    print((await router.listen("127.0.0.1", 0))[1], flush=True)
    # Until whoever started us goes away.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await router.drain(1.0)


if __name__ == "__main__":
    with Path(sys.argv[3]).open("wb") as sink:
        uvloop.run(main(int(sys.argv[1]), sys.argv[2], sink))
