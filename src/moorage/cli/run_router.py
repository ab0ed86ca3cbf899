"""`moorage run router`: the data plane fed with tables made from this cluster's objects."""

from __future__ import annotations

import asyncio
import logging
import sys

import click

from moorage.cli.commands import SETTINGS, Process

log = logging.getLogger("moorage.router")
SCORING_PORT = 8080
HEALTH_PORT = 8081
# After readiness is withdrawn, Services go on sending for a moment; new connections are still taken meanwhile.
_LAME_DUCK_SECONDS = 1.0
# Within Kubernetes' default grace of 30 s.
_DRAIN_SECONDS = 20.0


@click.command(
    "router",
    cls=Process,
    examples=["moorage run router"],
    help="Run the scoring router of the cluster this pod runs in.",
    context_settings=SETTINGS,
)
def router() -> None:
    import uvloop

    from moorage.cli.run import log_to_stderr

    log_to_stderr()
    uvloop.run(_serve())


async def _serve() -> None:
    from moorage.cli.run import pod_address, until_stopped
    from moorage.kube.remote import connect
    from moorage.router.access_log import AccessLog
    from moorage.router.admin import serve_pages, text_page
    from moorage.router.metrics import exposition
    from moorage.router.server import Router
    from moorage.routing.publish import publish

    loop = asyncio.get_running_loop()
    cluster = connect()
    data_plane = Router(AccessLog(sys.stdout.buffer, loop))
    leaving = False

    def ready() -> tuple[int, bytes, bytes]:
        return (
            text_page(200, "ok\n")
            if data_plane.ready and not leaving
            else text_page(503, "leaving\n" if leaving else "no routing table yet\n")
        )

    pages = await serve_pages(
        pod_address(),
        HEALTH_PORT,
        {
            b"/healthz": lambda: text_page(200, "ok\n"),
            b"/readyz": ready,
            b"/metrics": lambda: (200, b"text/plain; version=0.0.4; charset=utf-8", exposition(data_plane.metrics)),
        },
    )
    host, port = await data_plane.listen(pod_address(), SCORING_PORT)
    log.info("scoring on http://%s:%d", host, port)

    async def leave() -> None:
        nonlocal leaving
        leaving = True
        await asyncio.sleep(_LAME_DUCK_SECONDS)
        cut = await data_plane.drain(_DRAIN_SECONDS)
        log.info("drained, %d connections cut", cut)

    try:
        await until_stopped(lambda: publish(cluster, data_plane.replace), on_stop=leave)
    finally:
        pages.close()
        await cluster.close()
