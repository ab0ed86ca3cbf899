"""One node: registered with its size, its lease renewed, every pod bound to it kept by a loop of its own, folders of pods that are gone removed."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from moorage.clock import monotonic, now, rfc3339, rfc3339_micro
from moorage.embedded.backend import Asked, Talk
from moorage.embedded.node import logs, machine
from moorage.embedded.node.attach import attach
from moorage.embedded.node.attempt import Attempt
from moorage.embedded.node.conversations import converse
from moorage.embedded.node.declared import Declared
from moorage.embedded.node.devices import Allotment, Gpu
from moorage.embedded.node.pod import HOST_IP, Pod, Record, Services
from moorage.embedded.node.usage import Running
from moorage.errors import Conflict, Invalid, MoorageError, NotFound, Unavailable
from moorage.ids import digest
from moorage.kube.cluster import LogOptions, PatchType
from moorage.kube.informer import Informer
from moorage.kube.kinds import LEASE, NAMESPACE, NODE
from moorage.kube.metadata import describe
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
LEASE_INTERVAL = timedelta(seconds=10)
# Clocks are slewed by less than this in ten seconds; more is somebody setting it, or a machine that slept.
_JUMP = timedelta(seconds=2)
_LEASE_SECONDS = 40
_PAUSE_AFTER_DEFECT = timedelta(seconds=10)
POD_NETWORK = IPv4Network("127.16.0.0/12")


class Addresses:
    """Loopback addresses of pods, unique in one process. `single`: the system has only 127.0.0.1 (macOS)."""

    def __init__(self, *, single: bool, network: IPv4Network = POD_NETWORK) -> None:
        self.single = single
        self._network = network
        self._used: set[str] = set()

    def take(self, uid: str) -> str:
        """A free address, the same one for the same pod where it can be."""
        if self.single:
            return HOST_IP
        offset = int(digest(uid), 16)
        while True:
            address = str(self._network[offset % self._network.num_addresses])
            if address not in self._used and IPv4Address(address).packed[3] not in (0, 255):
                self._used.add(address)
                return address
            offset += 1

    def keep(self, address: str) -> None:
        self._used.add(address)

    def release(self, address: str) -> None:
        self._used.discard(address)


class Node:
    """A node of the embedded cluster.

    Args:
        folder: pods, their logs and volumes.
        pods: all pods of the cluster; the node picks its own.
        gpus: those of the machine's that are this node's to give.
    """

    def __init__(
        self, declared: Declared, folder: Path, services: Services, pods: Informer, addresses: Addresses, gpus: Sequence[Gpu] = ()
    ) -> None:
        self.name = declared.name
        self._declared = declared
        self._gpus = Allotment(gpus)
        self.folder = folder
        self._services = services
        self._informer = pods
        self._addresses = addresses
        self._pods: dict[str, Pod] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def register(self) -> None:
        """Create or refresh the Node; labels and taints that others have set stay."""
        moment = now()
        capacity = dict(self._services.machine.allocatable)
        status = {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": _conditions(rfc3339(moment)),
            "addresses": [{"type": "InternalIP", "address": HOST_IP}, {"type": "Hostname", "address": self.name}],
            "nodeInfo": machine.node_info(),
        }
        labels = {**machine.labels(self.name), **self._declared.labels}
        body: Manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}}
        if self._declared.taints:
            body["spec"] = {"taints": [dict(taint) for taint in self._declared.taints]}
        cluster = self._services.cluster
        try:
            await cluster.create(NODE, {**body, "status": status})
        except Conflict:
            await cluster.patch(NODE, self.name, None, {"metadata": {"labels": labels}})
        await cluster.patch(NODE, self.name, None, {"status": status}, type=PatchType.MERGE, subresource="status")

    async def run(self) -> None:
        """Keep the node until cancelled; containers outlive that."""
        (self.folder / "pods").mkdir(parents=True, exist_ok=True)
        await self.register()
        await self._informer.synced.wait()
        self._adopt_folders()
        self._informer.subscribe(self._changed)
        try:
            while True:
                wall, steady = now(), monotonic()
                await self._renew_lease()
                await asyncio.sleep(LEASE_INTERVAL.total_seconds())
                if abs((now() - wall).total_seconds() - (monotonic() - steady)) > _JUMP.total_seconds():
                    # What was to be done at a time of day may be due: tokens that end with the clock, not with the time that has passed.
                    log.warning("the clock was set; looking at every pod again")
                    self.wake("")
        finally:
            self._closed = True
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def stop_containers(self) -> None:
        """End every container with its grace (`moorage down`); returns once none runs."""
        await asyncio.gather(*(pod.halt().wait() for pod in list(self._pods.values()) if not self._tasks[pod.uid].done()))

    def wake(self, namespace: str) -> None:
        """Something that pods of a namespace may refer to has changed; the empty namespace is all of them."""
        for pod in self._pods.values():
            if namespace in ("", pod.namespace):
                pod.wake()

    async def logs(self, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        name, container = pod["metadata"]["name"], options.container or pod["spec"]["containers"][0]["name"]
        kept = self._pods.get(pod["metadata"]["uid"])
        found = kept.containers[container].folder_of(previous=options.previous) if kept and container in kept.containers else None
        if found is None and options.previous:
            raise Invalid(f'previous terminated container "{container}" in pod "{name}" not found', code="BadRequest")
        if found is None:
            reason = kept.containers[container].waiting if kept and container in kept.containers else None
            why = reason[0] if reason else "ContainerCreating"
            raise Invalid(f'container "{container}" in pod "{name}" is waiting to start: {why}', code="BadRequest")
        async for chunk in logs.read(found[1], options):
            yield chunk

    def running(self, pod: Manifest, container: str) -> Attempt:
        """The running process of a container; NotFound when there is none."""
        kept = self._pods.get(pod["metadata"]["uid"])
        found = kept.containers.get(container) if kept else None
        if found is None or found.attempt is None or not found.attempt.alive or not found.attempt.pid:
            raise NotFound(f'container not found ("{container}")', target=container)
        return found.attempt

    def processes(self) -> list[Running]:
        """The containers that run now."""
        return [
            Running(self.name, uid, container.name, attempt.folder, attempt.pid)
            for uid, pod in self._pods.items()
            for container in pod.containers.values()
            if (attempt := container.attempt) is not None and attempt.alive and attempt.pid
        ]

    async def talk(self, pod: Manifest, asked: Asked) -> Talk:
        """See `embedded.backend.NodeBackend`."""
        attempt = self.running(pod, asked.container)
        if asked.command:
            return await converse(attempt, asked)
        spec = self._pods[pod["metadata"]["uid"]].containers[asked.container].spec
        return attach(attempt, asked, once=bool(spec.get("stdinOnce")))

    async def dial(self, pod: Manifest, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `embedded.backend.NodeBackend`."""
        kept = self._pods.get(pod["metadata"]["uid"])
        if kept is None:
            raise NotFound(f"pod {pod['metadata']['name']} does not run on node {self.name}")
        return await asyncio.open_connection(kept.record.ip, port)

    def _adopt_folders(self) -> None:
        """Pods that an earlier life kept: go on with those that still exist, end the others."""
        for folder in (self.folder / "pods").iterdir():
            record = Record.read(folder)
            known = self._informer.with_uid(folder.name)
            if record is None:
                shutil.rmtree(folder)
                continue
            self._addresses.keep(record.ip)
            if not _is_over(known or record.manifest):
                self._gpus.keep(folder.name, record.gpus)
            self._keep(known or record.manifest, record)
            if known is None:
                self._pods[folder.name].gone()
        for pod in self._pods.values():
            if pod.record.gpus or pod.vanished or _is_over(pod.manifest):
                continue
            # Refused by an agent that ended before it could say so.
            if (refused := self._give(pod.manifest, pod.record)) is not None:
                pod.reject("UnexpectedAdmissionError", refused)

    def _changed(self, old: Manifest | None, new: Manifest | None) -> None:
        manifest = new or old
        assert manifest is not None
        uid = manifest["metadata"]["uid"]
        if (kept := self._pods.get(uid)) is not None:
            if new is None:
                kept.gone()
            else:
                kept.update(new)
        elif new is not None and new["spec"].get("nodeName") == self.name:
            record = Record(new, self._addresses.take(uid), (new.get("status") or {}).get("startTime") or rfc3339(now()), {})
            refused = self._give(new, record)
            self._keep(new, record)
            if refused is not None:
                self._pods[uid].reject("UnexpectedAdmissionError", refused)

    def _give(self, manifest: Manifest, record: Record) -> str | None:
        """Take the GPUs that a pod asks for; the reason when they are not there."""
        for uid, pod in self._pods.items():
            # Whoever says that a pod has failed, its processes have what they have until they end.
            if _is_over(pod.manifest) and not any(one.attempt is not None and one.attempt.alive for one in pod.containers.values()):
                self._gpus.release(uid)
        if not self._gpus.gpus:
            return None
        try:
            record.gpus = self._gpus.give(manifest["metadata"]["uid"], manifest["spec"])
        except Unavailable as error:
            return error.message
        return None

    def _keep(self, manifest: Manifest, record: Record) -> None:
        uid = manifest["metadata"]["uid"]
        pod = Pod(manifest, self.folder / "pods" / uid, record, self._services)
        if self._addresses.single:
            pod.event_once(
                "Normal", "SharedAddress", f"This system has one loopback address: the pod shares {HOST_IP} and its ports with all others."
            )
        self._pods[uid] = pod
        self._tasks[uid] = task = asyncio.get_running_loop().create_task(pod.run(), name=f"pod {describe(manifest)}")
        task.add_done_callback(lambda done: self._done(pod, done))

    def _done(self, pod: Pod, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._closed:
            return
        if (error := task.exception()) is not None:
            # A defect in one pod's loop must not take the node along: the loop starts anew from what is on disk.
            log.error("the loop of pod %s failed", describe(pod.manifest), exc_info=error)
            asyncio.get_running_loop().call_later(_PAUSE_AFTER_DEFECT.total_seconds(), self._again, pod)
            return
        self._pods.pop(pod.uid, None)
        self._tasks.pop(pod.uid, None)
        self._addresses.release(pod.record.ip)
        self._gpus.release(pod.uid)

    def _again(self, pod: Pod) -> None:
        if self._closed:
            return
        record = Record.read(pod.folder) or pod.record
        self._keep(pod.manifest, record)
        if self._informer.with_uid(pod.uid) is None:
            self._pods[pod.uid].gone()

    async def _renew_lease(self) -> None:
        cluster = self._services.cluster
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": rfc3339_micro(now())}
        try:
            await cluster.patch(LEASE, self.name, LEASE_NAMESPACE, {"spec": spec})
        except NotFound:
            await self._create_lease(spec)
        except MoorageError as error:
            log.warning("lease of node %s could not be renewed: %s", self.name, error)

    async def _create_lease(self, spec: Manifest) -> None:
        cluster = self._services.cluster
        lease = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self.name, "namespace": LEASE_NAMESPACE},
            "spec": spec,
        }
        try:
            await cluster.create(LEASE, lease)
        except NotFound:
            await cluster.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASE_NAMESPACE}})
            await cluster.create(LEASE, lease)


def _conditions(moment: str) -> list[Manifest]:
    good = ("MemoryPressure", "DiskPressure", "PIDPressure")
    conditions = [_condition(name, "False", f"KubeletHasNo{name}", moment) for name in good]
    return [*conditions, _condition("Ready", "True", "KubeletReady", moment)]


def _condition(type: str, status: str, reason: str, moment: str) -> Manifest:
    message = "the node agent is running" if type == "Ready" else ""
    return {"type": type, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": moment, "lastTransitionTime": moment}


def _is_over(pod: Manifest) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def services_of(services: Services, offered: Mapping[str, str]) -> Services:
    """The same services, with the machine as a node offers it."""
    return replace(services, machine=replace(services.machine, allocatable=offered))
