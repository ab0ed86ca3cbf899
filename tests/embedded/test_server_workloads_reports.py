"""Reports whatever way they arrive, both databases, and what only time brings about."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.embedded.server_workloads_peers import (
    CLUSTER,
    WS,
    Agent,
    Service,
    compute_body,
    deployment_body,
    endpoint_body,
    gone,
    inventory,
    job_body,
    key_of,
    log,
    running,
)

from moorage.ids import kube_name
from moorage.server.engine.engine import FINISHED_KEPT, advance, settle_everything
from moorage.server.reports import store_reports
from moorage.wire.gateway import ReportBatch

pytest_plugins = ["tests.fixtures.postgres"]

SILENCE = timedelta(seconds=45)


class SetClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def object_of(job: str) -> Any:
    return {"kind": "TrainingJob", "metadata": {"namespace": "ml", "name": kube_name(WS, job)}}


def status(job: str, phase: str, *, complete: bool = False) -> Any:
    body = {"phase": phase, "message": f"now {phase}"}
    return {"kind": "status", "key": key_of(object_of(job)), "uid": "u", "generation": 1, "status": body, "logsComplete": complete}


def event(object: Any, message: str, reason: str = "FailedScheduling") -> Any:
    time = "2026-01-01T00:00:00Z"
    about = {"uid": "", "about": "Pod/p", "type": "Warning", "reason": reason, "message": message, "time": time}
    return {"kind": "event", "key": key_of(object), **about}


def life(job: str) -> Sequence[Sequence[Any]]:
    """Everything an agent reports of a job, batch by batch."""
    own = object_of(job)
    return (
        [status(job, "Queued"), event(own, "0/2 nodes are available")],
        [status(job, "Preparing"), log(own, b"one ", 0)],
        [status(job, "Running"), log(own, b"two ", 4), log(own, b"three ", 8)],
        [status(job, "Finalizing")],
        [log(own, b"four", 14), status(job, "Completed")],
        [status(job, "Completed", complete=True)],
    )


_BATCHES = 6
_numbers = itertools.count()


@pytest.fixture
async def attached(tmp_path: Path) -> AsyncIterator[tuple[Service, Agent]]:
    async with running(tmp_path) as service:
        await service.seed()
        yield service, await service.attached()


@given(
    late=st.lists(st.tuples(st.integers(0, _BATCHES - 1), st.integers(0, _BATCHES - 1)), max_size=6),
    restarts=st.sets(st.integers(1, _BATCHES - 1), max_size=2),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
async def test_repeated_and_late_batches_change_nothing(
    attached: tuple[Service, Agent], late: list[tuple[int, int]], restarts: set[int]
) -> None:
    """Every batch arrives in order, as the protocol has it; copies of earlier ones arrive anywhere after them; the agent restarts in between."""
    service, agent = attached
    job = f"job{next(_numbers)}"
    await service.call("PUT", f"jobs/{job}", job_body(), status=201)
    sequence, instance, sent = 0, uuid4().hex, []
    seen: Any = None
    for number, reports in enumerate(life(job)):
        if number in restarts or number == 0:
            sequence, instance = 0, uuid4().hex
        sequence += 1
        sent.append({"instance": instance, "sequence": sequence, "reports": list(reports)})
        await _post(service, agent.registration, sent[-1])
        seen = (await service.call("GET", f"jobs/{job}"))["properties"]
        for copy in [sent[which] for which, after in late if after == number and which <= number]:
            await _post(service, agent.registration, copy)
            assert (await service.call("GET", f"jobs/{job}"))["properties"] == seen
    assert seen["status"] == "Completed"
    details = await service.call("GET", f"/history/v1.0{WS.id}/runs/{job}/details")
    text = await service.user.get(details["logFiles"]["user_logs/std_log.txt"], headers={"Authorization": ""})
    assert text.text == "one two three four"


async def test_a_log_that_grows_is_read_in_whole_lines_and_in_the_end_whole(attached: tuple[Service, Agent]) -> None:
    """The SDK counts the lines it has shown: the rest of one that it saw half, it would never show."""
    service, agent = attached
    job, sequence, size = "lines", 0, 0
    await service.call("PUT", f"jobs/{job}", job_body(), status=201)
    own = object_of(job)

    async def read(**headers: str) -> tuple[str, Any]:
        details = await service.call("GET", f"/history/v1.0{WS.id}/runs/{job}/details")
        return details["status"], await service.user.get(
            details["logFiles"]["user_logs/std_log.txt"], headers={"Authorization": "", **headers}
        )

    long = "x" * 70_000
    for text, seen in (("half", ""), (" a line\n10 %\r20", "half a line\n10 %\r"), (" %\nend", "half a line\n10 %\r20 %\n"), (long, None)):
        sequence += 1
        reports = [status(job, "Running"), log(own, text.encode(), size)]
        await _post(service, agent.registration, {"instance": "a", "sequence": sequence, "reports": reports})
        size += len(text)
        state, answer = await read()
        assert (state, answer.status_code) == ("Running", 200)
        # A line that is longer than anybody looks back is shown as far as it goes.
        assert answer.text == seen if seen is not None else len(answer.text) == size
        assert len((await read(Range="bytes=0-"))[1].content) == size
    ended = [log(own, b"last", size), status(job, "Completed"), status(job, "Completed", complete=True)]
    await _post(service, agent.registration, {"instance": "a", "sequence": sequence + 1, "reports": ended})
    state, answer = await read()
    assert (state, answer.text[-5:]) == ("Completed", "xlast")


async def _post(service: Service, cluster: str, batch: Any) -> None:
    receipt = await store_reports(service.services, cluster, ReportBatch.model_validate(batch))
    assert receipt.accepted == batch["sequence"]


async def test_a_job_and_an_endpoint_go_through_both_databases(database_url: str, tmp_path: Path) -> None:
    async with running(tmp_path, database_url) as service:
        await service.seed()
        agent = await service.attached()
        async with agent.connected():
            await service.call("PUT", "jobs/j1", job_body(), status=201)
            job = await agent.has("j1")
            await agent.report(agent.status(job, {"phase": "Running"}), log(job, b"hello\n", 0))
            answers = await asyncio.gather(*(service.user.put(f"{WS.id}/jobs/j2", json=job_body()) for _ in range(4)))
            assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
            await agent.report(agent.status(job, {"phase": "Completed"}, logs_complete=True))
            assert (await service.call("GET", "jobs/j1"))["properties"]["status"] == "Completed"
            created = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
            deployed = await service.operation("PUT", "onlineEndpoints/digits/deployments/blue", deployment_body())
            await agent.report(
                agent.status(await agent.has("digits"), {}), agent.status(await agent.has("digits", "blue"), {"phase": "Succeeded"})
            )
            assert (await service.ended(created))["status"] == (await service.ended(deployed))["status"] == "Succeeded"
            deleting = await service.operation("DELETE", "onlineEndpoints/digits")
            await agent.until(lambda agent: len(agent.deleted) == 2)
            await agent.report(*[gone(key) for key in agent.deleted])
            assert (await service.ended(deleting))["status"] == "Succeeded"


async def test_a_finished_job_leaves_its_cluster_after_an_hour_and_stays_known(tmp_path: Path) -> None:
    clock = SetClock()
    async with running(tmp_path, now=clock) as service:
        await service.seed()
        agent = await service.attached()
        store = service.services.store
        async with agent.connected():
            await service.call("PUT", "jobs/j1", job_body(), status=201)
            job = await agent.has("j1")
            await agent.report(agent.status(job, {"phase": "Completed"}, logs_complete=True), log(job, b"bye", 0))
            assert await store.write(lambda tx: advance(tx, SILENCE)) == clock.time + FINISHED_KEPT
            clock.time += FINISHED_KEPT
            await store.write(lambda tx: advance(tx, SILENCE))
            await agent.until(lambda agent: not agent.objects)
            await agent.report(gone(key_of(job)))
            assert await store.read(lambda tx: tx.desired.since(agent.registration, 0)) == []
            details = await service.call("GET", f"/history/v1.0{WS.id}/runs/j1/details")
            assert details["status"] == "Completed" and list(details["logFiles"]) == ["user_logs/std_log.txt"]


async def test_a_deployment_on_a_cluster_that_went_away_fails_in_words_and_recovers(tmp_path: Path) -> None:
    clock = SetClock()
    async with running(tmp_path, now=clock) as service:
        await service.seed()
        agent = await service.attached()
        await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
        operation = await service.operation("PUT", "onlineEndpoints/digits/deployments/blue", deployment_body(provisioningTimeout="PT5M"))
        clock.time += timedelta(minutes=7)
        await service.services.store.write(lambda tx: advance(tx, SILENCE))
        ended = await service.ended(operation)
        assert ended["error"]["code"] == "ClusterOffline" and "carries this out when it comes back" in ended["error"]["message"]
        refused = await service.call("POST", "onlineEndpoints/digits/deployments/blue/getLogs", {"tail": 5}, status=400)
        assert refused["error"]["code"] == "ClusterOffline"
        async with agent.connected():
            await agent.report(agent.status(await agent.has("digits", "blue"), {"phase": "Succeeded"}))
        assert (await service.call("GET", "onlineEndpoints/digits/deployments/blue"))["properties"]["provisioningState"] == "Succeeded"


async def test_what_the_cluster_refuses_fails_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.seed()
        agent = await service.attached()
        async with agent.connected():
            created = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
            deployed = await service.operation("PUT", "onlineEndpoints/digits/deployments/blue", deployment_body())
            endpoint, deployment = await agent.has("digits"), await agent.has("digits", "blue")
            words = "The cluster did not take it: quota"
            told = event(endpoint, words, "NotApplied")
            refusal = {"phase": "Failed", "reason": "NotApplied", "message": words}
            await agent.report(told, {**agent.status(deployment, {}), "uid": "", "generation": 0, "status": refusal})
            assert (await service.ended(created))["error"]["message"] == words
            assert (await service.ended(deployed))["error"]["message"] == words


async def test_what_the_cluster_has_not_taken_yet_fails_only_when_its_time_is_over(tmp_path: Path) -> None:
    words = "The cluster has not taken the OnlineEndpoint yet: The Kubernetes API does not answer"
    clock = SetClock()
    async with running(tmp_path, now=clock) as service:
        await service.seed()
        agent = await service.attached()
        async with agent.connected():
            created = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
            digits = await agent.has("digits")
            await agent.report(event(digits, words, "NotAppliedYet"))
            assert (await service.call("GET", created))["status"] == "InProgress"
            await agent.report(agent.status(digits, {}))
            assert (await service.ended(created))["status"] == "Succeeded"
            never = await service.operation("PUT", "onlineEndpoints/other", endpoint_body())
            await agent.report(event(await agent.has("other"), words, "NotAppliedYet"))
            clock.time += timedelta(minutes=3)
            await service.services.store.write(lambda tx: advance(tx, timedelta(hours=1)))
            failed = (await service.ended(never))["error"]
            assert failed["code"] == "ProvisioningTimedOut" and failed["message"].endswith(f"It last said: {words}")


async def test_a_field_that_an_older_extension_does_not_know_names_the_remedy(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        agent = await service.attached()
        async with agent.connected():
            created = await service.operation("PUT", "onlineEndpoints/digits", endpoint_body(authMode="AMLToken"))
            endpoint = await agent.has("digits")
            words = (
                "The cluster did not take the OnlineEndpoint: failed to create typed patch object: .spec.auth: field not declared in schema"
            )
            await agent.report(event(endpoint, words, "NotApplied"))
            message = (await service.ended(created))["error"]["message"]
            assert message.startswith(words) and "older than this service. Bring it up to date there (moorage extension create" in message
            # The agent tries again, and succeeds once the definition has the field.
            await agent.report(agent.status(endpoint, {}))
            assert (await service.call("GET", "onlineEndpoints/digits"))["properties"]["provisioningState"] == "Succeeded"


async def test_settling_everything_again_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.seed()
        agent = await service.attached()
        store = service.services.store
        async with agent.connected():
            await service.call("PUT", "jobs/j1", job_body(), status=201)
            await service.operation("PUT", "onlineEndpoints/digits", endpoint_body())
            await agent.report(agent.status(await agent.has("j1"), {"phase": "Running"}), agent.status(await agent.has("digits"), {}))
        types = ("jobs", "computes", "onlineEndpoints")
        before = await store.read(lambda tx: [tx.resources.all_of(type_) for type_ in types])
        await store.write(lambda tx: settle_everything(tx, SILENCE))
        assert await store.read(lambda tx: [tx.resources.all_of(type_) for type_ in types]) == before


async def test_a_forced_detach_does_not_wait_for_a_cluster_that_is_away(tmp_path: Path) -> None:
    clock = SetClock()
    async with running(tmp_path, now=clock) as service:
        await service.seed()
        agent = await service.attached()
        async with agent.connected():
            await service.call("PUT", "jobs/j1", job_body(), status=201)
            await agent.report(agent.status(await agent.has("j1"), {"phase": "Running"}))
        busy = await service.call("DELETE", "computes/local?underlyingResourceAction=Detach", status=409)
        assert "jobs that have not ended: j1" in busy["error"]["message"]
        clock.time += timedelta(minutes=5)
        assert (await service.ended(await service.operation("DELETE", "computes/local?force=true")))["status"] == "Succeeded"
        assert (await service.call("GET", "jobs/j1"))["properties"]["status"] == "Canceled"
        async with agent.connected():
            await agent.until(lambda agent: not agent.objects)
            await agent.report(inventory(), gone(key_of(object_of("j1"))))
        assert (await service.ended(await service.operation("PUT", "computes/local", compute_body(CLUSTER))))["status"] == "Succeeded"


async def test_logs_that_the_pods_of_several_processes_store_themselves_are_named_too(attached: tuple[Service, Agent]) -> None:
    service, agent = attached
    job = f"job{next(_numbers)}"
    spread = {"resources": {"instanceCount": 2}, "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 2}}
    await service.call("PUT", f"jobs/{job}", job_body(**spread), status=201)
    async with agent.connected():
        place = (await agent.has(job))["spec"]["artifactsUri"]
    container, _, folder = place.partition("/")
    await service.services.blobs.append(container, f"{folder}/user_logs/std_log_process_1.txt", b"of one\n", at=0)
    details = await service.call("GET", f"/history/v1.0{WS.id}/runs/{job}/details")
    assert list(details["logFiles"]) == ["user_logs/std_log_process_1.txt"]
    text = await service.user.get(details["logFiles"]["user_logs/std_log_process_1.txt"], headers={"Authorization": ""})
    assert text.content == b"of one\n"
