"""The informer on an in-memory cluster whose watches die, expire and fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from moorage.embedded.local import open_cluster
from moorage.errors import Expired, NotFound, Unavailable
from moorage.kube.cluster import Cluster
from moorage.kube.informer import Informer, Informers
from moorage.kube.kinds import CONFIG_MAP, POD, POD_GROUP, SECRET
from moorage.kube.metadata import name_of
from moorage.specs.manifest import Manifest
from moorage.testing.builders import a_config_map, a_pod, a_secret
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster

Change = tuple[str | None, str | None]


@asynccontextmanager
async def running(informer: Informer) -> AsyncIterator[list[Change]]:
    """Runs it; gives the changes it tells of, as (old data, new data)."""
    changes: list[Change] = []

    def data(manifest: Manifest | None) -> str | None:
        return None if manifest is None else f"{name_of(manifest)}:{(manifest.get('data') or {}).get('v', '')}"

    informer.subscribe(lambda old, new: changes.append((data(old), data(new))))
    task = asyncio.create_task(informer.run())
    try:
        await informer.synced.wait()
        yield changes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def shows(informer: Informer, *expected: str) -> None:
    """Wait until exactly these names are known."""
    async with asyncio.timeout(100):
        while sorted(name_of(manifest) for manifest in informer) != sorted(expected):
            await asyncio.sleep(0.01)


@pytest.mark.looptime
async def test_it_lists_then_follows_and_tells_old_and_new() -> None:
    async with in_memory_cluster(crds=False) as cluster:
        await cluster.create(CONFIG_MAP, a_config_map("a", {"v": "1"}))
        informer = Informer(cluster, CONFIG_MAP)
        async with running(informer) as changes:
            await cluster.patch(CONFIG_MAP, "a", "default", {"data": {"v": "2"}})
            await cluster.create(CONFIG_MAP, a_config_map("b", {"v": "1"}))
            await cluster.delete(CONFIG_MAP, "a", "default")
            await shows(informer, "b")
            assert changes == [(None, "a:1"), ("a:1", "a:2"), (None, "b:1"), ("a:2", None)]


@pytest.mark.looptime
async def test_a_subscriber_that_fails_on_one_object_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with in_memory_cluster(crds=False) as cluster:
        informer = Informer(cluster, CONFIG_MAP)

        def picky(old: Manifest | None, new: Manifest | None) -> None:
            if new is not None and name_of(new) == "poison":
                raise ValueError("cannot be read")

        informer.subscribe(picky)
        async with running(informer) as changes:
            for name in ("poison", "fine"):
                await cluster.create(CONFIG_MAP, a_config_map(name, {"v": "1"}))
            await shows(informer, "fine", "poison")
            assert changes == [(None, "poison:1"), (None, "fine:1")]
            assert informer.lists == 1
    assert "default/poison: whoever follows it failed" in caplog.text


@pytest.mark.looptime
async def test_a_watch_that_dies_is_taken_up_where_it_was_without_a_list() -> None:
    async with in_memory_cluster(crds=False) as memory:
        cluster = WiredCluster(memory)
        informer = Informer(cluster, CONFIG_MAP)
        async with running(informer) as changes:
            for number in range(3):

                def die(request: Request) -> None:
                    cluster.during = None
                    raise Unavailable("connection reset")

                cluster.during = die
                await memory.create(CONFIG_MAP, a_config_map(f"m{number}"))
                await shows(informer, *(f"m{n}" for n in range(number + 1)))
            assert len(changes) == 3
            verbs = [request.verb for request in cluster.requests]
            assert (verbs.count("list"), verbs.count("watch")) == (1, 4)


@pytest.mark.looptime
async def test_an_expired_watch_lists_again_tells_only_differences_and_never_lists_in_a_hot_loop() -> None:
    async with in_memory_cluster(crds=False) as memory:
        cluster = WiredCluster(memory)
        for name in ("kept", "dropped", "remade"):
            await memory.create(CONFIG_MAP, a_config_map(name, {"v": "1"}))
        informer = Informer(cluster, CONFIG_MAP)

        def expire(request: Request) -> None:
            if request.verb == "watch":
                raise Expired("too old resource version")

        def die(request: Request) -> None:
            cluster.before = expire
            raise Unavailable("connection reset")

        async with running(informer) as changes:
            changes.clear()
            cluster.during = die
            await memory.delete(CONFIG_MAP, "dropped", "default")
            await memory.delete(CONFIG_MAP, "remade", "default")
            await memory.create(CONFIG_MAP, a_config_map("remade", {"v": "2"}))
            await shows(informer, "kept", "remade")
            assert sorted(changes, key=str) == sorted([("dropped:1", None), ("remade:1", None), (None, "remade:2")], key=str)
            loop = asyncio.get_running_loop()
            lists, began = informer.lists, loop.time()
            await asyncio.sleep(300)
            assert informer.lists - lists <= (loop.time() - began) / 5 + 5
            cluster.before = cluster.during = None
            await memory.create(CONFIG_MAP, a_config_map("later"))
            await shows(informer, "kept", "remade", "later")


async def test_it_survives_a_restart_of_the_api_with_its_state_on_disk(tmp_path: Path) -> None:
    current: list[Cluster] = [await open_cluster(tmp_path / "state.db")]

    class Restartable(WiredCluster):
        """Always talks to the API that runs now."""

        @property
        def _cluster(self) -> Cluster:
            return current[0]

        @_cluster.setter
        def _cluster(self, cluster: Cluster) -> None:
            del cluster

    informer = Informer(Restartable(current[0]), CONFIG_MAP)
    await current[0].create(CONFIG_MAP, a_config_map("before"))
    async with running(informer):
        await shows(informer, "before")
        await current[0].close()
        current[0] = await open_cluster(tmp_path / "state.db")
        await current[0].create(CONFIG_MAP, a_config_map("after"))
        await shows(informer, "before", "after")
    await current[0].close()


@pytest.mark.looptime
async def test_a_kind_that_is_not_installed_yet_is_waited_for() -> None:
    async with in_memory_cluster(crds=False) as memory:
        missing = True

        def unknown(request: Request) -> None:
            if missing and request.kind == POD_GROUP:
                raise NotFound("the server could not find the requested resource")

        informer = Informer(WiredCluster(memory, before=unknown), CONFIG_MAP)
        late = Informer(WiredCluster(memory, before=unknown), POD_GROUP)
        waiting = asyncio.create_task(late.run())
        async with running(informer):
            await asyncio.sleep(120)
            assert not late.synced.is_set()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.looptime
async def test_a_silent_watch_is_given_up_and_taken_up_again() -> None:
    class Silent(WiredCluster):
        async def watch(self, *args: object, **kwargs: object) -> AsyncIterator[object]:  # type: ignore[override]
            self.requests.append(Request("watch", CONFIG_MAP))
            await asyncio.get_running_loop().create_future()
            yield

    async with in_memory_cluster(crds=False) as memory:
        cluster = Silent(memory)
        async with running(Informer(cluster, CONFIG_MAP)):
            await asyncio.sleep(timedelta(hours=1).total_seconds())
        watches = [request for request in cluster.requests if request.verb == "watch"]
        assert 25 <= len(watches) <= 40


@pytest.mark.looptime
async def test_indexes_follow_every_change_and_owners_are_found_by_uid() -> None:
    async with in_memory_cluster(crds=False) as cluster:
        informer = Informer(cluster, POD)
        informer.add_index("node", lambda pod: (pod["spec"].get("nodeName", ""),))
        owner = await cluster.create(SECRET, a_secret("owner"))
        async with running(informer):
            await cluster.create(POD, a_pod("p", owner=owner))
            await cluster.create(POD, a_pod("q"))
            await shows(informer, "p", "q")
            assert [name_of(pod) for pod in informer.controlled_by(owner["metadata"]["uid"])] == ["p"]
            assert len(informer.find("node", "")) == 2
            await cluster.bind("default", "p", "n1")
            while not informer.find("node", "n1"):
                await asyncio.sleep(0.01)
            assert [name_of(pod) for pod in informer.find("node", "")] == ["q"]
            assert informer.with_uid(informer.find("node", "n1")[0]["metadata"]["uid"]) is informer.get("p", "default")


@pytest.mark.looptime
async def test_shared_informers_are_one_per_kind_and_selector_also_when_asked_for_late() -> None:
    async with in_memory_cluster(crds=False) as cluster:
        await cluster.create(CONFIG_MAP, a_config_map("a", labels={"app": "x"}))
        informers = Informers(cluster)
        first = informers.informer(CONFIG_MAP)
        assert informers.informer(CONFIG_MAP) is first
        running_all = asyncio.create_task(informers.run())
        await informers.synced()
        late = informers.informer(CONFIG_MAP, labels="app=x")
        await asyncio.wait_for(informers.synced(), 60)
        assert late is not first and [name_of(manifest) for manifest in late] == ["a"]
        running_all.cancel()
        await asyncio.gather(running_all, return_exceptions=True)
