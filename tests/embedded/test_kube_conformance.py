"""The Cluster conformance suite on the embedded cluster, in process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance")

from moorage.embedded.local import LocalCluster  # noqa: E402
from moorage.kube.cluster import Cluster  # noqa: E402
from moorage.kube.kinds import CONFIG_MAP, NAMESPACE  # noqa: E402
from moorage.testing.builders import a_namespace  # noqa: E402
from moorage.testing.conformance import ClusterConformance  # noqa: E402
from moorage.testing.memory import in_memory_cluster  # noqa: E402


class TestInProcess(ClusterConformance):
    @pytest.fixture
    async def cluster(self) -> AsyncIterator[Cluster]:
        async with in_memory_cluster(crds=False) as cluster:
            yield cluster

    @pytest.fixture
    async def namespace(self, cluster: Cluster) -> str:
        await cluster.create(NAMESPACE, a_namespace("conformance"))
        return "conformance"

    async def compact(self, cluster: Cluster) -> bool:
        assert isinstance(cluster, LocalCluster)
        cluster.store.forget_before((CONFIG_MAP.group, CONFIG_MAP.plural))
        return True
