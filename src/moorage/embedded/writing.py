"""POST, PUT, PATCH and DELETE on objects: from HTTP's query and body to the registry's verbs."""

from __future__ import annotations

from typing import Any

import orjson

from moorage.embedded import deletion, evictions, selectors, statuses, views
from moorage.embedded.http import APPLY, Request, Response, answer
from moorage.embedded.objects import Entry
from moorage.embedded.reading import Reader
from moorage.embedded.registry import Registry, Target, Writer
from moorage.errors import Invalid
from moorage.kube.cluster import PatchType


class WriteVerbs:
    """The writing verbs over a registry; answers are shown by the reader."""

    def __init__(self, registry: Registry, reader: Reader) -> None:
        self._registry = registry
        self._reader = reader

    async def create(self, request: Request, target: Target) -> Response:
        writer = writer_of(request)
        body = views.to_stored(target.resource, request.mapping())
        entry = await self._registry.create(_storing(target, self._registry), body, writer)
        return self._shown(request, target, entry, writer, 201)

    async def replace(self, request: Request, target: Target) -> Response:
        writer = writer_of(request)
        body = views.to_stored(target.resource, request.mapping())
        entry = await self._registry.replace(_storing(target, self._registry), body, writer)
        return self._shown(request, target, entry, writer, 200)

    async def patch(self, request: Request, target: Target) -> Response:
        writer = writer_of(request)
        target = _storing(target, self._registry)
        if request.content_type == APPLY:
            if not request.query.get("fieldManager"):
                raise Invalid(
                    'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
                    code="Invalid",
                    target="fieldManager",
                )
            entry, created = await self._registry.apply(target, request.mapping(), writer)
            return self._shown(request, target, entry, writer, 201 if created else 200)
        if request.content_type not in set(PatchType):
            raise Invalid(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, "
                "application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json",
                code="UnsupportedMediaType",
            )
        entry = await self._registry.patch(target, request.document(), PatchType(request.content_type), writer)
        return self._shown(request, target, entry, writer, 200)

    async def delete(self, request: Request, target: Target) -> Response:
        done = await deletion.delete(self._registry, _storing(target, self._registry), _delete_options(request), writer_of(request))
        # A pod is answered whole, as its clients want to see the grace; what is simply gone is answered with a Status.
        if done.gone and target.resource.kind.kind != "Pod":
            return answer(statuses.success(target, done.entry.manifest()["metadata"]["uid"]))
        return self._reader.show(request, target.resource, done.entry)

    async def delete_collection(self, request: Request, target: Target) -> Response:
        selector = selectors.parse(request.query.get("labelSelector"), request.query.get("fieldSelector"), resource=target.resource.storage)
        removed = await deletion.delete_collection(self._registry, target, selector, _delete_options(request), writer_of(request))
        resource = target.resource
        head = orjson.dumps(
            {
                "kind": resource.list_kind,
                "apiVersion": resource.kind.api_version,
                "metadata": {"resourceVersion": str(self._registry.store.revision)},
            }
        )
        return Response(head[:-1] + b',"items":[' + b",".join(views.as_requested(resource, entry) for entry in removed) + b"]}")

    async def bind(self, request: Request, target: Target) -> Response:
        """POST pods/NAME/binding, or pods with a Binding in it."""
        body = request.mapping()
        node = (body.get("target") or {}).get("name")
        if not node:
            raise Invalid("target.name: Required value", code="Invalid", target="target.name")
        uid = (body.get("metadata") or {}).get("uid") or ""
        await self._registry.bind(Target(target.resource, target.namespace, target.name), node, writer_of(request), uid=uid)
        return answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)

    async def evict(self, request: Request, target: Target) -> Response:
        """POST pods/NAME/eviction."""
        await evictions.evict(self._registry, target.namespace, target.name, request.mapping(), writer_of(request))
        return answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)

    def _shown(self, request: Request, target: Target, entry: Entry, writer: Writer, status: int) -> Response:
        shown = self._reader.show(request, target.resource, entry, status)
        if not writer.warnings:
            return shown
        lines = ", ".join(f'299 - "{warning}"' for warning in writer.warnings)
        return Response(shown.body, shown.status, shown.content_type, headers={"warning": lines})


def _storing(target: Target, registry: Registry) -> Target:
    """The same object under the resource it is kept as: an events.k8s.io Event is written as a core Event."""
    resource = target.resource
    if resource.definition is None and resource.storage != (resource.kind.group, resource.kind.plural):
        resource = registry.catalog.at(resource.storage[0], "v1", resource.storage[1])
    return Target(resource, target.namespace, target.name, target.subresource)


def writer_of(request: Request) -> Writer:
    """Who writes and how, from the query; the field manager falls back to the client's name, as with Kubernetes."""
    validation = request.query.get("fieldValidation") or "Warn"
    if validation not in ("Ignore", "Warn", "Strict"):
        raise Invalid(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"',
            code="Invalid",
            target="fieldValidation",
        )
    dry_run = request.query.get("dryRun", "")
    if dry_run not in ("", "All"):
        raise Invalid(f'dryRun: Unsupported value: "{dry_run}": supported values: "All"', code="Invalid", target="dryRun")
    return Writer(
        manager=request.query.get("fieldManager") or request.headers.get("user-agent", "unknown").partition("/")[0][:128] or "unknown",
        user=request.user.name,
        groups=tuple(request.user.groups),
        dry_run=dry_run == "All",
        force=request.flag("force"),
        validation=validation,
        guard=request.guard,
    )


def _delete_options(request: Request) -> deletion.DeleteOptions:
    given: dict[str, Any] = request.mapping() if request.body else {}
    return deletion.read_options(given, grace=request.number("gracePeriodSeconds"), propagation=request.query.get("propagationPolicy", ""))
