"""The way down: reads the stream of desired objects and makes the cluster agree, object by object, also when somebody changes or deletes one.
Objects are deleted in the foreground, so that one that is gone has taken everything it owned with it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import orjson

from moorage.errors import Conflict, Invalid, MoorageError, NotFound
from moorage.gateway.connection import Workspace
from moorage.gateway.desired import KINDS, MANAGER, Desired, Target, is_desired, target_of
from moorage.gateway.outbox import Outbox
from moorage.kube.backoff import Backoff
from moorage.kube.cluster import Cluster
from moorage.kube.informer import Informer
from moorage.kube.kinds import NAMESPACE, TRAINING_JOB
from moorage.kube.metadata import is_deleting, uid_of
from moorage.kube.queue import WorkQueue
from moorage.specs.manifest import Manifest
from moorage.wire.gateway import FINISHED, Ask, DesiredType

log = logging.getLogger(__name__)

_FIRST_PAUSE = timedelta(milliseconds=500)
_LONGEST_PAUSE = timedelta(seconds=30)
_WORKERS = 4


class Stream:
    """Holds the one long connection, and tells what it brings.

    Args:
        changed: an object's wish may have changed; SYNCED for any object's.
        renewed: a RESET has been read to its end.
        asked: a question came.
    """

    def __init__(
        self,
        workspace: Workspace,
        desired: Desired,
        *,
        changed: Callable[[Target], None],
        renewed: Callable[[], None],
        asked: Callable[[Ask], None],
        backoff: Backoff | None = None,
    ) -> None:
        self._workspace = workspace
        self._desired = desired
        self._changed = changed
        self._renewed = renewed
        self._asked = asked
        self._backoff = backoff or Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self.connected = False

    async def run(self) -> None:
        """Keep the stream open until cancelled; breaks are logged and mended."""
        while True:
            try:
                await self._read()
                log.info("the workspace ended the stream; dialling again")
            except MoorageError as error:
                log.warning("%s", error)
            finally:
                self.connected = False
            pause = self._backoff.next()
            await asyncio.sleep(pause.total_seconds())

    async def _read(self) -> None:
        async with self._workspace.desired(self._desired.since) as events:
            async for event in events:
                self.connected = True
                self._backoff.reset()
                if event is None:
                    continue
                if event.type is DesiredType.ASK and event.ask is not None:
                    self._asked(event.ask)
                    continue
                anew = self._desired.since is None
                for target in self._desired.take(event):
                    self._changed(target)
                if event.type is DesiredType.SYNCED:
                    self._changed(SYNCED)
                    if anew:
                        self._renewed()


# Not an object: everything in the cluster is to be looked at again, since it may be unwanted.
SYNCED = Target("", "", "")


@dataclass(frozen=True, slots=True)
class _Applied:
    """What was last applied to an object, and what the object was then."""

    digest: bytes
    uid: str
    generation: int
    revision: int

    def holds(self, digest: bytes, live: Manifest) -> bool:
        """Whether `live` still is what came of applying a manifest with this digest."""
        return self.digest == digest and self.uid == uid_of(live) and self.generation >= _generation(live)


class Converger:
    """Makes the cluster's desired objects be what `desired` says.

    Args:
        changing: awaited with the target, its live object and the wanted one before a live object is changed.
        carried: called with a target whose live object has come to carry out a later wish.
    """

    def __init__(
        self,
        cluster: Cluster,
        desired: Desired,
        informers: Mapping[str, Informer],
        outbox: Outbox,
        changing: Callable[[Target, Manifest, Manifest], Awaitable[None]],
        carried: Callable[[Target], None],
    ) -> None:
        self._cluster = cluster
        self._changing = changing
        self._carried = carried
        self._desired = desired
        self._informers = informers
        self._outbox = outbox
        self._queue: WorkQueue[Target] = WorkQueue(initial=timedelta(milliseconds=100), maximum=timedelta(minutes=1))
        self._applied: dict[Target, _Applied] = {}
        self._said: dict[Target, tuple[int, str]] = {}  # the last refusal reported of each, and of which revision
        for informer in informers.values():
            informer.subscribe(self._seen)

    def look(self, target: Target) -> None:
        """The wish for `target` may have changed."""
        if target == SYNCED:
            for informer in self._informers.values():
                for manifest in informer:
                    if is_desired(manifest) and self._desired.unwanted(target_of(manifest)):
                        self._queue.add(target_of(manifest))
        elif target.kind in self._informers:
            self._queue.add(target)
        else:
            log.warning("the workspace wants %s, a kind this agent does not know; it needs an upgrade", target)

    def revision(self, live: Manifest) -> int:
        """The revision at which the workspace wanted an object as `live` has it; 0 when a later one is on its way or none is known."""
        known = self._applied.get(target_of(live))
        return known.revision if known is not None and known.uid == uid_of(live) and known.generation <= _generation(live) else 0

    def _seen(self, old: Manifest | None, new: Manifest | None) -> None:
        for manifest in (new, old):
            if manifest is not None:
                target = target_of(manifest)
                if is_desired(manifest) or self._desired.get(target) is not None:
                    self._queue.add(target)
                return

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(_WORKERS):
                group.create_task(self._work(), name=f"gateway worker {number}")

    async def _work(self) -> None:
        while (target := await self._queue.get()) is not None:
            revision = self._desired.revision(target)
            try:
                await self._converge(target)
            except MoorageError as error:
                pause = self._queue.retry(target)
                log.warning("%s %s/%s: %s; again in %.1f s", *target, error, pause.total_seconds())
                self._tell_refusal(target, error, revision)
            else:
                self._queue.forget(target)
                self._said.pop(target, None)
            finally:
                self._queue.done(target)

    async def _converge(self, target: Target) -> None:
        live = self._informers[target.kind].get(target.name, target.namespace)
        wanted = self._desired.get(target)
        if wanted is not None:
            if live is None and FINISHED in (wanted["metadata"].get("annotations") or {}):
                return  # it has run, and somebody cleaned up
            if live is None or not is_deleting(live):  # once a deleting one is gone, its disappearance wakes us
                await self._apply(target, wanted, live)
        elif self._desired.unwanted(target):
            if live is None and target in self._applied:
                # Perhaps made a moment ago and not yet seen: only the cluster knows that it is gone.
                live = await self._find(target)
            self._applied.pop(target, None)
            if live is None:
                self._outbox.gone(target)
            elif is_desired(live) and not is_deleting(live):
                await self._delete(target, live)

    async def _apply(self, target: Target, wanted: Manifest, live: Manifest | None) -> None:
        revision = self._desired.revision(target)
        digest = hashlib.blake2b(orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
        known = self._applied.get(target)
        if known is not None and live is not None and known.holds(digest, live):
            self._note(target, replace(known, revision=revision))
            return
        kind = KINDS[target.kind]
        if live is not None:
            await self._changing(target, live, wanted)
        try:
            made = await self._cluster.apply(kind, wanted, manager=MANAGER)
        except NotFound:
            if not await self._make_namespace(target.namespace):
                raise
            made = await self._cluster.apply(kind, wanted, manager=MANAGER)
        self._note(target, _Applied(digest, uid_of(made), _generation(made), revision))

    def _note(self, target: Target, applied: _Applied) -> None:
        before = self._applied.get(target)
        self._applied[target] = applied
        if before is None or before.revision != applied.revision:
            self._carried(target)

    async def _find(self, target: Target) -> Manifest | None:
        try:
            return await self._cluster.get(KINDS[target.kind], target.name, target.namespace)
        except NotFound:
            return None

    async def _make_namespace(self, name: str) -> bool:
        """Whether the namespace was missing and is there now."""
        manifest = {
            "apiVersion": NAMESPACE.api_version,
            "kind": NAMESPACE.kind,
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "moorage"}},
        }
        try:
            await self._cluster.create(NAMESPACE, manifest)
        except Conflict:
            return False
        log.info("created namespace %s for the objects the workspace wants there", name)
        return True

    async def _delete(self, target: Target, live: Manifest) -> None:
        try:
            await self._cluster.delete(KINDS[target.kind], target.name, target.namespace, propagation="Foreground", uid=uid_of(live))
        except NotFound:
            return
        except Conflict as error:
            log.debug("%s: %s", target, error)  # another object has the name by now; its appearance wakes us

    def _tell_refusal(self, target: Target, error: MoorageError, revision: int) -> None:
        """Let whoever waits for the object know why it does not come; each reason once for each wish."""
        if self._desired.get(target) is not None and self._said.get(target) != (revision, str(error)):
            self._said[target] = revision, str(error)
            # A job that is there goes on as it was, whatever becomes of the change: only its own end is one.
            goes_on = target.kind == TRAINING_JOB.kind and (
                target in self._applied or self._informers[target.kind].get(target.name, target.namespace) is not None
            )
            self._outbox.refused(target, error, revision=revision, final=isinstance(error, Invalid) and not goes_on)


def _generation(manifest: Manifest) -> int:
    return int(manifest["metadata"].get("generation") or 0)
