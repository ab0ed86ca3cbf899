"""The controllers at work on the embedded cluster: assertions on the world they leave behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from moorage.embedded.control.loop import Loop
from moorage.embedded.control.run import run_controllers
from moorage.embedded.control.steps import Create, Decision
from moorage.embedded.control.world import World
from moorage.embedded.local import open_cluster
from moorage.errors import NotFound
from moorage.kube.kinds import (
    CONFIG_MAP,
    CRD,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    EVENT,
    JOB,
    LEASE,
    NAMESPACE,
    NODE,
    POD,
    POD_GROUP,
    PV,
    PVC,
    REPLICA_SET,
    SERVICE,
    SERVICE_ACCOUNT,
    STORAGE_CLASS,
    Kind,
)

Manifest = dict[str, Any]
Opened = Callable[..., Any]


def template(app: str = "web", image: str = "v1", exit_code: str | None = None, **spec: Any) -> Manifest:
    metadata: Manifest = {"labels": {"app": app}}
    if exit_code is not None:
        metadata["annotations"] = {"puppet/exit": exit_code}
    return {"metadata": metadata, "spec": {"containers": [{"name": "main", "image": image}], **spec}}


def deployment(replicas: int = 3, **spec: Any) -> Manifest:
    return {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(), **spec},
    }


def job(name: str = "train", exit_code: str | None = "0", **spec: Any) -> Manifest:
    return {
        "metadata": {"name": name, "namespace": spec.pop("namespace", "default")},
        "spec": {"template": template("train", exit_code=exit_code, restartPolicy="Never"), **spec},
    }


def condition(one: Manifest, type: str) -> str | None:
    return next((found["status"] for found in (one.get("status") or {}).get("conditions") or () if found["type"] == type), None)


def ended(jobs: list[Manifest]) -> bool:
    return bool(jobs) and all("True" in (condition(one, "Complete"), condition(one, "Failed")) for one in jobs)


async def reasons(stage: Any, name: str) -> list[str]:
    events = (await stage.cluster.list(EVENT)).items
    return sorted(one["reason"] for one in events if one["involvedObject"]["name"] == name)


async def test_a_deployment_its_service_and_a_job_come_to_rest_and_then_nothing_is_written(stage: Any) -> None:
    await stage.cluster.create(DEPLOYMENT, deployment())
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 5001}]}
    await stage.cluster.create(SERVICE, {"metadata": {"name": "web", "namespace": "default"}, "spec": service})
    await stage.cluster.create(JOB, job(completions=3, parallelism=2, completionMode="Indexed"))
    await stage.until(JOB, ended)
    await stage.until(DEPLOYMENT, lambda found: found[0].get("status", {}).get("availableReplicas") == 3)
    (slice_,) = await stage.until(ENDPOINT_SLICE, lambda found: bool(found) and len(found[0]["endpoints"]) == 3)
    assert all(endpoint["conditions"]["ready"] for endpoint in slice_["endpoints"])
    (done,) = (await stage.cluster.list(JOB)).items
    assert done["status"]["completedIndexes"] == "0-2"
    pods = (await stage.cluster.list(POD, labels="app=web")).items
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-0", "node-1"}
    assert all(condition(pod, "PodScheduled") == "True" for pod in pods)
    revision = await stage.settled()
    assert await reasons(stage, "train") == ["Completed", "SuccessfulCreate", "SuccessfulCreate", "SuccessfulCreate"]
    await asyncio.sleep(1)
    assert stage.cluster.store.revision == revision


async def test_a_new_image_rolls_over_and_a_lost_pod_is_replaced(stage: Any) -> None:
    await stage.cluster.create(DEPLOYMENT, deployment())
    await stage.until(DEPLOYMENT, lambda found: found[0].get("status", {}).get("availableReplicas") == 3)
    await stage.cluster.patch(DEPLOYMENT, "web", "default", {"spec": {"template": template(image="v2")}})
    await stage.until(
        POD,
        lambda pods: (
            len(pods) == 3
            and {one["spec"]["containers"][0]["image"] for one in pods} == {"v2"}
            and all(condition(one, "Ready") == "True" for one in pods)
        ),
    )
    (found,) = await stage.until(
        DEPLOYMENT, lambda found: found[0]["status"].get("updatedReplicas") == 3 and found[0]["status"]["replicas"] == 3
    )
    assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    victim = (await stage.cluster.list(POD)).items[0]
    await stage.cluster.delete(POD, victim["metadata"]["name"], "default", grace=timedelta(0))
    await stage.until(POD, lambda pods: len(pods) == 3 and victim["metadata"]["uid"] not in {one["metadata"]["uid"] for one in pods})
    sizes = sorted(one["spec"]["replicas"] for one in (await stage.cluster.list(REPLICA_SET)).items)
    assert sizes == [0, 3]


async def test_a_failing_job_fails_with_reason_and_its_pods_are_kept_to_read(stage: Any) -> None:
    await stage.cluster.create(JOB, job(exit_code="7", backoffLimit=0))
    (found,) = await stage.until(JOB, ended)
    assert [(one["type"], one["reason"]) for one in found["status"]["conditions"]] == [
        ("FailureTarget", "BackoffLimitExceeded"),
        ("Failed", "BackoffLimitExceeded"),
    ]
    (pod,) = (await stage.cluster.list(POD)).items
    assert pod["status"]["phase"] == "Failed"
    assert "finalizers" not in pod["metadata"]


async def test_a_pod_too_large_waits_says_why_and_goes_when_a_node_comes(stage: Any) -> None:
    large = template("large")
    large["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "16"}}
    await stage.cluster.create(POD, {"metadata": {"name": "large", "namespace": "default"}, "spec": large["spec"]})
    (pod,) = await stage.until(POD, lambda pods: condition(pods[0], "PodScheduled") == "False")
    (why,) = [one for one in pod["status"]["conditions"] if one["type"] == "PodScheduled"]
    assert why["reason"] == "Unschedulable"
    assert why["message"].startswith("0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: ")
    await stage.until(EVENT, lambda events: any(one["reason"] == "FailedScheduling" and one["message"] == why["message"] for one in events))
    await stage.settled()
    await stage.node("giant", cpu="32")
    (pod,) = await stage.until(POD, lambda pods: condition(pods[0], "Ready") == "True")
    assert pod["spec"]["nodeName"] == "giant"
    assert all("message" not in one for one in pod["status"]["conditions"] if one["type"] == "PodScheduled")


async def test_a_gang_goes_together_or_waits_together(stage: Any) -> None:
    await stage.cluster.create(POD_GROUP, {"metadata": {"name": "gang", "namespace": "default"}, "spec": {"minMember": 3}})
    members = job("gang", exit_code=None, completions=3, parallelism=3, completionMode="Indexed")
    members["spec"]["template"]["metadata"]["annotations"] = {"scheduling.k8s.io/group-name": "gang"}
    members["spec"]["template"]["spec"]["schedulerName"] = "volcano"
    members["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "6"}}
    await stage.cluster.create(JOB, members)
    pods = await stage.until(POD, lambda pods: len(pods) == 3 and all(condition(pod, "PodScheduled") == "False" for pod in pods))
    assert not any(pod["spec"].get("nodeName") for pod in pods)
    (group,) = await stage.until(POD_GROUP, lambda groups: bool(groups[0].get("status")))
    assert group["status"]["phase"] == "Inqueue"
    await stage.settled()
    await stage.node("node-9")
    await stage.until(POD, lambda pods: all(pod["spec"].get("nodeName") for pod in pods))
    await stage.until(POD_GROUP, lambda groups: groups[0]["status"]["phase"] == "Running")


async def test_a_claim_gets_a_folder_that_goes_with_it(stage: Any, tmp_path: Path) -> None:
    await stage.until(STORAGE_CLASS, lambda classes: bool(classes))
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await stage.cluster.create(PVC, {"metadata": {"name": "data", "namespace": "default"}, "spec": asked})
    spec = template("user")["spec"] | {"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}
    await stage.cluster.create(POD, {"metadata": {"name": "user", "namespace": "default"}, "spec": spec})
    await stage.until(POD, lambda pods: condition(pods[0], "Ready") == "True")
    (claim,) = await stage.until(PVC, lambda claims: claims[0]["status"].get("phase") == "Bound")
    (volume,) = await stage.until(PV, lambda volumes: volumes[0].get("status", {}).get("phase") == "Bound")
    folder = tmp_path / "volumes" / volume["metadata"]["name"]
    assert claim["spec"]["storageClassName"] == "moorage-local"
    assert claim["status"]["capacity"] == {"storage": "1Gi"}
    (folder / "kept").write_text("x")
    await stage.cluster.delete(PVC, "data", "default")
    await stage.settled()
    assert (folder / "kept").exists()
    await stage.cluster.delete(POD, "user", "default", grace=timedelta(0))
    await stage.until(PV, lambda volumes: not volumes)
    assert not folder.exists()


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
async def test_what_a_deployment_owns_goes_with_it(stage: Any, propagation: str) -> None:
    await stage.cluster.create(DEPLOYMENT, deployment(2))
    await stage.until(POD, lambda pods: len(pods) == 2 and all(condition(one, "Ready") == "True" for one in pods))
    await stage.cluster.delete(DEPLOYMENT, "web", "default", propagation=propagation)
    for kind in (DEPLOYMENT, REPLICA_SET, POD):
        await stage.until(kind, lambda found: not found)


async def test_orphaned_replica_sets_live_on_and_are_adopted_again(stage: Any) -> None:
    await stage.cluster.create(DEPLOYMENT, deployment(2))
    before = await stage.until(POD, lambda pods: len(pods) == 2 and all(condition(one, "Ready") == "True" for one in pods))
    await stage.cluster.delete(DEPLOYMENT, "web", "default", propagation="Orphan")
    await stage.until(REPLICA_SET, lambda found: not found[0]["metadata"].get("ownerReferences"))
    await stage.until(DEPLOYMENT, lambda found: not found)
    await stage.cluster.create(DEPLOYMENT, deployment(2))
    await stage.until(DEPLOYMENT, lambda found: found[0].get("status", {}).get("availableReplicas") == 2)
    after = (await stage.cluster.list(POD)).items
    assert {one["metadata"]["uid"] for one in after} == {one["metadata"]["uid"] for one in before}


async def test_children_of_a_custom_resource_go_with_it_and_with_its_definition(stage: Any) -> None:
    kind = Kind("test.dev", "v1", "Thing", "things")
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    definition = {
        "metadata": {"name": "things.test.dev"},
        "spec": {
            "group": "test.dev",
            "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things", "singular": "thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    await stage.cluster.create(CRD, definition)
    await stage.until(CRD, lambda found: any(condition(one, "Established") == "True" for one in found))
    for name in ("one", "two"):
        owner = await stage.cluster.create(kind, {"metadata": {"name": name, "namespace": "default"}})
        reference = {"apiVersion": "test.dev/v1", "kind": "Thing", "name": name, "uid": owner["metadata"]["uid"]}
        await stage.cluster.create(CONFIG_MAP, {"metadata": {"name": name, "namespace": "default", "ownerReferences": [reference]}})
    await stage.settled()
    await stage.cluster.delete(kind, "one", "default")
    await stage.until(CONFIG_MAP, lambda found: "one" not in {one["metadata"]["name"] for one in found})
    assert (await stage.cluster.get(CONFIG_MAP, "two", "default"))["metadata"]["name"] == "two"
    await stage.cluster.delete(CRD, "things.test.dev")
    await stage.until(CONFIG_MAP, lambda found: "two" not in {one["metadata"]["name"] for one in found})


async def test_a_namespace_ends_with_everything_in_it(stage: Any) -> None:
    await stage.cluster.create(NAMESPACE, {"metadata": {"name": "team"}})
    await stage.until(SERVICE_ACCOUNT, lambda found: bool(found), namespace="team")
    await stage.cluster.create(JOB, job(exit_code=None, namespace="team", parallelism=2, completions=2))
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await stage.cluster.create(PVC, {"metadata": {"name": "data", "namespace": "team"}, "spec": asked})
    await stage.until(POD, lambda pods: len(pods) == 2 and all(condition(one, "Ready") == "True" for one in pods))
    await stage.until(PV, lambda volumes: bool(volumes) and volumes[0].get("status", {}).get("phase") == "Bound")
    await stage.cluster.delete(NAMESPACE, "team")
    await stage.until(NAMESPACE, lambda found: "team" not in {one["metadata"]["name"] for one in found})
    for kind in (POD, JOB, PVC, EVENT):
        assert not (await stage.cluster.list(kind, "team")).items
    await stage.until(PV, lambda volumes: not volumes)


async def test_pods_of_a_deleted_job_do_not_hang_on_their_finalizers(stage: Any) -> None:
    await stage.cluster.create(JOB, job(exit_code=None, parallelism=2, completions=2))
    await stage.until(POD, lambda pods: len(pods) == 2 and all(condition(one, "Ready") == "True" for one in pods))
    await stage.cluster.delete(JOB, "train", "default")
    await stage.until(POD, lambda pods: not pods)


async def test_one_object_nobody_can_make_sense_of_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    cluster = await open_cluster()
    world = World(cluster)
    tries: list[str] = []

    def decide(key: tuple[str, str]) -> Decision:
        tries.append(key[1])
        if key[1] == "broken":
            raise KeyError("spec")
        return Decision([Create(CONFIG_MAP, {"metadata": {"name": key[1], "namespace": "default"}})])

    loop = Loop(world, "some-controller", decide, workers=1)
    for name in ("broken", "fine"):
        loop.queue.add(("default", name))
    task = asyncio.create_task(loop.run())
    async with asyncio.timeout(60):
        while tries.count("broken") < 3:
            await asyncio.sleep(0.005)
    assert (await cluster.get(CONFIG_MAP, "fine", "default"))["metadata"]["name"] == "fine"
    assert any("some-controller: default/broken: defect; again in" in record.getMessage() for record in caplog.records)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await cluster.close()


async def test_killed_at_any_moment_the_controllers_converge_after_a_restart(stage_at: Opened, tmp_path: Path) -> None:
    """The controllers are cut off in the middle of whatever they do, several times, on a store in a file."""
    chance = random.Random(7)
    path = tmp_path / "state.db"
    async with stage_at(path=path) as stage:
        await stage.cluster.create(DEPLOYMENT, deployment(4))
        await stage.cluster.create(JOB, job(completions=6, parallelism=2, completionMode="Indexed"))
        asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        await stage.cluster.create(PVC, {"metadata": {"name": "data", "namespace": "default"}, "spec": asked})
        await asyncio.sleep(0.02)
    for number in range(8):
        async with stage_at(path=path) as stage:
            await asyncio.sleep(chance.uniform(0.01, 0.12))
            await stage.cluster.patch(DEPLOYMENT, "web", "default", {"spec": {"template": template(image=f"v{number}")}})
            await asyncio.sleep(chance.uniform(0, 0.05))
    async with stage_at(path=path) as stage:
        (done,) = await stage.until(JOB, ended)
        assert done["status"]["succeeded"] == 6
        assert done["status"]["completedIndexes"] == "0-5"
        assert "failed" not in done["status"]
        await stage.until(
            POD,
            lambda pods: (
                len(web := [one for one in pods if one["metadata"]["labels"]["app"] == "web"]) == 4
                and all(one["spec"]["containers"][0]["image"] == "v7" and condition(one, "Ready") == "True" for one in web)
            ),
        )
        indexes = [
            one["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
            for one in (await stage.cluster.list(POD, labels="app=train")).items
        ]
        assert sorted(indexes) == ["0", "1", "2", "3", "4", "5"]
        assert len((await stage.cluster.list(PV)).items) == 1
        await stage.settled()


# Virtual time: hours pass in no time, and the clock that objects are stamped with goes along.

BEGIN = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def virtual() -> datetime:
    return BEGIN + timedelta(seconds=asyncio.get_running_loop().time())


@pytest.mark.looptime
async def test_pods_of_a_lost_node_are_replaced_elsewhere_and_the_node_comes_back(stage_at: Opened) -> None:
    async with stage_at(clock=virtual) as stage:
        beat = asyncio.create_task(stage.keep_alive("node-0"))
        rare = asyncio.create_task(stage.keep_alive("node-1"))
        await stage.cluster.create(DEPLOYMENT, deployment(2))
        await stage.until(POD, lambda pods: len({one["spec"].get("nodeName") for one in pods if condition(one, "Ready") == "True"}) == 2)
        rare.cancel()
        found = await stage.until(NODE, lambda found: any(condition(one, "Ready") == "Unknown" for one in found))
        assert [one["metadata"]["name"] for one in found if condition(one, "Ready") == "Unknown"] == ["node-1"]
        await stage.until(
            POD, lambda pods: sum(one["spec"].get("nodeName") == "node-0" and condition(one, "Ready") == "True" for one in pods) == 2
        )
        assert virtual() - BEGIN >= timedelta(seconds=340)
        rare = asyncio.create_task(stage.keep_alive("node-1"))
        await stage.until(NODE, lambda found: all(condition(one, "Ready") == "True" and not one["spec"].get("taints") for one in found))
        beat.cancel()
        rare.cancel()


@pytest.mark.looptime
async def test_failures_back_off_before_the_next_pod_and_the_job_then_completes(stage_at: Opened) -> None:
    ends = iter(["1", "1", "0"])
    codes: dict[str, str] = {}

    def script(pod: Manifest) -> str:
        return codes.setdefault(pod["metadata"]["uid"], next(ends))

    async with stage_at(clock=virtual, script=script) as stage:
        await stage.cluster.create(JOB, job(exit_code=None, ttlSecondsAfterFinished=100))
        (found,) = await stage.until(JOB, ended)
        assert condition(found, "Complete") == "True"
        assert found["status"]["failed"] == 2
        assert timedelta(seconds=30) <= virtual() - BEGIN < timedelta(seconds=40)
        await stage.until(JOB, lambda jobs: not jobs)
        await stage.until(POD, lambda pods: not pods)


@pytest.mark.looptime
async def test_events_go_after_an_hour_and_orphans_of_a_removed_node_sooner(stage_at: Opened) -> None:
    async with stage_at(clock=virtual) as stage:
        beats = [asyncio.create_task(stage.keep_alive(f"node-{number}")) for number in (0, 1)]
        await stage.cluster.create(DEPLOYMENT, deployment(2))
        await stage.until(POD, lambda pods: len({one["spec"].get("nodeName") for one in pods if condition(one, "Ready") == "True"}) == 2)
        beats[1].cancel()
        await stage.cluster.delete(NODE, "node-1")
        await stage.until(POD, lambda pods: len(pods) == 2 and {one["spec"].get("nodeName") for one in pods} == {"node-0"})
        before = len((await stage.cluster.list(EVENT)).items)
        assert before
        await stage.until(EVENT, lambda events: not events)
        assert virtual() - BEGIN >= timedelta(hours=1)
        beats[0].cancel()


async def test_it_stops_at_once_when_cancelled_and_leaves_no_task_behind(tmp_path: Path) -> None:
    cluster = await open_cluster()
    before = asyncio.all_tasks()
    task = asyncio.create_task(run_controllers(cluster, volumes=tmp_path / "volumes", root_ca="PEM"))
    async with asyncio.timeout(60):
        while True:
            try:
                assert (await cluster.get(CONFIG_MAP, "kube-root-ca.crt", "kube-system"))["data"] == {"ca.crt": "PEM"}
                break
            except NotFound:
                await asyncio.sleep(0.01)
    task.cancel()
    async with asyncio.timeout(60):
        await asyncio.gather(task, return_exceptions=True)
    assert asyncio.all_tasks() == before
    assert not (await cluster.list(LEASE)).items
    await cluster.close()
