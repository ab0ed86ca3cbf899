"""Our custom resources on the embedded cluster, held to the same tests as on a real one (tests/real/test_definitions.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance.definitions")

from moorage.kube.cluster import Cluster  # noqa: E402
from moorage.kube.kinds import NAMESPACE  # noqa: E402
from moorage.testing.builders import a_namespace  # noqa: E402
from moorage.testing.conformance.definitions import DefinitionConformance  # noqa: E402
from moorage.testing.memory import in_memory_cluster  # noqa: E402


class TestInProcess(DefinitionConformance):
    @pytest.fixture
    async def cluster(self) -> AsyncIterator[Cluster]:
        async with in_memory_cluster(crds=False) as cluster:
            yield cluster

    @pytest.fixture
    async def namespace(self, cluster: Cluster) -> str:
        await cluster.create(NAMESPACE, a_namespace("conformance"))
        return "conformance"
