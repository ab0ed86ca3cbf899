"""Keeps a routing table in force: watches the three kinds it is made of and hands over a new one whenever it differs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from moorage.kube.cluster import Cluster
from moorage.kube.informer import Informer
from moorage.kube.kinds import ENDPOINT_SLICE, ONLINE_DEPLOYMENT, ONLINE_ENDPOINT
from moorage.routing.render import SERVICE_LABEL, render
from moorage.specs.manifest import Manifest
from moorage.specs.routing import RoutingTable

log = logging.getLogger(__name__)
# Changes that come together (a rollout) make one table; short enough that a traffic flip is felt at once.
_GATHER_SECONDS = 0.005


async def publish(cluster: Cluster, replace: Callable[[RoutingTable], None]) -> None:
    """Until cancelled: call `replace` with the first table once all three kinds are known, then with every different one.

    When the API is away the last table stays in force: serving does not depend on it.
    """
    informers = (
        Informer(cluster, ONLINE_ENDPOINT),
        Informer(cluster, ONLINE_DEPLOYMENT),
        Informer(cluster, ENDPOINT_SLICE, labels=SERVICE_LABEL),
    )
    endpoints, deployments, slices = informers
    changed = asyncio.Event()

    def note(old: Manifest | None, new: Manifest | None) -> None:
        changed.set()

    for informer in informers:
        informer.subscribe(note)
    async with asyncio.TaskGroup() as group:
        for informer in informers:
            group.create_task(informer.run(), name=f"informer {informer.kind}")
        for informer in informers:
            await informer.synced.wait()
        last: RoutingTable | None = None
        while True:
            table = render(endpoints, deployments, slices)
            if table != last:
                last = table
                replace(table)
                log.info("routing table in force: %d endpoints", len(table.endpoints))
            await changed.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            changed.clear()
