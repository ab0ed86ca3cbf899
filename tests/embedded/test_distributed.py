"""Jobs of several instances on the embedded cluster: real processes that find each other, fail together and begin anew together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.embedded.test_operators_pods import NAMESPACE, World, a_world, job
from tests.sdk.flows.distributed import REDUCE, SERVED

from moorage.errors import NotFound
from moorage.kube.cluster import LogOptions
from moorage.kube.kinds import EVENT, JOB, POD, POD_GROUP, TRAINING_JOB
from moorage.specs.manifest import Manifest
from moorage.testing.world import until_all

pytestmark = pytest.mark.timeout(600)

INDEX = "batch.kubernetes.io/job-completion-index"
# Up to four pods of four processes each, on a machine with two cores that others use too.
PATIENCE = timedelta(seconds=300)


KEEP = """
import json, pathlib
known = {name: os.environ.get(name) for name in ("LOCAL_RANK", "NODE_RANK", "AZUREML_NODE_COUNT", "AZUREML_RUN_ID")}
pathlib.Path("outputs", f"rank-{rank}").write_text(json.dumps(known))
if known["LOCAL_RANK"] == "0":
    pathlib.Path("outputs", "same").write_text(str(rank) * 10000)
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, grouped=True) as found:
        found.patience = PATIENCE
        yield found


def several(command: str, instances: int = 2, **more: Any) -> Manifest:
    return job(command, resources={"instanceCount": instances}, artifactsUri="a/run/j", **more)


@pytest.mark.slow  # whole jobs of two pods
async def test_four_processes_on_two_instances_find_each_other(world: World) -> None:
    world.store.blobs["c/code/reduce.py"] = (REDUCE + KEEP).encode()
    spec = several("python reduce.py", code={"uri": "c/code"}, distribution={"type": "PyTorch", "processCountPerInstance": 2})
    await world.submit(TRAINING_JOB, "sum", spec)
    status = await world.finished("sum")
    assert (status["phase"], status["exitCode"]) == ("Completed", 0), status
    assert status["message"] == "The command succeeded on all 2 instances and its outputs are stored."
    assert [each["rank"] for each in status["pods"]] == [0, 1]
    logs = [await log_of(world, each["name"]) for each in status["pods"]]
    assert logs == ["process 0 of 4: 6\n", "process 2 of 4: 6\n"]
    stored = {name: content for name, content in world.store.blobs.items() if name.startswith("a/run/j/")}
    assert stored["a/run/j/user_logs/std_log_process_1.txt"] == b"process 1 of 4: 6\n"
    assert stored["a/run/j/user_logs/std_log_process_3.txt"] == b"process 3 of 4: 6\n"
    assert {f"a/run/j/outputs/rank-{rank}" for rank in range(4)} <= stored.keys()
    assert stored["a/run/j/outputs/rank-3"] == b'{"LOCAL_RANK": "1", "NODE_RANK": "1", "AZUREML_NODE_COUNT": "2", "AZUREML_RUN_ID": "j"}'
    # Of one name that several instances write one is stored, and whole.
    assert stored["a/run/j/outputs/same"] in (b"0" * 10000, b"2" * 10000)
    group = await world.cluster.get(POD_GROUP, "sum", NAMESPACE)
    assert group["spec"]["minMember"] == 2
    pods = (await world.cluster.list(POD, NAMESPACE)).items
    assert {pod["spec"]["schedulerName"] for pod in pods} == {"volcano"}


async def log_of(world: World, pod: str) -> str:
    return b"".join([chunk async for chunk in world.cluster.logs(NAMESPACE, pod, LogOptions(container="main"))]).decode()


@pytest.mark.slow  # several pods of real processes each
async def test_a_failing_process_ends_the_others_and_the_job_has_its_exit_code_and_last_lines(world: World) -> None:
    command = 'if [ "$RANK" = 3 ]; then echo "no such layer" >&2; exit 7; fi; exec sleep 600'
    await world.submit(TRAINING_JOB, "bad", several(command, distribution={"type": "PyTorch", "processCountPerInstance": 2}))
    status = await world.finished("bad")
    assert (status["phase"], status["reason"], status["exitCode"]) == ("Failed", "CommandFailed", 7), status
    assert status["message"].startswith("Instance 1: The command ended with exit code 7."), status
    assert "Process 3 ended with exit code 7. The last lines of user_logs/std_log_process_3.txt:\nno such layer" in status["message"]
    assert (await world.cluster.get(JOB, "bad", NAMESPACE))["status"].get("active", 0) == 0


@pytest.mark.slow  # several pods of real processes each
async def test_without_a_distribution_the_command_runs_once_on_each_instance_and_a_kill_is_a_failure(world: World) -> None:
    command = 'echo "$RANK of $WORLD_SIZE"; [ "$NODE_RANK" = 1 ] && kill -9 $$; exec sleep 600'
    await world.submit(TRAINING_JOB, "killed", several(command, 3))
    status = await world.finished("killed")
    assert (status["phase"], status["reason"], status["exitCode"]) == ("Failed", "CommandFailed", 137), status
    assert status["message"].startswith("Instance 1: The command ended with exit code 137."), status


@pytest.mark.slow  # several pods of real processes each
async def test_a_job_with_a_parameter_server_is_complete_when_its_workers_are(world: World) -> None:
    world.store.blobs["c/code/server.py"] = SERVED.encode()
    distribution = {"type": "TensorFlow", "workerCount": 2, "parameterServerCount": 1}
    await world.submit(TRAINING_JOB, "ps", several("python server.py", code={"uri": "c/code"}, distribution=distribution))
    status = await world.finished("ps")
    assert (status["phase"], status["message"]) == ("Completed", "The command succeeded on all 2 workers and its outputs are stored."), (
        status
    )
    job = await world.cluster.get(JOB, "ps", NAMESPACE)
    assert job["status"]["completedIndexes"] == "0,1", job["status"]
    pods = {each["metadata"]["labels"][INDEX]: each["metadata"]["name"] for each in (await world.cluster.list(POD, NAMESPACE)).items}
    logs = [await log_of(world, pods[index]) for index in ("0", "1")]
    assert logs == ["worker 0 of 2 has weights\n", "worker 1 of 2 has weights\n"]


@pytest.mark.slow  # several pods of real processes each
async def test_a_canceled_job_leaves_no_instance(world: World) -> None:
    await world.submit(TRAINING_JOB, "long", several("exec sleep 600"))
    running = await world.status(TRAINING_JOB, "long", lambda each: each.get("phase") == "Running")
    assert running["startTime"]
    await world.cluster.patch(TRAINING_JOB, "long", NAMESPACE, {"spec": {"cancelRequested": True}})
    status = await world.finished("long")
    assert (status["phase"], status["reason"]) == ("Canceled", "CancelRequested")
    assert (await world.cluster.list(POD, NAMESPACE)).items == []


@pytest.mark.slow  # several pods of real processes each
async def test_a_gang_waits_until_all_instances_have_a_place(world: World) -> None:
    await world.submit(TRAINING_JOB, "wide", several("true", 200))
    status = await world.status(TRAINING_JOB, "wide", lambda each: each.get("reason") == "Unschedulable")
    assert status["phase"] == "Queued" and "200 instances wait for nodes" in status["message"], status
    await world.cluster.patch(TRAINING_JOB, "wide", NAMESPACE, {"spec": {"cancelRequested": True}})
    assert (await world.finished("wide"))["phase"] == "Canceled"


@pytest.mark.slow  # several pods of real processes each
async def test_when_an_instance_is_lost_all_begin_anew(world: World) -> None:
    # The second time there is a blob to find, so that it ends.
    await world.submit(TRAINING_JOB, "again", several("[ -e again ] && exit 0; exec sleep 600", code={"uri": "c/code"}))
    world.store.blobs["c/code/first"] = b""
    await world.status(TRAINING_JOB, "again", lambda each: each.get("phase") == "Running")
    pods = await until_all(world.cluster, POD, NAMESPACE, lambda pods: len(pods) == 2 and all(met(pod) for pod in pods), within=PATIENCE)
    world.store.blobs["c/code/again"] = b""
    lost = next(pod for pod in pods if pod["metadata"]["labels"][INDEX] == "1")
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
    conditions = [*lost["status"]["conditions"], condition]
    await world.cluster.patch(POD, lost["metadata"]["name"], NAMESPACE, {"status": {"conditions": conditions}}, subresource="status")
    # The operator may have been quicker, and taken all pods away.
    with suppress(NotFound):
        await world.cluster.delete(POD, lost["metadata"]["name"], NAMESPACE)
    status = await world.finished("again")
    assert (status["phase"], status["restarts"]) == ("Completed", 1), status
    events = (await world.cluster.list(EVENT, fields="involvedObject.kind=TrainingJob")).items
    said = next(event["message"] for event in events if event["reason"] == "Restarting")
    assert said.startswith("Instance 1 was lost: Eviction API: evicting. The other instances cannot go on without it"), said
    left = (await world.cluster.list(POD, NAMESPACE)).items
    assert {pod["metadata"]["uid"] for pod in left}.isdisjoint(pod["metadata"]["uid"] for pod in pods)


def met(pod: Manifest) -> bool:
    return "moorage.dev/peers" in (pod["metadata"].get("annotations") or {})
