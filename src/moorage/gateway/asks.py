"""Questions of the workspace that only the cluster can answer; each is answered once, and asked again if the answer is lost."""

from __future__ import annotations

import asyncio
import logging

from moorage.errors import Invalid, MoorageError, NotFound
from moorage.gateway.connection import Workspace
from moorage.kube.cluster import Cluster, LogOptions
from moorage.kube.kinds import POD
from moorage.kube.metadata import name_of, namespace_of
from moorage.kube.streams import closing
from moorage.specs.manifest import Manifest
from moorage.wire.gateway import Ask

log = logging.getLogger(__name__)

_CONTAINERS = {"InferenceServer": "main", "StorageInitializer": "fetch"}
_LARGEST = 1024 * 1024
_AT_ONCE = 4


class Asks:
    """Answers questions, a few at a time."""

    def __init__(self, cluster: Cluster, workspace: Workspace) -> None:
        self._cluster = cluster
        self._workspace = workspace
        self._waiting: asyncio.Queue[Ask] = asyncio.Queue(maxsize=100)

    def ask(self, question: Ask) -> None:
        """Take a question in; dropped when too many wait, since the asker asks again."""
        try:
            self._waiting.put_nowait(question)
        except asyncio.QueueFull:
            log.warning("too many questions wait; %s is dropped", question.id)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(_AT_ONCE):
                group.create_task(self._work(), name=f"asks {number}")

    async def _work(self) -> None:
        while True:
            question = await self._waiting.get()
            try:
                answer = await self._deployment_logs(question)
                await self._workspace.answer(question.id, answer)
            except MoorageError as error:
                log.warning("question %s about %s: %s", question.id, question.key.name, error)

    async def _deployment_logs(self, question: Ask) -> bytes:
        """The last lines of each replica's log; of several, each under its pod's name."""
        selector = f"app.kubernetes.io/instance={question.key.name},moorage.dev/deployment"
        try:
            pods = (await self._cluster.list(POD, question.key.namespace, labels=selector)).items
        except MoorageError as error:
            return f"The deployment's pods cannot be listed: {error}\n".encode()
        pods = sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
        texts = [await self._log(pod, _CONTAINERS[question.container], question.tail) for pod in pods]
        if len(texts) == 1:
            return texts[0]
        share = _LARGEST // max(1, len(texts))
        return b"\n".join(b"==> %s <==\n%s" % (name_of(pod).encode(), text[-share:]) for pod, text in zip(pods, texts, strict=True))

    async def _log(self, pod: Manifest, container: str, tail: int) -> bytes:
        status = _status(pod, container)
        # A container that waits to be started again has its last words in the previous run's log.
        previous = bool((status.get("state") or {}).get("waiting")) and bool((status.get("lastState") or {}).get("terminated"))
        content = bytearray()
        try:
            options = LogOptions(container=container, tail=tail, previous=previous)
            async with closing(self._cluster.logs(namespace_of(pod), name_of(pod), options)) as chunks:
                async for chunk in chunks:
                    content += chunk
                    del content[:-_LARGEST]
        except (Invalid, NotFound) as error:
            return f"{_why(pod, status) or error}\n".encode()
        except MoorageError as error:
            return f"The log of pod {name_of(pod)} cannot be read: {error}\n".encode()
        return bytes(content)


def _status(pod: Manifest, container: str) -> Manifest:
    statuses = pod.get("status") or {}
    for status in (*(statuses.get("initContainerStatuses") or ()), *(statuses.get("containerStatuses") or ())):
        if status["name"] == container:
            found: Manifest = status
            return found
    return {}


def _why(pod: Manifest, status: Manifest) -> str:
    """Why there is no log yet, in the cluster's words."""
    if waiting := (status.get("state") or {}).get("waiting"):
        return f"Container {status['name']} of pod {name_of(pod)} waits: {waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return f"Pod {name_of(pod)} is not scheduled: {condition.get('message', '')}"
    return ""
