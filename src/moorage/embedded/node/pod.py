"""One pod on its node: a level-triggered loop that looks at the pod and its containers, does the next step, and writes the status when it differs."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from moorage.clock import now, parse_rfc3339, rfc3339_micro
from moorage.embedded.node import devices, images, launch
from moorage.embedded.node.container import Container
from moorage.embedded.node.decide import Decision, Ending, decide, ending, grace_of
from moorage.embedded.node.environment import Surroundings
from moorage.embedded.node.launch import Machine, Place
from moorage.embedded.node.records import RestartDelay, View, Waiting, next_delay
from moorage.embedded.node.status import Sandbox, status_of
from moorage.embedded.node.volumes import SERVICE_ACCOUNT_PATH, Claims, TokenSource, Volumes, usage
from moorage.errors import Conflict, Invalid, MoorageError, NotFound, Unavailable
from moorage.kube.cluster import Cluster, PatchType
from moorage.kube.events import EventRecorder
from moorage.kube.informer import Informer
from moorage.kube.kinds import POD
from moorage.kube.metadata import describe
from moorage.specs.manifest import Manifest
from moorage.specs.mounted import VARIABLE
from moorage.specs.quantities import parse_quantity

log = logging.getLogger(__name__)

_RETRY = timedelta(seconds=10)
# The kubelet's housekeeping interval for emptyDir limits.
_MEASURE = timedelta(seconds=10)
# What a pod gets whose object is gone without having been waited for (kubectl delete --force).
_ORPHAN_GRACE = timedelta(seconds=2)
_SHUTDOWN = "Pod was terminated in response to imminent node shutdown."
_LEAST_FREE = 64 * 2**20
HOST_IP = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a node reads the objects that pods refer to; shared by all nodes of a process."""

    config_maps: Informer
    secrets: Informer
    claims: Informer
    volumes: Informer
    accounts: Informer

    def find(self, namespace: str) -> Callable[[str, str], Manifest | None]:
        def found(kind: str, name: str) -> Manifest | None:
            manifest = (self.config_maps if kind == "ConfigMap" else self.secrets).get(name, namespace)
            return None if manifest is None else {**manifest, "kind": kind}

        return found


@dataclass(frozen=True, slots=True)
class Services:
    """What a pod's loop acts through."""

    cluster: Cluster
    recorder: EventRecorder
    sources: Sources
    tokens: TokenSource
    machine: Machine
    ca: bytes
    clock: Callable[[], datetime] = now


@dataclass(slots=True)
class Record:
    """What of a pod must outlive the agent and stands in no container's folder; `pod.json`."""

    manifest: Manifest
    ip: str
    started: str
    delays: dict[str, RestartDelay]
    gpus: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        try:
            text = json.loads((folder / "pod.json").read_text())
        except FileNotFoundError:
            return None
        delays = {name: RestartDelay(timedelta(seconds=item[0]), parse_rfc3339(item[1])) for name, item in text["delays"].items()}
        return cls(text["manifest"], text["ip"], text["started"], delays, text.get("gpus") or {})

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        delays = {name: [entry.delay.total_seconds(), rfc3339_micro(entry.updated)] for name, entry in self.delays.items()}
        text = json.dumps({"manifest": self.manifest, "ip": self.ip, "started": self.started, "delays": delays, "gpus": self.gpus})
        fresh = folder / "pod.json.new"
        fresh.write_text(text)
        fresh.rename(folder / "pod.json")


class Pod:
    """A pod bound to this node.

    Args:
        folder: everything of the pod on this machine.
        record: its addresses and back-offs, new or read from `folder`.
    """

    def __init__(self, manifest: Manifest, folder: Path, record: Record, services: Services) -> None:
        self.manifest = manifest
        self.uid: str = manifest["metadata"]["uid"]
        self.folder = folder
        self.record = record
        self.vanished = False
        self._services = services
        self._awake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: set[tuple[str, str]] = set()
        self._evicted: Ending | None = None
        self._halting = False
        self.halted = asyncio.Event()
        self._measured = services.clock()
        self._retry_at: datetime | None = None
        self.volumes = Volumes(folder / "volumes", self.uid, services.tokens, services.ca, services.clock)
        spec = manifest["spec"]
        self.containers = {
            item["name"]: Container(item, folder / "containers" / item["name"], self, services.machine)
            for item in (*(spec.get("initContainers") or ()), *spec["containers"])
        }

    @property
    def pod_ip(self) -> str:
        return self.record.ip

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    def wake(self) -> None:
        self._awake.set()

    def update(self, manifest: Manifest) -> None:
        """Take what the informer saw, unless a write of our own has answered with something newer."""
        if _newer(manifest, self.manifest):
            self.manifest = manifest
            self.wake()

    def halt(self) -> asyncio.Event:
        """Stop the containers because this machine's cluster stops; the event is set once nothing runs.

        Pods that restart always start again with the cluster; the others fail in the kubelet's words for a node shutdown.
        """
        self._halting = True
        if self.manifest["spec"].get("restartPolicy", "Always") != "Always" and self._evicted is None:
            self._evicted = Ending(grace_of(self.manifest["spec"]), "Terminated", _SHUTDOWN, failed=True)
        self.wake()
        return self.halted

    def reject(self, reason: str, message: str) -> None:
        """Refuse the pod before anything of it starts."""
        self._evicted = Ending(timedelta(0), reason, message, failed=True)
        self.event_once("Warning", reason, message)

    def gone(self) -> None:
        """The object is no more: end its containers and forget it."""
        self.vanished = True
        self.wake()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pod %s: %s", describe(self.manifest), error, exc_info=error)

    def event(self, type: str, reason: str, message: str) -> None:
        """Record an event on the pod, later and without waiting for it."""
        if not self.vanished:
            self.spawn(self._record(type, reason, message, again=True))

    def event_once(self, type: str, reason: str, message: str) -> None:
        """Record an event that this pod has at most once."""
        if (reason, message) not in self._said and not self.vanished:
            self._said.add((reason, message))
            self.spawn(self._record(type, reason, message, again=False))

    async def _record(self, type: str, reason: str, message: str, *, again: bool) -> None:
        try:
            await self._services.recorder.record(self.manifest, type, reason, message, again=again)
        except MoorageError as error:
            log.warning("event %s of %s is lost: %s", reason, describe(self.manifest), error)

    async def run(self) -> None:
        """Keep the pod until it is gone from the API and from this machine."""
        self.record.write(self.folder)
        known = (self.manifest.get("status") or {}).get("containerStatuses") or []
        known = [*known, *((self.manifest.get("status") or {}).get("initContainerStatuses") or [])]
        for name, container in self.containers.items():
            await container.adopt(next((item for item in known if item["name"] == name), None))
        try:
            while True:
                self._awake.clear()
                wake_at, finished = await self._step()
                if finished:
                    break
                await self._sleep(wake_at)
        finally:
            for container in self.containers.values():
                container.close()
            for task in list(self._tasks):
                task.cancel()
        await asyncio.to_thread(self._clean)

    async def _sleep(self, until: datetime | None) -> None:
        span = None if until is None else max(0.0, (until - self._services.clock()).total_seconds())
        try:
            async with asyncio.timeout(span):
                await self._awake.wait()
        except TimeoutError:
            pass  # the time to look again has come

    async def _step(self) -> tuple[datetime | None, bool]:
        """Look once and do what is next; when to look again, and whether the pod is no more."""
        moment = self._services.clock()
        pod = {**self.manifest, "status": self._status_base()}
        end = self._ending(pod, moment)
        self._retry_at = None
        if end is None:
            await self._refresh_volumes(pod)
            end = self._evicted
        decision = decide(pod, self._views(), self.record.delays, moment, end)
        for stop in decision.stop:
            self.containers[stop.name].request_stop(stop.grace, stop.message)
        if decision.start:
            await self._start_all(decision, pod, moment)
        self._tell_backoffs(decision)
        if self.vanished:
            if decision.over:
                self.halted.set()  # deleted by somebody while the cluster stops: there is no status left to write first
            return None, decision.over
        if self._halting and end is not None and not end.failed and "deletionTimestamp" not in self.manifest["metadata"]:
            # No word to the API: to it the pod runs on, and does so once the cluster is back.
            if decision.over:
                # As after a restart of the kubelet: what was stopped on purpose is no crash to be slow about.
                self.record.delays.clear()
                self.record.write(self.folder)
                self.halted.set()
            return None, False
        written = await self._write_status(decision, end, moment)
        if decision.over and written:
            self.halted.set()
        if decision.over and written and "deletionTimestamp" in self.manifest["metadata"]:
            await self._finalize()
            return None, True
        wakes = [decision.wake_at, self._retry_at, self._measure_at(), self.volumes.renew_at if not decision.over else None]
        if not written:
            wakes.append(moment + timedelta(seconds=1))
        return min((wake for wake in wakes if wake is not None), default=None), False

    def _ending(self, pod: Manifest, moment: datetime) -> Ending | None:
        if self.vanished:
            return Ending(_ORPHAN_GRACE)
        end = ending(pod, parse_rfc3339(self.record.started), moment) or self._evicted
        return Ending(grace_of(pod["spec"]), message="Stopping container {name}") if end is None and self._halting else end

    def _views(self) -> dict[str, View]:
        return {name: container.view() for name, container in self.containers.items()}

    def _status_base(self) -> Manifest:
        """The status as others see it, with the addresses that only this node knows at first."""
        status = dict(self.manifest.get("status") or {})
        ip = {"podIP": self.record.ip, "podIPs": [{"ip": self.record.ip}]}
        return {**status, "hostIP": HOST_IP, "hostIPs": [{"ip": HOST_IP}], "startTime": self.record.started, **ip}

    async def _start_all(self, decision: Decision, pod: Manifest, moment: datetime) -> None:
        if shutil.disk_usage(self.folder).free < _LEAST_FREE:
            self._retry_at = moment + _RETRY
            message = f"The disk of {self.folder} has less than {_LEAST_FREE // 2**20} MiB free; containers start again when there is room."
            self.event_once("Warning", "NodeHasDiskPressure", message)
            for name in decision.start:
                self.containers[name].waiting = ("CreateContainerError", message)
            return
        started = [await self._start(self.containers[name], pod, moment) for name in decision.start]
        if any(started):
            self.wake()

    async def _start(self, container: Container, pod: Manifest, moment: datetime) -> bool:
        """Start one container; False, with the reason in its `waiting`, when that cannot be now."""
        restarted = container.attempt is not None
        try:
            document = await self._compose(container, pod)
            await container.start(document)
        except (NotFound, Invalid) as error:
            container.waiting = ("CreateContainerConfigError", error.message)
            self.event_once("Warning", "Failed", f"Error: {error.message}")
            return False
        except _VolumeNotReady as error:
            container.waiting = ("ContainerCreating", "")
            self.event_once("Warning", "FailedMount", str(error))
            # What is missing in the API is told by its informer; a folder of the machine is told by nobody.
            self._retry_at = None if isinstance(error.__cause__, NotFound) else moment + _RETRY
            return False
        except (Unavailable, OSError) as error:
            container.waiting = ("CreateContainerError", str(error))
            self.event_once("Warning", "Failed", f"Error: {error}")
            self._retry_at = moment + _RETRY
            return False
        if restarted:
            self.record.delays[container.name] = next_delay(self.record.delays.get(container.name), moment)
            self.record.write(self.folder)
        self.event("Normal", "Created", f"Created container: {container.name}")
        if container.view().running:
            self.event("Normal", "Started", f"Started container {container.name}")
        return True

    async def _compose(self, container: Container, pod: Manifest) -> Manifest:
        """Everything that the container needs, made and put together."""
        spec = container.spec
        around = self._surroundings(pod)
        named = {item["name"]: item for item in pod["spec"].get("volumes") or ()}
        paths: dict[str, Path] = {}
        claims = self._claims()
        token = None
        try:
            for mount in spec.get("volumeMounts") or ():
                if mount["name"] in named:
                    paths[mount["name"]] = await self.volumes.provide(named[mount["name"]], around, claims)
            account = self._services.sources.accounts.get(pod["spec"].get("serviceAccountName") or "default", self.namespace)
            mounted = {mount["mountPath"] for mount in spec.get("volumeMounts") or ()}
            # The API's admission adds this volume; a pod from elsewhere (an older state file) gets it here.
            if SERVICE_ACCOUNT_PATH not in mounted and launch.token_wanted(pod, account):
                token = await self.volumes.service_account(around)
        except (MoorageError, OSError) as error:
            raise _VolumeNotReady(f"MountVolume.SetUp failed for volume: {error}") from error
        self._tell_images()
        place = Place(self.folder, container.place())
        document = launch.compose(spec, around, paths, place, self._services.machine, token=token)
        self._tell_mounts(document)
        # Last, as a device plugin's: what somebody else wrote into the template must not show another's GPU.
        document["env"] |= devices.environment(self._services.machine.gpus, self.record.gpus.get(container.name, ()))
        return document

    def _surroundings(self, pod: Manifest) -> Surroundings:
        return Surroundings(pod, self._services.sources.find(self.namespace), self._services.machine.allocatable)

    def _claims(self) -> Claims:
        sources = self._services.sources
        claims = {item["metadata"]["name"]: item for item in sources.claims.in_namespace(self.namespace)}
        return Claims(claims, {item["metadata"]["name"]: item for item in sources.volumes})

    async def _refresh_volumes(self, pod: Manifest) -> None:
        """Bring changed ConfigMaps, Secrets and tokens to containers that run already, and watch emptyDir limits."""
        if not any(container.attempt is not None and container.attempt.alive for container in self.containers.values()):
            return
        around, claims = self._surroundings(pod), self._claims()
        for volume in pod["spec"].get("volumes") or ():
            if volume.keys() & {"configMap", "secret", "projected", "downwardAPI"}:
                try:
                    await self.volumes.provide(volume, around, claims)
                except (MoorageError, OSError) as error:
                    # What runs keeps what it has, as with the kubelet.
                    self.event_once("Warning", "FailedMount", f"MountVolume.SetUp failed for volume {volume['name']!r}: {error}")
        if (self.volumes.folder / "kube-api-access").exists():
            try:
                await self.volumes.service_account(around)
            except MoorageError as error:
                self.event_once("Warning", "FailedMount", f"the ServiceAccount token could not be renewed: {error}")
        await self._measure(pod)

    def _limited(self) -> Mapping[str, int]:
        """emptyDir volumes with a size limit, in bytes."""
        volumes = self.manifest["spec"].get("volumes") or ()
        limits = {item["name"]: (item.get("emptyDir") or {}).get("sizeLimit") for item in volumes}
        return {name: int(parse_quantity(limit, target="sizeLimit")) for name, limit in limits.items() if limit and limit != "0"}

    def _measure_at(self) -> datetime | None:
        running = any(container.attempt is not None and container.attempt.alive for container in self.containers.values())
        return self._measured + _MEASURE if running and self._limited() else None

    async def _measure(self, pod: Manifest) -> None:
        if not self._limited() or self._services.clock() < self._measured + _MEASURE:
            return
        self._measured = self._services.clock()
        around, claims = self._surroundings(pod), self._claims()
        for volume in pod["spec"].get("volumes") or ():
            if (limit := self._limited().get(volume["name"])) is None:
                continue
            used = await asyncio.to_thread(usage, await self.volumes.provide(volume, around, claims))
            if used > limit:
                message = f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{volume["emptyDir"]["sizeLimit"]}". '
                self._evicted = Ending(timedelta(0), "Evicted", message, failed=True)
                self.event_once("Warning", "Evicted", message)

    def _tell_images(self) -> None:
        foreign = [item.spec.get("image", "") for item in self.containers.values() if not images.is_component(item.spec.get("image", ""))]
        if foreign:
            self.event_once("Normal", "ImageNotPulled", images.not_pulled(foreign))

    def _tell_mounts(self, document: Manifest) -> None:
        confinement = self._services.machine.confinement
        if confinement.mode == "none":
            places = ", ".join(f"{path} is {folder}" for path, folder in json.loads(document["env"][VARIABLE]).items())
            message = f"Volumes cannot appear at their paths ({confinement.reason}); paths in command, args and env are rewritten: {places}"
            self.event_once("Warning", "MountNamespaceUnavailable", message)

    def _tell_backoffs(self, decision: Decision) -> None:
        for name, (reason, _) in decision.waiting.items():
            number = self.containers[name].number
            if reason == "CrashLoopBackOff" and (name, str(number)) not in self._said:
                self._said.add((name, str(number)))
                self.event(
                    "Warning",
                    "BackOff",
                    f"Back-off restarting failed container {name} in pod {self.manifest['metadata']['name']}_{self.namespace}({self.uid})",
                )

    async def _write_status(self, decision: Decision, end: Ending | None, moment: datetime) -> bool:
        """Write the status when it differs; False when it has to be tried again."""
        views = self._views()
        waiting: dict[str, Waiting] = {**decision.waiting}
        sandbox = Sandbox(self.record.ip, HOST_IP, parse_rfc3339(self.record.started))
        status = status_of(self.manifest, views, waiting, sandbox, moment, end=end, over=decision.over)
        before = self.manifest.get("status") or {}
        if status == {key: value for key, value in before.items() if key in status} and not before.keys() - status.keys():
            return True
        patch: Manifest = {"metadata": {"uid": self.uid, "resourceVersion": self.manifest["metadata"]["resourceVersion"]}, "status": status}
        gone = {key: None for key in before if key not in status}
        metadata = self.manifest["metadata"]
        try:
            patch["status"] = {**status, **gone}
            answer = await self._services.cluster.patch(
                POD, metadata["name"], self.namespace, patch, type=PatchType.MERGE, subresource="status"
            )
        except NotFound:
            self.gone()
            return True
        except Conflict:
            return False  # the informer brings the newer object
        except MoorageError as error:
            log.warning("status of %s could not be written: %s", describe(self.manifest), error)
            return False
        # While the answer was on its way the informer may have brought a newer object, which it does once: a deletion, say.
        if _newer(answer, self.manifest):
            self.manifest = answer
        return True

    async def _finalize(self) -> None:
        """All has stopped and the status says so: let the object go."""
        metadata = self.manifest["metadata"]
        try:
            await self._services.cluster.delete(POD, metadata["name"], self.namespace, grace=timedelta(0), uid=self.uid)
        except (NotFound, Conflict):
            pass  # gone already, or another pod of this name has come

    def _clean(self) -> None:
        for container in self.containers.values():
            container.forget()
        self.volumes.remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def _newer(manifest: Manifest, known: Manifest) -> bool:
    return int(manifest["metadata"]["resourceVersion"]) > int(known["metadata"]["resourceVersion"])


class _VolumeNotReady(Exception):
    """A volume cannot be mounted yet; said as the event FailedMount."""
