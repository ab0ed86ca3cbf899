"""What operators take from beside their objects: refusals that Kubernetes' controllers tell of, and the label of a namespace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.embedded.test_operators_pods import COMMON, PATIENCE, background

from moorage.errors import Forbidden
from moorage.inference import controller as inference
from moorage.kube.cluster import Cluster
from moorage.kube.controller import Controller
from moorage.kube.events import EventRecorder
from moorage.kube.informer import Informers
from moorage.kube.kinds import DEPLOYMENT, EVENT, JOB, NAMESPACE, ONLINE_DEPLOYMENT, POD, TRAINING_JOB
from moorage.kube.metadata import owner_reference
from moorage.specs.distribution import PEERS_ANNOTATION
from moorage.specs.manifest import Manifest
from moorage.specs.security import ENFORCE_LABEL
from moorage.testing.builders import a_namespace, a_pod
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster
from moorage.testing.world import until, until_all
from moorage.training import controller as training

JOB_SPEC = {**COMMON, "job": "j", "command": "true", "environment": {"image": "i"}, "resources": {"instanceCount": 1}}
DEPLOYMENT_SPEC = {
    **COMMON,
    "endpoint": "e",
    "deployment": "d",
    "code": {"uri": "k/code", "scoringScript": "score.py"},
    "environment": {"image": "i"},
    "replicas": 1,
}
SAID = 'Error creating: pods "j-x7k2p" is forbidden: exceeded quota: team, requested: pods=1, used: pods=0, limited: pods=0'


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """With the operators, and without Kubernetes' own controllers: what they say is said by the test."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(in_memory_cluster())
        await cluster.create(NAMESPACE, a_namespace("team"))
        # Shared as in the agent: what one operator has seen of a namespace, the other has too.
        informers = Informers(cluster)
        controllers = [Controller(cluster, config, informers=informers) for config in (training.config(), inference.config())]
        await stack.enter_async_context(background(informers.run()))
        for controller in controllers:
            await stack.enter_async_context(background(controller.run()))
        yield cluster


def body(kind: Any, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name, "namespace": "team"}, "spec": spec}


def status(manifest: Manifest) -> Manifest:
    found: Manifest = manifest.get("status") or {}
    return found


def user(manifest: Manifest) -> object:
    context = manifest["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    return context.get("runAsUser")


async def test_a_refused_pod_is_told_in_the_jobs_status_and_in_an_event(cluster: Cluster) -> None:
    await cluster.create(TRAINING_JOB, body(TRAINING_JOB, "j", JOB_SPEC))
    job = await until(cluster, JOB, "j", "team", lambda _: True)
    recorder = EventRecorder(cluster, "job-controller")
    # Of another Job of that name, which is gone, and of something else: neither counts.
    await recorder.record({**job, "metadata": {**job["metadata"], "uid": "former"}}, "Warning", "FailedCreate", SAID.replace("quota", "x"))
    await recorder.record(job, "Warning", "FailedCreate", SAID)
    told = await until(cluster, TRAINING_JOB, "j", "team", lambda one: status(one).get("reason") == "QuotaExceeded")
    assert status(told)["phase"] == "Queued"
    assert "exceeded quota: team, requested: pods=1" in status(told)["message"]
    await until_all(
        cluster,
        EVENT,
        "team",
        lambda events: any((one["reason"], one["involvedObject"]["kind"]) == ("QuotaExceeded", "TrainingJob") for one in events),
    )


async def test_a_deployments_refused_replicas_are_told(cluster: Cluster) -> None:
    await cluster.create(ONLINE_DEPLOYMENT, body(ONLINE_DEPLOYMENT, "d", DEPLOYMENT_SPEC))
    await until(cluster, DEPLOYMENT, "d", "team", lambda _: True)
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": SAID.removeprefix("Error creating: ")}
    await cluster.patch(DEPLOYMENT, "d", "team", {"status": {"conditions": [condition]}}, subresource="status")
    told = await until(cluster, ONLINE_DEPLOYMENT, "d", "team", lambda one: status(one).get("reason") == "QuotaExceeded")
    assert status(told)["phase"] == "Creating"


async def test_the_label_of_a_namespace_decides_who_pods_run_as(cluster: Cluster) -> None:
    await cluster.create(TRAINING_JOB, body(TRAINING_JOB, "before", JOB_SPEC))
    await cluster.create(ONLINE_DEPLOYMENT, body(ONLINE_DEPLOYMENT, "d", DEPLOYMENT_SPEC))
    assert user(await until(cluster, JOB, "before", "team", lambda _: True)) is None
    assert user(await until(cluster, DEPLOYMENT, "d", "team", lambda _: True)) is None
    await cluster.patch(NAMESPACE, "team", None, {"metadata": {"labels": {ENFORCE_LABEL: "restricted"}}})
    # The label has been seen once the deployment follows it; a job that exists keeps its template.
    await until(cluster, DEPLOYMENT, "d", "team", lambda one: user(one) == 1000)
    await cluster.create(TRAINING_JOB, body(TRAINING_JOB, "after", JOB_SPEC))
    await until(cluster, JOB, "after", "team", lambda one: user(one) == 1000)
    assert user(await cluster.get(JOB, "before", "team")) is None
    await cluster.patch(NAMESPACE, "team", None, {"metadata": {"labels": {ENFORCE_LABEL: "baseline"}}})
    await until(cluster, DEPLOYMENT, "d", "team", lambda one: user(one) is None)


async def test_a_job_whose_pods_may_not_be_annotated_says_so_and_goes_on_when_they_may() -> None:
    words = 'pods "j-0" is forbidden: User "system:serviceaccount:azureml:gateway" cannot patch resource "pods" in API group ""'
    with_role = asyncio.Event()

    def role(request: Request) -> None:
        if (request.verb, request.kind) == ("patch", POD) and not with_role.is_set():
            raise Forbidden(words)

    async with in_memory_cluster() as cluster, AsyncExitStack() as stack:
        await cluster.create(NAMESPACE, a_namespace("team"))
        config = replace(training.config(), longest_backoff=timedelta(seconds=1))
        await stack.enter_async_context(background(Controller(WiredCluster(cluster, before=role), config).run()))
        await cluster.create(TRAINING_JOB, body(TRAINING_JOB, "j", {**JOB_SPEC, "resources": {"instanceCount": 2}}))
        job = await until(cluster, JOB, "j", "team", lambda _: True)
        for index in range(2):
            pod = a_pod(f"j-{index}", namespace="team", labels={"moorage.dev/job": "j"})
            pod["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": str(index)}
            pod["metadata"]["ownerReferences"] = [owner_reference(job)]
            await cluster.create(POD, pod)
            gate = {"name": "peers", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": {"running": {}}}
            at_the_gate = {"podIP": f"10.0.0.{index}", "phase": "Pending", "initContainerStatuses": [gate]}
            await cluster.patch(POD, f"j-{index}", "team", {"status": at_the_gate}, subresource="status")
        told = await until(cluster, TRAINING_JOB, "j", "team", lambda one: status(one).get("reason") == "PeersForbidden", within=PATIENCE)
        assert status(told)["phase"] == "Preparing" and words in status(told)["message"]
        with_role.set()
        for index in range(2):
            await until(cluster, POD, f"j-{index}", "team", lambda one: PEERS_ANNOTATION in one["metadata"]["annotations"], within=PATIENCE)
        await until(cluster, TRAINING_JOB, "j", "team", lambda one: status(one).get("reason") == "WaitingForPeers", within=PATIENCE)
