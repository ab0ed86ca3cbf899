"""The embedded cluster killed between the writes of one request: what is begun is brought to its end by the next life."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from moorage.embedded import bootstrap
from moorage.embedded.control.run import run_controllers
from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.objects import ObjectStore, Window
from moorage.embedded.registry import Registry
from moorage.embedded.storage import Journal, Record
from moorage.embedded.tokens import open_issuer
from moorage.errors import Unavailable
from moorage.kube.kinds import CRD, Kind
from moorage.testing.world import until_gone

WIDGET = Kind("example.org", "v1", "Widget", "widgets")
DEFINITION = {
    "metadata": {"name": "widgets.example.org"},
    "spec": {
        "group": "example.org",
        "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}],
    },
}


class DyingDisk(Journal):
    """Takes so many batches of writes, and none after that: as if the process were killed there."""

    def __init__(self, path: Path, batches: int) -> None:
        super().__init__(path)
        self.left = batches

    def append(self, batch: Sequence[Record]) -> None:
        if self.left == 0:
            raise Unavailable("the disk is gone")
        self.left -= 1
        super().append(batch)


@asynccontextmanager
async def doomed(path: Path, batches: int) -> AsyncIterator[tuple[LocalCluster, DyingDisk]]:
    disk = DyingDisk(path, -1)
    registry = Registry(ObjectStore(disk, Window()))
    await bootstrap.prepare(registry)
    disk.left = batches
    cluster = LocalCluster(registry, open_issuer(None))
    try:
        yield cluster, disk
    finally:
        await cluster.close()


@asynccontextmanager
async def alive(path: Path) -> AsyncIterator[LocalCluster]:
    cluster = await open_cluster(path)
    controllers = asyncio.create_task(run_controllers(cluster, volumes=path.parent / "volumes"))
    try:
        yield cluster
    finally:
        controllers.cancel()
        await asyncio.gather(controllers, return_exceptions=True)
        await cluster.close()


@pytest.fixture
async def prepared(tmp_path: Path) -> Path:
    """The state of a cluster with two widgets."""
    path = tmp_path / "prepared" / "state.db"
    cluster = await open_cluster(path)
    await cluster.create(CRD, DEFINITION)
    for name in ("one", "two"):
        await cluster.create(WIDGET, {"metadata": {"name": name, "namespace": "default"}})
    await cluster.close()
    return path


@pytest.mark.slow  # a process for each write
async def test_a_definition_whose_deletion_was_cut_off_at_any_write_goes_with_its_objects(prepared: Path, tmp_path: Path) -> None:
    for writes in range(10):
        path = tmp_path / str(writes) / "state.db"
        path.parent.mkdir()
        shutil.copy(prepared, path)
        async with doomed(path, writes) as (cluster, disk):
            with suppress(Unavailable):
                await cluster.delete(CRD, "widgets.example.org")
            whole = disk.left > 0
        if writes > 0:
            async with alive(path) as cluster:
                await until_gone(cluster, CRD, "widgets.example.org", None)
        if whole:
            break
    assert writes == 5, "the mark, two objects and the definition: a kill after none, one, two, three; then none"
