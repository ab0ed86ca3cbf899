"""A cluster in memory (or in a file) with its controllers running and puppet nodes that play pods through their lives without processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from moorage.clock import Clock, now, rfc3339, rfc3339_micro
from moorage.embedded.control.run import run_controllers
from moorage.embedded.local import LocalCluster, open_cluster
from moorage.errors import Conflict, NotFound
from moorage.kube.informer import Informer
from moorage.kube.kinds import LEASE, NODE, POD, Kind
from moorage.kube.queue import WorkQueue

Manifest = dict[str, Any]

SCRIPT = "puppet/exit"  # annotation: the exit code with which the pod ends as soon as it runs; without it the pod goes on


class PuppetNodes:
    """Plays every node's agent: scheduled pods start and become ready, scripted ones end, deleted ones go."""

    def __init__(self, cluster: LocalCluster, script: Callable[[Manifest], str | None], clock: Clock) -> None:
        self._clock = clock
        self._cluster = cluster
        self._script = script
        self._queue: WorkQueue[tuple[str, str]] = WorkQueue()
        self.pods = Informer(cluster, POD)

    async def run(self) -> None:
        self.pods.subscribe(lambda old, new: self._queue.add((new["metadata"]["namespace"], new["metadata"]["name"])) if new else None)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pods.run())
            while (key := await self._queue.get()) is not None:
                try:
                    await self._play(key)
                except Conflict:
                    self._queue.retry(key)
                except NotFound:
                    pass
                self._queue.done(key)

    async def _play(self, key: tuple[str, str]) -> None:
        pod = self.pods.get(key[1], key[0])
        if pod is None or not pod["spec"].get("nodeName"):
            return
        phase = pod["status"].get("phase", "Pending")
        if pod["metadata"].get("deletionTimestamp"):
            if phase not in ("Succeeded", "Failed"):
                await self._status(pod, "Failed", 143)
            await self._cluster.delete(POD, key[1], key[0], grace=timedelta(0), uid=pod["metadata"]["uid"])
        elif phase == "Pending":
            await self._status(pod, "Running", None)
        elif phase == "Running" and (code := self._script(pod)) is not None:
            await self._status(pod, "Succeeded" if code == "0" else "Failed", int(code))

    async def _status(self, pod: Manifest, phase: str, code: int | None) -> None:
        moment = rfc3339(self._clock())
        ready = phase == "Running"
        state = {"running": {"startedAt": moment}} if code is None else {"terminated": {"exitCode": code, "finishedAt": moment}}
        kept = [one for one in pod["status"].get("conditions") or () if one["type"] != "Ready"]
        conditions = [*kept, {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": moment}]
        status = {
            "phase": phase,
            "podIP": f"127.16.{len(self.pods) % 250}.{hash(pod['metadata']['uid']) % 250}",
            "startTime": moment,
            "conditions": conditions,
            "containerStatuses": [{"name": "main", "ready": ready, "restartCount": 0, "state": state}],
        }
        await self._cluster.patch(
            POD,
            pod["metadata"]["name"],
            pod["metadata"]["namespace"],
            {"metadata": {"resourceVersion": pod["metadata"]["resourceVersion"]}, "status": status},
            subresource="status",
        )


class Stage:
    """What a test holds: the cluster, and waiting for a state of it."""

    def __init__(self, cluster: LocalCluster, clock: Clock = now) -> None:
        self.cluster = cluster
        self.clock = clock
        # Virtual hours cost nothing.
        self.patience = 90 if clock is now else 3 * 3600

    async def until(self, kind: Kind, accept: Callable[[list[Manifest]], bool], *, namespace: str | None = None) -> list[Manifest]:
        """The objects of a kind once they are acceptable; the list seen last stands in the failure."""
        seen: list[Manifest] = []
        try:
            async with asyncio.timeout(self.patience):
                while True:
                    revision = self.cluster.store.revision
                    seen = list((await self.cluster.list(kind, namespace)).items)
                    if accept(seen):
                        return seen
                    async for _ in self.cluster.watch(kind, namespace, since=str(revision)):
                        break
        except TimeoutError:
            raise AssertionError(f"{kind} never came to what was expected; last seen: {seen}") from None

    async def settled(self) -> int:
        """The revision at which nothing has been written for a while (half a second of the loop's clock)."""
        async with asyncio.timeout(90):
            revision, quiet = self.cluster.store.revision, 0
            # In pieces: a process that gets no time for half a second has used up one of them, and not all.
            while quiet < 10:
                await asyncio.sleep(0.05)
                quiet = quiet + 1 if self.cluster.store.revision == revision else 0
                revision = self.cluster.store.revision
            return revision

    async def keep_alive(self, name: str) -> None:
        """A node agent's heartbeat, until cancelled."""
        while True:
            spec = {"holderIdentity": name, "renewTime": rfc3339_micro(self.clock())}
            try:
                await self.cluster.patch(LEASE, name, "kube-node-lease", {"spec": spec})
            except NotFound:
                await self.cluster.create(LEASE, {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec})
            await asyncio.sleep(10)

    async def node(self, name: str, *, cpu: str = "8", memory: str = "32Gi", pods: str = "110", **extra: Any) -> None:
        resources = {"cpu": cpu, "memory": memory, "pods": pods, **extra.pop("resources", {})}
        metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **extra.pop("labels", {})}}
        await self.cluster.create(NODE, {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": extra.pop("spec", {})})
        moment = rfc3339(self.clock())
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": moment, "lastTransitionTime": moment}
        status = {"allocatable": resources, "capacity": resources, "conditions": [ready]}
        await self.cluster.patch(NODE, name, None, {"status": status}, subresource="status")


def exit_annotation(pod: Manifest) -> str | None:
    found: str | None = (pod["metadata"].get("annotations") or {}).get(SCRIPT)
    return found


@asynccontextmanager
async def running(
    volumes: Path, *, path: Path | None = None, script: Callable[[Manifest], str | None] = exit_annotation, clock: Clock = now
) -> AsyncIterator[Stage]:
    cluster = await open_cluster(path, clock=clock)
    stage = Stage(cluster, clock)
    tasks = [
        asyncio.create_task(run_controllers(cluster.with_manager("controllers"), volumes=volumes, clock=clock)),
        asyncio.create_task(PuppetNodes(cluster.with_manager("kubelet"), script, clock).run()),
    ]
    try:
        for number in range(2):
            try:
                await stage.node(f"node-{number}")
            except Conflict:
                pass
        yield stage
        for task in tasks:
            assert not task.done(), task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await cluster.close()


@pytest.fixture
def stage_at(tmp_path: Path) -> Callable[..., Any]:
    """Opens a stage: `async with stage_at() as stage`."""

    def opened(**arguments: Any) -> Any:
        return running(tmp_path / "volumes", **arguments)

    return opened


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with running(tmp_path / "volumes") as opened:
        yield opened
