"""Containers outlive the agent: kill -9 of its process, and what the next life finds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.node.attempt import Attempt, read_pairs
from moorage.embedded.node.leftovers import end_containers
from moorage.embedded.node.pod import Record
from moorage.embedded.node.run import Nodes
from moorage.embedded.node.shim import tree
from moorage.embedded.tokens import open_issuer
from moorage.kube.cluster import LogOptions
from moorage.kube.kinds import CONFIG_MAP, POD, SERVICE_ACCOUNT
from moorage.specs.manifest import Manifest

_AGENT = Path(__file__).with_name("node_agent_process.py")


@asynccontextmanager
async def agent_process(state: Path, folder: Path, *interpreter: Path) -> AsyncIterator[None]:
    """An agent that is killed with -9 at the end of the block; `interpreter` runs its shims."""
    words = [sys.executable, str(_AGENT), str(state), str(folder), *map(str, interpreter)]
    child = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    try:
        yield
    finally:
        child.kill()
        await child.communicate()


@asynccontextmanager
async def cluster_at(state: Path) -> AsyncIterator[LocalCluster]:
    cluster = await open_cluster(state)
    try:
        yield cluster
    finally:
        await cluster.close()


@asynccontextmanager
async def nodes_of(cluster: LocalCluster, folder: Path) -> AsyncIterator[Nodes]:
    nodes = Nodes(cluster, open_issuer(None), names=["n1"], folder=folder, api=("127.0.0.1", 6550), ca=b"CA")
    cluster.backend = nodes
    task = asyncio.create_task(nodes.run())
    try:
        await asyncio.wait_for(nodes.ready.wait(), 60)
        yield nodes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(cluster: LocalCluster, holds: Callable[[Manifest | None], bool], name: str = "a") -> Manifest | None:
    listing = await cluster.list(POD)
    item = next((found for found in listing.items if found["metadata"]["name"] == name), None)
    async with asyncio.timeout(60):
        stream = cluster.watch(POD, since=listing.resource_version)
        try:
            while not holds(item):
                event = await anext(stream)
                if event.object["metadata"].get("name") == name:
                    item = None if event.type == "DELETED" else event.object
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
    return item


def in_phase(*phases: str) -> Callable[[Manifest | None], bool]:
    return lambda item: item is not None and item.get("status", {}).get("phase") in phases and "containerStatuses" in item["status"]


def pod(script: str, policy: str = "Never") -> Manifest:
    container = {"name": "main", "image": "moorage.dev/component:test", "command": ["sh", "-c", script]}
    spec = {"restartPolicy": policy, "nodeName": "n1", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {"metadata": {"name": "a", "namespace": "default"}, "spec": spec}


async def prepare(state: Path, manifest: Manifest) -> None:
    async with cluster_at(state) as cluster:
        await cluster.create(SERVICE_ACCOUNT, {"metadata": {"name": "default", "namespace": "default"}})
        await cluster.create(CONFIG_MAP, {"metadata": {"name": "kube-root-ca.crt", "namespace": "default"}, "data": {"ca.crt": "CA"}})
        await cluster.create(POD, manifest)


async def started_folder(folder: Path) -> Path:
    """The attempt's folder once its process runs; the agent is another process, so that its files are what can be seen of it."""
    async with asyncio.timeout(60):
        while not (found := list(folder.glob("n1/pods/*/containers/main/0/log.000001"))) or not found[0].stat().st_size:
            await asyncio.sleep(0.01)
    return found[0].parent


async def emptied(folder: Path) -> None:
    """The folder of a pod goes after its object."""
    async with asyncio.timeout(60):
        while list((folder / "n1" / "pods").iterdir()):
            await asyncio.sleep(0.01)


def lives(pairs: Mapping[str, str]) -> bool:
    """Whether the container's process is there; what waits to be reaped by the system's init is not."""
    try:
        return Path(f"/proc/{pairs['pid']}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def ended(folder: Path) -> None:
    """Until the shim is gone, seen through its own FIFO."""
    attempt = Attempt(folder, "", lambda: None)
    attempt.attach()
    try:
        await asyncio.wait_for(attempt.ended.wait(), 60)
    finally:
        attempt.close()


async def test_a_container_runs_on_through_kill_9_and_its_exit_code_is_known(tmp_path: Path) -> None:
    state, folder = tmp_path / "state.db", tmp_path / "nodes"
    manifest = pod("echo one; until test -e /control-x/go; do sleep 0.05; done; echo two; exit 7")
    manifest["spec"]["volumes"] = [{"name": "control", "hostPath": {"path": str(tmp_path)}}]
    manifest["spec"]["containers"][0]["volumeMounts"] = [{"name": "control", "mountPath": "/control-x"}]
    await prepare(state, manifest)
    async with agent_process(state, folder):
        attempt = await started_folder(folder)
    (tmp_path / "go").touch()
    await ended(attempt)
    async with cluster_at(state) as cluster, nodes_of(cluster, folder):
        item = await until(cluster, in_phase("Failed", "Succeeded"))
        assert item is not None
        status = item["status"]["containerStatuses"][0]
        assert (status["state"]["terminated"]["exitCode"], status["restartCount"]) == (7, 0)
        text = b"".join([chunk async for chunk in cluster.logs("default", "a", LogOptions())])
        assert text == b"one\ntwo\n"


async def test_a_follower_is_told_of_what_was_written_before_the_shim_knew_of_it(tmp_path: Path) -> None:
    """Else a line that comes between the follower's look at the file and its word to the shim waits for the next line, which may never come."""
    state, folder = tmp_path / "state.db", tmp_path / "nodes"
    await prepare(state, pod("echo only; exec sleep 300"))
    async with agent_process(state, folder):
        place = await started_folder(folder)
    attempt = Attempt(place, "", lambda: None)
    attempt.attach()
    try:
        attempt.grown.clear()
        attempt.follow(True)
        await asyncio.wait_for(attempt.grown.wait(), 60)
        attempt.kill()
        await asyncio.wait_for(attempt.ended.wait(), 60)
    finally:
        attempt.close()


async def test_a_running_container_is_adopted_and_can_be_stopped(tmp_path: Path) -> None:
    state, folder = tmp_path / "state.db", tmp_path / "nodes"
    await prepare(state, pod("echo up; exec sleep 300"))
    async with agent_process(state, folder):
        attempt = await started_folder(folder)
    pairs = read_pairs(attempt / "started")
    assert pairs is not None
    os.kill(int(pairs["pid"]), 0)
    async with cluster_at(state) as cluster, nodes_of(cluster, folder):
        item = await until(cluster, in_phase("Running"))
        assert item is not None
        address = item["status"]["podIP"]
        assert item["status"]["containerStatuses"][0]["restartCount"] == 0
        assert address.startswith("127.")
        await cluster.delete(POD, "a", "default")
        await until(cluster, lambda found: found is None)
        await emptied(folder)
    assert not lives(pairs)


def slow_interpreter(folder: Path) -> Path:
    """A Python that leaves `spawned` and comes up once `go` is there, as on a machine that has much to do."""
    path = folder / "python"
    # Without the agent's own output, at whose end the test waits for the agent's.
    held = f'case " $* " in *" run "*) exec > /dev/null 2>&1; : > {folder}/spawned; until test -e {folder}/go; do sleep 0.02; done;; esac'
    path.write_text(f'#!/bin/sh\n{held}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


async def test_a_container_whose_shim_was_just_coming_up_when_its_agent_was_killed_runs_once(tmp_path: Path) -> None:
    state, folder = tmp_path / "state.db", tmp_path / "nodes"
    manifest = pod("echo ran >> /control-x/ran; until test -e /control-x/end; do sleep 0.05; done; exit 7")
    manifest["spec"]["volumes"] = [{"name": "control", "hostPath": {"path": str(tmp_path)}}]
    manifest["spec"]["containers"][0]["volumeMounts"] = [{"name": "control", "mountPath": "/control-x"}]
    await prepare(state, manifest)
    async with agent_process(state, folder, slow_interpreter(tmp_path)):
        async with asyncio.timeout(60):
            while not (tmp_path / "spawned").exists():
                await asyncio.sleep(0.01)
    async with cluster_at(state) as cluster, nodes_of(cluster, folder):
        (tmp_path / "go").touch()
        await until(cluster, in_phase("Running"))
        (tmp_path / "end").touch()
        item = await until(cluster, in_phase("Failed", "Succeeded"))
        assert item is not None
        status = item["status"]["containerStatuses"][0]
        assert (status["state"]["terminated"]["exitCode"], status["restartCount"]) == (7, 0)
    assert (tmp_path / "ran").read_text() == "ran\n"


async def test_a_container_whose_agent_was_killed_before_its_shim_was_started_is_started(tmp_path: Path) -> None:
    state, folder = tmp_path / "state.db", tmp_path / "nodes"
    await prepare(state, pod("exit 7"))
    async with cluster_at(state) as cluster:
        (item,) = (await cluster.list(POD)).items
        attempt = folder / "n1" / "pods" / item["metadata"]["uid"] / "containers" / "main" / "0"
        attempt.mkdir(parents=True)
        Record(item, "127.16.0.9", "2026-01-01T00:00:00Z", {}).write(attempt.parents[2])
        (attempt / "launch.json").write_text('{"cgr')
        for name in ("events", "control"):
            os.mkfifo(attempt / name)
        async with nodes_of(cluster, folder):
            found = await until(cluster, in_phase("Failed", "Succeeded"))
            assert found is not None
            assert found["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7


async def test_a_pod_deleted_while_no_agent_ran_is_ended_and_forgotten(tmp_path: Path) -> None:
    state, folder = tmp_path / "state.db", tmp_path / "nodes"
    await prepare(state, pod("echo up; exec sleep 300"))
    async with agent_process(state, folder):
        attempt = await started_folder(folder)
    pairs = read_pairs(attempt / "started")
    assert pairs is not None
    async with cluster_at(state) as cluster:
        await cluster.delete(POD, "a", "default", grace=timedelta(0))
        async with nodes_of(cluster, folder):
            await emptied(folder)
    assert not lives(pairs)


@pytest.mark.parametrize("grace", [timedelta(0), timedelta(seconds=1)])
async def test_containers_whose_agent_died_are_ended_where_none_will_come(tmp_path: Path, grace: timedelta) -> None:
    state, folder = tmp_path / "state.db", tmp_path / "nodes"
    await prepare(state, pod("trap '' TERM; echo up; while :; do sleep 300; done", policy="Always"))
    async with agent_process(state, folder):
        attempt = await started_folder(folder)
    pairs = read_pairs(attempt / "started")
    assert pairs is not None and lives(pairs)
    assert await asyncio.to_thread(end_containers, folder, grace) == 1
    assert not lives(pairs)
    assert await asyncio.to_thread(end_containers, folder, grace) == 0


async def test_a_killed_shim_takes_its_container_along_and_the_container_is_restarted(tmp_path: Path) -> None:
    state, folder = tmp_path / "state.db", tmp_path / "nodes"
    await prepare(state, pod("echo up; setsid sleep 300 & wait", policy="Always"))
    async with cluster_at(state) as cluster, nodes_of(cluster, folder):
        await until(cluster, in_phase("Running"))
        attempt = await started_folder(folder)
        pairs = read_pairs(attempt / "started")
        assert pairs is not None
        async with asyncio.timeout(60):
            while not (descendants := tree(int(pairs["pid"]))):
                await asyncio.sleep(0.01)
        limited = json.loads((attempt / "launch.json").read_text())["cgroups"]
        os.kill(int(Path(f"/proc/{pairs['pid']}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
        item = await until(
            cluster, lambda found: found is not None and found["status"].get("containerStatuses", [{}])[0].get("restartCount") == 1
        )
        assert item is not None
        assert item["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
        # Killed along with its shim, but the system takes its mounts apart before it is gone, which nobody waits for.
        async with asyncio.timeout(60):
            while lives(pairs) or (limited and any(lives({"pid": str(pid)}) for pid in descendants)):
                await asyncio.sleep(0.01)
        await cluster.delete(POD, "a", "default")
        await until(cluster, lambda found: found is None)
        await emptied(folder)
        if not limited:
            # Without a cgroup nobody knows whose it is.
            for pid in descendants:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def test_stopping_the_cluster_stops_containers_which_start_again_with_it(tmp_path: Path) -> None:
    state, folder = tmp_path / "state.db", tmp_path / "nodes"
    await prepare(state, pod("echo up; exec sleep 300", policy="Always"))
    async with cluster_at(state) as cluster:
        async with nodes_of(cluster, folder) as nodes:
            await until(cluster, in_phase("Running"))
            pairs = read_pairs(next(folder.glob("n1/pods/*/containers/main/0/started")))
            assert pairs is not None
            await asyncio.wait_for(nodes.stop_containers(), 60)
            assert not lives(pairs)
            assert (await cluster.get(POD, "a", "default"))["status"]["phase"] == "Running"
        # At once, however often: what was stopped on purpose has not crashed.
        for restarts in (1, 2, 3):
            async with nodes_of(cluster, folder) as nodes, asyncio.timeout(90):
                await until(
                    cluster,
                    lambda found, count=restarts: (
                        found is not None and found["status"]["containerStatuses"][0].get("restartCount") == count
                    ),
                )
                await nodes.stop_containers()
        async with nodes_of(cluster, folder):
            await cluster.delete(POD, "a", "default")
            await until(cluster, lambda found: found is None)
            await emptied(folder)
