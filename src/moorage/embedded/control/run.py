"""Starts every controller of the cluster and the scheduler over one set of informers, and stops them together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from moorage.clock import Clock, now
from moorage.embedded.control import (
    aggregation,
    definitions,
    garbage,
    housekeeping,
    namespaces,
    quotas,
    scheduler,
    sets,
    storage,
    workloads,
)
from moorage.embedded.control.world import ControlPlane, World


@dataclass(frozen=True, slots=True)
class Patience:
    """When things are given up, as the flags of Kubernetes' controller manager say by default.

    Args:
        node: a node silent for longer is lost (`--node-monitor-grace-period`).
        orphan: how long a pod may be bound to a node that does not exist (the pod garbage collector's quarantine).
        finished_pods: as many finished pods stay (`--terminated-pod-gc-threshold`).
    """

    node: timedelta = timedelta(seconds=50)
    orphan: timedelta = timedelta(seconds=40)
    finished_pods: int = 12500


_PATIENCE = Patience()


async def run_controllers(
    cluster: ControlPlane, *, volumes: Path, root_ca: str | None = None, patience: Patience = _PATIENCE, clock: Clock = now
) -> None:
    """Run until cancelled; a failing controller is logged and backed off and takes nothing else down.

    Args:
        cluster: the embedded cluster, in process: its resource versions count up over all kinds, and its watches tell a write at once.
        volumes: the folder below which the local provisioner makes persistent volumes.
        root_ca: the API's authority in PEM, for ConfigMap `kube-root-ca.crt` of every namespace; None makes none.
        patience: when silent nodes and stray pods are given up.
        clock: wall-clock UTC.
    """
    world = World(cluster, clock=clock)
    everything = garbage.Everything(world)
    root = volumes.absolute()
    loops = [
        workloads.deployments(world),
        workloads.replica_sets(world),
        sets.stateful_sets(world),
        sets.daemon_sets(world),
        sets.disruption_budgets(world),
        sets.stale_disruptions(world),
        workloads.jobs(world),
        workloads.endpoint_slices(world),
        scheduler.scheduler(world),
        storage.claims(world, root),
        storage.persistent_volumes(world, root),
        housekeeping.node_lifecycle(world, grace=patience.node),
        housekeeping.pod_collector(world, quarantine=patience.orphan, finished=patience.finished_pods),
        housekeeping.event_sweeper(world),
        namespaces.furnisher(world, root_ca),
        namespaces.terminator(world, everything),
        definitions.finisher(world, everything),
        aggregation.cluster_roles(world),
        quotas.resource_quotas(world, everything),
        garbage.garbage_collector(world, everything),
    ]
    async with asyncio.TaskGroup() as group:
        group.create_task(world.informers.run(), name="informers")
        await world.informers.synced()
        group.create_task(everything.run(), name="informers of defined kinds")
        group.create_task(storage.ensure_storage_class(world), name="storage class")
        for loop in loops:
            group.create_task(loop.run(), name=loop.name)
