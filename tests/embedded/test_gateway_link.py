"""The gateway between an in-memory cluster and a workspace over real HTTP, with either side dying at bad moments."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from moorage.errors import Invalid, Unavailable
from moorage.gateway.connection import Connection, read_connection
from moorage.gateway.run import Gateway
from moorage.ids import Workspace, kube_name
from moorage.kube.cluster import Cluster
from moorage.kube.events import EventRecorder
from moorage.kube.kinds import INSTANCE_TYPE, NAMESPACE, NODE, ONLINE_DEPLOYMENT, ONLINE_ENDPOINT, POD, SECRET, SERVICE, TRAINING_JOB
from moorage.kube.metadata import uid_of
from moorage.testing.builders import (
    a_namespace,
    a_node,
    a_pod,
    a_training_job,
    an_instance_type,
    an_object,
    an_online_deployment,
    an_online_endpoint,
)
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster
from moorage.testing.workspace import WorkspacePeer
from moorage.testing.world import exists, until, until_gone
from moorage.wire.gateway import FINISHED, Report

JOB = ("TrainingJob", "default", "j")


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with in_memory_cluster() as memory:
        yield memory


@pytest.fixture
async def peer() -> AsyncIterator[WorkspacePeer]:
    async with WorkspacePeer().serving() as peer:
        yield peer


def connection(peer: WorkspacePeer, **rest: object) -> Connection:
    return Connection(peer.url, peer.cluster, peer.token, **rest)  # type: ignore[arg-type]


@asynccontextmanager
async def linked(cluster: Cluster, peer: WorkspacePeer, **rest: object) -> AsyncIterator[Gateway]:
    gateway = Gateway(cluster, connection(peer, **rest))
    task = asyncio.create_task(gateway.run())
    try:
        yield gateway
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def set_phase(cluster: Cluster, name: str, phase: str) -> None:
    await cluster.patch(TRAINING_JOB, name, "default", {"status": {"phase": phase}}, subresource="status")


async def test_a_wanted_object_appears_its_status_goes_up_and_unwanted_it_is_reported_gone(cluster: Cluster, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer):
        await peer.want(a_training_job("j"))
        made = await until(cluster, TRAINING_JOB, "j", "default", lambda job: True)
        assert made["metadata"]["labels"]["moorage.dev/desired"] == "true"
        await peer.until(lambda: JOB in peer.statuses)
        await set_phase(cluster, "j", "Running")
        await peer.until(lambda: peer.statuses[JOB].status.get("phase") == "Running")
        assert peer.statuses[JOB].uid == uid_of(made)
        await peer.unwant("TrainingJob", "j")
        await finish_foreground(cluster, "j")
        await peer.until(lambda: JOB in peer.gone)


async def test_a_changed_wish_is_applied_and_a_stray_change_is_undone(cluster: Cluster, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer):
        await peer.want(a_training_job("j", command="one"))
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: job["spec"]["command"] == "one")
        await peer.want(a_training_job("j", command="two"))
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: job["spec"]["command"] == "two")
        await cluster.patch(TRAINING_JOB, "j", "default", {"spec": {"command": "vandalised"}})
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: job["spec"]["command"] == "two")
        await cluster.delete(TRAINING_JOB, "j", "default")
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: job["spec"]["command"] == "two")


async def test_a_finished_job_that_somebody_deleted_is_not_run_again_even_by_a_new_agent(cluster: Cluster, peer: WorkspacePeer) -> None:
    finished = a_training_job("j")
    finished["metadata"]["annotations"] = {FINISHED: "true"}
    await peer.want(a_training_job("j"))
    async with linked(cluster, peer):
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: True)
        await peer.want(finished)
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: FINISHED in job["metadata"].get("annotations", {}))
        await cluster.delete(TRAINING_JOB, "j", "default")
        await until_gone(cluster, TRAINING_JOB, "j", "default")
        await peer.want(a_training_job("later"))
        await until(cluster, TRAINING_JOB, "later", "default", lambda job: True)
    async with linked(cluster, peer):
        await peer.want(a_training_job("latest"))
        await until(cluster, TRAINING_JOB, "latest", "default", lambda job: True)
        assert not await exists(cluster, TRAINING_JOB, "j", "default")


async def test_a_status_names_the_wish_that_the_object_carries_out(cluster: Cluster, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer):
        await peer.want(a_training_job("j", command="one"))
        await peer.until(lambda: JOB in peer.statuses and peer.statuses[JOB].revision == 1)
        await peer.want(a_training_job("j", command="two"))
        await peer.until(lambda: peer.statuses[JOB].revision == 2)
        changed = peer.statuses[JOB].generation
        await peer.want(a_training_job("j", command="two"))  # a later wish that changes nothing in the cluster
        await peer.until(lambda: peer.statuses[JOB].revision == 3)
        assert peer.statuses[JOB].generation == changed
    async with linked(cluster, peer):
        peer.statuses.clear()
        await peer.until(lambda: JOB in peer.statuses and peer.statuses[JOB].revision == 3)


async def test_a_missing_namespace_is_made(cluster: Cluster, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer):
        await peer.want(a_training_job("j", namespace="team-a"))
        await until(cluster, TRAINING_JOB, "j", "team-a", lambda job: True)
        assert await exists(cluster, NAMESPACE, "team-a")


async def test_leftovers_go_after_a_restart_and_strangers_stay(cluster: Cluster, peer: WorkspacePeer) -> None:
    await peer.want(a_training_job("j"))
    await peer.want(a_training_job("k"))
    async with linked(cluster, peer):
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: True)
        await until(cluster, TRAINING_JOB, "k", "default", lambda job: True)
    await cluster.create(TRAINING_JOB, a_training_job("strangers"))
    del peer.objects[("TrainingJob", "default", "k")]  # forgotten while the agent was away
    async with linked(cluster, peer):
        await finish_foreground(cluster, "k")
        await until_gone(cluster, TRAINING_JOB, "k", "default")
        await peer.until(lambda: ("TrainingJob", "default", "k") in peer.gone)
        assert await exists(cluster, TRAINING_JOB, "j", "default")
        assert await exists(cluster, TRAINING_JOB, "strangers", "default")


@pytest.mark.parametrize("lines", range(1, 6))
async def test_a_stream_cut_after_any_line_is_taken_up_and_nothing_is_deleted_by_half_a_reset(
    cluster: Cluster, peer: WorkspacePeer, lines: int
) -> None:
    for name in ("a", "b", "c"):
        await peer.want(a_training_job(name))
    async with linked(cluster, peer):
        for name in ("a", "b", "c"):
            await until(cluster, TRAINING_JOB, name, "default", lambda job: True)
    uids = {name: uid_of(await cluster.get(TRAINING_JOB, name, "default")) for name in ("a", "b", "c")}
    peer.lines = lines
    async with linked(cluster, peer):
        await peer.until(lambda: peer.lines is None) if lines <= 3 else None
        await peer.want(a_training_job("d"))
        await until(cluster, TRAINING_JOB, "d", "default", lambda job: True)
        assert uids == {name: uid_of(await cluster.get(TRAINING_JOB, name, "default")) for name in ("a", "b", "c")}


async def test_while_the_workspace_is_away_the_cluster_works_on_and_reports_arrive_later(cluster: Cluster, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer) as gateway:
        await peer.want(a_training_job("j"))
        await peer.until(lambda: JOB in peer.statuses)
        await peer.stop()
        for phase in ("Preparing", "Running", "Finalizing", "Completed"):
            await set_phase(cluster, "j", phase)
        while gateway.connected:
            await asyncio.sleep(0.01)
        assert await exists(cluster, TRAINING_JOB, "j", "default")
        await peer.start()
        await peer.until(lambda: peer.statuses[JOB].status.get("phase") == "Completed")
        await peer.want(a_training_job("k"))
        await until(cluster, TRAINING_JOB, "k", "default", lambda job: True)


@pytest.mark.slow  # it waits out back-offs
async def test_a_lost_receipt_and_refusals_of_the_moment_lose_no_report(cluster: Cluster, peer: WorkspacePeer) -> None:
    lost, refused = iter([True, True, False]), iter([503, 500, 429, None])
    peer.lose = lambda path: path.endswith("reports") and next(lost, False)
    peer.refuse = lambda path: next(refused, None) if path.endswith("reports") else None
    async with linked(cluster, peer):
        await peer.want(a_training_job("j"))
        await peer.until(lambda: JOB in peer.statuses)
        await set_phase(cluster, "j", "Running")
        await peer.until(lambda: peer.statuses[JOB].status.get("phase") == "Running")


async def test_one_unacceptable_report_does_not_hold_up_the_others(cluster: Cluster, peer: WorkspacePeer) -> None:
    peer.unacceptable = lambda report: report.kind == "inventory"
    async with linked(cluster, peer):
        await peer.want(a_training_job("j"))
        await peer.until(lambda: JOB in peer.statuses)
        await peer.until(lambda: peer.refused > 0)
        await set_phase(cluster, "j", "Running")
        await peer.until(lambda: peer.statuses[JOB].status.get("phase") == "Running")
    assert peer.inventory is None


async def test_a_state_that_the_workspace_refuses_for_a_time_is_told_again(
    cluster: Cluster, peer: WorkspacePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's end is told once: lost, the job would run for ever, though the service was only of a version before."""
    monkeypatch.setattr("moorage.gateway.outbox._REFUSED_AGAIN", timedelta(milliseconds=50))
    old, refusals = True, []

    def refuse(report: Report) -> bool:
        """What tells a state of which the older service does not know."""
        told = report.status.get("phase") if report.kind == "status" else report.kind
        if old and told in ("inventory", "gone", "Completed"):
            refusals.append(told)
            return True
        return False

    peer.unacceptable = refuse
    async with linked(cluster, peer):
        await peer.want(a_training_job("j"))
        await peer.until(lambda: JOB in peer.statuses)
        await set_phase(cluster, "j", "Completed")
        await peer.until(lambda: refusals.count("Completed") > 1 and refusals.count("inventory") > 1)
        assert peer.inventory is None and peer.statuses[JOB].status.get("phase") is None
        old = False
        await peer.until(lambda: peer.inventory is not None and peer.statuses[JOB].status.get("phase") == "Completed")
        old = True
        await peer.unwant("TrainingJob", "j")
        await finish_foreground(cluster, "j")
        await peer.until(lambda: refusals.count("gone") > 1)
        old = False
        await peer.until(lambda: JOB in peer.gone)


async def test_an_object_the_cluster_refuses_is_reported_failed_with_the_reason(cluster: Cluster, peer: WorkspacePeer) -> None:
    bad = a_training_job("Not_A_Name")
    name = ("TrainingJob", "default", "Not_A_Name")
    async with linked(cluster, peer):
        await peer.want(bad)
        await peer.until(lambda: name in peer.statuses)
        assert peer.statuses[name].status["phase"] == "Failed"
        assert "Not_A_Name" in peer.statuses[name].status["message"]
        await peer.until(lambda: any(event.reason == "NotApplied" for event in peer.events))


async def test_an_outage_of_the_api_is_told_as_what_passes_and_the_object_comes(cluster: Cluster, peer: WorkspacePeer) -> None:
    """The API was away for the moment of an upgrade, say: whoever waits for the endpoint is not told that it has failed."""

    def away(request: Request) -> None:
        if request.verb == "apply":
            raise Unavailable("nobody answers")

    wired = WiredCluster(cluster, before=away)
    async with linked(wired, peer):
        await peer.want(an_online_endpoint("digits"))
        await peer.until(
            lambda: any("has not taken the OnlineEndpoint yet: nobody answers" in event.message for event in peer.events), seconds=60
        )
        wired.before = None
        await until(cluster, ONLINE_ENDPOINT, "digits", "default", lambda endpoint: True)
        await peer.until(lambda: ("OnlineEndpoint", "default", "digits") in peer.statuses, seconds=60)
    assert {event.reason for event in peer.events} == {"NotAppliedYet"}


async def test_a_job_whose_change_the_cluster_refuses_goes_on_and_is_not_said_to_have_failed(cluster: Cluster, peer: WorkspacePeer) -> None:
    """A policy that came after the job, say: its pods run on, and may end well."""

    def refuse(request: Request) -> None:
        if request.verb == "apply" and request.kind == TRAINING_JOB:
            raise Invalid("denied by policy")

    wired = WiredCluster(cluster)
    async with linked(wired, peer):
        await peer.want(a_training_job("j"))
        await until(cluster, TRAINING_JOB, "j", "default", lambda job: True)
        await set_phase(cluster, "j", "Running")
        await peer.until(lambda: JOB in peer.statuses and peer.statuses[JOB].status.get("phase") == "Running", seconds=60)
        wired.before = refuse
        await peer.want(a_training_job("j", cancelRequested=True))
        await peer.until(lambda: any("denied by policy" in event.message for event in peer.events), seconds=60)
        assert peer.statuses[JOB].status["phase"] == "Running"
        await set_phase(cluster, "j", "Completed")
        await peer.until(lambda: peer.statuses[JOB].status["phase"] == "Completed", seconds=60)


async def test_a_refusal_by_something_on_the_way_costs_no_report(cluster: Cluster, peer: WorkspacePeer) -> None:
    """A proxy whose own sign-in has run out: its answers are about itself, not about what is reported."""
    async with linked(cluster, peer):
        await peer.want(a_training_job("j"))
        await peer.until(lambda: JOB in peer.statuses, seconds=60)
        foreign = iter([407, 400, 403])
        peer.interfere = lambda path: next(foreign, None) if path.endswith("reports") else None
        await set_phase(cluster, "j", "Completed")
        await peer.until(lambda: peer.statuses[JOB].status.get("phase") == "Completed", seconds=60)
        assert next(foreign, None) is None


async def test_inventory_tells_nodes_instance_types_and_the_router(cluster: Cluster, peer: WorkspacePeer) -> None:
    await cluster.create(NODE, a_node("n1", cpu="8"))
    await cluster.patch(NODE, "n1", None, {"status": a_node("n1", cpu="8")["status"]}, subresource="status")
    async with linked(cluster, peer):
        await peer.until(lambda: peer.inventory is not None and len(peer.inventory.nodes) == 1)
        assert peer.inventory is not None and peer.inventory.kubernetes_version.startswith("v1.")
        assert peer.inventory.nodes[0].allocatable["cpu"] == "8" and peer.inventory.nodes[0].ready
        await cluster.create(INSTANCE_TYPE, an_instance_type("small"))
        await cluster.create(NAMESPACE, a_namespace("azureml"))
        ports = [{"port": 80, "targetPort": 8080}]
        await cluster.create(
            SERVICE, an_object(SERVICE, "azureml-fe", namespace="azureml", spec={"clusterIP": "127.96.0.9", "ports": ports})
        )
        await peer.until(lambda: peer.inventory is not None and bool(peer.inventory.instance_types) and bool(peer.inventory.router_url))
        assert peer.inventory.instance_types[0]["metadata"]["name"] == "small"
        assert peer.inventory.router_url.startswith("http://127.96.") and peer.inventory.router_url.endswith(":80")


async def test_events_about_an_object_or_its_pods_go_up_and_others_do_not(cluster: Cluster, peer: WorkspacePeer) -> None:
    async with linked(cluster, peer):
        await peer.want(a_training_job("j"))
        await peer.until(lambda: JOB in peer.statuses)
        recorder = EventRecorder(cluster, "default-scheduler")
        for pod in ("stranger", "j-0-x7k2p"):
            await recorder.record(a_pod(pod), "Warning", "FailedScheduling", f"0/2 nodes are available: {pod}")
        await peer.until(lambda: bool(peer.events))
        assert [(event.about, event.key.name, event.reason) for event in peer.events] == [("Pod/j-0-x7k2p", "j", "FailedScheduling")]


async def test_an_event_goes_to_the_job_of_its_very_name_and_namespace(cluster: Cluster, peer: WorkspacePeer) -> None:
    workspace = Workspace("s", "g", "w")
    places = [(kube_name(workspace, job), space) for job in ("train", "train-1", "train-10", "train-1-0") for space in ("default", "team")]
    async with linked(cluster, peer):
        for name, namespace in places:
            await peer.want(a_training_job(name, namespace=namespace))
        await peer.until(lambda: len(peer.statuses) == len(places))
        recorder = EventRecorder(cluster, "default-scheduler")
        for name, namespace in places:
            await recorder.record(a_pod(f"{name}-0-x7k2p", namespace=namespace), "Warning", "FailedScheduling", f"{name} in {namespace}")
        await peer.until(lambda: len(peer.events) == len(places))
        assert all(event.message == f"{event.key.name} in {event.key.namespace}" for event in peer.events)


@pytest.mark.slow  # it waits out back-offs
async def test_access_is_granted_beside_the_object_and_renewed_when_half_of_its_life_is_over(cluster: Cluster, peer: WorkspacePeer) -> None:
    peer.token_lifetime = timedelta(seconds=4)
    async with linked(cluster, peer):
        await peer.want(a_training_job("j"))
        await peer.want(an_online_endpoint("e"))
        first = await until(cluster, SECRET, "j-access", "default", lambda secret: True)
        assert base64.b64decode(first["data"]["endpoint"]).decode() == f"{peer.url}/blobstore"
        assert first["metadata"]["ownerReferences"][0]["name"] == "j"
        await until(cluster, SECRET, "j-access", "default", lambda secret: secret["data"]["token"] != first["data"]["token"])
        await cluster.delete(SECRET, "j-access", "default")
        await until(cluster, SECRET, "j-access", "default", lambda secret: secret["metadata"]["uid"] != first["metadata"]["uid"])
        assert not await exists(cluster, SECRET, "e-access", "default")


async def test_access_covers_a_changed_spec_before_the_cluster_has_it(cluster: Cluster, peer: WorkspacePeer) -> None:
    deployment = an_online_deployment("d")
    async with linked(cluster, peer):
        await peer.want(deployment)
        await until(cluster, SECRET, "d-access", "default", lambda secret: base64.b64decode(secret["data"]["token"]) == b"t1")
        peer.refuse = lambda path: 503 if path.endswith("/tokens") else None
        await peer.want({**deployment, "spec": {**deployment["spec"], "replicas": 3}})
        await asyncio.sleep(0.3)
        assert (await cluster.get(ONLINE_DEPLOYMENT, "d", "default"))["spec"].get("replicas") != 3
        peer.refuse = lambda path: None
        await until(cluster, ONLINE_DEPLOYMENT, "d", "default", lambda found: found["spec"].get("replicas") == 3)
        assert base64.b64decode((await cluster.get(SECRET, "d-access", "default"))["data"]["token"]) == b"t2"


async def test_a_new_agent_does_not_renew_access_that_is_young(cluster: Cluster, peer: WorkspacePeer) -> None:
    await peer.want(a_training_job("j"))
    for _ in range(2):
        async with linked(cluster, peer):
            await until(cluster, SECRET, "j-access", "default", lambda secret: True)
            await peer.until(lambda: JOB in peer.statuses)
            await asyncio.sleep(0.1)
        peer.statuses.clear()
    assert peer.granted == 1


async def test_the_access_of_a_job_is_read_once_however_often_its_status_changes(cluster: Cluster, peer: WorkspacePeer) -> None:
    wired = WiredCluster(cluster)
    async with linked(wired, peer):
        await peer.want(a_training_job("j"))
        await until(cluster, SECRET, "j-access", "default", lambda secret: True)
        for phase in ("Queued", "Preparing", "Running", "Finalizing", "Running"):
            await set_phase(cluster, "j", phase)
            await peer.until(lambda phase=phase: peer.statuses[JOB].status.get("phase") == phase if JOB in peer.statuses else False)
        # By the time that another one has its own, the changes of the first have been looked at.
        await peer.want(a_training_job("k"))
        await until(cluster, SECRET, "k-access", "default", lambda secret: True)
    assert [request.name for request in wired.requests if request.kind == SECRET and request.verb == "get"] == ["j-access", "k-access"]


async def test_a_renewed_agent_token_is_picked_up_from_its_file(cluster: Cluster, peer: WorkspacePeer, tmp_path: Path) -> None:
    for name, text in {"url": peer.url, "cluster": peer.cluster, "token": "old"}.items():
        (tmp_path / name).write_text(text)
    gateway = asyncio.create_task(Gateway(cluster, read_connection(tmp_path)).run())
    await peer.want(a_training_job("j"))
    await asyncio.sleep(0.2)
    assert not await exists(cluster, TRAINING_JOB, "j", "default")
    (tmp_path / "token").write_text(f"{peer.token}\n")
    await until(cluster, TRAINING_JOB, "j", "default", lambda job: True)
    gateway.cancel()
    await asyncio.gather(gateway, return_exceptions=True)


def test_a_connection_with_a_part_missing_says_which(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://example.com")
    with pytest.raises(Invalid, match="cluster"):
        read_connection(tmp_path)


async def test_a_question_about_a_deployment_without_pods_is_answered(cluster: Cluster, peer: WorkspacePeer) -> None:
    key = {"kind": "OnlineDeployment", "namespace": "default", "name": "d"}
    async with linked(cluster, peer):
        await peer.ask({"id": "q1", "type": "deploymentLogs", "key": key})
        await peer.until(lambda: "q1" in peer.answers)
        assert peer.answers["q1"] == b""
        labels = {"app.kubernetes.io/instance": "d", "moorage.dev/deployment": "d"}
        await cluster.create(POD, a_pod("d-1", labels=labels))
        await peer.ask({"id": "q2", "type": "deploymentLogs", "key": key})
        await peer.until(lambda: "q2" in peer.answers)
        assert b"d-1" in peer.answers["q2"]


async def finish_foreground(cluster: Cluster, name: str) -> None:
    """What the garbage collector does once nothing is owned any more."""

    def deleting(job: dict[str, object]) -> bool:
        return bool(job["metadata"].get("deletionTimestamp"))  # type: ignore[attr-defined]

    if await exists(cluster, TRAINING_JOB, name, "default"):
        await until(cluster, TRAINING_JOB, name, "default", deleting)
        await cluster.patch(TRAINING_JOB, name, "default", {"metadata": {"finalizers": None}})
