"""What controllers and the scheduler of the embedded cluster do, case by case as on a real Kubernetes (tests/real/test_controllers.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance")

from moorage.embedded.control.run import run_controllers  # noqa: E402
from moorage.kube.cluster import Cluster  # noqa: E402
from moorage.kube.kinds import NAMESPACE, SERVICE_ACCOUNT  # noqa: E402
from moorage.testing.builders import a_namespace  # noqa: E402
from moorage.testing.conformance.disruptions import DisruptionConformance  # noqa: E402
from moorage.testing.conformance.preemption import PreemptionConformance  # noqa: E402
from moorage.testing.conformance.refusals import RefusalConformance  # noqa: E402
from moorage.testing.conformance.sets import DaemonSetConformance, StatefulSetConformance  # noqa: E402
from moorage.testing.memory import in_memory_cluster  # noqa: E402
from moorage.testing.puppets import Puppets, puppets  # noqa: E402
from moorage.testing.world import until  # noqa: E402


class TestOnTheEmbeddedCluster(
    StatefulSetConformance, DaemonSetConformance, DisruptionConformance, PreemptionConformance, RefusalConformance
):
    @pytest.fixture
    async def cluster(self, tmp_path: Path) -> AsyncIterator[Cluster]:
        async with in_memory_cluster(crds=False) as cluster:
            task = asyncio.create_task(run_controllers(cluster.with_manager("controllers"), volumes=tmp_path))
            yield cluster
            assert not task.done(), task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @pytest.fixture
    async def namespace(self, cluster: Cluster) -> str:
        await cluster.create(NAMESPACE, a_namespace("case"))
        await until(cluster, SERVICE_ACCOUNT, "default", "case", lambda _: True)
        return "case"

    @pytest.fixture
    async def puppets(self, cluster: Cluster, namespace: str) -> AsyncIterator[Puppets]:
        async with puppets(cluster, namespace) as played:
            yield played
