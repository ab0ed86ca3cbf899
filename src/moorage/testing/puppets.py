"""Nodes without machines: pods bound to them run, end and go as a test says, on any cluster, so that controllers and schedulers can be looked at alone.

Their heartbeats are real, since a controller manager takes a silent node for lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from moorage.clock import Clock, now, rfc3339, rfc3339_micro
from moorage.errors import Conflict, NotFound
from moorage.kube.cluster import Cluster, PatchType
from moorage.kube.informer import Informer
from moorage.kube.kinds import LEASE, NODE, POD
from moorage.kube.metadata import Key, is_deleting, key_of, name_of, namespace_of, uid_of
from moorage.kube.queue import WorkQueue
from moorage.specs.manifest import Manifest

UNREADY = "puppet.moorage.dev/unready"  # annotation: the pod runs and is not ready
EXIT = "puppet.moorage.dev/exit"  # annotation: the pod ends with this exit code as soon as it runs
LINGERS = "puppet.moorage.dev/lingers"  # annotation: the pod, once deleted, stays until the annotation goes
LABEL = "puppet.moorage.dev/of"  # label of the nodes: the test they belong to
_LEASES = "kube-node-lease"
_HEARTBEAT = timedelta(seconds=5)


class Puppets:
    """The nodes of one test. Use it through `puppets`.

    Args:
        name: prefix of the nodes' names, and what `selector` chooses them by.
    """

    def __init__(self, cluster: Cluster, name: str, clock: Clock = now) -> None:
        self._cluster = cluster
        self._clock = clock
        self._queue: WorkQueue[Key] = WorkQueue()
        self._informer = Informer(cluster, POD)
        self._alive: set[str] = set()
        self.name = name
        self.nodes: list[str] = []

    @property
    def selector(self) -> dict[str, str]:
        """The `nodeSelector` that keeps a pod on these nodes and off all others."""
        return {LABEL: self.name}

    async def add(
        self,
        *,
        cpu: str = "8",
        pods: str = "110",
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Manifest] = (),
        resources: Mapping[str, str] | None = None,
    ) -> str:
        """Another node, ready; its name."""
        name = f"{self.name}-{len(self.nodes)}"
        self.nodes.append(name)
        metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, LABEL: self.name, **(labels or {})}}
        spec = {"taints": [dict(one) for one in taints]} if taints else {}
        await self._cluster.create(NODE, {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})
        self._alive.add(name)
        await self._beat(name)
        size = {"cpu": cpu, "memory": "16Gi", "pods": pods, **(resources or {})}
        moment = rfc3339(self._clock())
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a puppet"}
        status = {
            "capacity": size,
            "allocatable": size,
            "conditions": [{**ready, "lastHeartbeatTime": moment, "lastTransitionTime": moment}],
        }
        await self._cluster.patch(NODE, name, None, {"status": status}, type=PatchType.STRATEGIC, subresource="status")
        return name

    def silence(self, node: str) -> None:
        """Let a node's heartbeat stop, and nobody on it act any more."""
        self._alive.discard(node)

    async def run(self) -> None:
        """Play the nodes until cancelled."""
        self._informer.subscribe(lambda old, new: self._queue.add(key_of(new)) if new is not None else None)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            group.create_task(self._heartbeats())
            while (key := await self._queue.get()) is not None:
                try:
                    await self._play(key)
                except Conflict:
                    self._queue.retry(key)
                except NotFound:
                    self._queue.forget(key)
                finally:
                    self._queue.done(key)

    async def watching(self) -> None:
        """Return once the pods are seen."""
        await self._informer.synced.wait()

    async def close(self) -> None:
        """Take the nodes away."""
        for name in self.nodes:
            for kind, namespace in ((NODE, None), (LEASE, _LEASES)):
                try:
                    await self._cluster.delete(kind, name, namespace)
                except NotFound:
                    continue

    async def _heartbeats(self) -> None:
        while True:
            for name in sorted(self._alive):
                await self._beat(name)
            await asyncio.sleep(_HEARTBEAT.total_seconds())

    async def _beat(self, name: str) -> None:
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": rfc3339_micro(self._clock())}
        lease: Manifest = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": {"name": name, "namespace": _LEASES}}
        await self._cluster.apply(LEASE, {**lease, "spec": spec}, manager="puppets")

    async def _play(self, key: Key) -> None:
        pod = self._informer.get(key[1], key[0])
        if pod is None or (pod.get("spec") or {}).get("nodeName") not in self._alive:
            return
        notes = pod["metadata"].get("annotations") or {}
        phase = (pod.get("status") or {}).get("phase") or "Pending"
        if is_deleting(pod):
            if LINGERS not in notes:
                await self._cluster.delete(POD, name_of(pod), namespace_of(pod), grace=timedelta(0), uid=uid_of(pod))
        elif phase in ("Pending", "Running"):
            await self._live(pod, notes)

    async def _live(self, pod: Manifest, notes: Mapping[str, str]) -> None:
        wanted: dict[str, Any]
        ready = "False" if UNREADY in notes else "True"
        phase = "Running"
        if EXIT in notes:
            phase, ready = ("Succeeded" if notes[EXIT] == "0" else "Failed"), "False"
        known = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or ()}
        if (pod.get("status") or {}).get("phase") == phase and known.get("Ready", {}).get("status") == ready:
            return
        moment = rfc3339(self._clock())
        wanted = {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": moment}]}
        if not (pod.get("status") or {}).get("startTime"):
            wanted["startTime"] = moment
        patch = {"metadata": {"uid": uid_of(pod)}, "status": wanted}
        await self._cluster.patch(POD, name_of(pod), namespace_of(pod), patch, type=PatchType.STRATEGIC, subresource="status")


@asynccontextmanager
async def puppets(cluster: Cluster, name: str, *, count: int = 2, clock: Clock = now) -> AsyncIterator[Puppets]:
    """`count` puppet nodes until the end of the block; none of them stays."""
    played = Puppets(cluster, name, clock)
    for _ in range(count):
        await played.add()
    task = asyncio.create_task(played.run())
    try:
        await played.watching()
        yield played
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await played.close()
