"""Leader election under virtual time: one works, the next takes over, nobody works without the lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from moorage.errors import Unavailable
from moorage.kube.kinds import LEASE
from moorage.kube.leader import LeaderElection, LeaseConfig
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster


@pytest.fixture
async def memory() -> AsyncIterator[WiredCluster]:
    async with in_memory_cluster(crds=False) as cluster:
        yield WiredCluster(cluster)


def candidate(cluster: WiredCluster, identity: str) -> LeaderElection:
    return LeaderElection(cluster, LeaseConfig("agent", "default", identity))


def working(name: str, busy: set[str]) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        busy.add(name)
        assert len(busy) == 1, f"{busy} work at once"
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            busy.discard(name)

    return work


async def stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.looptime
async def test_the_second_candidate_waits_and_takes_over_at_once_when_the_first_stops(memory: WiredCluster) -> None:
    busy: set[str] = set()
    first = asyncio.create_task(candidate(memory, "a").run(working("a", busy)))
    await asyncio.sleep(1)
    second = asyncio.create_task(candidate(memory, "b").run(working("b", busy)))
    await asyncio.sleep(300)
    assert busy == {"a"}
    await stop(first)
    await asyncio.sleep(3)
    assert busy == {"b"}
    assert (await memory.get(LEASE, "agent", "default"))["spec"]["holderIdentity"] == "b"
    await stop(second)
    assert (await memory.get(LEASE, "agent", "default"))["spec"]["holderIdentity"] == ""


@pytest.mark.looptime
async def test_a_leader_cut_off_stops_before_the_other_starts(memory: WiredCluster) -> None:
    busy: set[str] = set()
    cut = False

    def wire(request: Request) -> None:
        if cut:
            raise Unavailable("no route to host")

    first = asyncio.create_task(candidate(WiredCluster(memory, before=wire), "a").run(working("a", busy)))
    await asyncio.sleep(1)
    second = asyncio.create_task(candidate(memory, "b").run(working("b", busy)))
    await asyncio.sleep(60)
    cut = True
    await asyncio.sleep(14)
    assert busy == set()  # given up after ten seconds without renewal; the other waits fifteen
    await asyncio.sleep(10)
    assert busy == {"b"}
    cut = False
    await asyncio.sleep(300)
    assert busy == {"b"}
    await stop(first, second)


@pytest.mark.looptime
async def test_work_that_ends_ends_the_election_and_its_error_is_passed_on(memory: WiredCluster) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await candidate(memory, "a").run(fail)
    assert (await memory.get(LEASE, "agent", "default"))["spec"]["holderIdentity"] == ""
