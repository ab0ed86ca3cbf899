"""Endpoints and deployments from creation to deletion, as a user and a cluster's agent see them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.embedded.server_workloads_peers import (
    CLUSTER,
    OTHER_CLUSTER,
    WS,
    Agent,
    Service,
    compute_body,
    deployment_body,
    endpoint_body,
    gone,
    key_of,
    running,
)

from moorage.ids import kube_name


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(tmp_path) as service:
        await service.seed()
        yield service


async def served(service: Service, agent: Agent) -> None:
    """An endpoint `digits` with a deployment `blue` that has all the traffic."""
    created = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
    await agent.report(agent.status(await agent.has("digits"), {}))
    assert (await service.ended(created))["status"] == "Succeeded"
    deployed = await service.operation("PUT", "onlineEndpoints/digits/deployments/blue", deployment_body())
    await agent.report(agent.status(await agent.has("digits", "blue"), {"phase": "Succeeded", "readyReplicas": 2}))
    assert (await service.ended(deployed))["status"] == "Succeeded"
    shifted = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body(traffic={"blue": 100}))
    await agent.until(lambda agent: agent.objects[kube_name(WS, "digits")]["spec"]["traffic"] == {"blue": 100})
    await agent.report(agent.status(await agent.has("digits"), {}))
    assert (await service.ended(shifted))["status"] == "Succeeded"


async def test_an_endpoint_serves_once_its_cluster_says_so(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await served(service, agent)
        endpoint = await service.call("GET", "onlineEndpoints/digits")
        assert endpoint["properties"]["scoringUri"] == "http://127.101.0.7:80/api/v1/endpoint/digits/score"
        assert endpoint["properties"]["provisioningState"] == "Succeeded" and endpoint["properties"]["properties"] == {}
        deployment = await service.call("GET", "onlineEndpoints/digits/deployments/blue")
        assert deployment["properties"]["scaleSettings"] == {"scaleType": "Default"} and deployment["sku"]["capacity"] == 2
        assert deployment["properties"]["containerResourceRequirements"] == {}
        spec = (await agent.has("digits", "blue"))["spec"]
        assert spec["model"]["kind"] == "file" and spec["code"]["scoringScript"] == "score.py" and spec["replicas"] == 2
        assert (await service.call("GET", "onlineEndpoints/digits/deployments"))["value"][0]["name"] == "blue"
        assert (await service.call("GET", "onlineEndpoints"))["value"][0]["name"] == "digits"


async def test_an_endpoint_is_not_done_before_anybody_in_its_cluster_has_seen_it(service: Service) -> None:
    """A router that has not read it yet answers 404, or 401 to the new key."""
    agent = await service.attached()
    async with agent.connected():
        created = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
        seen = agent.status(await agent.has("digits"), {})
        await agent.report({**seen, "status": {}})
        assert (await service.call("GET", "onlineEndpoints/digits"))["properties"]["provisioningState"] == "Creating"
        await agent.report(seen)
        assert (await service.ended(created))["status"] == "Succeeded"


async def test_keys_reach_the_cluster_as_digests_and_change_when_made_anew(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await served(service, agent)
        keys = await service.call("POST", "onlineEndpoints/digits/listKeys")

        def digests() -> list[str]:
            return list(agent.objects[kube_name(WS, "digits")]["spec"]["keySha256"])

        assert digests() == [hashlib.sha256(keys[name].encode()).hexdigest() for name in ("primaryKey", "secondaryKey")]
        before = digests()
        await service.call(
            "POST", "onlineEndpoints/digits/regenerateKeys", {"keyType": "Primary", "keyValue": keys["primaryKey"]}, status=202
        )
        await agent.until(lambda _: digests() != before)
        after = await service.call("POST", "onlineEndpoints/digits/listKeys")
        assert after["secondaryKey"] == keys["secondaryKey"] and after["primaryKey"] != keys["primaryKey"]
        await service.call("POST", "onlineEndpoints/digits/regenerateKeys", {"keyType": "Third"}, status=400)
        endpoint = await service.call("GET", "onlineEndpoints/digits")
        assert "keys" not in endpoint["properties"] and after["primaryKey"] not in str(endpoint)
        await service.call("POST", "onlineEndpoints/digits/token", status=400)


async def test_of_two_quick_updates_the_second_does_not_end_with_the_firsts_status(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await served(service, agent)
        name = kube_name(WS, "digits", "blue")
        await service.operation("PUT", "onlineEndpoints/digits/deployments/blue", deployment_body(environmentVariables={"N": "1"}))
        await agent.until(lambda agent: agent.objects[name]["spec"].get("environmentVariables") == {"N": "1"})
        first = agent.revisions[name]
        operation = await service.operation(
            "PUT", "onlineEndpoints/digits/deployments/blue", deployment_body(environmentVariables={"N": "2"})
        )
        await agent.until(lambda agent: agent.objects[name]["spec"].get("environmentVariables") == {"N": "2"})
        done = agent.status(await agent.has("digits", "blue"), {"phase": "Succeeded"})
        await agent.report({**done, "generation": 2, "status": {**done["status"], "observedGeneration": 2}, "revision": first})
        assert (await service.call("GET", operation))["status"] == "InProgress"
        await agent.report(
            {**done, "generation": 3, "status": {**done["status"], "observedGeneration": 3}, "revision": agent.revisions[name]}
        )
        assert (await service.ended(operation))["status"] == "Succeeded"


async def test_a_failed_deployment_ends_its_operation_with_the_traceback(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
        operation = await service.operation("PUT", "onlineEndpoints/digits/deployments/blue", deployment_body())
        object = await agent.has("digits", "blue")
        await agent.report(agent.status(object, {"phase": "Creating", "message": "Preparing the environment."}))
        assert (await service.call("GET", operation))["status"] == "InProgress"
        told = await service.call("GET", "onlineEndpoints/digits/deployments/blue")
        assert told["properties"]["moorage"]["message"] == "Preparing the environment."
        failed = {"phase": "Failed", "reason": "ScoringInitFailed", "message": "init() raised:\nTraceback ...\nKeyError: 'x'"}
        await agent.report(agent.status(object, failed))
        ended = await service.ended(operation)
        assert ended["error"] == {"code": "ScoringInitFailed", "message": failed["message"], "details": []}
        assert (await service.call("GET", "onlineEndpoints/digits/deployments/blue"))["properties"]["provisioningState"] == "Failed"
        again = await service.operation(
            "PUT", "onlineEndpoints/digits/deployments/blue", deployment_body(environmentVariables={"FIX": "1"})
        )
        await agent.until(lambda agent: "environmentVariables" in agent.objects[kube_name(WS, "digits", "blue")]["spec"])
        await agent.report(agent.status(object, failed, generation=1))
        assert (await service.call("GET", again))["status"] == "InProgress"
        await agent.report(agent.status(object, {"phase": "Succeeded"}))
        assert (await service.ended(again))["status"] == "Succeeded"


async def test_traffic_must_add_up_and_name_deployments(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await served(service, agent)
        wrong = await service.call("PUT", "onlineEndpoints/digits", endpoint_body(traffic={"blue": 60}), status=400)
        assert "must add up to 100" in wrong["error"]["message"]
        wrong = await service.call("PUT", "onlineEndpoints/digits", endpoint_body(traffic={"green": 100}), status=400)
        assert "no deployment 'green' (it has: blue)" in wrong["error"]["message"]
        refused = await service.call("DELETE", "onlineEndpoints/digits/deployments/blue", status=409)
        assert "still gets 100 %" in refused["error"]["message"]


async def test_copies_go_to_a_deployment_without_traffic_until_an_update_says_no_more(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await served(service, agent)
        await service.operation("PUT", "onlineEndpoints/digits/deployments/green", deployment_body())
        name = kube_name(WS, "digits")

        def mirrored() -> object:
            return agent.objects[name]["spec"].get("mirrorTraffic")

        await service.operation("PUT", "onlineEndpoints/digits", endpoint_body(traffic={"blue": 100}, mirrorTraffic={"green": 10}))
        await agent.until(lambda _: mirrored() == {"green": 10})
        assert (await service.call("GET", "onlineEndpoints/digits"))["properties"]["mirrorTraffic"] == {"green": 10}
        for mirror, target, words in (
            ({"green": 51}, "properties.mirrorTraffic.green", "not a percentage between 0 and 50"),
            ({"blue": 10}, "properties.mirrorTraffic.blue", "live traffic or mirrored traffic, not both"),
            ({"red": 10}, "properties.mirrorTraffic.red", "no deployment 'red'"),
        ):
            body = endpoint_body(traffic={"blue": 100}, mirrorTraffic=mirror)
            error = (await service.call("PUT", "onlineEndpoints/digits", body, status=400))["error"]
            assert error["target"] == target and words in error["message"]
        refused = await service.call("DELETE", "onlineEndpoints/digits/deployments/green", status=409)
        assert "--mirror-traffic 'green=0'" in refused["error"]["message"]
        # The SDK's next update, which never reads it back.
        await service.operation("PUT", "onlineEndpoints/digits", endpoint_body(traffic={"blue": 100}, mirrorTraffic={}))
        await agent.until(lambda _: not mirrored())
        await service.operation("DELETE", "onlineEndpoints/digits/deployments/green")


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"model": WS.child("models", "m", "versions", "9")}, "models 'm:9' does not exist; it has versions 1"),
    ({"instanceType": "huge"}, "no instance type 'huge'"),
    ({"codeConfiguration": None}, "properties.codeConfiguration is required"),
    ({"codeConfiguration": {"codeId": WS.child("codes", "c", "versions", "1"), "scoringScript": "no.py"}}, "no file 'no.py'"),
    (
        {"instanceType": "small", "containerResourceRequirements": {"containerResourceLimits": {"cpu": "4"}}},
        "limits.cpu: 4 exceeds the 1 of instance type 'small'",
    ),
]


async def test_a_deployment_that_cannot_run_is_refused_with_nothing_stored(service: Service) -> None:
    await service.attached()
    path = "onlineEndpoints/digits/deployments/blue"
    await service.call("PUT", path, deployment_body(), status=404)
    await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
    for change, words in REFUSED:
        answer = await service.call("PUT", path, deployment_body(**change), status=400)
        assert words in answer["error"]["message"]
        await service.call("GET", path, status=404)


async def test_an_endpoint_goes_with_its_deployments_once_the_cluster_is_rid_of_them(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await served(service, agent)
        objects = [await agent.has("digits"), await agent.has("digits", "blue")]
        operation = await service.operation("DELETE", "onlineEndpoints/digits")
        await agent.until(lambda agent: not agent.objects)
        assert (await service.call("GET", "onlineEndpoints/digits"))["properties"]["provisioningState"] == "Deleting"
        await service.call("PUT", "onlineEndpoints/digits", endpoint_body(), status=409)
        await agent.report(gone(key_of(objects[0])))
        assert (await service.call("GET", operation))["status"] == "InProgress"
        await agent.report(gone(key_of(objects[1])))
        assert (await service.ended(operation))["status"] == "Succeeded"
        for path in ("onlineEndpoints/digits", "onlineEndpoints/digits/deployments/blue"):
            await service.call("GET", path, status=404)
        await service.call("DELETE", "onlineEndpoints/digits", status=204)
        await served(service, agent)


async def test_a_name_is_served_once_per_cluster(service: Service) -> None:
    await service.attached()
    await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
    taken = await service.call("PUT", "onlineEndpoints/Digits", endpoint_body(), status=409)
    assert taken["error"]["code"] == "EndpointNameTaken"


async def test_logs_of_a_deployment_are_asked_of_its_cluster(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await served(service, agent)
        asking = asyncio.create_task(service.call("POST", "onlineEndpoints/digits/deployments/blue/getLogs", {"tail": 5}))
        await agent.until(lambda agent: bool(agent.asks))
        question = agent.asks[0]
        assert question["container"] == "InferenceServer" and question["tail"] == 5
        assert question["key"]["name"] == kube_name(WS, "digits", "blue")
        assert (await agent.post(f"answers/{question['id']}", b"line 1\nline 2\n"))["accepted"] is True
        assert (await asking) == {"content": "line 1\nline 2\n"}
        assert (await agent.post(f"answers/{question['id']}", b"late"))["accepted"] is False
        await service.call("POST", "onlineEndpoints/digits/deployments/blue/getLogs", {"tail": 0}, status=400)


async def test_what_a_deployments_pods_say_of_its_environment_is_shown_and_stands_before_its_log(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await served(service, agent)
        deployment = await agent.has("digits", "blue")
        notice = "e:1 is made for Python 3.9; it runs on Python 3.12."
        await agent.report(agent.status(deployment, {"phase": "Succeeded", "notices": [notice]}))
        shown = await service.call("GET", "onlineEndpoints/digits/deployments/blue")
        assert shown["properties"]["moorage"]["notices"] == [notice]
        asking = asyncio.create_task(service.call("POST", "onlineEndpoints/digits/deployments/blue/getLogs", {"tail": 5}))
        await agent.until(lambda agent: bool(agent.asks))
        await agent.post(f"answers/{agent.asks[0]['id']}", b"line 1\n")
        assert (await asking) == {"content": f"Warning: {notice}\nline 1\n"}


async def test_attaching_waits_for_the_agent_and_refuses_what_does_not_fit(service: Service) -> None:
    unknown = await service.call("PUT", "computes/local", compute_body(), status=400)
    assert "Cluster 'c1' is not registered" in unknown["error"]["message"]
    agent = await service.agent()
    operation = await service.operation("PUT", "computes/local", compute_body())
    assert (await service.call("GET", "computes/local"))["properties"]["provisioningState"] == "Creating"
    refused = await service.call("PUT", "jobs/j1", {"properties": {"jobType": "Command"}}, status=400)
    assert "properties.command is required" in refused["error"]["message"]
    await agent.report({"kind": "inventory", "kubernetesVersion": "v1.34.1"})
    ended = await service.ended(operation)
    assert ended["error"]["code"] == "UnsupportedKubernetesVersion"
    on_purpose = compute_body()
    on_purpose["properties"]["properties"]["allowUnsupportedVersion"] = "true"
    assert (await service.ended(await service.operation("PUT", "computes/local", on_purpose)))["status"] == "Succeeded"
    compute = await service.call("GET", "computes/local")
    assert compute["properties"]["properties"]["instanceTypes"]["defaultinstancetype"]["resources"]["limits"]["memory"] == "2Gi"
    await service.call("PUT", "computes/local", compute_body(namespace="other"), status=409)
    await service.call("DELETE", CLUSTER, status=409)


async def test_detaching_refuses_while_in_use_and_leaves_the_cluster_clean_when_forced(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await served(service, agent)
        busy = await service.call("DELETE", "computes/local?underlyingResourceAction=Detach", status=409)
        assert "online endpoints: digits" in busy["error"]["message"]
        operation = await service.operation("DELETE", "computes/local?underlyingResourceAction=Detach&force=true")
        await agent.until(lambda agent: not agent.objects)
        assert (await service.call("GET", operation))["status"] == "InProgress"
        await agent.report(*[gone(key) for key in agent.deleted])
        assert (await service.ended(operation))["status"] == "Succeeded"
        await service.call("GET", "computes/local", status=404)
        endpoint = await service.call("GET", "onlineEndpoints/digits")
        assert (
            endpoint["properties"]["provisioningState"] == "Failed" and "detached" in endpoint["properties"]["moorage"]["error"]["message"]
        )
        assert (await service.ended(await service.operation("DELETE", "onlineEndpoints/digits")))["status"] == "Succeeded"
    await service.call("DELETE", CLUSTER, status=200)


async def test_one_cluster_is_many_computes(service: Service) -> None:
    await service.attached()
    assert (await service.ended(await service.operation("PUT", "computes/second", compute_body(namespace="other"))))[
        "status"
    ] == "Succeeded"
    await service.attached("third", cluster=OTHER_CLUSTER)
    assert [each["name"] for each in (await service.call("GET", "computes"))["value"]] == ["local", "second", "third"]
    nodes = await service.call("POST", "computes/local/listNodes")
    assert nodes["nodes"][0]["nodeId"] == "n1"


async def test_operations_outlive_the_service(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.seed()
        agent = await service.attached()
        async with agent.connected():
            await served(service, agent)
            updating = await service.operation(
                "PUT", "onlineEndpoints/digits/deployments/blue", deployment_body(description="new", instanceType="small")
            )
            await agent.until(lambda agent: agent.objects[kube_name(WS, "digits", "blue")]["spec"].get("instanceType") == "small")
    async with running(tmp_path) as service:
        agent.url = service.url
        assert (await service.call("GET", updating))["status"] == "InProgress"
        async with agent.connected():
            await agent.report(agent.status(await agent.has("digits", "blue"), {"phase": "Succeeded"}))
            assert (await service.ended(updating))["status"] == "Succeeded"
            assert agent.resets == 1
            detaching = await service.operation("DELETE", "computes/local?underlyingResourceAction=Detach&force=true")
    async with running(tmp_path) as service:
        agent.url = service.url
        async with agent.connected():
            await agent.until(lambda agent: not agent.objects)
            await agent.report(*[gone(key) for key in agent.deleted])
            assert (await service.ended(detaching))["status"] == "Succeeded"


async def test_a_cluster_that_never_answers_fails_the_attach_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    from moorage.server.resources import computes

    monkeypatch.setattr(computes, "_HEARD_WITHIN", timedelta(seconds=1))
    async with running(tmp_path) as service:
        await service.agent()
        ended = await service.ended(await service.operation("PUT", "computes/local", compute_body()))
        assert ended["error"]["code"] == "ClusterNotConnected" and "has never been heard" in ended["error"]["message"]
