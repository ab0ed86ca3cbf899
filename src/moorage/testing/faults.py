"""A Cluster with a trip wire in front of and behind every request: to count what is sent, and to let the process or the network die at any point."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from moorage.kube.cluster import Cluster, Listing, LogOptions, PatchType, WatchEvent
from moorage.kube.kinds import EVENT, Kind
from moorage.kube.streams import closing
from moorage.specs.manifest import Manifest

_WHOLE_LOG = LogOptions()


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a cluster. `verb` is the method's name."""

    verb: str
    kind: Kind | None
    name: str = ""

    @property
    def writes(self) -> bool:
        return self.verb not in ("get", "list", "watch", "logs", "version")


# Called with a request; may raise in its place.
Wire = Callable[[Request], None]


class WiredCluster:
    """Passes everything on to another Cluster.

    Args:
        before: called ahead of each request; what it raises keeps the request from being sent.
        after: called when the request has taken effect; what it raises keeps the answer from the caller.
        during: called ahead of each watch event; what it raises breaks the watch.
    """

    def __init__(self, cluster: Cluster, *, before: Wire | None = None, after: Wire | None = None, during: Wire | None = None) -> None:
        self._cluster = cluster
        self.before = before
        self.after = after
        self.during = during
        self.requests: list[Request] = []

    @property
    def writes(self) -> Sequence[Request]:
        """The writes so far, events aside."""
        return [request for request in self.requests if request.writes and request.kind != EVENT]

    async def _send(self, request: Request, send: Callable[[], Awaitable[Any]]) -> Any:
        self.requests.append(request)
        if self.before is not None:
            self.before(request)
        answer = await send()
        if self.after is not None:
            self.after(request)
        return answer

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest:
        found: Manifest = await self._send(Request("get", kind, name), lambda: self._cluster.get(kind, name, namespace))
        return found

    async def list(self, kind: Kind, namespace: str | None = None, *, labels: str | None = None, fields: str | None = None) -> Listing:
        found: Listing = await self._send(Request("list", kind), lambda: self._cluster.list(kind, namespace, labels=labels, fields=fields))
        return found

    async def watch(
        self, kind: Kind, namespace: str | None = None, *, since: str, labels: str | None = None, fields: str | None = None
    ) -> AsyncIterator[WatchEvent]:
        request = Request("watch", kind)
        self.requests.append(request)
        if self.before is not None:
            self.before(request)
        async with closing(self._cluster.watch(kind, namespace, since=since, labels=labels, fields=fields)) as events:
            async for event in events:
                if self.during is not None:
                    self.during(request)
                yield event

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        name = manifest["metadata"].get("name", "")
        made: Manifest = await self._send(Request("create", kind, name), lambda: self._cluster.create(kind, manifest))
        return made

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        name = manifest["metadata"]["name"]
        made: Manifest = await self._send(Request("replace", kind, name), lambda: self._cluster.replace(kind, manifest))
        return made

    async def apply(self, kind: Kind, manifest: Manifest, *, manager: str, force: bool = True) -> Manifest:
        name = manifest["metadata"]["name"]
        made: Manifest = await self._send(
            Request("apply", kind, name), lambda: self._cluster.apply(kind, manifest, manager=manager, force=force)
        )
        return made

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
        made: Manifest = await self._send(
            Request("patch", kind, name),
            lambda: self._cluster.patch(kind, name, namespace, patch, type=type, subresource=subresource),
        )
        return made

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
        await self._send(
            Request("delete", kind, name),
            lambda: self._cluster.delete(kind, name, namespace, propagation=propagation, grace=grace, uid=uid),
        )

    async def logs(self, namespace: str, pod: str, options: LogOptions = _WHOLE_LOG) -> AsyncIterator[bytes]:
        request = Request("logs", None, pod)
        self.requests.append(request)
        if self.before is not None:
            self.before(request)
        async with closing(self._cluster.logs(namespace, pod, options)) as chunks:
            async for chunk in chunks:
                if self.during is not None:
                    self.during(request)
                yield chunk

    async def version(self) -> str:
        found: str = await self._send(Request("version", None), self._cluster.version)
        return found

    async def close(self) -> None:
        """The wrapped cluster stays open; it belongs to whoever made it."""
