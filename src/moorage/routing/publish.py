"""Keeps a routing table in force: watches the three kinds it is made of and hands over a new one whenever it differs.

Which generation of an endpoint the table was made from is told in the endpoint's status, so that nobody calls a change done before it is felt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import timedelta

from moorage.errors import Conflict, MoorageError, NotFound
from moorage.kube.backoff import Backoff
from moorage.kube.cluster import Cluster
from moorage.kube.informer import Informer
from moorage.kube.kinds import ENDPOINT_SLICE, ONLINE_DEPLOYMENT, ONLINE_ENDPOINT
from moorage.kube.metadata import name_of, namespace_of, uid_of
from moorage.routing.render import SERVICE_LABEL, render
from moorage.specs.manifest import Manifest
from moorage.specs.routing import RoutingTable

log = logging.getLogger(__name__)
# Changes that come together (a rollout) make one table; short enough that a traffic flip is felt at once.
_GATHER_SECONDS = 0.005
_FIRST_PAUSE = timedelta(milliseconds=200)
_LONGEST_PAUSE = timedelta(seconds=30)


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
    told = _Told(cluster)

    def note(old: Manifest | None, new: Manifest | None) -> None:
        changed.set()

    for informer in informers:
        informer.subscribe(note)
    async with asyncio.TaskGroup() as group:
        for informer in informers:
            group.create_task(informer.run(), name=f"informer {informer.kind}")
        for informer in informers:
            await informer.synced.wait()
        group.create_task(told.run(), name="generations in force")
        last: RoutingTable | None = None
        while True:
            table = render(endpoints, deployments, slices)
            if table != last:
                last = table
                replace(table)
                log.info("routing table in force: %d endpoints", len(table.endpoints))
            told.tell({uid_of(each): each for each in endpoints if _generation(each) > _routed(each)})
            await changed.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            changed.clear()


class _Told:
    """Writes `status.routedGeneration` of endpoints. Beside the table's own loop: what the API does about it delays no table."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._waiting: Mapping[str, Manifest] = {}
        self._wake = asyncio.Event()

    def tell(self, endpoints: Mapping[str, Manifest]) -> None:
        """These, by uid, are in the table and their status does not say so yet; in place of those of the time before."""
        self._waiting = endpoints
        if endpoints:
            self._wake.set()

    async def run(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        written: dict[str, int] = {}
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                for uid, endpoint in self._waiting.items():
                    if written.get(uid) != _generation(endpoint):
                        await self._write(endpoint)
                        written[uid] = _generation(endpoint)
                backoff.reset()
            except MoorageError as error:
                pause = backoff.next()
                log.warning("the generation in force of an endpoint cannot be told: %s; again in %.1f s", error, pause.total_seconds())
                await asyncio.sleep(pause.total_seconds())
                self._wake.set()
            written = {uid: generation for uid, generation in written.items() if uid in self._waiting}

    async def _write(self, endpoint: Manifest) -> None:
        # The uid makes it fail on an endpoint that has taken the place of the one that was seen.
        patch = {"metadata": {"uid": uid_of(endpoint)}, "status": {"routedGeneration": _generation(endpoint)}}
        try:
            await self._cluster.patch(ONLINE_ENDPOINT, name_of(endpoint), namespace_of(endpoint), patch, subresource="status")
        except (NotFound, Conflict) as error:
            log.debug("endpoint %s/%s: %s", namespace_of(endpoint), name_of(endpoint), error)


def _generation(endpoint: Manifest) -> int:
    return int(endpoint["metadata"].get("generation") or 1)


def _routed(endpoint: Manifest) -> int:
    return int((endpoint.get("status") or {}).get("routedGeneration") or 0)
