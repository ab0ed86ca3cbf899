"""The seam between this project and a Kubernetes API: what every cluster, embedded or real, can do for us.

The conformance suite in `moorage.testing` holds each implementation to what is written here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Protocol

from moorage.kube.kinds import Kind
from moorage.specs.manifest import Manifest


class PatchType(StrEnum):
    """The Content-Type that names a patch's language (Kubernetes API conventions, "PATCH operations")."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


class EventType(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change. A BOOKMARK's object carries only `metadata.resourceVersion`: everything up to it has been seen."""

    type: EventType
    object: Manifest


@dataclass(frozen=True, slots=True)
class Listing:
    """A consistent list and the resource version at which it was true; a watch goes on from there."""

    items: Sequence[Manifest]
    resource_version: str


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which part of a container's log. `since` and `tail` cut from the front; `follow` waits for more until the container ends."""

    container: str | None = None
    follow: bool = False
    previous: bool = False
    tail: int | None = None
    since: timedelta | None = None
    timestamps: bool = False


class Cluster(Protocol):
    """A Kubernetes API. Manifests go in and out as plain dicts, unknown fields kept.

    Every method raises Unavailable when the API cannot be reached, Unauthenticated or Forbidden as RBAC decides, Invalid when the API refuses the
    object (422, 400), NotFound (404), Conflict (409: name taken, resource version stale, field owned by another manager), Throttled (429).
    Lists and watches of a namespaced kind with `namespace=None` span all namespaces. `labels` and `fields` are selectors in kubectl's syntax.
    """

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest: ...

    async def list(self, kind: Kind, namespace: str | None = None, *, labels: str | None = None, fields: str | None = None) -> Listing: ...

    def watch(
        self, kind: Kind, namespace: str | None = None, *, since: str, labels: str | None = None, fields: str | None = None
    ) -> AsyncIterator[WatchEvent]:
        """Changes after resource version `since`, until the server ends the stream (a normal end: watch again from the last version seen).

        Raises Expired when `since` is too old (410): list again. A silent connection is given up after at most 90 s without event or bookmark.
        """
        ...

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Namespace and name (or generateName) stand in the manifest's metadata."""
        ...

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        """PUT; Conflict when `metadata.resourceVersion` is set and stale."""
        ...

    async def apply(self, kind: Kind, manifest: Manifest, *, manager: str, force: bool = True) -> Manifest:
        """Server-side apply by field manager `manager`: creates or takes the given fields; Conflict when another owns one and not `force`."""
        ...

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
        """Patch the object, or its `subresource` (`status`, `scale`)."""
        ...

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
        """Ask for deletion; it may go on behind finalizers and grace. `uid` makes it conditional. `propagation`: Background, Foreground, Orphan."""
        ...

    def logs(self, namespace: str, pod: str, options: LogOptions = ...) -> AsyncIterator[bytes]:
        """A container's output as it comes, in chunks that need not end at line ends. Invalid while the container has not started."""
        ...

    async def version(self) -> str:
        """The server's `gitVersion`, e.g. `v1.37.0`."""
        ...

    async def close(self) -> None: ...
