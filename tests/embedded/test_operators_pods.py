"""The operators on the embedded cluster with its real controllers, scheduler and node: custom resources in, blobs and scores out."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moorage.embedded.control.run import run_controllers
from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.node.run import Nodes
from moorage.embedded.tokens import TokenIssuer
from moorage.inference import controller as inference
from moorage.kube.cluster import LogOptions
from moorage.kube.controller import Controller
from moorage.kube.kinds import CRD, DEPLOYMENT, EVENT, JOB, ONLINE_DEPLOYMENT, ONLINE_ENDPOINT, POD, PVC, SECRET, TRAINING_JOB, Kind
from moorage.kube.streams import closing
from moorage.specs.manifest import Manifest
from moorage.testing.world import until, until_all, until_gone
from moorage.training import controller as training
from moorage.wire.crds import definitions

from .podside_blobs import TOKEN, Store, facade

NAMESPACE = "default"
# Pods are real processes on a machine with two cores that others use too.
PATIENCE = timedelta(seconds=100)
COMMON = {"workspace": "w", "resourceGroup": "rg", "compute": "local"}


@dataclass
class World:
    cluster: LocalCluster
    store: Store
    endpoint: str
    patience: timedelta = PATIENCE

    async def submit(self, kind: Kind, name: str, spec: Manifest) -> None:
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {**COMMON, **spec},
        }
        await self.cluster.create(kind, body)
        access = {"endpoint": self.endpoint, "token": TOKEN, "expires": "2036-01-01T00:00:00Z"}
        data = {key: base64.b64encode(value.encode()).decode() for key, value in access.items()}
        await self.cluster.create(SECRET, {"metadata": {"name": f"{name}-access", "namespace": NAMESPACE}, "data": data})

    async def status(self, kind: Kind, name: str, holds: Callable[[Manifest], bool]) -> Manifest:
        found = await until(self.cluster, kind, name, NAMESPACE, lambda each: holds(each.get("status") or {}), within=self.patience)
        status: Manifest = found["status"]
        return status

    async def finished(self, name: str) -> Manifest:
        return await self.status(TRAINING_JOB, name, lambda status: status.get("phase") in ("Completed", "Failed", "Canceled"))


@asynccontextmanager
async def background(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as found:
        yield found


@asynccontextmanager
async def a_world(tmp_path: Path, *, grouped: bool = False) -> AsyncIterator[World]:
    """A cluster of one node with the operators; `grouped`: jobs of several instances are gangs."""
    async with AsyncExitStack() as stack:
        store, access = stack.enter_context(facade(tmp_path / "access"))
        cluster = await open_cluster()
        stack.push_async_callback(cluster.close)
        for definition in definitions():
            await cluster.create(CRD, definition)
        issuer = TokenIssuer(Ed25519PrivateKey.generate(), "admin")
        nodes = Nodes(cluster, issuer, names=["n1"], folder=tmp_path / "nodes", api=("127.0.0.1", 6550), ca=b"CA", proxied=False)
        cluster.backend = nodes
        await stack.enter_async_context(background(run_controllers(cluster, volumes=tmp_path / "volumes")))
        await stack.enter_async_context(background(nodes.run()))
        await asyncio.wait_for(nodes.ready.wait(), 90)
        for config in (training.config(grouped=grouped), inference.config(), inference.endpoint_config()):
            await stack.enter_async_context(background(Controller(cluster, config).run()))
        yield World(cluster, store, access.endpoint())
        for kind in (TRAINING_JOB, ONLINE_DEPLOYMENT, ONLINE_ENDPOINT):
            for item in (await cluster.list(kind)).items:
                await cluster.delete(kind, item["metadata"]["name"], NAMESPACE)
        for pod in (await cluster.list(POD)).items:
            await until_gone(cluster, POD, pod["metadata"]["name"], NAMESPACE, within=PATIENCE)


TRAIN = """
import os, pathlib, sys
data = pathlib.Path(sys.argv[1]).read_text()
out = pathlib.Path(sys.argv[2])
(out / "model.txt").write_text(f"{data} {sys.argv[3]} {os.environ['AZUREML_RUN_ID']}")
pathlib.Path("outputs").joinpath("note").write_text(" ".join([sys.prefix, *sys.path]))
print("trained")
"""


def job(command: str, **more: Any) -> Manifest:
    return {"job": "j", "command": command, "environment": {"image": "python:3.11"}, **more}


async def test_a_job_fetches_trains_and_stores(world: World) -> None:
    world.store.blobs |= {"c/code/train.py": TRAIN.encode(), "c/in/data.csv": b"1,2"}
    spec = job(
        "python train.py ${{inputs.data}} ${{outputs.model}} ${{inputs.n}}",
        environment={"conda": "dependencies: ['python=3.11']"},
        code={"uri": "c/code"},
        inputs={"data": {"type": "uri_file", "uri": "c/in/data.csv"}, "n": {"type": "literal", "value": "7"}},
        outputs={"model": {"type": "uri_folder", "uri": "c/out/model"}},
        artifactsUri="a/run/j",
    )
    await world.submit(TRAINING_JOB, "j1", spec)
    status = await world.finished("j1")
    assert (status["phase"], status["exitCode"]) == ("Completed", 0), status
    assert world.store.blobs["c/out/model/model.txt"] == b"1,2 7 j"
    note = world.store.blobs["a/run/j/outputs/note"]
    assert note.startswith(b"/mnt/azureml/.python ") and b" /moorage/environments/" in note
    pod = status["pods"][0]["name"]
    log = b"".join([chunk async for chunk in world.cluster.logs(NAMESPACE, pod, LogOptions(container="main"))])
    assert log == b"trained\n"
    assert (await world.cluster.get(PVC, "moorage-environments", NAMESPACE))["metadata"].get("ownerReferences") is None
    before = (await world.cluster.get(TRAINING_JOB, "j1", NAMESPACE))["metadata"]["resourceVersion"]

    def of_the_job(events: list[Manifest]) -> list[Manifest]:
        return [event for event in events if event["involvedObject"]["kind"] == "TrainingJob"]

    # Recorded after the status is written.
    events = await until_all(world.cluster, EVENT, NAMESPACE, lambda events: bool(of_the_job(events)), within=world.patience)
    assert [event["reason"] for event in of_the_job(events)] == ["Completed"]
    assert (await world.cluster.get(TRAINING_JOB, "j1", NAMESPACE))["metadata"]["resourceVersion"] == before


async def test_a_failing_command_keeps_its_outputs_and_a_cancelled_one_ends(world: World) -> None:
    failing = job(
        "echo half > ${{outputs.o}}/part; echo first; echo 'ValueError: no' >&2; exit 3",
        outputs={"o": {"type": "uri_folder", "uri": "c/o"}},
    )
    await world.submit(TRAINING_JOB, "bad", failing)
    await world.submit(TRAINING_JOB, "lost", job("true", code={"uri": "c/nothing"}))
    await world.submit(TRAINING_JOB, "long", job("exec sleep 600"))
    status = await world.finished("bad")
    assert (status["phase"], status["reason"], status["exitCode"]) == ("Failed", "CommandFailed", 3)
    assert "exit code 3" in status["message"]
    assert "ValueError: no" in status["message"]
    assert world.store.blobs["c/o/part"] == b"half\n"
    status = await world.finished("lost")
    assert (status["reason"], status["message"]) == (
        "FetchFailed",
        "Code or inputs could not be downloaded: There is nothing at 'c/nothing' in the workspace's store.",
    )
    await world.status(TRAINING_JOB, "long", lambda each: each.get("phase") == "Running")
    await world.cluster.patch(TRAINING_JOB, "long", NAMESPACE, {"spec": {"cancelRequested": True}})
    status = await world.finished("long")
    assert (status["phase"], status["reason"]) == ("Canceled", "CancelRequested")
    assert [each["metadata"]["name"] for each in (await world.cluster.list(JOB)).items] == ["bad", "lost"]


SCORE = "import json, os\ndef init():\n    global m\n    m = open(os.path.join(os.environ['AZUREML_MODEL_DIR'], 'model.txt')).read()\n"
SCORE += "def run(raw_data):\n    return {'model': m, 'data': json.loads(raw_data)}\n"


def ask(address: str, body: str) -> Any:
    connection = http.client.HTTPConnection(address, 5001, timeout=60)
    try:
        connection.request("POST", "/score", body=body)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


async def test_a_deployment_serves_and_a_broken_one_fails_with_its_traceback(world: World) -> None:
    world.store.blobs |= {
        "c/code/score.py": SCORE.encode(),
        "c/broken/score.py": b"def init():\n    raise RuntimeError('no model here')\ndef run(d): pass\n",
    }
    world.store.blobs |= {"c/jobs/model/model.txt": b"weights"}
    spec = {
        "endpoint": "digits",
        "deployment": "blue",
        "model": {"name": "m", "version": "1", "uri": "c/jobs/model", "kind": "folder"},
        "code": {"uri": "c/code", "scoringScript": "score.py"},
        "environment": {"image": "python:3.11"},
    }
    await world.submit(ONLINE_DEPLOYMENT, "digits-blue", spec)
    await world.submit(ONLINE_ENDPOINT, "digits", {"endpoint": "digits", "authMode": "Key", "traffic": {"blue": 100}})
    status = await world.status(ONLINE_DEPLOYMENT, "digits-blue", lambda each: each.get("phase") in ("Succeeded", "Failed"))
    assert (status["phase"], status["readyReplicas"]) == ("Succeeded", 1), status
    pods = (await world.cluster.list(POD, NAMESPACE, labels="moorage.dev/deployment=blue")).items
    reply = await asyncio.to_thread(ask, pods[0]["status"]["podIP"], "[1, 2]")
    assert reply == {"model": "weights", "data": [1, 2]}
    await world.status(ONLINE_ENDPOINT, "digits", lambda each: each["conditions"][0]["status"] == "True" if each else False)
    await world.submit(
        ONLINE_DEPLOYMENT, "digits-green", spec | {"deployment": "green", "code": {"uri": "c/broken", "scoringScript": "score.py"}}
    )
    status = await world.status(ONLINE_DEPLOYMENT, "digits-green", lambda each: each.get("phase") == "Failed")
    assert status["reason"] == "ScoringScriptFailed"
    assert "RuntimeError: no model here" in status["message"]
    assert [each["metadata"]["name"] for each in (await world.cluster.list(DEPLOYMENT)).items] == ["digits-blue", "digits-green"]


WAITS = "import pathlib, signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
WAITS += "pathlib.Path(sys.argv[1], 'model').write_text('m')\nprint('armed', flush=True)\nsignal.sigwait([signal.SIGUSR1])\n"


async def armed(world: World, pod: str) -> None:
    """Wait until a command has said that it is ready for signals."""
    said = b""
    async with asyncio.timeout(world.patience.total_seconds()):
        async with closing(world.cluster.logs(NAMESPACE, pod, LogOptions(container="main", follow=True))) as log:
            while b"armed\n" not in said:  # in pieces, as it was written
                said += await anext(log)


def send(pod: str, words: str, number: int) -> bool:
    """Send a signal to the process of a pod whose command line has these words; whether there is one."""
    for process in Path("/proc").iterdir():
        try:
            command, variables = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if words.encode() in command.replace(b"\0", b" ") and f"HOSTNAME={pod}".encode() in variables.split(b"\0"):
            os.kill(int(process.name), number)
            return True
    return False


@pytest.mark.slow
async def test_a_job_is_not_complete_when_what_stores_its_outputs_had_fallen_over(world: World) -> None:
    """Slow: the sidecar must die twice before the node waits with starting it again."""
    world.store.blobs["c/code/waits.py"] = WAITS.encode()
    spec = job("exec python waits.py ${{outputs.o}}", code={"uri": "c/code"}, outputs={"o": {"type": "uri_folder", "uri": "c/o"}})
    await world.submit(TRAINING_JOB, "fallen", spec)
    await world.status(TRAINING_JOB, "fallen", lambda each: each.get("phase") == "Running")
    (pod,) = (await world.cluster.list(POD, NAMESPACE, labels="moorage.dev/job=fallen")).items
    name = pod["metadata"]["name"]
    await armed(world, name)
    end = asyncio.get_running_loop().time() + world.patience.total_seconds()
    while not any("waiting" in each["state"] for each in pod["status"]["initContainerStatuses"]):
        send(name, "moorage.podside upload", signal.SIGKILL)
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.05)
        pod = await world.cluster.get(POD, name, NAMESPACE)
    assert send(name, "python waits.py", signal.SIGUSR1)
    status = await world.finished("fallen")
    # On a slow machine the sidecar may have come back in time.
    assert (status["phase"] == "Completed") == ("c/o/model" in world.store.blobs), status
    if status["phase"] != "Completed":
        assert (status["phase"], status["reason"], status["exitCode"]) == ("Failed", "UploadFailed", 0)


async def test_a_job_that_is_evicted_and_ends_with_success_is_not_complete(world: World) -> None:
    """As scripts do that store a checkpoint on SIGTERM; Kubernetes itself counts such a pod as succeeded."""
    await world.submit(TRAINING_JOB, "evicted", job("trap 'exit 0' TERM; echo armed; sleep 600 & wait"))
    await world.status(TRAINING_JOB, "evicted", lambda each: each.get("phase") == "Running")
    (pod,) = (await world.cluster.list(POD, NAMESPACE, labels="moorage.dev/job=evicted")).items
    await armed(world, pod["metadata"]["name"])
    await world.cluster.create_subresource(
        POD, pod["metadata"]["name"], NAMESPACE, "eviction", {"metadata": {"name": pod["metadata"]["name"]}}
    )
    status = await world.finished("evicted")
    assert (status["phase"], status["reason"], status["exitCode"]) == ("Failed", "Interrupted", 0), status
    assert status["message"].startswith("The cluster took its pod away (Eviction API: evicting), ")
