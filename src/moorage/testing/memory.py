"""A Kubernetes API in this process, in memory: objects, watches, patches and validation, but neither controllers nor nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import resources

import yaml

from moorage.embedded.backend import NodeBackend
from moorage.embedded.local import LocalCluster, open_cluster
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import CRD
from moorage.specs.manifest import Manifest


@asynccontextmanager
async def in_memory_cluster(*, crds: bool = True, backend: NodeBackend | None = None) -> AsyncIterator[LocalCluster]:
    """A fresh cluster that is gone at the end of the block.

    Args:
        crds: install Moorage's own custom resources.
        backend: answers for the nodes, which this cluster does not have: logs.
    """
    cluster = await open_cluster(backend=backend)
    try:
        if crds:
            await install_crds(cluster)
        yield cluster
    finally:
        await cluster.close()


def moorage_crds() -> Iterable[Manifest]:
    """The CustomResourceDefinitions that Moorage brings."""
    for file in sorted(resources.files("moorage.wire.crds").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            yield from (document for document in yaml.safe_load_all(file.read_text()) if document)


async def install_crds(cluster: Cluster) -> None:
    for crd in moorage_crds():
        await cluster.apply(CRD, crd, manager="moorage-extension")
