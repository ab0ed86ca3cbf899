"""Jobs of one process on the embedded cluster that are told to end: their processes hear it, and what they store then is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.embedded.test_operators_pods import NAMESPACE, World, a_world, armed, job
from tests.fixtures.checkpoints import CHECKPOINTS

from moorage.kube.kinds import POD, TRAINING_JOB
from moorage.specs.manifest import Manifest
from moorage.testing.world import until_all


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as found:
        found.store.blobs["c/code/train.py"] = CHECKPOINTS.encode()
        yield found


def checkpointing(command: str) -> Manifest:
    return job(command, code={"uri": "c/code"}, outputs={"o": {"type": "uri_folder", "uri": "c/o"}}, artifactsUri="a/run/j")


async def begun(world: World, name: str) -> str:
    """The pod of a job whose command has said that it is ready for signals."""
    await world.status(TRAINING_JOB, name, lambda each: each.get("phase") == "Running")
    (pod,) = (await world.cluster.list(POD, NAMESPACE, labels=f"moorage.dev/job={name}")).items
    await armed(world, pod["metadata"]["name"])
    return str(pod["metadata"]["name"])


async def evict(world: World, pod: str) -> None:
    await world.cluster.create_subresource(POD, pod, NAMESPACE, "eviction", {"metadata": {"name": pod}})


async def test_a_cancelled_command_finishes_its_checkpoint_and_that_is_stored(world: World) -> None:
    await world.submit(
        TRAINING_JOB, "cancelled", checkpointing("python train.py ${{outputs.o}} 0 2>&1 | tee outputs/said; echo after >>outputs/said")
    )
    await begun(world, "cancelled")
    await world.cluster.patch(TRAINING_JOB, "cancelled", NAMESPACE, {"spec": {"cancelRequested": True}})
    status = await world.finished("cancelled")
    assert (status["phase"], status["reason"]) == ("Canceled", "CancelRequested"), status
    assert world.store.blobs["c/o/checkpoint"] == b"whole"
    # What was to come next did not begin.
    assert b"after" not in world.store.blobs["a/run/j/outputs/said"]


@pytest.mark.slow  # runs two pods
@pytest.mark.parametrize("command", ["python train.py ${{outputs.o}} 0; echo after", "exec python train.py ${{outputs.o}} 3"])
async def test_an_evicted_command_stores_its_checkpoint_and_runs_again(world: World, command: str) -> None:
    await world.submit(TRAINING_JOB, "again", checkpointing(command))
    first = await begun(world, "again")
    await evict(world, first)

    def replaced(pods: list[Manifest]) -> bool:
        return len(pods) == 1 and pods[0]["metadata"]["name"] != first and pods[0]["status"].get("phase") == "Running"

    await until_all(world.cluster, POD, NAMESPACE, replaced, within=world.patience)
    assert world.store.blobs["c/o/checkpoint"] == b"whole"
    await begun(world, "again")
    await world.cluster.patch(TRAINING_JOB, "again", NAMESPACE, {"spec": {"cancelRequested": True}})
    assert (await world.finished("again"))["phase"] == "Canceled"


@pytest.mark.slow  # waits for an eviction
async def test_an_evicted_program_that_ends_with_success_is_not_complete(world: World) -> None:
    await world.submit(TRAINING_JOB, "evicted", checkpointing("exec python train.py ${{outputs.o}} 0"))
    await evict(world, await begun(world, "evicted"))
    status = await world.finished("evicted")
    assert (status["phase"], status["reason"], status["exitCode"]) == ("Failed", "Interrupted", 0), status
    assert world.store.blobs["c/o/checkpoint"] == b"whole"
