"""The workspace service killed between what it was asked and what its clusters say: what its next life makes of that."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.embedded.server_workloads_peers import Service, compute_body, endpoint_body, inventory, running

from moorage import clock
from moorage.cli import extension, up
from moorage.client.connection import Client
from moorage.client.profile import load, save
from moorage.server.engine.engine import advance
from moorage.server.resources import computes
from moorage.server.upkeep import tidy

OTHER = "/subscriptions/s1/resourceGroups/g1/providers/Microsoft.Kubernetes/connectedClusters/c2"


def much_later() -> datetime:
    return clock.now() + timedelta(days=8)


async def test_what_clusters_had_no_chance_to_confirm_while_no_service_ran_is_not_late(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.seed()
        agent = await service.attached()
        endpoint = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
        other = await service.agent(OTHER)
        attaching = await service.operation("PUT", "computes/other", compute_body(OTHER))
    async with running(tmp_path, now=much_later) as service:
        agent.url = other.url = service.url
        await other.report(inventory())
        assert (await service.ended(attaching))["status"] == "Succeeded"
        async with agent.connected():
            await agent.report(agent.status(await agent.has("digits"), {}))
            assert (await service.ended(endpoint))["status"] == "Succeeded"


async def test_an_endpoint_is_deleted_although_its_cluster_stays_away_for_longer_than_deletions_are_remembered(tmp_path: Path) -> None:
    passed = timedelta(0)
    async with running(tmp_path, now=lambda: clock.now() + passed) as service:
        agent, services = await service.attached(), service.services
        async with agent.connected():
            creating = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
            await agent.report(agent.status(await agent.has("digits"), {}))
            await service.ended(creating)
        deleting = await service.operation("DELETE", "onlineEndpoints/digits")
        assert (await service.call("GET", deleting))["status"] == "InProgress"
        passed = timedelta(days=8)
        await tidy(services)
        await services.store.write(lambda tx: advance(tx, services.settings.agent_timeout))
        # The caller's token has a shorter life.
        passed = timedelta(0)
        assert (await service.call("GET", deleting))["status"] == "Succeeded"
        await service.call("GET", "onlineEndpoints/digits", status=404)


def keep_profile(service: Service) -> None:
    token = service.user.headers["Authorization"].partition(" ")[2]
    save({"url": service.url, "token": token, "subscription": "s1", "resource_group": "g1", "workspace": "w1"})


@pytest.mark.slow  # a workspace and a cluster
async def test_up_attaches_its_cluster_again_when_it_was_not_heard_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = OTHER.replace("c2", "local")
    asked = compute_body(cluster, "default")
    asked["tags"] = {"team": "vision"}
    asked["properties"]["properties"]["defaultInstanceType"] = "small"
    monkeypatch.setattr(computes, "_HEARD_WITHIN", timedelta(0))
    async with running(tmp_path) as service:
        agent = await service.agent(cluster)
        late = await service.ended(await service.operation("PUT", "computes/local", asked))
        assert late["error"]["code"] == "ClusterNotConnected"
        monkeypatch.undo()
        monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "home"))
        keep_profile(service)
        await agent.report(inventory())
        for _ in range(2):
            await asyncio.to_thread(up._attach)
            found = await service.call("GET", "computes/local")
            assert (found["properties"]["provisioningState"], found["tags"]) == ("Succeeded", {"team": "vision"})
            assert found["properties"]["properties"]["defaultInstanceType"] == "small"


async def test_an_installed_agent_whose_token_was_replaced_gets_another_by_installing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had the later one may have been killed before it came into the cluster."""
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "home"))
    cluster = OTHER.replace("c2", "local")
    async with running(tmp_path) as service:
        installed, lost = await service.agent(cluster), await service.agent(cluster)
        keep_profile(service)

        def register(token: str) -> tuple[str, str]:
            with Client(load()) as client:
                return extension.register(client, "local", (installed.registration, token))

        registration, fresh = await asyncio.to_thread(register, installed.token)
        assert registration == installed.registration and fresh not in (installed.token, lost.token)
        # One that works stays: the agent uses it.
        assert await asyncio.to_thread(register, fresh) == (registration, fresh)
