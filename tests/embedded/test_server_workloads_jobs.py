"""Jobs from submission to their end, as a user and a cluster's agent see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from tests.embedded.server_workloads_peers import CLUSTER, OTHER_CLUSTER, WS, Service, gone, inventory, job_body, key_of, log, running

from moorage import clock
from moorage.ids import kube_name

HISTORY = f"/history/v1.0{WS.id}"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(tmp_path) as service:
        await service.seed()
        yield service


async def test_a_job_runs_from_submission_to_completion(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        created = await service.call("PUT", "jobs/j_1", job_body(), status=201)
        assert created["properties"]["status"] == "NotStarted" and created["properties"]["_source"] == "SDK"
        object = await agent.has("j_1")
        assert object["metadata"]["namespace"] == "ml"
        assert object["spec"]["inputs"]["data"]["uri"].endswith("-blob/data/in.csv")
        assert object["spec"]["artifactsUri"].endswith("-artifact/ExperimentRun/dcid.j_1")

        waiting = "0/2 nodes are available: 2 Insufficient cpu."
        await agent.report(agent.status(object, {"phase": "Queued", "reason": "Unschedulable", "message": waiting}))
        assert (await service.call("GET", "jobs/j_1"))["properties"]["moorage"]["waiting"] == waiting

        await agent.report(agent.status(object, {"phase": "Running", "startTime": "2026-11-22T12:00:00Z"}), log(object, b"epoch 1\n", 0))
        details = await service.call("GET", f"{HISTORY}/runs/j_1/details")
        assert details["status"] == "Running" and details["startTimeUtc"] == "2026-11-22T12:00:00.000000Z"
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as anyone:
            text = await anyone.get(details["logFiles"]["user_logs/std_log.txt"])
        assert text.text == "epoch 1\n"

        done = {"phase": "Completed", "startTime": "2026-11-22T12:00:00Z", "completionTime": "2026-11-22T12:01:00Z", "exitCode": 0}
        await agent.report(agent.status(object, done))
        assert (await service.call("GET", "jobs/j_1"))["properties"]["status"] == "Finalizing"
        await agent.report(log(object, b"epoch 2\n", 8), agent.status(object, done, logs_complete=True))
        ended = await service.call("GET", f"{HISTORY}/runs/j_1/details")
        assert ended["status"] == "Completed" and ended["endTimeUtc"] == "2026-11-22T12:01:00.000000Z"
        await agent.report(agent.status(object, {"phase": "Running"}))
        assert (await service.call("GET", "jobs/j_1"))["properties"]["status"] == "Completed"


async def test_outputs_are_found_where_the_sdk_looks_and_named_ones_are_registered(service: Service) -> None:
    agent = await service.attached()
    outputs = {
        "out": {"jobOutputType": "uri_folder", "assetName": "made"},
        "mod": {"jobOutputType": "custom_model", "assetName": "best", "assetVersion": "7"},
        "csv": {"jobOutputType": "uri_file", "assetName": "table"},
        "own": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/workspaceblobstore/paths/o/${{name}}"},
    }
    async with agent.connected():
        await service.call("PUT", "jobs/j1", job_body(outputs=outputs), status=201)
        object = await agent.has("j1")
        for name in outputs:
            container, _, path = object["spec"]["outputs"][name]["uri"].partition("/")
            await service.services.blobs.put(container, path if name == "csv" else f"{path}/file", b"x")
        await agent.report(agent.status(object, {"phase": "Completed"}, logs_complete=True))
    rundata = await service.call("POST", f"{HISTORY}/rundata", {"runId": "j1"})
    assets = {name: output["assetId"] for name, output in rundata["runMetadata"]["outputs"].items()}
    types = {name: output["type"] for name, output in rundata["runMetadata"]["outputs"].items()}
    assert types == {"out": "uri_folder", "mod": "uri_folder", "csv": "uri_file", "own": "uri_folder"}
    resolved = await service.call("POST", f"/data/v1.0{WS.id}/dataversion/batchGetResolvedUris", {"values": list(assets.values())})
    uris = {name: resolved["values"][asset]["uri"].partition("/datastores/workspaceblobstore/paths/")[2] for name, asset in assets.items()}
    # The SDK lists by these prefixes: a file's must not end in a slash, a folder's must, lest it match its siblings.
    assert uris == {"out": "azureml/j1/out/", "mod": "azureml/j1/mod/", "csv": "azureml/j1/csv", "own": "o/j1/"}
    assert (await service.call("GET", "data/table/versions/1"))["properties"]["dataUri"].endswith("azureml/j1/csv")
    data = await service.call("GET", "data/made/versions/1")
    assert "azureml/j1/out" in data["properties"]["dataUri"]
    model = await service.call("GET", "models/best/versions/7")
    assert model["properties"]["modelType"] == "custom_model" and "azureml/j1/mod" in model["properties"]["modelUri"]
    assert model["properties"]["flavors"] == {}


async def test_an_old_sdk_gets_its_pascal_case(service: Service) -> None:
    await service.attached()
    await service.call("PUT", "jobs/j1", job_body(), status=201)
    for version, expected in (("1.26.3", "UriFolder"), ("1.34.1", "UriFolder"), ("1.35.0", "uri_folder"), ("2.0.0", "uri_folder")):
        headers = {"User-Agent": f"azure-ai-ml/{version} azsdk-python-core"}
        rundata = await service.call("POST", f"{HISTORY}/rundata", {"runId": "j1"}, headers=headers)
        assert rundata["runMetadata"]["outputs"]["out"]["type"] == expected, version


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"computeId": WS.child("computes", "nope")}, "no compute 'nope' (it has: local)"),
    ({"resources": {"instanceType": "huge"}}, "no instance type 'huge'. It has: defaultinstancetype, small"),
    ({"environmentId": "azureml:AzureML-sklearn-9.9:3"}, "has, nearest first: sklearn-"),
    ({"environmentId": WS.child("environments", "e", "versions", "9")}, "environments 'e:9' does not exist; it has versions 1"),
    ({"codeId": WS.child("codes", "zz", "versions", "1")}, "properties.codeId: codes 'zz:1' does not exist"),
    (
        {"inputs": {"data": {"jobInputType": "uri_file", "uri": "azureml://datastores/workspaceblobstore/paths/no"}}},
        "nothing is stored at",
    ),
    ({"inputs": {"data": {"jobInputType": "uri_file", "uri": "azureml://datastores/other/paths/no"}}}, "no datastore 'other'"),
    ({"inputs": {"data": {"jobInputType": "uri_file", "uri": "https://example.org/x"}}}, "web address"),
    ({"inputs": {"data": {"jobInputType": "custom_model", "uri": "azureml:none:1"}}}, "models 'none:1' does not exist"),
    ({"inputs": {"data": {"jobInputType": "uri_folder", "uri": "azureml://jobs/gone/outputs/x"}}}, "no job 'gone'"),
    ({"outputs": {"out": {"jobOutputType": "uri_folder", "uri": "azureml:d:1"}}}, "an output must go to a datastore"),
    ({"limits": {"timeout": "soon"}}, "'soon' is not an ISO 8601 duration"),
]


async def test_what_cannot_run_is_refused_with_nothing_stored(service: Service) -> None:
    await service.attached()
    for change, words in REFUSED:
        answer = await service.call("PUT", "jobs/j1", job_body(**change), status=400)
        assert words in answer["error"]["message"]
        await service.call("GET", "jobs/j1", status=404)


async def test_the_sdks_mark_for_local_means_the_compute_of_that_name(service: Service) -> None:
    agent = await service.attached()
    marked = job_body(resources={"properties": {"IsLocal": {"IsLocal": True}}})
    del marked["properties"]["computeId"]
    async with agent.connected():
        created = (await service.call("PUT", "jobs/j_1", marked, status=201))["properties"]
        assert created["computeId"] == WS.child("computes", "local") and created["resources"] == marked["properties"]["resources"]
        assert "Local" not in created["services"], "the SDK would run it on its own machine"
        await agent.has("j_1")
    await service.call("PUT", "jobs/j_1", marked)


async def test_a_job_that_names_no_compute_goes_to_serverless_else_to_the_only_one(service: Service) -> None:
    bare = job_body()
    del bare["properties"]["computeId"]
    none = await service.call("PUT", "jobs/j0", bare, status=400)
    assert "no compute is named, and the workspace has none yet." in none["error"]["message"]
    await service.attached()
    assert (await service.call("PUT", "jobs/j1", bare, status=201))["properties"]["computeId"] == WS.child("computes", "local")
    named = job_body(computeId=WS.child("computes", "serverless"))
    assert (await service.call("PUT", "jobs/j2", named, status=201))["properties"]["computeId"] == WS.child("computes", "local")
    await service.call("PUT", "jobs/j2", named)
    await service.attached("other")
    refused = await service.call("PUT", "jobs/j3", bare, status=400)
    assert refused["error"]["target"] == "properties.computeId" and refused["error"]["code"] == "ComputeNotFound"
    assert "the workspace has 2 (local, other). Name one (compute: azureml:NAME), or attach a cluster" in refused["error"]["message"]
    await service.attached("serverless")
    assert (await service.call("PUT", "jobs/j3", bare, status=201))["properties"]["computeId"] == WS.child("computes", "serverless")


async def test_the_output_of_one_job_is_the_input_of_the_next(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await service.call("PUT", "jobs/first", job_body(), status=201)
        first = await agent.has("first")
        container, _, path = first["spec"]["outputs"]["out"]["uri"].partition("/")
        await service.services.blobs.put(container, f"{path}/a.txt", b"x")
        inputs = {"data": {"jobInputType": "uri_folder", "uri": "azureml://jobs/first/outputs/out"}}
        await service.call("PUT", "jobs/second", job_body(inputs=inputs), status=201)
        assert (await agent.has("second"))["spec"]["inputs"]["data"]["uri"] == first["spec"]["outputs"]["out"]["uri"]


async def test_submitting_again_edits_words_and_refuses_another_definition(service: Service) -> None:
    await service.attached()
    await service.call("PUT", "jobs/j1", job_body(), status=201)
    again = await service.call("PUT", "jobs/j1", job_body(displayName="Nice", tags={"a": "b"}))
    assert again["properties"]["displayName"] == "Nice" and again["properties"]["tags"] == {"a": "b"}
    fetched = await service.call("GET", "jobs/j1")
    await service.call("PUT", "jobs/j1", {"properties": fetched["properties"]})
    other = await service.call("PUT", "jobs/j1", job_body(command="true"), status=409)
    assert "another command, inputs" not in other["error"]["message"] and "another command" in other["error"]["message"]


async def test_many_submissions_of_one_name_make_one_job(service: Service) -> None:
    await service.attached()
    answers = await asyncio.gather(*(service.user.put(f"{WS.id}/jobs/j1", json=job_body()) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]


async def test_a_cancelled_job_ends_when_its_cluster_says_so(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        object = await agent.has("j1")
        await service.call("POST", "jobs/j1/cancel")
        assert (await service.call("GET", "jobs/j1"))["properties"]["status"] == "CancelRequested"
        await agent.until(lambda agent: bool(agent.objects[kube_name(WS, "j1")]["spec"].get("cancelRequested")))
        await service.call("DELETE", "jobs/j1", status=409)
        await agent.report(agent.status(object, {"phase": "Canceled"}, logs_complete=True))
        assert (await service.call("GET", "jobs/j1"))["properties"]["status"] == "Canceled"
        await service.call("POST", "jobs/j1/cancel")
        await service.call("DELETE", "jobs/j1")
        await agent.until(lambda agent: not agent.objects)
        await service.call("GET", "jobs/j1", status=404)
        await service.call("DELETE", "jobs/j1", status=204)


async def test_jobs_are_listed_by_page_and_filter_and_archived_through_their_run(service: Service) -> None:
    await service.attached()
    for number in range(5):
        await service.call("PUT", f"jobs/j{number}", job_body(tags={"odd": "yes"} if number % 2 else {}), status=201)
    first = await service.call("GET", "jobs?$top=2")
    assert [each["name"] for each in first["value"]] == ["j4", "j3"]
    second = await service.call("GET", first["nextLink"].replace(service.url, ""))
    third = await service.call("GET", second["nextLink"].replace(service.url, ""))
    assert [each["name"] for each in second["value"] + third["value"]] == ["j2", "j1", "j0"] and third["nextLink"] is None
    odd = await service.call("GET", "jobs?tag=odd%3Dyes&jobType=Command")
    assert [each["name"] for each in odd["value"]] == ["j3", "j1"]
    run = await service.call("PATCH", f"{HISTORY}/experiments/Default/runs/j1", {"hidden": True, "tags": {"new": "1"}})
    assert run["hidden"] is True and run["tags"] == {"odd": "yes", "new": "1"}
    assert [each["name"] for each in (await service.call("GET", "jobs?listViewType=ArchivedOnly"))["value"]] == ["j1"]
    assert len((await service.call("GET", "jobs"))["value"]) == 4
    assert len((await service.call("GET", "jobs?listViewType=All"))["value"]) == 5


async def test_a_failed_job_says_why_in_both_its_faces(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        object = await agent.has("j1")
        failed = {"phase": "Failed", "reason": "UserCodeFailed", "message": "exit code 1\nValueError: no", "exitCode": 1}
        await agent.report(agent.status(object, failed, logs_complete=True))
    details = await service.call("GET", f"{HISTORY}/runs/j1/details")
    assert details["error"]["error"]["message"] == "exit code 1\nValueError: no"
    job = await service.call("GET", "jobs/j1")
    assert job["properties"]["moorage"]["exitCode"] == 1 and "ValueError" in job["properties"]["moorage"]["message"]


async def test_logs_are_kept_once_whatever_is_repeated_or_missing(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        object = await agent.has("j1")
        receipt = await agent.report(log(object, b"abc", 0), log(object, b"def", 3))
        assert receipt["logs"][0]["size"] == 6
        assert (await agent.report(log(object, b"cdefgh", 2)))["logs"][0]["size"] == 8
        assert (await agent.report(log(object, b"zz", 20)))["logs"][0]["size"] == 8
        assert (await agent.report(log(object, b"abc", 0), sequence=1))["logs"][0]["size"] == 8
    container, _, folder = object["spec"]["artifactsUri"].partition("/")
    assert await service.services.blobs.read(container, f"{folder}/user_logs/std_log.txt") == b"abcdefgh"


async def test_a_deleted_jobs_name_is_free_once_its_cluster_is_rid_of_it_and_its_outputs_stay(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        object = await agent.has("j1")
        container, _, folder = object["spec"]["artifactsUri"].partition("/")
        await service.services.blobs.put(container, f"{folder}/outputs/model", b"m")
        await agent.report(log(object, b"of the first", 0), agent.status(object, {"phase": "Completed"}, logs_complete=True))
        await service.call("DELETE", "jobs/j1", status=200)
        refused = await service.call("PUT", "jobs/j1", job_body(), status=409)
        assert refused["error"]["code"] == "JobBeingDeleted"
        await agent.until(lambda agent: agent.deleted != [])
        await agent.report(gone(key_of(object)))
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        assert (await service.call("GET", "jobs/j1"))["properties"]["status"] == "NotStarted"
        await agent.until(lambda agent: object["metadata"]["name"] in agent.objects)
        assert (await agent.report(log(object, b"new", 0)))["logs"][0]["size"] == 3
    assert await service.services.blobs.read(container, f"{folder}/user_logs/std_log.txt") == b"new"
    assert await service.services.blobs.read(container, f"{folder}/outputs/model") == b"m"


async def test_an_agent_reads_and_reports_its_own_cluster_only(service: Service) -> None:
    one, two = await service.attached(), await service.agent(OTHER_CLUSTER)
    async with one.connected():
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        object = await one.has("j1")
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {two.token}"}, trust_env=False, timeout=60) as client:
        for method, path in (("GET", "desired"), ("POST", "reports"), ("POST", "tokens"), ("POST", "answers/1")):
            assert (await client.request(method, f"{one.base}/{path}")).status_code == 403
    assert (await two.post("tokens", {"keys": [key_of(object)]}))["tokens"] == []
    await two.report(inventory(), two.status(object, {"phase": "Completed"}, logs_complete=True), gone(key_of(object)))
    assert (await service.call("GET", "jobs/j1"))["properties"]["status"] == "NotStarted"
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer guessed"}, trust_env=False, timeout=60) as client:
        assert (await client.get(f"{one.base}/desired")).status_code == 401


async def test_a_new_agent_token_ends_the_former_ones_stream(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await agent.until(lambda agent: agent.revision is not None)
        successor = await service.agent()
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {agent.token}"}, trust_env=False, timeout=60) as client:
            assert (await client.get(f"{agent.base}/desired")).status_code == 401
        await successor.report(inventory())


async def test_a_workload_token_opens_what_the_spec_names_and_nothing_else(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        object = await agent.has("j1")
    grant = (await agent.post("tokens", {"keys": [key_of(object), {"kind": "TrainingJob", "namespace": "ml", "name": "no"}]}))["tokens"]
    assert len(grant) == 1 and grant[0]["endpoint"] == f"{service.url}/blobstore"
    headers = {"Authorization": f"Bearer {grant[0]['token']}", "x-ms-version": "2026-10-06", "x-ms-blob-type": "BlockBlob"}
    base, spec = grant[0]["endpoint"], object["spec"]
    async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60) as pod:
        assert (await pod.get(f"{base}/{spec['inputs']['data']['uri']}")).content == b"1,2\n"
        assert (await pod.get(f"{base}/{spec['code']['uri']}/train.py")).status_code == 200
        assert (await pod.put(f"{base}/{spec['outputs']['out']['uri']}/x", content=b"1")).status_code == 201
        assert (await pod.put(f"{base}/{spec['artifactsUri']}/outputs/x", content=b"1")).status_code == 201
        assert (await pod.put(f"{base}/{spec['inputs']['data']['uri']}", content=b"1")).status_code == 403
        assert (await pod.get(f"{base}/{spec['inputs']['data']['uri'].replace('data/in.csv', 'model/model.pkl')}")).status_code == 403


async def test_the_stream_resumes_where_it_was_and_starts_afresh_when_it_cannot(service: Service) -> None:
    agent = await service.attached()
    async with agent.connected():
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        await agent.has("j1")
        await agent.until(lambda agent: agent.revision is not None)
    held = agent.revision
    await service.call("PUT", "jobs/j2", job_body(), status=201)
    async with agent.connected():
        await agent.has("j2")
        assert agent.resets == 1 and len(agent.objects) == 2
    assert held is not None
    agent.revision = held + 1000
    async with agent.connected():
        await agent.until(lambda agent: agent.resets == 2 and len(agent.objects) == 2)


async def test_a_silent_cluster_is_shown_with_the_time_it_was_last_heard(tmp_path: Path) -> None:
    later = timedelta()
    async with running(tmp_path, now=lambda: clock.now() + later) as service:
        await service.seed()
        agent = await service.agent()
        await agent.report(inventory())
        assert (await service.call("GET", CLUSTER))["properties"]["connectivityStatus"] == "Connected"
        await service.operation("PUT", "computes/local", {"properties": {"computeType": "Kubernetes", "resourceId": CLUSTER}})
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        later = service.services.settings.agent_timeout + timedelta(seconds=1)
        cluster = await service.call("GET", CLUSTER)
        assert cluster["properties"]["connectivityStatus"] == "Offline" and cluster["properties"]["lastConnectivityTime"]
        job = await service.call("GET", "jobs/j1")
        assert job["properties"]["moorage"]["waiting"].startswith("Cluster 'c1' is offline, last heard 20")
