"""The object store: every object as its JSON bytes in memory, a durable journal behind, and a bounded history for watches in front.

A write is staged at once (so that the next writer sees it), committed in a batch with its neighbours, and only then visible to readers and
watchers and acknowledged. All methods belong to one event loop; read-modify-write needs no lock as long as nothing is awaited between `latest`
and `put`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import orjson

from moorage.embedded import selectors
from moorage.embedded.storage import Journal, Key, Record
from moorage.errors import Expired, Unavailable
from moorage.kube.cluster import EventType
from moorage.specs.manifest import Manifest

Resource = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One object at one revision. `data` is its JSON, resourceVersion included; `manifest()` parses it anew, so the caller may change the result."""

    key: Key
    revision: int
    data: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]

    def manifest(self) -> Manifest:
        parsed: Manifest = orjson.loads(self.data)
        return parsed

    def field(self, path: str) -> str | None:
        if path == "metadata.name":
            return self.key.name
        if path == "metadata.namespace":
            return self.key.namespace
        if path in self.fields:
            return self.fields[path]
        value = selectors.value_at(self.manifest(), path)
        return "" if value is None else str(value)

    def selected(self, selector: selectors.Selector) -> bool:
        return selector.matches(self.labels, self.field)


def entry_of(key: Key, revision: int, manifest: Manifest) -> Entry:
    manifest["metadata"]["resourceVersion"] = str(revision)
    return _entry(key, revision, orjson.dumps(manifest), manifest)


def tried(key: Key, manifest: Manifest) -> Entry:
    """An object as a dry run leaves it: under the version it had, a new one under none."""
    return _entry(key, int(manifest["metadata"].get("resourceVersion") or 0), orjson.dumps(manifest), manifest)


def _entry(key: Key, revision: int, data: bytes, manifest: Manifest) -> Entry:
    return Entry(key, revision, data, manifest["metadata"].get("labels") or {}, selectors.selectable(key.resource, manifest))


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one object. `previous` is what was there before; a DELETED `entry` is the last state under the removal's revision."""

    type: EventType
    entry: Entry
    previous: Entry | None


@dataclass(frozen=True, slots=True)
class Window:
    """How much of the past watches can resume from, per kind. A watch from further back gets Expired (410)."""

    changes: int = 4096
    size: int = 8 * 1024 * 1024


@dataclass(slots=True)
class _History:
    floor: int
    window: Window
    changes: list[Change] = field(default_factory=list)
    size: int = 0

    def add(self, change: Change) -> None:
        self.changes.append(change)
        self.size += len(change.entry.data)
        # Trimmed in strides, because removing from the front of a list costs its length.
        if len(self.changes) > self.window.changes * 5 // 4 or self.size > self.window.size * 5 // 4:
            cut = 0
            while cut < len(self.changes) - 1 and (len(self.changes) - cut > self.window.changes or self.size > self.window.size):
                self.size -= len(self.changes[cut].entry.data)
                cut += 1
            self.floor = self.changes[cut - 1].entry.revision
            del self.changes[:cut]

    def after(self, revision: int) -> Sequence[Change]:
        if revision < self.floor:
            raise Expired(f"too old resource version: {revision} ({self.floor})")
        return self.changes[bisect_right(self.changes, revision, key=lambda change: change.entry.revision) :]


@dataclass(slots=True)
class _Staged:
    record: Record
    change: Change
    done: asyncio.Future[None]


class ObjectStore:
    """Every object of the cluster. Open it with `open_store`, inside the event loop that will use it."""

    def __init__(self, journal: Journal | None, window: Window) -> None:
        self._journal = journal
        self._window = window
        self._objects: dict[Resource, dict[tuple[str, str], Entry]] = {}
        self._pending: dict[Key, tuple[int, Entry | None]] = {}
        self._queue: list[_Staged] = []
        self._flush: asyncio.Task[None] | None = None
        self._writer = ThreadPoolExecutor(1, "moorage-journal") if journal else None
        self._histories: dict[Resource, _History] = {}
        self._wakers: dict[Resource, set[asyncio.Event]] = {}
        self._changed: dict[Resource, int] = {}
        self._closed = False
        self._assigned = self.revision = journal.revision if journal else 1
        self._opened = self.revision
        for record in journal.records() if journal else ():
            if record.data is not None:
                bucket = self._objects.setdefault(record.key.resource, {})
                bucket[record.key.namespace, record.key.name] = _entry(record.key, record.revision, record.data, orjson.loads(record.data))

    # Reading: only what is committed.

    def get(self, key: Key) -> Entry | None:
        bucket = self._objects.get(key.resource)
        return bucket.get((key.namespace, key.name)) if bucket else None

    def list(self, resource: Resource, namespace: str | None = None) -> list[Entry]:
        """In the order of (namespace, name), as Kubernetes lists."""
        bucket = self._objects.get(resource, {})
        return [bucket[place] for place in sorted(bucket) if namespace is None or place[0] == namespace]

    def changed_at(self, resource: Resource) -> int:
        """The revision of the last change to any object of the resource in this process's life, 0 before the first."""
        return self._changed.get(resource, 0)

    def count(self, resource: Resource) -> int:
        return len(self._objects.get(resource, ()))

    def resources(self) -> Sequence[Resource]:
        """Every resource that has at least one object."""
        return [resource for resource, bucket in self._objects.items() if bucket]

    # Writing.

    def latest(self, key: Key) -> Entry | None:
        """What a writer builds on: the object with every write that was staged, committed or not."""
        return self._pending[key][1] if key in self._pending else self.get(key)

    def latest_all(self, resource: Resource, namespace: str | None = None) -> Sequence[Entry]:
        """`list`, as a writer sees it."""
        found = {entry.key: entry for entry in self.list(resource, namespace)}
        for key, (_, entry) in self._pending.items():
            if key.resource == resource and namespace in (None, key.namespace):
                if entry is None:
                    found.pop(key, None)
                else:
                    found[key] = entry
        return list(found.values())

    async def put(self, key: Key, manifest: Manifest) -> Entry:
        """Store an object under the next revision, which is written into it; returns once it is durable. Unavailable: nothing was stored."""
        previous = self.latest(key)
        entry = entry_of(key, self._next(), manifest)
        await self._commit(
            Record(key, entry.revision, entry.data), Change(EventType.MODIFIED if previous else EventType.ADDED, entry, previous), entry
        )
        return entry

    async def remove(self, key: Key, manifest: Manifest) -> Entry:
        """Remove an object; `manifest` is the last state that watchers are told."""
        entry = entry_of(key, self._next(), manifest)
        await self._commit(Record(key, entry.revision, None), Change(EventType.DELETED, entry, self.latest(key)), None)
        return entry

    def _next(self) -> int:
        if self._closed:
            raise Unavailable("the cluster is shutting down")
        self._assigned += 1
        return self._assigned

    async def _commit(self, record: Record, change: Change, after: Entry | None) -> None:
        if self._journal is None:
            self._publish(change)
            return
        staged = _Staged(record, change, asyncio.get_running_loop().create_future())
        self._pending[record.key] = (record.revision, after)
        self._queue.append(staged)
        if self._flush is None:
            self._flush = asyncio.create_task(self._flush_queue(), name="commit")
        # A caller that gives up does not take the write back.
        await asyncio.shield(staged.done)

    async def _flush_queue(self) -> None:
        loop = asyncio.get_running_loop()
        journal, writer = self._journal, self._writer
        assert journal is not None and writer is not None
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                try:
                    await loop.run_in_executor(writer, journal.append, [staged.record for staged in batch])
                except Unavailable as failure:
                    self._give_up(batch, failure)
                    continue
                for staged in batch:
                    self._publish(staged.change)
                    staged.done.set_result(None)
        finally:
            self._flush = None

    def _give_up(self, batch: Sequence[_Staged], failure: Unavailable) -> None:
        # What was staged meanwhile may build on what was lost, so it is lost with it.
        lost = [*batch, *self._queue]
        self._queue = []
        self._pending.clear()
        for staged in lost:
            staged.done.set_exception(Unavailable(failure.message))
            # Nobody may be waiting any more; without this the loop would report an exception never retrieved.
            staged.done.exception()

    def _publish(self, change: Change) -> None:
        entry = change.entry
        key = entry.key
        bucket = self._objects.setdefault(key.resource, {})
        if change.type is EventType.DELETED:
            bucket.pop((key.namespace, key.name), None)
        else:
            bucket[key.namespace, key.name] = entry
        if key in self._pending and self._pending[key][0] == entry.revision:
            del self._pending[key]
        self.revision = self._changed[key.resource] = entry.revision
        self._history(key.resource).add(change)
        for waker in self._wakers.get(key.resource, ()):
            waker.set()

    def _history(self, resource: Resource) -> _History:
        return self._histories.setdefault(resource, _History(self._opened, self._window))

    # Watching.

    async def watch(self, resource: Resource, since: int, *, quiet: timedelta) -> AsyncGenerator[tuple[Sequence[Change], int]]:
        """Changes after `since` in batches, each with the revision up to which everything has been told; an empty batch after `quiet` of silence.

        Raises Expired at the first step when `since` is out of the window, and later when the caller falls behind it. Ends when the store closes.
        """
        history = self._history(resource)
        seen = since
        waker = asyncio.Event()
        self._wakers.setdefault(resource, set()).add(waker)
        try:
            while not self._closed:
                waker.clear()
                changes = history.after(seen)
                if changes:
                    seen = changes[-1].entry.revision
                    yield changes, seen
                    continue
                seen = max(seen, self.revision)
                try:
                    async with asyncio.timeout(quiet.total_seconds()):
                        await waker.wait()
                except TimeoutError:
                    seen = max(seen, self.revision)
                    if not history.after(seen):
                        yield (), seen
        finally:
            self._wakers[resource].discard(waker)

    def forget_before(self, resource: Resource) -> None:
        """Expire every running and resumed watch of a kind, e.g. because its definition went away."""
        history = self._history(resource)
        history.changes.clear()
        history.size = 0
        history.floor = self.revision
        for waker in self._wakers.get(resource, ()):
            waker.set()

    async def close(self) -> None:
        """Wait for staged writes, end the watches, close the file."""
        self._closed = True
        if self._flush is not None:
            await self._flush
        for wakers in self._wakers.values():
            for waker in wakers:
                waker.set()
        if self._writer is not None:
            self._writer.shutdown(wait=True)
        if self._journal is not None:
            self._journal.close()


def told(change: Change, matches: Callable[[Entry], bool]) -> tuple[EventType, Entry] | None:
    """A change as a watcher with a selector sees it: objects come into and go out of its view. None when it sees nothing."""
    before = change.previous is not None and matches(change.previous)
    if change.type is EventType.DELETED:
        return (EventType.DELETED, change.entry) if before else None
    if matches(change.entry):
        return (EventType.MODIFIED if before else EventType.ADDED), change.entry
    if before and change.previous is not None:
        # Kubernetes tells the last state that was in view, under the revision that took it out.
        return EventType.DELETED, entry_of(change.entry.key, change.entry.revision, change.previous.manifest())
    return None


async def open_store(path: Path | None = None, *, window: Window | None = None) -> ObjectStore:
    """The store over the file at `path` (made when absent), or one that lives in memory only. Unavailable when another process has it open."""
    journal = await asyncio.to_thread(Journal, path) if path is not None else None
    return ObjectStore(journal, window or Window())
