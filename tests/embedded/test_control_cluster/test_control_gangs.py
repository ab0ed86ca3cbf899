"""Gangs on the embedded scheduler, held to the same tests as the real Volcano (tests/real/test_gangs.py)."""

from __future__ import annotations

from typing import Any

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance.gangs")

from moorage.kube.cluster import Cluster  # noqa: E402
from moorage.kube.kinds import NAMESPACE  # noqa: E402
from moorage.specs.manifest import Manifest  # noqa: E402
from moorage.testing.builders import a_namespace  # noqa: E402
from moorage.testing.conformance.gangs import GangConformance  # noqa: E402


class TestOnTheEmbeddedScheduler(GangConformance):
    @pytest.fixture
    def cluster(self, stage: Any) -> Cluster:
        found: Cluster = stage.cluster
        return found

    @pytest.fixture
    async def namespace(self, cluster: Cluster) -> str:
        await cluster.create(NAMESPACE, a_namespace("gangs"))
        return "gangs"

    def ending(self, pod: Manifest) -> Manifest:
        pod["metadata"]["annotations"]["puppet/exit"] = "0"
        return pod
