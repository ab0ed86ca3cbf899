"""A local copy of all objects of one kind, kept true by list and watch. What it hands out is shared by every reader and must not be changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from datetime import timedelta

from moorage.errors import Expired, MoorageError, Throttled
from moorage.kube.backoff import Backoff
from moorage.kube.cluster import Cluster, EventType, WatchEvent
from moorage.kube.kinds import Kind
from moorage.kube.metadata import Key, controller_uid, key_of, uid_of, version_of
from moorage.kube.streams import closing
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

# Told of every change as (old, new): (None, new) appeared, (old, None) is gone. Runs on the event loop and must not block.
Subscriber = Callable[[Manifest | None, Manifest | None], None]
# The values under which an object is found.
Index = Callable[[Manifest], Iterable[Hashable]]

CONTROLLER = "controller"  # index: uid of the controlling owner
UID = "uid"

_FIRST_PAUSE = timedelta(milliseconds=200)
_LONGEST_PAUSE = timedelta(seconds=10)
# A list is the most expensive request there is: never more often than this, whatever the server answers.
_RELIST_FLOOR = timedelta(seconds=1)
# A watch that lives shorter than this without telling anything counts as failed.
_SHORT_LIFE = timedelta(seconds=1)
# Cluster.watch gives up on a silent connection after 90 s; this is the second lock on the same door.
_SILENCE = timedelta(seconds=120)


class Informer:
    """All objects of a kind (or those a selector picks), found by name or through an index.

    Args:
        namespace: None means all.
        labels, fields: selectors in kubectl's syntax.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.kind = kind
        self.labels = labels
        self.synced = asyncio.Event()
        self.lists = 0  # complete lists so far: whoever waits for an object to appear sees here that it may have come and gone
        self._cluster = cluster
        self._namespace = namespace
        self._fields = fields
        self._backoff = backoff or Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._objects: dict[Key, Manifest] = {}
        self._indexes: dict[str, tuple[Index, dict[Hashable, dict[Key, None]]]] = {}
        self._subscribers: list[Subscriber] = []
        self._version: str | None = None
        self._listed_at = float("-inf")
        self.add_index(UID, lambda manifest: (uid_of(manifest),))
        self.add_index(CONTROLLER, lambda manifest: (controller_uid(manifest),))

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Manifest]:
        return iter(tuple(self._objects.values()))

    def get(self, name: str, namespace: str = "") -> Manifest | None:
        return self._objects.get((namespace, name))

    def find(self, index: str, value: Hashable) -> Sequence[Manifest]:
        """The objects that `index` lists under `value`, in the order of their keys."""
        return [self._objects[key] for key in sorted(self._indexes[index][1].get(value, ()))]

    def with_uid(self, uid: str) -> Manifest | None:
        return next(iter(self.find(UID, uid)), None)

    def controlled_by(self, uid: str) -> Sequence[Manifest]:
        return self.find(CONTROLLER, uid)

    def in_namespace(self, namespace: str) -> Sequence[Manifest]:
        return [manifest for key, manifest in sorted(self._objects.items()) if key[0] == namespace]

    def add_index(self, name: str, index: Index) -> None:
        """Make objects findable under the values `index` gives; a second index of one name replaces the first."""
        self._indexes[name] = index, {}
        for manifest in self._objects.values():
            self._enter(name, manifest)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Tell `subscriber` of every change from now on, and of what is already known as having appeared."""
        self._subscribers.append(subscriber)
        for manifest in tuple(self._objects.values()):
            subscriber(None, manifest)

    async def run(self) -> None:
        """Keep the copy true until cancelled. Errors of the cluster, and of subscribers, are logged and outlived."""
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._follow()
            except Expired:
                self._version = None
                log.info("watch of %s expired; listing again", self.kind)
                await asyncio.sleep(self._backoff.next().total_seconds())
            except Throttled as error:
                await asyncio.sleep(max(error.retry_after, self._backoff.next()).total_seconds())
            except MoorageError as error:
                pause = self._backoff.next()
                log.warning("watching %s: %s; again in %.1f s", self.kind, error, pause.total_seconds())
                await asyncio.sleep(pause.total_seconds())

    async def _list(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._listed_at + _RELIST_FLOOR.total_seconds() - loop.time()))
        self._listed_at = loop.time()
        listing = await self._cluster.list(self.kind, self._namespace, labels=self.labels, fields=self._fields)
        fresh = {key_of(manifest): _slim(manifest) for manifest in listing.items}
        for key in [key for key in self._objects if key not in fresh]:
            self._change(key, None)
        self._version = listing.resource_version
        self.lists += 1
        for key, manifest in fresh.items():
            self._change(key, manifest)
        self.synced.set()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._version is not None
        began, told = loop.time(), False
        watching = self._cluster.watch(self.kind, self._namespace, since=self._version, labels=self.labels, fields=self._fields)
        async with closing(watching) as stream:
            while True:
                try:
                    async with asyncio.timeout(_SILENCE.total_seconds()):
                        event = await anext(stream)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    log.warning("watch of %s has been silent for %d s; watching again", self.kind, _SILENCE.total_seconds())
                    break
                told = True
                self._backoff.reset()
                self._take(event)
        if not told and loop.time() - began < _SHORT_LIFE.total_seconds():
            await asyncio.sleep(self._backoff.next().total_seconds())

    def _take(self, event: WatchEvent) -> None:
        # The version moves only after the object is in: what ends us in between must not lose the event.
        match event.type:
            case EventType.ADDED | EventType.MODIFIED:
                self._change(key_of(event.object), _slim(event.object))
            case EventType.DELETED:
                key = key_of(event.object)
                self._objects.setdefault(key, event.object)
                self._change(key, None)
            case EventType.BOOKMARK:
                pass
        self._version = version_of(event.object)

    def _change(self, key: Key, new: Manifest | None) -> None:
        old = self._objects.get(key)
        if old is not None and new is not None:
            if version_of(old) == version_of(new) and uid_of(old) == uid_of(new):
                return
            if uid_of(old) != uid_of(new):  # deleted and made anew between two looks
                self._change(key, None)
                old = None
        if old is not None:
            for index, entries in self._indexes.values():
                for value in index(old):
                    if (keys := entries.get(value)) is not None:
                        keys.pop(key, None)
                        if not keys:
                            del entries[value]
        if new is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = new
            for name in self._indexes:
                self._enter(name, new)
        for subscriber in self._subscribers:
            try:
                subscriber(old, new)
            except Exception:
                # One object that one controller cannot read must not end the watch of all the others.
                log.exception(
                    "%s %s: whoever follows it failed on a change; it goes on with the next one", self.kind, "/".join(filter(None, key))
                )

    def _enter(self, name: str, manifest: Manifest) -> None:
        index, entries = self._indexes[name]
        for value in index(manifest):
            entries.setdefault(value, {})[key_of(manifest)] = None


def _slim(manifest: Manifest) -> Manifest:
    """The object without managedFields, which are often half of it and which no reader of a cache decides by."""
    metadata = manifest["metadata"]
    if "managedFields" not in metadata:
        return manifest
    return {**manifest, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


class Informers:
    """Informers shared by several controllers, one per kind and selector."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._informers: dict[tuple[Kind, str | None, str | None, str | None], Informer] = {}
        self._group: asyncio.TaskGroup | None = None

    def informer(self, kind: Kind, namespace: str | None = None, *, labels: str | None = None, fields: str | None = None) -> Informer:
        """The informer of that kind, namespace and selector, made on first asking; it runs once `run` does."""
        known = kind, namespace, labels, fields
        found = self._informers.get(known)
        if found is None:
            found = self._informers[known] = Informer(self._cluster, kind, namespace, labels=labels, fields=fields)
            if self._group is not None:
                self._group.create_task(found.run(), name=f"informer {kind}")
        return found

    async def synced(self) -> None:
        """Wait until every informer asked for so far has its first complete list."""
        for informer in tuple(self._informers.values()):
            await informer.synced.wait()

    async def run(self) -> None:
        """Run all of them until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for informer in self._informers.values():
                group.create_task(informer.run(), name=f"informer {informer.kind}")
            await asyncio.get_running_loop().create_future()
