"""GET: one object, a list in pages, a watch; each as JSON, as a server-side table, or as metadata only."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
import yaml

from moorage.embedded import selectors, statuses, tables, views
from moorage.embedded.http import YAML, Representation, Request, Response, accepted, answer
from moorage.embedded.kinds import Resource
from moorage.embedded.metadata import new_uid
from moorage.embedded.objects import Change, Entry, told
from moorage.embedded.registry import Registry, Target
from moorage.errors import Expired, Invalid
from moorage.kube.cluster import EventType

_BOOKMARK_AFTER = timedelta(seconds=30)
# Kubernetes ends watches after a random 30 to 60 minutes.
_LONGEST_WATCH = timedelta(minutes=45)
_SNAPSHOT_LIMIT = 32


@dataclass(frozen=True, slots=True)
class _Snapshot:
    revision: int
    rest: Sequence[Entry]


class Reader:
    """The reading verbs over a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._snapshots: OrderedDict[str, _Snapshot] = OrderedDict()

    def get(self, request: Request, target: Target) -> Response:
        entry = self._registry.get(target)
        return self.show(request, target.resource, entry)

    def show(self, request: Request, resource: Resource, entry: Entry, status: int = 200) -> Response:
        """One object in the form the client accepts."""
        form = accepted(request.headers.get("accept", ""))
        if form.form == "Table":
            return answer(self._table(request, resource, [entry], str(entry.revision)), status)
        if form.form == "PartialObjectMetadata":
            return answer(views.metadata_only(entry.manifest()), status)
        if form.media_type == YAML:
            return Response(yaml.safe_dump(views.manifest_of(resource, entry)).encode(), status, YAML)
        return Response(views.as_requested(resource, entry), status)

    def list(self, request: Request, target: Target) -> Response:
        resource = target.resource
        entries, revision, continuation = self._page(request, target)
        form = accepted(request.headers.get("accept", ""))
        meta: dict[str, Any] = {"resourceVersion": str(revision)}
        if continuation:
            meta |= {"continue": continuation[0], "remainingItemCount": continuation[1]}
        if form.form == "Table":
            table = self._table(request, resource, entries, str(revision))
            table["metadata"] = meta
            return answer(table)
        if form.form.startswith("PartialObjectMetadata"):
            items = [views.metadata_only(entry.manifest()) for entry in entries]
            return answer({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items})
        head = orjson.dumps({"kind": resource.list_kind, "apiVersion": resource.kind.api_version, "metadata": meta})
        body = b"".join((head[:-1], b',"items":[', b",".join([views.as_requested(resource, entry) for entry in entries]), b"]}"))
        if form.media_type == YAML:
            return Response(yaml.safe_dump(orjson.loads(body)).encode(), content_type=YAML)
        return Response(body)

    def _table(self, request: Request, resource: Resource, entries: Sequence[Entry], revision: str) -> dict[str, Any]:
        include = request.query.get("includeObject", "Metadata")
        manifests = [views.manifest_of(resource, entry) for entry in entries]
        table = tables.table(resource, manifests, include=include, now=self._registry.clock())
        table["metadata"] = {"resourceVersion": revision}
        return table

    def _page(self, request: Request, target: Target) -> tuple[Sequence[Entry], int, tuple[str, int] | None]:
        self._check_version(request)
        limit = request.number("limit") or 0
        if token := request.query.get("continue"):
            snapshot = self._snapshots.get(token)
            if snapshot is None:
                raise Expired(
                    "The provided continue parameter is too old to display a consistent list result. "
                    "You must start a new list without the continue parameter.",
                    code="Expired",
                )
            found, revision = snapshot.rest, snapshot.revision
        else:
            selector = _selector(request, target.resource)
            found, revision = self._registry.list(target.resource, target.namespace or None, selector), self._registry.store.revision
            if target.name:
                found = [entry for entry in found if entry.key.name == target.name]
        if limit <= 0 or len(found) <= limit:
            return found, revision, None
        # A page's successor is the very list the first page came from: entries are immutable, so keeping it costs little.
        token = base64.urlsafe_b64encode(f"{revision}:{new_uid()}".encode()).decode()
        self._snapshots[token] = _Snapshot(revision, found[limit:])
        while len(self._snapshots) > _SNAPSHOT_LIMIT:
            self._snapshots.popitem(last=False)
        return found[:limit], revision, (token, len(found) - limit)

    def _check_version(self, request: Request) -> None:
        asked, match = request.query.get("resourceVersion", ""), request.query.get("resourceVersionMatch", "")
        revision = self._registry.store.revision
        if not asked or asked == "0":
            return
        if not asked.isdigit():
            raise Invalid(f'resourceVersion: Invalid value: "{asked}": must be a number', code="BadRequest", target="resourceVersion")
        if int(asked) > revision:
            raise Invalid(f"Too large resource version: {asked}, current: {revision}", code="Timeout", target="resourceVersion")
        if match == "Exact" and int(asked) != revision:
            raise Expired(f"The resourceVersion for the provided list is too old: {asked} ({revision})")

    # Watching.

    def watch(self, request: Request, target: Target) -> Response:
        """A stream of events, one JSON object a line. It ends at `timeoutSeconds`, at 45 minutes, and when the server stops."""
        selector = _selector(request, target.resource)
        form = accepted(request.headers.get("accept", ""))
        initial = request.flag("sendInitialEvents")
        if initial and request.query.get("resourceVersionMatch") != "NotOlderThan":
            raise Invalid(
                'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan',
                code="Invalid",
                target="resourceVersionMatch",
            )
        asked = request.query.get("resourceVersion", "")
        if asked and not asked.isdigit():
            raise Invalid(f'resourceVersion: Invalid value: "{asked}": must be a number', code="BadRequest", target="resourceVersion")
        seconds = request.number("timeoutSeconds")
        life = min(_LONGEST_WATCH, timedelta(seconds=seconds)) if seconds else _LONGEST_WATCH

        def matches(entry: Entry) -> bool:
            if target.namespace and entry.key.namespace != target.namespace:
                return False
            return (not target.name or entry.key.name == target.name) and entry.selected(selector)

        plan = _WatchPlan(
            resource=target.resource,
            since=int(asked or 0),
            initial=initial or asked in ("", "0"),
            end_of_initial=initial,
            bookmarks=request.flag("allowWatchBookmarks"),
            render=self._renderer(request, target.resource, form),
        )
        return Response(stream=self._events(plan, matches, life))

    def _renderer(self, request: Request, resource: Resource, form: Representation) -> Callable[[Entry], bytes]:
        if form.form == "Table":
            return lambda entry: orjson.dumps(self._table(request, resource, [entry], str(entry.revision)))
        if form.form == "PartialObjectMetadata":
            return lambda entry: orjson.dumps(views.metadata_only(entry.manifest()))
        return lambda entry: views.as_requested(resource, entry)

    async def _events(self, plan: _WatchPlan, matches: Callable[[Entry], bool], life: timedelta) -> AsyncGenerator[bytes]:
        store = self._registry.store
        since = plan.since
        if plan.initial:
            since = store.revision
            current = [entry for entry in store.list(plan.resource.storage) if matches(entry)]
            yield b"".join(_line("ADDED", plan.render(entry)) for entry in current)
            if plan.end_of_initial:
                yield _bookmark(plan.resource, since, {"k8s.io/initial-events-end": "true"})
        elif since > store.revision:
            # A version of another life of this cluster; its owner has to list again.
            yield _error(Expired(f"too old resource version: {since} ({store.revision})"))
            return
        try:
            async with (
                asyncio.timeout(life.total_seconds()),
                aclosing(store.watch(plan.resource.storage, since, quiet=_BOOKMARK_AFTER)) as batches,
            ):
                async for changes, revision in batches:
                    chunk = b"".join(self._lines(plan, changes, matches))
                    if not changes and plan.bookmarks:
                        chunk = _bookmark(plan.resource, revision, {})
                    if chunk:
                        yield chunk
        except Expired as error:
            yield _error(error)
        except TimeoutError:
            return

    def _lines(self, plan: _WatchPlan, changes: Sequence[Change], matches: Callable[[Entry], bool]) -> Iterator[bytes]:
        for change in changes:
            shown = told(change, matches)
            if shown is not None:
                yield _line(shown[0].value, plan.render(shown[1]))


@dataclass(frozen=True, slots=True)
class _WatchPlan:
    resource: Resource
    since: int
    initial: bool
    end_of_initial: bool
    bookmarks: bool
    render: Callable[[Entry], bytes]


def _selector(request: Request, resource: Resource) -> selectors.Selector:
    return selectors.parse(request.query.get("labelSelector"), request.query.get("fieldSelector"), resource=resource.storage)


def _line(type_: str, data: bytes) -> bytes:
    return b'{"type":"' + type_.encode() + b'","object":' + data + b"}\n"


def _bookmark(resource: Resource, revision: int, annotations: dict[str, str]) -> bytes:
    meta: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    shown = {"kind": resource.kind.kind, "apiVersion": resource.kind.api_version, "metadata": meta}
    return _line(EventType.BOOKMARK.value, orjson.dumps(shown))


def _error(error: Expired) -> bytes:
    return _line("ERROR", orjson.dumps(statuses.failure(error)[1]))
