"""The embedded cluster as a `Cluster`, in process: what its own controllers, scheduler and nodes use, and the in-memory cluster of tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson

from moorage.clock import Clock, now
from moorage.embedded import bootstrap, deletion, selectors
from moorage.embedded.backend import NodeBackend, NoNodes
from moorage.embedded.evictions import evict
from moorage.embedded.kinds import Resource
from moorage.embedded.logs import pod_logs
from moorage.embedded.objects import ObjectStore, Window, open_store, told
from moorage.embedded.registry import Registry, Target, Writer
from moorage.embedded.tokens import TokenIssuer, open_issuer
from moorage.embedded.version import GIT_VERSION
from moorage.errors import Expired, Invalid, MoorageError, NotFound
from moorage.kube.cluster import EventType, Listing, LogOptions, PatchType, WatchEvent
from moorage.kube.kinds import POD, Kind
from moorage.specs.manifest import Manifest

_BOOKMARK_AFTER = timedelta(seconds=30)


class LocalCluster:
    """`moorage.kube.cluster.Cluster` over an object store. Make one with `open_cluster`, or `with_manager` for another field manager.

    Manifests handed out are the caller's own copies; those handed in are copied.
    """

    def __init__(
        self,
        registry: Registry,
        tokens: TokenIssuer,
        *,
        backend: NodeBackend | None = None,
        manager: str = "moorage",
        owns_store: bool = True,
    ) -> None:
        self.registry = registry
        self.tokens = tokens
        self.backend: NodeBackend = backend or NoNodes()
        self._manager = manager
        self._owns_store = owns_store

    @property
    def store(self) -> ObjectStore:
        return self.registry.store

    def with_manager(self, manager: str) -> LocalCluster:
        """The same cluster writing as another field manager. Closing it leaves the store open."""
        return LocalCluster(self.registry, self.tokens, backend=self.backend, manager=manager, owns_store=False)

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest:
        return self.registry.get(self._target(kind, name, namespace)).manifest()

    async def list(self, kind: Kind, namespace: str | None = None, *, labels: str | None = None, fields: str | None = None) -> Listing:
        resource = self.registry.catalog.of(kind)
        entries = self.registry.list(resource, namespace, _selector(resource, labels, fields))
        return Listing([entry.manifest() for entry in entries], str(self.store.revision))

    async def watch(
        self, kind: Kind, namespace: str | None = None, *, since: str, labels: str | None = None, fields: str | None = None
    ) -> AsyncIterator[WatchEvent]:
        resource = self.registry.catalog.of(kind)
        selector = _selector(resource, labels, fields)
        if not since.isdigit():
            raise Invalid(f'resourceVersion: Invalid value: "{since}": must be a number', code="BadRequest", target="resourceVersion")
        if int(since) > self.store.revision:
            raise Expired(f"resource version {since} is from another life of this cluster (now at {self.store.revision}): list again")
        async with aclosing(self.store.watch(resource.storage, int(since), quiet=_BOOKMARK_AFTER)) as batches:
            async for changes, revision in batches:
                for change in changes:
                    shown = told(change, lambda entry: namespace in (None, entry.key.namespace) and entry.selected(selector))
                    if shown is not None:
                        yield WatchEvent(shown[0], shown[1].manifest())
                if not changes:
                    meta = {"resourceVersion": str(revision)}
                    yield WatchEvent(EventType.BOOKMARK, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta})

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        return (await self.registry.create(self._home(kind, manifest, named=False), _copy(manifest), self._writer())).manifest()

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        return (await self.registry.replace(self._home(kind, manifest), _copy(manifest), self._writer())).manifest()

    async def apply(self, kind: Kind, manifest: Manifest, *, manager: str, force: bool = True) -> Manifest:
        writer = Writer(manager=manager, force=force)
        entry, _ = await self.registry.apply(self._home(kind, manifest), _copy(manifest), writer)
        return entry.manifest()

    async def patch(
        self,
        kind: Kind,
        name: str,
        namespace: str | None,
        patch: Mapping[str, Any] | Sequence[Any],
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str | None = None,
    ) -> Manifest:
        target = self._target(kind, name, namespace, subresource or "")
        return (await self.registry.patch(target, _copy(patch), type, self._writer())).manifest()

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        grace: timedelta | None = None,
        uid: str | None = None,
    ) -> None:
        options = deletion.DeleteOptions(grace=grace, propagation=propagation, uid=uid)
        await deletion.delete(self.registry, self._target(kind, name, namespace), options, self._writer())

    async def bind(self, namespace: str, pod: str, node: str, *, uid: str = "") -> Manifest:
        """Assign a pod to a node, as POST pods/POD/binding does. Conflict when it is assigned, being deleted, or not the one with `uid`."""
        return (await self.registry.bind(self._target(POD, pod, namespace), node, self._writer(), uid=uid)).manifest()

    async def create_subresource(self, kind: Kind, name: str, namespace: str | None, subresource: str, body: Manifest) -> Manifest:
        """POST to a part of an object: `eviction` of a Pod."""
        target = self._target(kind, name, namespace, subresource)
        if (target.resource.kind.plural, subresource) != ("pods", "eviction"):
            raise NotFound(f"the server could not find the requested resource ({kind.plural}/{subresource})")
        await evict(self.registry, target.namespace, name, _copy(body), self._writer())
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    async def logs(self, namespace: str, pod: str, options: LogOptions = LogOptions()) -> AsyncIterator[bytes]:  # noqa: B008  frozen
        async for chunk in pod_logs(self.registry, self.backend, namespace, pod, options):
            yield chunk

    async def version(self) -> str:
        return GIT_VERSION

    async def close(self) -> None:
        if self._owns_store:
            await self.store.close()

    def _writer(self) -> Writer:
        return Writer(manager=self._manager)

    def _target(self, kind: Kind, name: str, namespace: str | None, subresource: str = "") -> Target:
        resource = self.registry.catalog.of(kind)
        if kind.namespaced and not namespace:
            raise Invalid(f"{kind} '{name}' needs a namespace", code="BadRequest", target="metadata.namespace")
        return Target(resource, namespace or "" if kind.namespaced else "", name, subresource)

    def _home(self, kind: Kind, manifest: Manifest, *, named: bool = True) -> Target:
        meta = manifest.get("metadata") or {}
        if named and not meta.get("name"):
            raise Invalid(f"a {kind.kind} without metadata.name", code="BadRequest", target="metadata.name")
        return self._target(kind, meta.get("name", ""), meta.get("namespace"))


def _selector(resource: Resource, labels: str | None, fields: str | None) -> selectors.Selector:
    return selectors.parse(labels, fields, resource=resource.storage)


def _copy(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


async def open_cluster(
    path: Path | None = None,
    *,
    backend: NodeBackend | None = None,
    manager: str = "moorage",
    clock: Clock = now,
    window: Window | None = None,
) -> LocalCluster:
    """The cluster whose state is the SQLite file at `path`, or a fresh one in memory; with Kubernetes' initial namespaces in it.

    Keys for tokens lie beside the file. `window` bounds the past that watches can resume from.
    """
    tokens = open_issuer(path.parent if path is not None else None, clock=clock)
    store = await open_store(path, window=window)
    registry = Registry(store, clock=clock)
    try:
        await bootstrap.prepare(registry)
    except MoorageError:
        await store.close()
        raise
    return LocalCluster(registry, tokens, backend=backend, manager=manager)
