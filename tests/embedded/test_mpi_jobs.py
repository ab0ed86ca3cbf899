"""MPI jobs on the embedded cluster: operator, scheduler and node are real, and so is Open MPI."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from moorage.errors import NotFound
from moorage.kube.cluster import LogOptions
from moorage.kube.kinds import POD, TRAINING_JOB
from moorage.specs.distribution import index_of
from moorage.specs.manifest import Manifest
from moorage.testing.world import until

from .test_operators_pods import NAMESPACE, World, a_world, job
from .test_podside_mpi import alive, with_open_mpi

pytestmark = pytest.mark.timeout(600)

# Every process leaves what it has computed with the others, and where.
PROGRAM = """
import os, pathlib
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank + 1)
local = os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]
pathlib.Path("outputs", f"rank-{world.rank}").write_text(f"{total} {local} {os.environ['AZUREML_RUN_ID']} {os.environ['WORLD_SIZE']}")
print(f"rank {world.rank} of {world.size}: {total}\\n", end="", flush=True)
"""
# Ten processes start for one job, on a machine that others use too.
PATIENCE = timedelta(seconds=200)
# The embedded cluster's images have no MPI; the tests' own environment has one.
WITH_MPI = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as found:
        yield found


def mpi(command: str, instances: int, processes: int, **more: Any) -> Manifest:
    distribution = {"type": "Mpi", "processCountPerInstance": processes}
    given = {"environmentVariables": WITH_MPI, "artifactsUri": "a/run/j", **more}
    return job(command, resources={"instanceCount": instances}, distribution=distribution, **given)


async def phase(world: World, name: str, *wanted: str) -> Manifest:
    found = await until(
        world.cluster, TRAINING_JOB, name, NAMESPACE, lambda each: (each.get("status") or {}).get("phase") in wanted, within=PATIENCE
    )
    status: Manifest = found["status"]
    return status


async def finished(world: World, name: str) -> Manifest:
    return await phase(world, name, "Completed", "Failed", "Canceled")


async def both_running(world: World, name: str) -> Manifest:
    said = "The command is running on 2 instances."
    found = await until(
        world.cluster, TRAINING_JOB, name, NAMESPACE, lambda each: (each.get("status") or {}).get("message") == said, within=PATIENCE
    )
    status: Manifest = found["status"]
    return status


async def pod_of(world: World, summary: Manifest) -> Manifest:
    return await world.cluster.get(POD, summary["name"], NAMESPACE)


async def log_of(world: World, pod: str) -> str:
    return b"".join([chunk async for chunk in world.cluster.logs(NAMESPACE, pod, LogOptions(container="main"))]).decode()


@with_open_mpi
@pytest.mark.slow  # two pods with Open MPI; processes alone in tests/embedded/test_podside_mpi.py
async def test_two_processes_on_each_of_two_instances_sum_their_ranks(world: World) -> None:
    world.store.blobs["c/code/sum.py"] = PROGRAM.encode()
    await world.submit(TRAINING_JOB, "sum", mpi("python sum.py", 2, 2, code={"uri": "c/code"}))
    status = await finished(world, "sum")
    assert (status["phase"], status["exitCode"]) == ("Completed", 0), status
    logs = [await log_of(world, each["name"]) for each in sorted(status["pods"], key=lambda each: each["rank"])]
    # What mpirun prints itself may stand between.
    said = sorted(line for line in logs[0].splitlines() if line.startswith("rank "))
    assert said == [f"rank {rank} of 4: 10" for rank in range(4)], logs
    stored = {name: text.decode() for name, text in world.store.blobs.items() if name.startswith("a/run/j/outputs/")}
    assert stored == {f"a/run/j/outputs/rank-{rank}": f"10 {rank % 2} j 4" for rank in range(4)}


@with_open_mpi
@pytest.mark.slow  # two pods with Open MPI
async def test_the_exit_code_is_the_failing_processs_and_its_words_are_the_message(world: World) -> None:
    command = '[ "$OMPI_COMM_WORLD_RANK" = 1 ] && { echo "no such layer" >&2; exit 7; }; exec sleep 600'
    await world.submit(TRAINING_JOB, "bad", mpi(command, 2, 1))
    status = await finished(world, "bad")
    assert (status["phase"], status["reason"], status["exitCode"]) == ("Failed", "CommandFailed", 7), status
    assert status["message"].startswith("Instance 0: The command ended with exit code 7.") and "no such layer" in status["message"], status


@pytest.mark.slow  # two pods, for what one instance without a pod shows in tests/embedded/test_podside_mpi.py
async def test_an_environment_without_mpirun_fails_the_job_at_once_with_the_remedy(world: World) -> None:
    without = {"PATH": "/nowhere:/usr/bin:/bin", "MOORAGE_NOTHING": "1"}
    await world.submit(TRAINING_JOB, "none", mpi("true", 2, 1, environmentVariables=without))
    status = await finished(world, "none")
    assert (status["phase"], status["reason"], status["exitCode"]) == ("Failed", "MpiNotFound", 127), status
    assert "add the package openmpi or mpich" in status["message"]


@pytest.mark.slow  # two pods that meet before one of them can say it
async def test_an_image_without_python_fails_the_job_at_once_with_the_remedy(world: World, tmp_path: Path) -> None:
    for tool in ("sh", "cat"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}")
    await world.submit(TRAINING_JOB, "bare", mpi("true", 1, 2, environmentVariables={"PATH": str(tmp_path)}))
    status = await finished(world, "bare")
    assert (status["phase"], status["reason"], status["exitCode"]) == ("Failed", "PythonNotFound", 127), status
    assert "take an image with python3 on its PATH" in status["message"]


@with_open_mpi
@pytest.mark.slow  # two pods with Open MPI, and their end: a few seconds more than the fast ring has to give
async def test_cancelling_ends_every_process(world: World) -> None:
    await world.submit(TRAINING_JOB, "long", mpi('echo "process $$"; exec sleep 600', 2, 1))
    status = await both_running(world, "long")
    (first,) = [each["name"] for each in status["pods"] if each["rank"] == 0]
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while len(said := [line for line in (await log_of(world, first)).splitlines() if line.startswith("process ")]) < 2:
            await asyncio.sleep(0.1)
    pids = [int(line.split()[1]) for line in said]
    assert all(map(alive, pids))
    await world.cluster.patch(TRAINING_JOB, "long", NAMESPACE, {"spec": {"cancelRequested": True}})
    status = await finished(world, "long")
    assert (status["phase"], status["reason"]) == ("Canceled", "CancelRequested")
    assert (await world.cluster.list(POD, NAMESPACE)).items == []
    assert not any(map(alive, pids))


@with_open_mpi
@pytest.mark.slow  # four pods with Open MPI
async def test_when_the_cluster_takes_an_instance_all_begin_anew_under_mpirun(world: World) -> None:
    # The second time there is a file to find, so that it ends.
    world.store.blobs["c/code/first"] = b""
    await world.submit(TRAINING_JOB, "again", mpi("[ -e again ] && exit 0; exec sleep 600", 2, 1, code={"uri": "c/code"}))
    pods = [await pod_of(world, each) for each in (await both_running(world, "again"))["pods"]]
    world.store.blobs["c/code/again"] = b""
    lost = next(pod for pod in pods if index_of(pod) == 1)
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
    conditions = [*lost["status"]["conditions"], condition]
    await world.cluster.patch(POD, lost["metadata"]["name"], NAMESPACE, {"status": {"conditions": conditions}}, subresource="status")
    # The operator may have been quicker, and taken all pods away.
    with suppress(NotFound):
        await world.cluster.delete(POD, lost["metadata"]["name"], NAMESPACE)
    status = await finished(world, "again")
    assert (status["phase"], status["restarts"]) == ("Completed", 1), status
