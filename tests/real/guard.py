"""Which clusters tests may run on: they create and delete what they like, custom resource definitions included."""

from __future__ import annotations

from moorage.errors import MoorageError
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import NAMESPACE
from moorage.kube.metadata import labels_of
from tests.real.control_plane.plane import MARK


async def objection(cluster: Cluster, name: str) -> str | None:
    """Why tests must not run there, with the remedy; None where the cluster says that it is for tests.

    The mark stands in the cluster and not in the kubeconfig: names of contexts are anybody's choice, and yesterday's kubeconfig may lead elsewhere today.
    """
    try:
        namespace = await cluster.get(NAMESPACE, "default")
    except MoorageError as error:
        return f"The cluster of {name} cannot be asked whether it is for tests: {error}"
    if labels_of(namespace).get(MARK) == "true":
        return None
    return (
        f"The cluster of {name} is not marked as one for tests, which create and delete what they like. "
        f"If it is one: kubectl label namespace default {MARK}=true"
    )
