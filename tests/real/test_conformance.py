"""The Cluster conformance suite on a real Kubernetes: what the embedded cluster is held to is what Kubernetes does."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance")

from moorage.kube.cluster import Cluster  # noqa: E402
from moorage.testing.conformance import ClusterConformance, ControllerConformance  # noqa: E402
from tests.real.conftest import RealCluster  # noqa: E402


class TestOnRealKubernetes(ClusterConformance, ControllerConformance):
    @pytest.fixture(autouse=True)
    def on(self, real: RealCluster) -> None:
        self.real = real

    async def compact(self, cluster: Cluster) -> bool:
        if self.real.plane is None:
            return False
        self.real.plane.compact()
        return True
