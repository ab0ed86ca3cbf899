"""A job has several faces: the ARM resource, the list, run history, its details, its data. They agree at every moment, and an end is shown by all or none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.embedded.server_workloads_peers import WS, Service, job_body, log, running

from moorage.wire import later

HISTORY = f"/history/v1.0{WS.id}"
TERMINAL = ("Completed", "Failed", "Canceled")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(tmp_path) as service:
        await service.seed()
        yield service


async def faces(service: Service, name: str) -> dict[str, Any]:
    """What every view says of a job, which must be one and the same; that."""
    arm = await service.call("GET", f"jobs/{name}")
    (listed,) = [each for each in (await service.call("GET", "jobs"))["value"] if each["name"] == name]
    run = await service.call("GET", f"{HISTORY}/runs/{name}")
    edited = await service.call("GET", f"{HISTORY}/experiments/{arm['properties']['experimentName']}/runs/{name}")
    details = await service.call("GET", f"{HISTORY}/runs/{name}/details")
    metadata = (await service.call("POST", f"{HISTORY}/rundata", {"runId": name}))["runMetadata"]
    assert arm == listed and run == edited
    told = arm["properties"]["moorage"]
    runs = (run, details, metadata)
    assert {each["status"] for each in runs} == {arm["properties"]["status"]}
    assert {each["startTimeUtc"] for each in runs} == {told["startTime"]} and {each["endTimeUtc"] for each in runs} == {told["endTime"]}
    assert all(each["error"] == run["error"] for each in runs)
    assert (run["displayName"], run["tags"], run["hidden"]) == (
        arm["properties"]["displayName"],
        arm["properties"]["tags"],
        arm["properties"]["isArchived"],
    )
    assert set(metadata["outputs"]) == set(arm["properties"]["outputs"])
    texts = {}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as anyone:
        for stream, url in details["logFiles"].items():
            texts[stream] = (await anyone.get(url)).text
    status = arm["properties"]["status"]
    assert (told["endTime"] is not None) == (status in TERMINAL)
    return {"status": status, "logs": texts, "error": run["error"]}


@pytest.mark.parametrize("end", TERMINAL)
async def test_every_view_of_a_job_says_the_same_at_every_change_and_its_end_comes_after_its_logs(service: Service, end: str) -> None:
    agent = await service.attached()
    async with agent.connected():
        await service.call("PUT", "jobs/j1", job_body(), status=201)
        object = await agent.has("j1")
        assert (await faces(service, "j1"))["status"] == "NotStarted"
        for phase in ("Queued", "Preparing"):
            await agent.report(agent.status(object, {"phase": phase, "reason": phase, "message": "of the cluster"}))
            assert await faces(service, "j1") == {"status": phase, "logs": {}, "error": None}
        began = {"startTime": "2026-11-22T12:00:00Z"}
        await agent.report(agent.status(object, {"phase": "Running", **began}), log(object, b"one\n", 0))
        assert await faces(service, "j1") == {"status": "Running", "logs": {"user_logs/std_log.txt": "one\n"}, "error": None}
        if end == "Canceled":
            await service.call("POST", "jobs/j1/cancel")
            assert (await faces(service, "j1"))["status"] == "CancelRequested"
        over = {"phase": end, **began, "completionTime": "2026-11-22T12:01:00Z", "reason": "R", "message": "said at the end", "exitCode": 3}
        await agent.report(agent.status(object, over))
        # The cluster is done and the log is not here yet: no view may say that it is over.
        waiting = await faces(service, "j1")
        assert waiting["status"] == ("CancelRequested" if end == "Canceled" else "Finalizing") and waiting["error"] is None
        await agent.report(log(object, b"two\n", 4))
        assert (await faces(service, "j1"))["status"] not in TERMINAL
        await agent.report(agent.status(object, over, logs_complete=True))
        seen = await faces(service, "j1")
        assert seen["status"] == end and seen["logs"] == {"user_logs/std_log.txt": "one\ntwo\n"}
        if end == "Failed":
            assert "said at the end" in seen["error"]["error"]["message"]
        for change in ({"displayName": "other", "tags": {"t": "1"}}, {"hidden": True}, {"hidden": False}):
            await service.call("PATCH", f"{HISTORY}/experiments/x/runs/j1", change)
            if not change.get("hidden"):
                assert await faces(service, "j1") == seen


async def test_children_are_none_and_services_say_that_none_was_started(service: Service) -> None:
    await service.attached()
    asked = {"jl": {"jobServiceType": "JupyterLab", "port": 8888}, "no": None}
    await service.call("PUT", "jobs/j1", job_body(services=asked), status=201)
    assert (await service.call("GET", f"{HISTORY}/runs/j1/children"))["value"] == []
    instances = (await service.call("GET", f"{HISTORY}/runs/j1/serviceinstances/0"))["instances"]
    assert set(instances) == {"jl"} and instances["jl"]["error"]["error"]["message"] == later.JOB_SERVICES.message
    for path in ("children", "details", "serviceinstances/0"):
        await service.call("GET", f"{HISTORY}/runs/nobody/{path}", status=404)
