"""`moorage run`: each process of the system in the foreground, put together from its packages. Started by `moorage up` or by Kubernetes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import click

from moorage.cli.commands import SETTINGS, LazyGroup, Process

run = LazyGroup(
    "run",
    lazy={
        "supervisor": ("moorage.cli.run:supervisor", "Keep cluster and server running."),
        "cluster": ("moorage.cli.run_cluster:cluster", "The embedded cluster: API, controllers, scheduler, nodes."),
        "server": ("moorage.cli.run_server:server", "The workspace service."),
        "agent": ("moorage.cli.run_agent:agent", "In a cluster: gateway and operators."),
        "router": ("moorage.cli.run_router:router", "In a cluster: the scoring data plane."),
    },
    help="Run one of Moorage's processes in the foreground. `moorage up` and the extension's pods do this for you.",
    examples=["MOORAGE_PORT=9000 moorage run server"],
    no_args_is_help=True,
    context_settings=SETTINGS,
)


@click.command(
    "supervisor",
    cls=Process,
    examples=["moorage run supervisor"],
    help="Keep cluster and server running until told to stop. `moorage up` writes what it reads, and starts it.",
    context_settings=SETTINGS,
)
def supervisor() -> None:
    from moorage.cli.supervisor import main

    main()


def log_to_stderr() -> None:
    """One line an event on stderr; what a container's log or a service's log file shows."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    # One line a request at INFO would drown everything else.
    for noisy in ("httpx2", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


async def until_stopped(work: Callable[[], Awaitable[None]], *, on_stop: Callable[[], Awaitable[None]] | None = None) -> None:
    """Run `work` until it ends or SIGTERM or SIGINT comes; then `on_stop`, then `work` is cancelled and waited for.

    An error of `work` is raised: the process ends, and whoever keeps it starts it again.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    working = asyncio.ensure_future(work())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done() and on_stop is not None:
        await on_stop()
    stopping.cancel()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


def pod_address() -> str:
    """Where servers in a pod listen: the pod's own address (docs/internals/seams.md, "Addresses")."""
    return os.environ.get("POD_IP") or "127.0.0.1"
