"""From the cluster's objects to the router: the table in force, and the word about it in the endpoints' status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from moorage.errors import Forbidden
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import ONLINE_ENDPOINT
from moorage.routing.publish import publish
from moorage.specs.manifest import Manifest
from moorage.specs.routing import RoutingTable
from moorage.testing.builders import an_online_endpoint
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster
from moorage.testing.world import until


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with in_memory_cluster() as memory:
        yield memory


class Tables:
    """The tables that a router was given."""

    def __init__(self) -> None:
        self.last: RoutingTable | None = None
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def replace(self, table: RoutingTable) -> None:
        self.last = table
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def until_keys(self, *keys: str) -> None:
        """Wait until the endpoint `digits` opens with these."""
        async with asyncio.timeout(90), self._changed:
            await self._changed.wait_for(lambda: self.keys == [bytes.fromhex(key) for key in keys])

    @property
    def keys(self) -> list[bytes]:
        return list(self.last.endpoints["digits"].key_digests) if self.last is not None and "digits" in self.last.endpoints else []

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def publishing(cluster: Cluster) -> AsyncIterator[Tables]:
    tables = Tables()
    task = asyncio.create_task(publish(cluster, tables.replace))
    try:
        yield tables
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def routed(generation: int) -> Callable[[Manifest], bool]:
    def holds(endpoint: Manifest) -> bool:
        return bool((endpoint.get("status") or {}).get("routedGeneration") == generation == endpoint["metadata"]["generation"])

    return holds


async def test_the_status_of_an_endpoint_says_which_generation_the_router_serves(cluster: Cluster) -> None:
    first, second = "a" * 64, "b" * 64
    await cluster.create(ONLINE_ENDPOINT, an_online_endpoint("digits", keySha256=[first]))
    async with publishing(cluster) as tables:
        await until(cluster, ONLINE_ENDPOINT, "digits", "default", routed(1))
        assert tables.keys == [bytes.fromhex(first)]
        await cluster.patch(ONLINE_ENDPOINT, "digits", "default", {"spec": {"keySha256": [second]}})
        await until(cluster, ONLINE_ENDPOINT, "digits", "default", routed(2))
        assert tables.keys == [bytes.fromhex(second)]
        # A change that the table does not show is in force as well.
        await cluster.patch(ONLINE_ENDPOINT, "digits", "default", {"spec": {"subscription": "another"}})
        await until(cluster, ONLINE_ENDPOINT, "digits", "default", routed(3))
    wired = WiredCluster(cluster)
    async with publishing(wired) as tables:
        await tables.until_keys(second)
        await cluster.create(ONLINE_ENDPOINT, an_online_endpoint("letters"))
        await until(cluster, ONLINE_ENDPOINT, "letters", "default", routed(1))
    assert [request.name for request in wired.writes] == ["letters"], "what is known to be in force is not told again"


async def test_a_router_that_may_not_write_the_status_routes_all_the_same(cluster: Cluster) -> None:
    """With a role of an earlier version, say."""
    first, second = "a" * 64, "b" * 64

    def forbid(request: Request) -> None:
        if request.verb == "patch":
            raise Forbidden("not the router")

    await cluster.create(ONLINE_ENDPOINT, an_online_endpoint("digits", keySha256=[first]))
    wired = WiredCluster(cluster, before=forbid)
    async with publishing(wired) as tables:
        await tables.until_keys(first)
        await cluster.patch(ONLINE_ENDPOINT, "digits", "default", {"spec": {"keySha256": [second]}})
        await tables.until_keys(second)
        wired.before = None
        await until(cluster, ONLINE_ENDPOINT, "digits", "default", routed(2))
