"""Starts every controller of the cluster and the scheduler over one set of informers, and stops them together."""

from __future__ import annotations

import asyncio
from pathlib import Path

from moorage.clock import Clock, now
from moorage.embedded.control import workloads
from moorage.embedded.control.world import World
from moorage.kube.cluster import Cluster


async def run_controllers(cluster: Cluster, *, volumes: Path, clock: Clock = now) -> None:
    """Run until cancelled.

    Args:
        cluster: the embedded cluster; its resource versions count up over all kinds.
        volumes: the folder below which the local provisioner makes persistent volumes.
        clock: wall-clock UTC.
    """
    world = World(cluster, clock=clock)
    loops = [
        workloads.deployments(world),
        workloads.replica_sets(world),
        workloads.jobs(world),
        workloads.endpoint_slices(world),
    ]
    async with asyncio.TaskGroup() as group:
        group.create_task(world.informers.run(), name="informers")
        await world.informers.synced()
        for loop in loops:
            group.create_task(loop.run(), name=loop.name)
