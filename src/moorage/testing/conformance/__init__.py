"""What `moorage.kube.cluster.Cluster` promises, as tests that every implementation passes: the embedded cluster, the client over HTTP, real Kubernetes.

Subclass `ClusterConformance` in a test module and give it two fixtures: `cluster`, the implementation, and `namespace`, the name of a fresh
namespace in it. Add `ControllerConformance` where garbage collection and namespace deletion run. Tests are plain coroutines (pytest-asyncio, auto mode).
Nothing here asks for more than Kubernetes itself does.
"""

from moorage.testing.conformance.custom import CustomResourceConformance
from moorage.testing.conformance.deletion import ControllerConformance, DeletionConformance
from moorage.testing.conformance.informers import InformerConformance
from moorage.testing.conformance.objects import ObjectConformance
from moorage.testing.conformance.patches import PatchConformance
from moorage.testing.conformance.watches import WatchConformance

__all__ = ["ClusterConformance", "ControllerConformance"]


class ClusterConformance(
    ObjectConformance, PatchConformance, WatchConformance, InformerConformance, DeletionConformance, CustomResourceConformance
):
    """All that an API server alone can be held to."""
