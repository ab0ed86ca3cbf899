"""The way up: what happens to desired objects, the cluster's inventory, and events, put into the outbox as it changes and once at the start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from moorage.clock import Clock, now, parse_rfc3339
from moorage.errors import Expired, MoorageError
from moorage.gateway.desired import Target, is_desired, target_of
from moorage.gateway.inventory import inventory
from moorage.gateway.outbox import Outbox
from moorage.kube.backoff import Backoff
from moorage.kube.cluster import Cluster, EventType
from moorage.kube.informer import Informer
from moorage.kube.kinds import EVENT
from moorage.kube.metadata import uid_of
from moorage.kube.streams import closing
from moorage.specs.manifest import Manifest
from moorage.wire.gateway import EventReport, StatusReport

log = logging.getLogger(__name__)

# Nodes tell that they live every few seconds; the inventory is put together at most this often.
_INVENTORY_PAUSE = timedelta(seconds=1)
_FIRST_PAUSE = timedelta(milliseconds=500)
_LONGEST_PAUSE = timedelta(seconds=30)
# NAME-hash-pod, NAME-index-pod: what controllers append to the name of a custom resource.
_MOST_SUFFIXES = 3


class Statuses:
    """Reports each desired object's status whenever it changes.

    Args:
        logs_complete: whether all logs of an object are at the workspace.
        revision: which wish of the workspace an object carries out (`StatusReport.revision`).
    """

    def __init__(
        self,
        informers: Mapping[str, Informer],
        outbox: Outbox,
        logs_complete: Callable[[Manifest], bool],
        revision: Callable[[Manifest], int],
    ) -> None:
        self._informers = informers
        self._outbox = outbox
        self._logs_complete = logs_complete
        self._revision = revision
        for informer in informers.values():
            informer.subscribe(self._changed)

    def again(self, target: Target) -> None:
        """The logs of `target` may be complete now, or it carries out a later wish."""
        if target.kind in self._informers and (live := self._informers[target.kind].get(target.name, target.namespace)) is not None:
            self._changed(None, live)

    def _changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if new is None or not is_desired(new):
            return
        target = target_of(new)
        report = StatusReport(
            key=target.key,
            uid=uid_of(new),
            generation=int(new["metadata"].get("generation") or 0),
            status=new.get("status") or {},
            revision=self._revision(new),
            logs_complete=self._logs_complete(new),
        )
        self._outbox.status(target, report)


class Inventory:
    """Reports what the cluster has whenever that changes."""

    def __init__(self, cluster: Cluster, nodes: Informer, instance_types: Informer, router: Informer, outbox: Outbox) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._instance_types = instance_types
        self._router = router
        self._outbox = outbox
        self._dirty = asyncio.Event()
        for informer in (nodes, instance_types, router):
            informer.subscribe(lambda old, new: self._dirty.set())

    async def run(self) -> None:
        """Work until cancelled."""
        backoff, version = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), ""
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                # Asked again after every change: an upgrade of the cluster replaces its nodes.
                version = await self._cluster.version()
                backoff.reset()
            except MoorageError as error:
                log.warning("the cluster's version: %s", error)
                self._dirty.set()
                await asyncio.sleep(backoff.next().total_seconds())
                continue
            router = next(iter(self._router), None)
            self._outbox.inventory(inventory(version, self._nodes, self._instance_types, router))
            await asyncio.sleep(_INVENTORY_PAUSE.total_seconds())


class Events:
    """Reports events about desired objects and what carries their names. Events are followed, not kept: a busy cluster has very many."""

    def __init__(self, cluster: Cluster, informers: Mapping[str, Informer], outbox: Outbox, *, clock: Clock = now) -> None:
        self._cluster = cluster
        self._informers = informers
        self._outbox = outbox
        self._clock = clock

    async def run(self) -> None:
        """Work until cancelled."""
        backoff, version = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), ""
        while True:
            try:
                if not version:
                    listing = await self._cluster.list(EVENT)
                    for event in listing.items:
                        self._take(event)
                    version = listing.resource_version
                async with closing(self._cluster.watch(EVENT, since=version)) as changes:
                    async for change in changes:
                        backoff.reset()
                        if change.type in (EventType.ADDED, EventType.MODIFIED):
                            self._take(change.object)
                        version = change.object["metadata"]["resourceVersion"]
            except Expired:
                version = ""
            except MoorageError as error:
                log.warning("watching events: %s", error)
            await asyncio.sleep(backoff.next().total_seconds())

    def _take(self, event: Manifest) -> None:
        about = event.get("involvedObject") or {}
        target = self._target(about)
        if target is None:
            return
        report = EventReport(
            key=target.key,
            uid=about.get("uid") or "",
            about=f"{about.get('kind', '')}/{about.get('name', '')}",
            type=event.get("type") or "Normal",
            reason=event.get("reason") or "",
            message=event.get("message") or "",
            count=int(event.get("count") or (event.get("series") or {}).get("count") or 1),
            time=self._time(event),
        )
        self._outbox.event(target, report)

    def _target(self, about: Manifest) -> Target | None:
        """The desired object an event is about: itself, or the one whose name the object's name begins with."""
        namespace, name = about.get("namespace") or "", about.get("name") or ""
        kinds = [about["kind"]] if about.get("kind") in self._informers else list(self._informers)
        for _ in range(_MOST_SUFFIXES + 1):
            for kind in kinds:
                found = self._informers[kind].get(name, namespace)
                if found is not None and is_desired(found):
                    return Target(kind, namespace, name)
            name, dash, _ = name.rpartition("-")
            if not dash:
                break
        return None

    def _time(self, event: Manifest) -> datetime:
        for text in (event.get("lastTimestamp"), (event.get("series") or {}).get("lastObservedTime"), event.get("eventTime")):
            if text:
                try:
                    return parse_rfc3339(text)
                except ValueError:
                    continue
        return self._clock()
