"""`moorage run agent`: gateway, training operator and inference operator of the cluster this pod runs in, under one leader election."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from moorage.cli.commands import SETTINGS, Process

log = logging.getLogger("moorage.agent")
CONNECTION = Path("/etc/moorage/connection")
HEALTH_PORT = 8081
LEASE = "moorage-agent"


@click.command(
    "agent",
    cls=Process,
    examples=["moorage run agent --enable training --enable inference"],
    help="Run gateway and operators of the cluster this pod runs in.",
    context_settings=SETTINGS,
)
@click.option("--enable", "enabled", multiple=True, type=click.Choice(["training", "inference"]), help="Which operators to run.")
@click.option(
    "--node-selector", "labels", multiple=True, metavar="KEY=VALUE", help="A label of the nodes that jobs and deployments may use."
)
@click.option(
    "--connection", type=click.Path(path_type=Path), default=CONNECTION, show_default=True, help="Folder with url, cluster, token, ca.crt."
)
def agent(enabled: Sequence[str], labels: Sequence[str], connection: Path) -> None:
    import uvloop

    from moorage.cli.extension import pairs
    from moorage.cli.run import log_to_stderr

    log_to_stderr()
    uvloop.run(_serve(frozenset(enabled), pairs(labels, "--node-selector"), connection))


async def _serve(enabled: frozenset[str], pinned: Mapping[str, str], folder: Path) -> None:
    from prometheus_client import generate_latest

    from moorage.cli.run import pod_address, until_stopped
    from moorage.gateway.connection import read_connection
    from moorage.gateway.run import run_gateway
    from moorage.inference import controller as inference
    from moorage.kube.controller import Controller
    from moorage.kube.informer import Informers
    from moorage.kube.kinds import ONLINE_DEPLOYMENT, POD_GROUP, TRAINING_JOB
    from moorage.kube.leader import LeaderElection, LeaseConfig
    from moorage.kube.owners import accepted_as_owners
    from moorage.kube.remote import connect
    from moorage.kube.served import served, until_served
    from moorage.router.admin import serve_pages, text_page
    from moorage.specs.mounted import mounted
    from moorage.training import controller as training

    connection = read_connection(Path(mounted(str(folder), os.environ)))
    cluster = connect()
    namespace = os.environ.get("POD_NAMESPACE", "azureml")
    election = LeaderElection(cluster, LeaseConfig(LEASE, namespace, os.environ.get("POD_NAME", "agent")))
    known = asyncio.Event()

    async def work() -> None:
        # Once more when Volcano comes: what an operator watches is settled when it starts.
        while True:
            await work_until_gangs_come()

    async def work_until_gangs_come() -> None:
        informers = Informers(cluster)
        configs = []
        grouped = "training" in enabled and await served(cluster, POD_GROUP)
        if "training" in enabled:
            log.info("jobs of several instances: %s", "gangs of Volcano" if grouped else "plain pods, as there is no Volcano")
            configs.append(training.config(pinned=pinned, grouped=grouped))
        if "inference" in enabled:
            configs += [inference.config(pinned=pinned), inference.endpoint_config()]
        controllers = [Controller(cluster, config, informers=informers) for config in configs]
        async with asyncio.TaskGroup() as group:
            parts = [
                informers.run(),
                *(controller.run() for controller in controllers),
                run_gateway(cluster, connection, informers=informers),
            ]
            tasks = [group.create_task(part) for part in parts]
            await informers.synced()
            # Whoever installs the extension waits for this; jobs that come earlier are tried until it holds.
            await accepted_as_owners(cluster, namespace, [TRAINING_JOB, ONLINE_DEPLOYMENT])
            known.set()
            log.info("working: gateway%s", "".join(f", {name}" for name in sorted(enabled)))
            if "training" in enabled and not grouped:
                await until_served(cluster, POD_GROUP)
                for task in tasks:
                    task.cancel()

    # Ready does not depend on the workspace service: workloads must not notice that it is away.
    pages = await serve_pages(
        pod_address(),
        HEALTH_PORT,
        {
            b"/healthz": lambda: text_page(200, "ok\n"),
            b"/readyz": lambda: text_page(200, "ok\n") if known.is_set() else text_page(503, "the cluster's objects are not known yet\n"),
            b"/metrics": lambda: (200, b"text/plain; version=0.0.4; charset=utf-8", generate_latest()),
        },
    )
    try:
        await until_stopped(lambda: election.run(work))
    finally:
        pages.close()
        await cluster.close()
