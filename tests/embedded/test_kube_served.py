"""Noticing that a kind which need not be there has come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from moorage.errors import Forbidden
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import CRD, Kind
from moorage.kube.metadata import version_of
from moorage.kube.served import served, until_served
from moorage.specs.manifest import Manifest
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster
from moorage.testing.world import until

WIDGET = Kind("example.org", "v2", "Widget", "widgets")
SECONDS = 90


def definition(versions: Sequence[str]) -> Manifest:
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.org"},
        "spec": {
            "group": "example.org",
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
            "scope": "Namespaced",
            "versions": [{"name": name, "served": True, "storage": name == "v1", "schema": schema} for name in versions],
        },
    }


@asynccontextmanager
async def noticing(cluster: Cluster) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(until_served(cluster, WIDGET))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_kind_that_comes_later_is_noticed_once_its_version_is_served() -> None:
    async with in_memory_cluster(crds=False) as cluster, noticing(cluster) as waiting:
        made = await cluster.create(CRD, definition(["v1"]))
        established = await until(cluster, CRD, "widgets.example.org", None, lambda one: bool((one.get("status") or {}).get("conditions")))
        assert not waiting.done() and not await served(cluster, WIDGET)
        await cluster.replace(
            CRD, {**definition(["v1", "v2"]), "metadata": {**made["metadata"], "resourceVersion": version_of(established)}}
        )
        await asyncio.wait_for(waiting, SECONDS)
        assert await served(cluster, WIDGET)
        # One that is there already is no matter of waiting.
        await asyncio.wait_for(until_served(cluster, WIDGET), SECONDS)


@pytest.mark.looptime
async def test_without_the_right_to_see_definitions_nothing_is_tried_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    def role(request: Request) -> None:
        if request.kind == CRD:
            raise Forbidden('customresourcedefinitions.apiextensions.k8s.io is forbidden: User "x" cannot list resource')

    async with in_memory_cluster(crds=False) as memory:
        cluster = WiredCluster(memory, before=role)
        with caplog.at_level(logging.WARNING, "moorage.kube.served"):
            async with noticing(cluster) as waiting:
                await asyncio.sleep(3600)
                assert not waiting.done()
        assert ["whether widgets.example.org will come is not noticed" in record.message for record in caplog.records] == [True]
        assert [request.verb for request in cluster.requests] == ["list"]
