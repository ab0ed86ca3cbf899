"""Endpoints with tokens, from the service to what a router makes of the object its cluster was given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from tests.embedded.server_workloads_peers import WS, Agent, Service, endpoint_body, gone, key_of, running

from moorage.clock import now
from moorage.identity.roles import Role
from moorage.ids import kube_name
from moorage.router.authentication import VerifiedTokens, check_of
from moorage.routing.render import render
from moorage.store import ResourceKey

PATH = "onlineEndpoints/digits"
TOKENS = endpoint_body(authMode="aml_token")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(tmp_path) as service:
        yield service


async def put(service: Service, agent: Agent, body: Any = TOKENS) -> Any:
    """Create or change the endpoint; the object its cluster was given."""
    operation = await service.operation("PUT", PATH, body)
    return await settled(service, agent, operation)


async def settled(service: Service, agent: Agent, operation: str) -> Any:
    object = await heard(service, agent)
    await agent.report(agent.status(object, {}))
    assert (await service.ended(operation))["status"] == "Succeeded"
    return object


async def heard(service: Service, agent: Agent) -> Any:
    """The endpoint's object, once the agent has been given it as the service wants it now."""
    key = ResourceKey(WS, "onlineEndpoints", "digits")
    (wanted,) = [each.object for each in await service.services.store.read(lambda tx: list(tx.desired.of_owner(key)))]
    await agent.until(lambda agent: agent.objects.get(kube_name(WS, "digits"), {}).get("spec") == wanted["spec"])
    return agent.objects[kube_name(WS, "digits")]


async def issued(service: Service) -> str:
    return str((await service.call("POST", f"{PATH}/token"))["accessToken"])


def answer(object: Any, credential: str) -> str:
    """What a router of that cluster says to a caller: nothing when it lets it in."""
    object = {**object, "metadata": {**object["metadata"], "creationTimestamp": "2026-01-01T00:00:00Z"}}
    check = check_of(render([object], [], []).endpoints["digits"], VerifiedTokens(), lambda: now().timestamp())
    denied = check(f"Bearer {credential}")
    return denied.message if denied else ""


async def test_a_token_that_the_service_issues_opens_the_endpoint_in_its_cluster(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        object = await put(service, agent)
        assert "keySha256" not in object["spec"] and object["spec"]["authMode"] == "AMLToken"
        told = await service.user.post(f"{WS.id}/{PATH}/token")
        assert told.headers["cache-control"] == "no-store"
        token = told.json()
        assert set(token) == {"accessToken", "tokenType", "expiryTimeUtc", "refreshAfterTimeUtc"} and token["tokenType"] == "Bearer"
        assert answer(object, token["accessToken"]) == ""
        claims = jwt.decode(token["accessToken"], options={"verify_signature": False})
        assert claims["aud"] == f"{WS.id}/{PATH}".lower() and claims["exp"] == token["expiryTimeUtc"] == claims["iat"] + 3600
        assert token["refreshAfterTimeUtc"] == claims["iat"] + 1800
        shown = await service.call("GET", PATH)
        assert shown["properties"]["authMode"] == "AMLToken" and token["accessToken"] not in str(shown)
        refused = await service.call("POST", f"{PATH}/listKeys", status=400)
        assert refused["error"]["code"] == "NoKeys" and "Use token" in refused["error"]["message"]


async def test_the_tokens_of_another_endpoint_and_of_users_do_not_open_it(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        object = await put(service, agent)
        await service.operation("PUT", "onlineEndpoints/letters", TOKENS)
        theirs = (await service.call("POST", "onlineEndpoints/letters/token"))["accessToken"]
        assert "for another endpoint" in answer(object, theirs)
        assert "not one of this endpoint's" in answer(object, service.user.headers["authorization"].partition(" ")[2])
        wrong = await service.user.get(f"{WS.id}/{PATH}", headers={"Authorization": f"Bearer {await issued(service)}"})
        assert wrong.status_code == 401, "an endpoint's token opens nothing of the service"


async def test_who_may_list_keys_may_ask_for_a_token_and_revoke_them(service: Service) -> None:
    await service.attached()
    await service.operation("PUT", PATH, TOKENS)
    for role, statuses in ((Role.READER, (403, 403)), (Role.CONTRIBUTOR, (200, 202)), (Role.OWNER, (200, 202))):
        bearer = service.services.tokens.issue_user("ann", {WS.id: role}, service.services.settings.scoring_token_lifetime)
        as_ann = {"Authorization": f"Bearer {bearer}"}
        asked = [await service.user.post(f"{WS.id}/{PATH}/{action}", json={}, headers=as_ann) for action in ("token", "regenerateKeys")]
        assert tuple(each.status_code for each in asked) == statuses, role


async def test_regenerating_revokes_all_tokens_and_new_ones_need_not_wait_for_the_cluster(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        before = await put(service, agent)
        old = await issued(service)
        operation = await service.operation("POST", f"{PATH}/regenerateKeys", {"keyType": "Primary"})
        after = await settled(service, agent, operation)
        new = await issued(service)
        assert answer(before, old) == answer(before, new) == answer(after, new) == ""
        assert "was revoked" in answer(after, old)


async def test_an_endpoint_made_again_under_its_name_does_not_take_the_tokens_of_the_former_one(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        object = await put(service, agent)
        old = await issued(service)
        operation = await service.operation("DELETE", PATH)
        await agent.until(lambda agent: not agent.objects)
        await agent.report(gone(key_of(object)))
        assert (await service.ended(operation))["status"] == "Succeeded"
        assert "was revoked" in answer(await put(service, agent), old)


async def test_an_endpoint_that_is_being_deleted_is_not_brought_back_by_new_keys(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        object = await put(service, agent)
        operation = await service.operation("DELETE", PATH)
        await agent.until(lambda agent: not agent.objects)
        refused = await service.call("POST", f"{PATH}/regenerateKeys", {"keyType": "Primary"}, status=409)
        assert refused["error"]["code"] == "EndpointDeleting"
        await agent.report(gone(key_of(object)))
        assert (await service.ended(operation))["status"] == "Succeeded"


async def test_who_may_call_can_be_changed_and_is_left_alone_by_those_who_do_not_speak_of_it(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await put(service, agent, endpoint_body())
        keys = await service.call("POST", f"{PATH}/listKeys")
        refused = await service.call("POST", f"{PATH}/token", status=400)
        assert "Use listKeys" in refused["error"]["message"]
        with_tokens = await put(service, agent)
        token = await issued(service)
        assert answer(with_tokens, token) == "" and "not one of" in answer(with_tokens, keys["primaryKey"])
        silent = endpoint_body(description="new")
        del silent["properties"]["authMode"]
        assert answer(await put(service, agent, silent), token) == ""
        assert (await service.call("GET", PATH))["properties"]["authMode"] == "AMLToken"
        with_keys = await put(service, agent, endpoint_body())
        assert answer(with_keys, keys["primaryKey"]) == "" and "auth" not in with_keys["spec"]
        assert "missing or wrong" in answer(with_keys, token)
        assert "was revoked" in answer(await put(service, agent), token), "tokens of before do not come back"


@pytest.mark.parametrize("mode", ["AADToken", "aad_token"])
async def test_tokens_of_users_are_refused_with_the_reason_and_what_to_use(service: Service, mode: str) -> None:
    await service.attached()
    refused = await service.call("PUT", PATH, endpoint_body(authMode=mode), status=400)
    assert refused["error"]["code"] == "AuthModeNotSupported" and refused["error"]["target"] == "properties.authMode"
    assert "Use AMLToken" in refused["error"]["message"]
    await service.call("GET", PATH, status=404)


async def test_the_signing_key_is_replaced_without_a_caller_noticing(tmp_path: Path) -> None:
    keys = tmp_path / "server" / "keys"
    async with running(tmp_path) as service:
        agent = await service.attached()
        async with agent.connected():
            first = await put(service, agent)
            old = await issued(service)
    (keys / "scoring.pem").rename(keys / "scoring-previous.pem")
    async with running(tmp_path) as service:
        agent.url = service.url
        async with agent.connected():
            await agent.until(lambda agent: agent.objects[kube_name(WS, "digits")] != first)
            both = agent.objects[kube_name(WS, "digits")]
            new = await issued(service)
            assert answer(both, old) == answer(both, new) == "" and "not one of" in answer(first, new)
            assert (await service.call("GET", PATH))["properties"]["provisioningState"] == "Succeeded"
            changing = await service.operation("POST", f"{PATH}/regenerateKeys", {})
            new = await issued(service)
    (keys / "scoring-previous.pem").unlink()
    async with running(tmp_path) as service:
        agent.url = service.url
        async with agent.connected():
            # The change that was under way ends with the report about the object as it is now.
            last = await settled(service, agent, changing)
            assert answer(last, new) == "" and "its signing key has been replaced" in answer(last, old)


async def test_the_operator_says_how_long_tokens_live(tmp_path: Path) -> None:
    async with running(tmp_path, scoring_token_lifetime="PT10M") as service:
        await service.attached()
        await service.operation("PUT", PATH, TOKENS)
        token = await service.call("POST", f"{PATH}/token")
        assert token["expiryTimeUtc"] - token["refreshAfterTimeUtc"] == 300
