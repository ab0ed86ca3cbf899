"""Logs of training jobs: each container's output is followed and sent with its offset, and counts as complete once the container has ended and
all of it is acknowledged. After a restart it is read from the start again, and what the workspace has is skipped.

A pod that replaces another of the same rank continues its log. Where it began is noted on the TrainingJob, since its predecessor may be gone later;
that it has begun tells that its predecessor's log is whole.
Of a log that the node has rotated, only the newest file can be read again: where it goes on is found by what was sent last. Where that has been thrown away,
a line in the log says that output is missing. Known limit: an agent that starts again does not know what was sent last, and finds out at the log's end.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from moorage.errors import Invalid, MoorageError, NotFound
from moorage.gateway.desired import Target, is_desired, target_of
from moorage.gateway.gather import gathered
from moorage.gateway.outbox import CHUNK, Outbox
from moorage.gateway.podlogs import JOB_LABEL, Source, ended, is_terminal, layout_of, sources
from moorage.ids import digest
from moorage.kube.backoff import Backoff
from moorage.kube.cluster import Cluster, LogOptions
from moorage.kube.informer import Informer
from moorage.kube.kinds import POD, TRAINING_JOB
from moorage.kube.metadata import labels_of, name_of, namespace_of, uid_of
from moorage.kube.streams import closing
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

_FIRST_PAUSE = timedelta(milliseconds=200)
_LONGEST_PAUSE = timedelta(seconds=10)
# A followed log ends with its container; when it has not ended this long after, the connection is dead.
_LAST_WORDS = timedelta(seconds=15)
# A node that is gone took its logs with it: after so long without an answer, while the API itself answers, they are given up.
_NODE_PATIENCE = timedelta(minutes=5)

# How a file of a log is known again, and what was sent last within it.
_HEAD, _TAIL = 1024, 4096
_GAP = (
    b"\n[moorage] The node has thrown away older output of this log. Here lines may be missing, and some below may stand above already.\n"
)
_LOST = b"\n[moorage] The node of this log has not answered for five minutes since the end: what it wrote after this is lost.\n"

StreamKey = tuple[str, str]  # pod uid, container


@dataclass(slots=True)
class _Stream:
    """One container's log on its way."""

    target: Target
    pod: str
    uid: str
    source: Source
    base: int = 0
    position: int = 0
    # What of `position` is no longer in the node's file, how that file begins, and the last bytes sent.
    rotated: int = 0
    head: bytes = b""
    tail: bytes = b""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    deadline: asyncio.Timeout | None = None
    task: asyncio.Task[None] | None = None


class JobLogs:
    """Follows the logs of all desired TrainingJobs.

    Args:
        told: called with a job whose logs have become complete.
    """

    def __init__(self, cluster: Cluster, outbox: Outbox, jobs: Informer, pods: Informer, told: Callable[[Target], None]) -> None:
        self._cluster = cluster
        self._outbox = outbox
        self._jobs = jobs
        self._pods = pods
        self._told = told
        self._group: asyncio.TaskGroup | None = None
        self._streams: dict[StreamKey, _Stream] = {}
        self._order: defaultdict[tuple[Target, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._finishing: set[str] = set()
        self._complete: set[str] = set()

    def complete(self, job: Manifest) -> bool:
        """Whether the job has ended and all it wrote is at the workspace."""
        return job["kind"] != "TrainingJob" or uid_of(job) in self._complete

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for pod in self._in_order(self._pods):
                self._pod_changed(None, pod)
            self._pods.subscribe(self._pod_changed)
            self._jobs.subscribe(self._job_changed)
            await asyncio.get_running_loop().create_future()

    # --- what to follow ---

    def _pod_changed(self, old: Manifest | None, new: Manifest | None) -> None:
        pod = new or old
        if pod is None:
            return
        job = self._jobs.get(labels_of(pod).get(JOB_LABEL, ""), namespace_of(pod))
        if new is not None and job is not None:
            self._start(job, new)
        for stream in [stream for stream in self._streams.values() if stream.uid == uid_of(pod)]:
            stream.changed.set()
            if ended(new, stream.source.container) and stream.deadline is not None and stream.deadline.when() is None:
                stream.deadline.reschedule(asyncio.get_running_loop().time() + _LAST_WORDS.total_seconds())
        if new is None:
            self._drop(lambda stream: stream.uid == uid_of(pod) and stream.task is not None and stream.task.done())

    def _job_changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if new is None:
            if old is not None:
                self._forget(old)
            return
        if not is_desired(new):
            return
        if old is None:
            for pod in self._in_order(self._pods_of(target_of(new))):
                self._start(new, pod)
        uid = uid_of(new)
        if is_terminal(new) and uid not in self._complete and uid not in self._finishing and self._group is not None:
            self._finishing.add(uid)
            self._group.create_task(self._finish(target_of(new), new), name=f"logs of {name_of(new)}")

    def _pods_of(self, target: Target) -> list[Manifest]:
        return [pod for pod in self._pods.in_namespace(target.namespace) if labels_of(pod).get(JOB_LABEL) == target.name]

    def _in_order(self, pods: Iterable[Manifest]) -> list[Manifest]:
        """In the order in which those of one rank ran: those whose log has begun before the others."""

        def order(pod: Manifest) -> tuple[bool, str, str]:
            job = self._jobs.get(labels_of(pod).get(JOB_LABEL, ""), namespace_of(pod))
            begun = job is not None and any(_noted(job, uid_of(pod), each.container) for each in sources(pod, layout_of(job)))
            return not begun, *_age(pod)

        return sorted(pods, key=order)

    def _start(self, job: Manifest, pod: Manifest) -> list[asyncio.Task[None]]:
        """Follow what can be read of the pod by now; the tasks that do."""
        tasks = []
        for source in sources(pod, layout_of(job)) if is_desired(job) and self._group is not None else ():
            key = uid_of(pod), source.container
            stream = self._streams.get(key)
            if stream is None:
                assert self._group is not None
                stream = self._streams[key] = _Stream(target_of(job), name_of(pod), uid_of(pod), source)
                stream.task = self._group.create_task(self._carry(stream), name=f"log of {name_of(pod)}/{source.container}")
            if stream.task is not None:
                tasks.append(stream.task)
        return tasks

    def _forget(self, job: Manifest) -> None:
        target = target_of(job)
        self._complete.discard(uid_of(job))
        for stream in self._streams.values():
            if stream.target == target and stream.task is not None:
                stream.task.cancel()
        self._drop(lambda stream: stream.target == target)
        for key in [key for key in self._order if key[0] == target]:
            del self._order[key]

    def _drop(self, which: Callable[[_Stream], bool]) -> None:
        for key in [key for key, stream in self._streams.items() if which(stream)]:
            del self._streams[key]

    async def _finish(self, target: Target, job: Manifest) -> None:
        """Wait for the logs of everything an ended job ran, by a fresh list: the cache may not know its last pod yet."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        try:
            while True:
                try:
                    pods = (await self._cluster.list(POD, target.namespace, labels=f"{JOB_LABEL}={target.name}")).items
                    break
                except MoorageError as error:
                    log.warning("pods of %s: %s", target.name, error)
                    await asyncio.sleep(backoff.next().total_seconds())
            tasks = [task for pod in self._in_order(pods) for task in self._start(job, pod)]
            tasks += [stream.task for stream in self._streams.values() if stream.target == target and stream.task is not None]
            if tasks:
                await asyncio.wait(tasks)
        finally:
            self._finishing.discard(uid_of(job))
        if self._jobs.with_uid(uid_of(job)) is not None:
            self._complete.add(uid_of(job))
            self._told(target)

    # --- following one log ---

    async def _carry(self, stream: _Stream) -> None:
        # In the order in which pods of one rank ran.
        async with self._order[stream.target, stream.source.stream]:
            backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
            begun, unanswered = False, 0.0
            while True:
                pod = self._pods.with_uid(stream.uid)
                over = ended(pod, stream.source.container)
                stream.changed.clear()
                before = stream.position
                pause = backoff.next()
                try:
                    if not begun:
                        if not await self._begin(stream):
                            return
                        begun = True
                    if await self._read(stream, follow=not over) and over:
                        return
                    unanswered = 0.0
                except NotFound:
                    return  # the pod is gone
                except MoorageError as error:
                    log.info("log of %s/%s: %s", stream.pod, stream.source.container, error)
                    if over:
                        unanswered += pause.total_seconds()
                        if await self._hopeless(stream, error, unanswered):
                            if not isinstance(error, Invalid):
                                await self._give_up(stream)
                            return
                if stream.position > before:
                    backoff.reset()
                await _wait(stream.changed, pause)

    async def _begin(self, stream: _Stream) -> bool:
        """Find out where the container's log begins within the stream, and how much of it the workspace has; False when it has all."""
        size = await self._outbox.deliver(stream.target, stream.source.stream, 0, b"")
        target = stream.target
        job = await self._cluster.get(TRAINING_JOB, target.name, target.namespace)
        noted = _noted(job, stream.uid, stream.source.container)
        if not noted:
            stream.base = size
            patch = {"metadata": {"uid": uid_of(job), "annotations": {_note(stream.uid, stream.source.container): str(size)}}}
            await self._cluster.patch(TRAINING_JOB, target.name, target.namespace, patch)
        else:
            # Under the base: the workspace lost what earlier pods wrote; what follows moves up.
            stream.base = min(int(noted), size) if noted.isdigit() else 0
            if self._is_followed(stream, job, size):
                return False
        stream.position = max(0, size - stream.base)
        return True

    def _is_followed(self, stream: _Stream, job: Manifest, size: int) -> bool:
        """Whether the log of a later pod has begun in the same stream, of which the workspace has `size` bytes."""
        pods = self._pods_of(stream.target)
        own = next((_age(pod) for pod in pods if uid_of(pod) == stream.uid), ("", ""))
        for pod in pods:
            for source in sources(pod, layout_of(job)):
                noted = _noted(job, uid_of(pod), source.container)
                if uid_of(pod) != stream.uid and source.stream == stream.source.stream and noted.isdigit():
                    later = int(noted) > stream.base or (int(noted) == stream.base and _age(pod) > own)
                    if later and int(noted) <= size:
                        return True
        return False

    async def _read(self, stream: _Stream, *, follow: bool) -> bool:
        """Send what the workspace lacks; whether the log was read to its end."""
        skip, head = max(0, stream.position - stream.rotated), b""
        try:
            async with (
                asyncio.timeout(None) as stream.deadline,
                closing(self._cluster.logs(stream.target.namespace, stream.pod, _options(stream, follow=follow))) as chunks,
                gathered(chunks, CHUNK) as reader,
            ):
                while data := await reader.take():
                    head += data[: _HEAD - len(head)]
                    if not stream.head.startswith(head) and not head.startswith(stream.head):
                        break
                    cut = min(skip, len(data))
                    skip -= cut
                    if cut < len(data):
                        stream.head = head
                        if not await self._deliver(stream, data[cut:]):
                            return False
                else:
                    if not skip:
                        return True
        except TimeoutError:
            return False
        finally:
            stream.deadline = None
        # Another file, or a shorter one than what was read of it. An agent that has just started cannot tell before the log's end.
        if stream.tail or not follow:
            await self._align(stream)
        return False

    async def _align(self, stream: _Stream) -> None:
        """The node has rotated the log: find where in its newest file what was sent ends."""
        at, window, passed = -1, b"", 0
        if stream.tail:
            async with closing(self._cluster.logs(stream.target.namespace, stream.pod, _options(stream, follow=False))) as chunks:
                async for data in chunks:
                    window += data
                    if (found := window.find(stream.tail)) >= 0:
                        at = passed + found + len(stream.tail)
                        break
                    kept = window[-len(stream.tail) :]
                    passed, window = passed + len(window) - len(kept), kept
        if at < 0:
            await self._deliver(stream, _GAP)
            at = 0
        stream.rotated, stream.head = stream.position - at, b""

    async def _deliver(self, stream: _Stream, data: bytes) -> bool:
        """Whether the workspace has it all; False when it lost some, so that the log must be read again from there."""
        offset = stream.base + stream.position
        try:
            size = await self._outbox.deliver(stream.target, stream.source.stream, offset, data)
        except Invalid as error:
            raise NotFound(f"the workspace does not take it: {error}") from error
        if size < offset + len(data):
            stream.base = min(stream.base, size)
            stream.position, stream.tail = size - stream.base, b""
            return False
        stream.position += len(data)
        stream.tail = (stream.tail + data)[-_TAIL:]
        return True

    async def _give_up(self, stream: _Stream) -> None:
        try:
            await self._outbox.deliver(stream.target, stream.source.stream, stream.base + stream.position, _LOST)
        except Invalid as error:
            log.warning("the log of %s/%s: %s", stream.pod, stream.source.container, error)

    async def _hopeless(self, stream: _Stream, error: MoorageError, unanswered: float) -> bool:
        """Whether the log of an ended container will never be had: its node does not answer while the API does."""
        if isinstance(error, Invalid):
            return True  # it never started, so that there is no log
        if unanswered < _NODE_PATIENCE.total_seconds():
            return False
        try:
            await self._cluster.get(POD, stream.pod, stream.target.namespace)
        except NotFound:
            return True
        except MoorageError:
            return False
        log.warning("the log of %s/%s is given up: %s", stream.pod, stream.source.container, error)
        return True


def _note(uid: str, container: str) -> str:
    """The annotation of a TrainingJob that says where a container's log begins."""
    return f"moorage.dev/log-base-{digest(uid, container, length=16)}"


def _noted(job: Manifest, uid: str, container: str) -> str:
    return str((job["metadata"].get("annotations") or {}).get(_note(uid, container)) or "")


def _age(pod: Manifest) -> tuple[str, str]:
    return str(pod["metadata"].get("creationTimestamp") or ""), name_of(pod)


def _options(stream: _Stream, *, follow: bool) -> LogOptions:
    return LogOptions(container=stream.source.container, follow=follow)


async def _wait(changed: asyncio.Event, pause: timedelta) -> None:
    """The pause, or less when the pod changes."""
    try:
        async with asyncio.timeout(pause.total_seconds()):
            await changed.wait()
    except TimeoutError:
        return
