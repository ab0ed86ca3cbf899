"""What controllers and the scheduler of the embedded cluster do, case by case as on a real Kubernetes (tests/real/test_controllers.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance")

from moorage.clock import Clock, now  # noqa: E402
from moorage.embedded.control.run import Patience, run_controllers  # noqa: E402
from moorage.embedded.local import LocalCluster, open_cluster  # noqa: E402
from moorage.kube.cluster import Cluster  # noqa: E402
from moorage.kube.kinds import NAMESPACE, POD, SERVICE_ACCOUNT  # noqa: E402
from moorage.kube.metadata import name_of  # noqa: E402
from moorage.testing.builders import a_namespace  # noqa: E402
from moorage.testing.conformance.disruptions import DisruptionConformance  # noqa: E402
from moorage.testing.conformance.jobs import JobConformance  # noqa: E402
from moorage.testing.conformance.nodes import NodeLossConformance  # noqa: E402
from moorage.testing.conformance.preemption import PreemptionConformance, asking  # noqa: E402
from moorage.testing.conformance.refusals import RefusalConformance  # noqa: E402
from moorage.testing.conformance.sets import DaemonSetConformance, StatefulSetConformance  # noqa: E402
from moorage.testing.puppets import EXIT, Puppets, puppets  # noqa: E402
from moorage.testing.world import until, until_all  # noqa: E402

BEGIN = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def virtual() -> datetime:
    return BEGIN + timedelta(seconds=asyncio.get_running_loop().time())


async def a_case(cluster: Cluster) -> str:
    """A namespace that accepts pods."""
    await cluster.create(NAMESPACE, a_namespace("case"))
    await until(cluster, SERVICE_ACCOUNT, "default", "case", lambda _: True)
    return "case"


@asynccontextmanager
async def controlled(volumes: Path, *, clock: Clock = now, **rest: Any) -> AsyncIterator[LocalCluster]:
    """A cluster in memory with its controllers at work."""
    cluster = await open_cluster(clock=clock)
    task = asyncio.create_task(run_controllers(cluster.with_manager("controllers"), volumes=volumes, clock=clock, **rest))
    try:
        yield cluster
        assert not task.done(), task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.close()


class TestOnTheEmbeddedCluster(
    StatefulSetConformance, DaemonSetConformance, DisruptionConformance, PreemptionConformance, RefusalConformance, JobConformance
):
    @pytest.fixture
    async def cluster(self, tmp_path: Path) -> AsyncIterator[Cluster]:
        async with controlled(tmp_path) as cluster:
            yield cluster

    @pytest.fixture
    async def namespace(self, cluster: Cluster) -> str:
        return await a_case(cluster)

    @pytest.fixture
    async def puppets(self, cluster: Cluster, namespace: str) -> AsyncIterator[Puppets]:
        async with puppets(cluster, namespace) as played:
            yield played


_LOSSES = NodeLossConformance()


# Minutes pass here, on the loop's own clock: fixtures would begin on another one.
@pytest.mark.looptime
@pytest.mark.parametrize(
    "case",
    [_LOSSES.test_a_silent_node_is_lost_and_its_pods_go_as_they_tolerate_it, _LOSSES.test_pods_of_a_node_that_is_deleted_are_given_up],
    ids=["silent", "deleted"],
)
async def test_pods_of_lost_nodes_go_as_on_a_real_cluster(case: Callable[..., Awaitable[None]], tmp_path: Path) -> None:
    async with controlled(tmp_path, clock=virtual) as cluster:
        namespace = await a_case(cluster)
        async with puppets(cluster, namespace, clock=virtual) as played:
            await case(cluster, namespace, played)


@pytest.mark.looptime
async def test_of_many_finished_pods_the_oldest_go(tmp_path: Path) -> None:
    async with controlled(tmp_path, clock=virtual, patience=Patience(finished_pods=2)) as cluster:
        namespace = await a_case(cluster)
        async with puppets(cluster, namespace, clock=virtual) as played:
            for number in range(4):
                await cluster.create(POD, asking(played, namespace, f"done-{number}", "1", notes={EXIT: "0"}))
                await asyncio.sleep(2)  # of the loop's clock, so that one is older than the next
            pods = await until_all(cluster, POD, namespace, lambda found: {name_of(pod) for pod in found} <= {"done-2", "done-3"})
            assert {name_of(pod) for pod in pods} == {"done-2", "done-3"}
