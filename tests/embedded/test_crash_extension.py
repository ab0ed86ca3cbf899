"""The extension's installation and removal cut off at any write, and done again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from moorage.clock import now
from moorage.extension import install
from moorage.extension.manifests import AGENT, ROUTER, Connection
from moorage.extension.settings import parse_settings
from moorage.kube.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, CRD, DEPLOYMENT, NODE, SECRET, SERVICE, SERVICE_ACCOUNT
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster

TRAINING = {"enableTraining": "True"}
BOTH = TRAINING | {
    "enableInference": "True",
    "inferenceRouterServiceType": "ClusterIP",
    "allowInsecureConnections": "True",
    "inferenceRouterHA": "False",
}
CONNECTION = Connection("https://127.0.0.1:1", "r", "t", "")


class Killed(Exception):
    """The installer ends here."""


def dying(cluster: WiredCluster, writes: int) -> None:
    """Let so many more writes pass, and none after them."""
    left = writes

    def before(request: Request) -> None:
        nonlocal left
        if request.writes:
            left -= 1
            if left < 0:
                raise Killed

    cluster.before = before


@asynccontextmanager
async def a_cluster() -> AsyncIterator[WiredCluster]:
    async with in_memory_cluster(crds=False) as memory:
        await memory.create(NODE, {"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        yield WiredCluster(memory)


async def put_in(cluster: WiredCluster, settings: dict[str, str]) -> install.Installed:
    return await install.install(cluster, "m", parse_settings(settings), CONNECTION, now=now(), report=lambda line: None, wait=None)


async def contents(cluster: WiredCluster) -> set[str]:
    found = set()
    for kind in (CRD, CLUSTER_ROLE, CLUSTER_ROLE_BINDING, DEPLOYMENT, SECRET, SERVICE, SERVICE_ACCOUNT):
        for each in (await cluster.list(kind, labels="moorage.dev/extension=m")).items:
            found.add(f"{kind.kind} {each['metadata']['name']}")
    return found


async def test_of_a_change_of_settings_that_was_cut_off_nothing_stays_when_the_extension_goes() -> None:
    async with a_cluster() as cluster:
        await put_in(cluster, BOTH)

        def before(request: Request) -> None:
            if request.verb == "delete":
                raise Killed

        cluster.before = before
        with pytest.raises(Killed):
            await put_in(cluster, TRAINING)
        cluster.before = None
        assert "ClusterRole moorage-azureml-fe-v2" in await contents(cluster)
        await install.delete(cluster, "m", report=lambda line: None, wait=None)
        assert await contents(cluster) == set()


async def test_an_installation_that_was_cut_off_before_its_last_component_is_not_said_to_have_succeeded() -> None:
    async with a_cluster() as cluster:

        def before(request: Request) -> None:
            if (request.verb, request.kind, request.name) == ("apply", DEPLOYMENT, ROUTER):
                raise Killed

        cluster.before = before
        with pytest.raises(Killed):
            await put_in(cluster, BOTH)
        ready = {"observedGeneration": 9, "updatedReplicas": 1, "availableReplicas": 1}
        await cluster.patch(DEPLOYMENT, AGENT, "azureml", {"status": ready}, subresource="status")
        assert (await install.show(cluster, "m")).state == "Creating"
        cluster.before = None
        await put_in(cluster, BOTH)
        for name in (AGENT, ROUTER):
            await cluster.patch(DEPLOYMENT, name, "azureml", {"status": ready}, subresource="status")
        assert (await install.show(cluster, "m")).state == "Succeeded"


@pytest.mark.slow  # a fresh cluster for each of some twenty writes
@pytest.mark.parametrize(("before", "settings"), [(None, BOTH), (TRAINING, BOTH), (BOTH, TRAINING)])
async def test_an_installation_cut_off_at_any_write_is_whole_when_it_is_done_again(
    before: dict[str, str] | None, settings: dict[str, str]
) -> None:
    async with a_cluster() as whole:
        await put_in(whole, settings)
        wanted = await contents(whole)
    for writes in range(100):
        async with a_cluster() as cluster:
            if before is not None:
                await put_in(cluster, before)
            dying(cluster, writes)
            try:
                await put_in(cluster, settings)
                break
            except Killed:
                cluster.before = None
            await put_in(cluster, settings)
            assert await contents(cluster) == wanted
    assert writes > 10


@pytest.mark.slow  # a fresh cluster for each of some twenty writes
async def test_a_removal_cut_off_at_any_write_leaves_nothing_when_it_is_done_again() -> None:
    for writes in range(100):
        async with a_cluster() as cluster:
            await put_in(cluster, BOTH)
            dying(cluster, writes)
            try:
                await install.delete(cluster, "m", report=lambda line: None, wait=None)
                break
            except Killed:
                cluster.before = None
            await install.delete(cluster, "m", report=lambda line: None, wait=None)
            assert await contents(cluster) == set()
    assert writes > 10
