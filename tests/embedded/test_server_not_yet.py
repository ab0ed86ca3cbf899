"""What is stored and does not run yet: it comes back as it was sent, says so in every view, and whatever would start work is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.embedded.server_workloads_peers import WS, Service, running

from moorage.wire import later

HISTORY = f"/history/v1.0{WS.id}"
SWEEP: dict[str, Any] = {
    "jobType": "Sweep",
    "trial": {"command": "python t.py ${{search_space.lr}}", "environmentId": WS.child("environments", "e", "versions", "1")},
    "searchSpace": {"lr": ["uniform", [0.01, 0.1]]},
    "samplingAlgorithm": {"samplingAlgorithmType": "Random"},
    "objective": {"goal": "maximize", "primaryMetric": "accuracy"},
    "limits": {"jobLimitsType": "Sweep", "maxTotalTrials": 3},
    "outputs": {"model": {"jobOutputType": "custom_model"}},
    "_source": "SDK",
}
PIPELINE: dict[str, Any] = {
    "jobType": "Pipeline",
    "jobs": {"a": {"type": "command", "componentId": "c", "inputs": {"n": {"job_input_type": "literal", "value": "1"}}, "outputs": {}}},
    "settings": {"default_compute": WS.child("computes", "local")},
    "$schema": "s",
}
SCHEDULE: dict[str, Any] = {
    "action": {"actionType": "CreateJob", "jobDefinition": PIPELINE},
    "trigger": {"triggerType": "Recurrence", "frequency": "day", "interval": 1, "schedule": {"hours": [1], "minutes": [2]}},
}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(tmp_path) as service:
        yield service


@pytest.mark.parametrize("sent", [SWEEP, PIPELINE], ids=["sweep", "pipeline"])
async def test_a_job_that_cannot_run_comes_back_as_sent_and_has_failed_in_every_view(service: Service, sent: dict[str, Any]) -> None:
    created = await service.call("PUT", "jobs/j1", {"properties": sent}, status=201)
    shown = await service.call("GET", "jobs/j1")
    assert created["properties"] == shown["properties"]
    kept = {name: value for name, value in shown["properties"].items() if name in sent}
    assert kept == sent
    reason = later.STORED_JOBS[sent["jobType"]].message
    assert shown["properties"]["status"] == "Failed"
    assert (shown["properties"]["moorage"]["reason"], shown["properties"]["moorage"]["message"]) == (later.CODE, reason)
    (listed,) = (await service.call("GET", "jobs"))["value"]
    assert listed["properties"]["status"] == "Failed"
    run = await service.call("GET", f"{HISTORY}/runs/j1")
    details = await service.call("GET", f"{HISTORY}/runs/j1/details")
    assert run["status"] == details["status"] == "Failed" and run["endTimeUtc"] == details["endTimeUtc"] is not None
    assert details["error"]["error"]["message"] == reason and details["error"]["error"]["details"][0]["code"] == later.CODE
    assert details["logFiles"] == {}
    await service.call("POST", "jobs/j1/cancel")
    assert (await service.call("GET", "jobs/j1"))["properties"]["status"] == "Failed"
    await service.call("PATCH", f"{HISTORY}/runs/j1", {"displayName": "renamed"})
    assert (await service.call("GET", "jobs/j1"))["properties"]["displayName"] == "renamed"
    await service.call("PUT", "jobs/j1", {"properties": {**sent, "description": "other words"}})
    await service.call("PUT", "jobs/j1", {"properties": {**sent, "outputs": {"other": {"jobOutputType": "uri_file"}}}}, status=409)
    await service.call("DELETE", "jobs/j1")
    await service.call("GET", "jobs/j1", status=404)


@pytest.mark.parametrize("distribution", ["x", [1], {"processCountPerInstance": "two"}])
async def test_what_nobody_has_checked_of_such_a_job_breaks_no_view_of_it(service: Service, distribution: object) -> None:
    await service.call("PUT", "jobs/j1", {"properties": {**PIPELINE, "distribution": distribution}}, status=201)
    details = await service.call("GET", f"{HISTORY}/runs/j1/details")
    assert details["status"] == "Failed" and details["logFiles"] == {}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({**SWEEP, "searchSpace": {}}, "properties.searchSpace"),
    ({**SWEEP, "trial": {"environmentId": "e"}}, "properties.trial.command"),
    ({**SWEEP, "objective": {"goal": "up", "primaryMetric": "a"}}, "properties.objective.goal"),
    ({**SWEEP, "computeId": WS.child("computes", "nowhere")}, "no compute 'nowhere'"),
    ({**SWEEP, "outputs": {"o": None}}, "properties.outputs.o"),
    ({"jobType": "Pipeline"}, "properties.jobs is required"),
    ({"jobType": "Pipeline", "jobs": {"a": {}}}, "properties.jobs.a.type"),
    ({"jobType": "Pipeline", "jobs": {"a": {"type": "command", "inputs": {"n": {}}}}}, "properties.jobs.a.inputs.n.job_input_type"),
    ({"jobType": "Pipeline", "jobs": {"a": {"type": "command", "outputs": {"o": None}}}}, "properties.jobs.a.outputs.o must be an object"),
    ({"jobType": "AutoML"}, "does not run AutoML jobs yet"),
    ({"jobType": "Spark"}, "does not run Spark jobs yet"),
]


async def test_a_job_that_would_break_the_lists_it_stands_in_is_refused_with_nothing_stored(service: Service) -> None:
    for sent, words in WRONG:
        answer = await service.call("PUT", "jobs/j1", {"properties": sent}, status=400)
        assert words in answer["error"]["message"], answer
    assert (await service.call("GET", "jobs"))["value"] == []


async def test_a_schedule_is_kept_disabled_and_neither_enabled_nor_triggered(service: Service) -> None:
    created = await service.call("PUT", "schedules/s1", {"properties": SCHEDULE}, status=201)
    assert created["properties"] == (await service.call("GET", "schedules/s1"))["properties"]
    assert {name: created["properties"][name] for name in SCHEDULE} == SCHEDULE
    assert created["properties"]["isEnabled"] is False and created["properties"]["provisioningState"] == "Succeeded"
    for method, path, body in (
        ("PUT", "schedules/s1", {"properties": {**SCHEDULE, "isEnabled": True}}),
        ("POST", "schedules/s1/trigger", {}),
    ):
        answer = await service.call(method, path, body, status=400)
        assert answer["error"]["code"] == later.CODE and "does not run schedules" in answer["error"]["message"]
    for view, found in (("EnabledOnly", []), ("DisabledOnly", ["s1"]), ("All", ["s1"])):
        assert [each["name"] for each in (await service.call("GET", f"schedules?listViewType={view}"))["value"]] == found
    await service.call("GET", "schedules?listViewType=ActiveOnly", status=400)
    for change, words in (
        ({"trigger": {"triggerType": "Cron"}}, "properties.trigger.expression"),
        ({"trigger": {"triggerType": "Moon"}}, "properties.trigger.triggerType"),
        ({"action": {"actionType": "CreateJob"}}, "properties.action.jobDefinition"),
    ):
        answer = await service.call("PUT", "schedules/s2", {"properties": {**SCHEDULE, **change}}, status=400)
        assert words in answer["error"]["message"]
    await service.call("DELETE", "schedules/s1")
    await service.call("GET", "schedules/s1", status=404)


async def test_the_old_sdk_is_given_an_operation_to_ask_since_it_cannot_read_an_answer_twice(service: Service) -> None:
    registry = WS.id.rpartition("/workspaces/")[0] + "/registries/azureml/environments/old/versions/1"
    for path, body in ((f"{WS.id}/schedules/s1", SCHEDULE), (registry, {"image": "i:1"})):
        named = ("azsdk-python-mgmt-machinelearningservices/0.1.0", "azsdk-python-arm_ml_service/1.0.0b1")
        if path != registry:
            named = ("azure-ai-ml/1.34.1 azsdk-python-mgmt-machinelearningservices/0.1.0", "azure-ai-ml/1.35.2 azsdk-python-arm_ml_service")
        for agent, old in zip(named, (True, False), strict=True):
            answer = await service.user.put(path, json={"properties": body}, headers={"User-Agent": agent})
            assert answer.status_code in ((202,) if old and path == registry else (200, 201)), answer.text
            assert ("azure-asyncoperation" in answer.headers) is old
            if old:
                assert (await service.ended(answer.headers["azure-asyncoperation"].replace(service.url, "")))["status"] == "Succeeded"


async def test_batch_endpoints_and_deployments_are_kept_and_refuse_to_score(service: Service) -> None:
    endpoint = {"location": "local", "tags": {"a": "b"}, "properties": {"authMode": "aadToken", "description": "d"}}
    created = await service.call("PUT", "batchEndpoints/batch", endpoint, status=201)
    assert created["tags"] == {"a": "b"} and created["properties"]["description"] == "d"
    scoring = created["properties"]["scoringUri"]
    assert scoring.startswith(service.url)
    deployment = {
        "location": "local",
        "properties": {
            "model": {"referenceType": "Id", "assetId": "m"},
            "codeConfiguration": {"codeId": "c", "scoringScript": "score.py"},
            "miniBatchSize": 10,
            "retrySettings": {"maxRetries": 3, "timeout": "PT1M"},
        },
    }
    made = await service.call("PUT", "batchEndpoints/batch/deployments/first", deployment, status=201)
    assert {name: made["properties"][name] for name in deployment["properties"]} == deployment["properties"]
    default = {**endpoint, "properties": {**endpoint["properties"], "defaults": {"deploymentName": "first"}}}
    await service.call("PUT", "batchEndpoints/batch", default)
    answer = await service.call("DELETE", "batchEndpoints/batch/deployments/first", status=409)
    assert answer["error"]["code"] == "DeploymentIsDefault"
    answer = await service.call("POST", scoring.replace(service.url, ""), {"properties": {}}, status=400)
    assert answer["error"]["code"] == later.CODE and "does not run batch endpoints" in answer["error"]["message"]
    for sent, target in (
        ({"inputData": {"a": {"uri": "u"}}}, "properties.inputData.a.jobInputType"),
        ({"inputData": ["u"]}, "properties.inputData"),
        ({"miniBatchSize": "many"}, "properties.miniBatchSize"),
    ):
        answer = await service.call("POST", "batchEndpoints/batch/jobs", {"properties": sent}, status=400)
        assert (answer["error"]["target"], answer["error"]["code"]) != (target, later.CODE) and target in answer["error"]["message"], sent
    pinned = {"headers": {"azureml-model-deployment": "ghost"}}
    await service.call("POST", "batchEndpoints/batch/jobs", {"properties": {}}, status=404, **pinned)
    listed = await service.call("GET", f"/mferp/managementfrontend{WS.id}/batchEndpoints/batch/deployments/first/jobs")
    assert listed["value"] == []
    missing = {**endpoint, "properties": {"defaults": {"deploymentName": "ghost"}}}
    await service.call("PUT", "batchEndpoints/batch", missing, status=409)
    await service.call("PUT", "batchEndpoints/none/deployments/first", deployment, status=404)
    wrong = {"properties": {**deployment["properties"], "miniBatchSize": 0}}
    answer = await service.call("PUT", "batchEndpoints/batch/deployments/first", wrong, status=400)
    assert "properties.miniBatchSize" in answer["error"]["message"]
    await service.call("DELETE", "batchEndpoints/batch")
    await service.call("GET", "batchEndpoints/batch/deployments/first", status=404)


async def test_what_has_no_address_here_says_what_to_do_instead(service: Service) -> None:
    for method, path, words in (
        ("PUT", "connections/mine", "pass secrets through the cluster"),
        ("GET", "connections", "pass secrets through the cluster"),
        ("GET", "featuresets/f/versions/1", "Feature stores are not supported yet"),
        ("PUT", "serverlessEndpoints/e", "online endpoints of a cluster of your own"),
        ("POST", "computes/local/stop", "Machines belong to the cluster"),
        ("POST", "models/m/versions/1/package", "deploy the model with an environment"),
        ("POST", "listKeys", "A workspace has no keys of its own"),
        ("GET", "indexes", "register their files as data"),
    ):
        answer = await service.call(method, path, {} if method != "GET" else None, status=404)
        assert answer["error"]["code"] == "InvalidResourceType" and words in answer["error"]["message"]
    assert (await service.call("GET", "nothing", status=404))["error"]["message"] == "There is nothing at this address."
