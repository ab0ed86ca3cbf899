"""The same cases on the controllers and the scheduler of a real Kubernetes, with puppet nodes: what the embedded ones are held to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance")

from moorage.kube.cluster import Cluster  # noqa: E402
from moorage.testing.conformance.disruptions import DisruptionConformance  # noqa: E402
from moorage.testing.conformance.jobs import JobConformance  # noqa: E402
from moorage.testing.conformance.nodes import NodeLossConformance  # noqa: E402
from moorage.testing.conformance.preemption import PreemptionConformance  # noqa: E402
from moorage.testing.conformance.refusals import RefusalConformance  # noqa: E402
from moorage.testing.conformance.sets import DaemonSetConformance, StatefulSetConformance  # noqa: E402
from moorage.testing.puppets import Puppets, puppets  # noqa: E402


class TestOnRealKubernetes(
    StatefulSetConformance,
    DaemonSetConformance,
    DisruptionConformance,
    PreemptionConformance,
    NodeLossConformance,
    RefusalConformance,
    JobConformance,
):
    @pytest.fixture
    async def puppets(self, cluster: Cluster, namespace: str) -> AsyncIterator[Puppets]:
        async with puppets(cluster, namespace) as played:
            yield played
