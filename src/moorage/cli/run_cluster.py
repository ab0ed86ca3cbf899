"""`moorage run cluster`: the embedded cluster in one process. When it is killed, its containers go on and the next one takes them over."""

from __future__ import annotations

import asyncio
import logging

import click

from moorage.cli.commands import SETTINGS, Process

log = logging.getLogger("moorage.cluster")


@click.command(
    "cluster",
    cls=Process,
    examples=["moorage run cluster"],
    help="Run the embedded cluster of the state folder until told to stop; pods are stopped with it.",
    context_settings=SETTINGS,
)
def cluster() -> None:
    import uvloop

    from moorage.cli.run import log_to_stderr

    log_to_stderr()
    uvloop.run(_serve())


async def _serve() -> None:
    from moorage.cli.home import default_home
    from moorage.cli.run import until_stopped
    from moorage.cli.stack import HOST, read_settings
    from moorage.embedded import kubeconfig
    from moorage.embedded.control.run import run_controllers
    from moorage.embedded.local import open_cluster
    from moorage.embedded.node.declared import numbered, read
    from moorage.embedded.node.run import Nodes
    from moorage.embedded.serve import serve_api
    from moorage.identity.pki import ensure_authority, ensure_server_certificate

    home = default_home()
    settings = read_settings(home)
    authority = ensure_authority(home.pki)
    certificate = ensure_server_certificate(authority, home.pki, "cluster", [HOST, "localhost", "kubernetes.default.svc"])
    embedded = await open_cluster(home.cluster / "state.db")
    declared = read(list(settings.declared)) if settings.declared else numbered(settings.nodes)
    nodes = Nodes(
        embedded.with_manager("kubelet"),
        embedded.tokens,
        names=declared,
        folder=home.cluster / "nodes",
        api=(HOST, settings.api_port),
        ca=authority.pem,
    )
    embedded.backend = nodes
    try:
        async with serve_api(embedded, certificate, host=HOST, port=settings.api_port) as serving:
            kubeconfig.write(home.kubeconfig, serving.url, authority.pem, embedded.tokens.admin_token)
            log.info("embedded cluster on %s, nodes %s", serving.url, ", ".join(one.name for one in declared))

            async def work() -> None:
                controllers = embedded.with_manager("kube-controller-manager")
                async with asyncio.TaskGroup() as group:
                    group.create_task(run_controllers(controllers, volumes=home.cluster / "volumes", root_ca=authority.pem.decode()))
                    group.create_task(nodes.run())

            await until_stopped(work, on_stop=nodes.stop_containers)
    finally:
        await embedded.close()
