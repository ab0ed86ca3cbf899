"""What a verb does to an object, for every kind and for both ways in (HTTP and in-process): the rules of the Kubernetes API over the object store.

Manifests handed in belong to the registry from then on. Nothing is awaited between reading the latest state and staging the write, so that two
writers never interleave.
"""

from __future__ import annotations

import builtins
import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from moorage.clock import Clock, now, rfc3339
from moorage.embedded import admission, apply, custom, metadata
from moorage.embedded.kinds import Catalog, Resource
from moorage.embedded.objects import Entry, ObjectStore, tried
from moorage.embedded.patch import json_patch, merge_patch
from moorage.embedded.selectors import Selector
from moorage.embedded.shapes import FromSchema, Shape, built_in
from moorage.embedded.storage import Key
from moorage.embedded.strategic import strategic_merge
from moorage.embedded.webhooks import Change, Webhooks
from moorage.errors import Conflict, Forbidden, Invalid, NotFound
from moorage.kube.cluster import PatchType
from moorage.kube.kinds import CRD
from moorage.specs.manifest import Manifest

# Holds a definition until its last object is gone, as on Kubernetes.
DEFINITION_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
# What of the metadata people may change, and has rules.
_CHECKED = ("labels", "annotations", "finalizers", "ownerReferences")
# As often as Kubernetes' patch handler (maxRetryWhenPatchConflicts).
_OVERTAKEN_AGAIN = 5
INITIAL_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class Guard(Protocol):
    """Asks whether a caller may write just this; see `guards.WriteGuard`."""

    def may_create(self, target: Target) -> None: ...

    def check(self, target: Target, before: Manifest | None, after: Manifest) -> None: ...


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes, and how.

    Args:
        manager: field manager.
        user, groups: for messages, audit and webhooks.
        dry_run: everything but the write itself.
        force: an apply takes fields from other managers.
        validation: what unknown fields do: `Strict` refuses, `Warn` puts a line into `warnings`, `Ignore` drops them silently.
        guard: rights that depend on what is written; None asks nothing.
    """

    manager: str = "unknown"
    user: str = "system:admin"
    groups: tuple[str, ...] = ("system:masters",)
    dry_run: bool = False
    force: bool = False
    validation: str = "Warn"
    warnings: list[str] = field(default_factory=list)
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        return Key(*self.resource.storage, self.namespace, self.name)

    def __str__(self) -> str:
        return f'{self.resource.kind} "{self.name}"'


def shape_of(resource: Resource) -> Shape:
    if resource.definition is not None:
        return FromSchema(resource.definition.schema, top=True)
    return built_in(resource.kind.group, resource.kind.kind)


_T = TypeVar("_T")


class _Overtaken(Conflict):
    """Another write came in while webhooks were asked."""


class Registry:
    """The API's verbs over one store and one catalog. Build it with `open_registry`."""

    def __init__(self, store: ObjectStore, catalog: Catalog | None = None, *, clock: Clock = now) -> None:
        self.store = store
        self.catalog = catalog or Catalog()
        self.clock = clock
        self.webhooks = Webhooks(store)

    # Reading.

    def get(self, target: Target) -> Entry:
        entry = self.store.get(target.key)
        if entry is None:
            raise not_found(target)
        return entry

    def list(self, resource: Resource, namespace: str | None, selector: Selector) -> list[Entry]:
        entries = self.store.list(resource.storage, namespace if resource.kind.namespaced else None)
        return [entry for entry in entries if entry.selected(selector)] if selector else entries

    # Writing.

    async def create(self, target: Target, manifest: Manifest, writer: Writer) -> Entry:
        manifest = self._addressed(target, manifest, creating=True)
        target = Target(target.resource, target.namespace, manifest["metadata"]["name"])
        return await self._create(target, manifest, writer)

    async def _create(self, target: Target, manifest: Manifest, writer: Writer, *, applying: bool = False) -> Entry:
        resource = target.resource
        if self.store.latest(target.key) is not None:
            raise Conflict(f"{target} already exists", code="AlreadyExists", target=target.name)
        if resource.kind.namespaced:
            self._check_namespace(target)
        if resource.definition is not None:
            self._check_definition(target, resource.definition.name)
        if resource.has_status and resource.definition is not None:
            manifest.pop("status", None)
        if not applying:
            admission.decode(resource, manifest, writer, creating=True)
            admission.default(resource, manifest)
        metadata.fresh(manifest, rfc3339(self.clock()), resource)
        if not applying:
            # Before admission, whose changes belong to nobody.
            by = apply.Manager(writer.manager, "Update", resource.kind.api_version)
            apply.create_ownership(manifest, by, rfc3339(self.clock()), shape_of(resource))
        if writer.guard is not None:
            if applying:
                writer.guard.may_create(target)
            writer.guard.check(target, None, manifest)
        admission.create(resource, manifest, self._view())
        if self.webhooks.active:
            manifest = await self._mutated(Change("CREATE", target, None, manifest, writer))
        self._check(target, manifest, None)
        self._inspect(target, None, manifest, writer)
        if self.webhooks.active:
            await self.webhooks.validate(Change("CREATE", target, None, manifest, writer))
            if self.store.latest(target.key) is not None:
                raise Conflict(f"{target} already exists", code="AlreadyExists", target=target.name)
            if resource.kind.namespaced:
                self._check_namespace(target)
        admission.hold(resource, "", None, manifest, self._view())
        return await self.save(target, manifest, writer)

    async def replace(self, target: Target, manifest: Manifest, writer: Writer) -> Entry:
        return await self._again(lambda: self._replace(target, copy.deepcopy(manifest) if self.webhooks.active else manifest, writer))

    async def _replace(self, target: Target, manifest: Manifest, writer: Writer) -> Entry:
        manifest = self._addressed(target, manifest, creating=False)
        live = self._latest(target)
        return await self._update(target, live, manifest, writer)

    async def patch(self, target: Target, patch: Mapping[str, Any] | Sequence[Any], type: PatchType, writer: Writer) -> Entry:
        return await self._again(lambda: self._patch(target, patch, type, writer))

    async def _patch(self, target: Target, patch: Mapping[str, Any] | Sequence[Any], type: PatchType, writer: Writer) -> Entry:
        # Parsed twice, so that what is built on the one shares nothing with the other, which the result is compared with.
        live, base = self._latest(target), self._latest(target)
        resource = target.resource
        match type:
            case PatchType.JSON:
                if not isinstance(patch, Sequence):
                    raise Invalid("a JSON patch is a list of operations", code="BadRequest")
                after = json_patch(base, patch)
            case _ if not isinstance(patch, Mapping):
                found = {str: "string", list: "array", bool: "bool"}.get(builtins.type(patch), "number")
                raise Invalid(f"json: cannot unmarshal {found} into Go value of type map[string]interface {{}}", code="BadRequest")
            case PatchType.STRATEGIC:
                if resource.definition is not None:
                    raise Invalid(
                        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, "
                        "application/merge-patch+json, application/apply-patch+yaml",
                        code="UnsupportedMediaType",
                    )
                after = strategic_merge(base, patch, shape_of(resource))
            case PatchType.MERGE:
                after = merge_patch(base, patch)
        if not isinstance(after, dict) or not isinstance(after.get("metadata"), dict):
            raise Invalid("the patch leaves no object", code="BadRequest")
        if isinstance(patch, Mapping) and (asked := (patch.get("metadata") or {}).get("resourceVersion")):
            after["metadata"]["resourceVersion"] = asked
        after = self._addressed(target, after, creating=False)
        return await self._update(target, live, after, writer)

    async def apply(self, target: Target, config: Manifest, writer: Writer) -> tuple[Entry, bool]:
        """Server-side apply. Returns the object and whether it was created."""
        return await self._again(lambda: self._apply(target, copy.deepcopy(config) if self.webhooks.active else config, writer))

    async def _apply(self, target: Target, config: Manifest, writer: Writer) -> tuple[Entry, bool]:
        config = self._addressed(target, config, creating=False)
        if config["metadata"].get("managedFields") is not None:
            raise Invalid("metadata.managedFields must be nil", code="BadRequest", target="metadata.managedFields")
        resource, shape = target.resource, shape_of(target.resource)
        admission.decode_applied(resource, config, target.namespace)
        by = apply.Manager(writer.manager, "Apply", resource.kind.api_version, target.subresource)
        moment = rfc3339(self.clock())
        found = self.store.latest(target.key)
        if found is None:
            if target.subresource:
                raise not_found(target)
            if config["metadata"].get("uid"):
                raise Conflict(f"{target} does not exist, but metadata.uid was given", target="metadata.uid")
            apply.write_ownership(config, apply.Ownership({by: apply.fields_of(config, shape)}, {by: moment}))
            return await self._create(target, config, writer, applying=True), True
        live = found.manifest()
        _check_version(target, live, config)
        ownership = apply.read_ownership(live)
        config["metadata"].pop("resourceVersion", None)
        config = _only_subresource(target, config)
        after, owners = apply.applied(found.manifest(), config, ownership.fields, by, shape, force=writer.force)
        if owners.get(by) != ownership.fields.get(by):
            ownership.times[by] = moment
        ownership.fields = owners
        apply.write_ownership(after, ownership)
        return await self._update(target, live, after, writer, owned=True), False

    async def _update(self, target: Target, live: Manifest, after: Manifest, writer: Writer, *, owned: bool = False) -> Entry:
        resource = target.resource
        _check_version(target, live, after)
        _check_identity(target, live, after)
        if target.subresource:
            after = _within_subresource(target, live, after)
        elif resource.has_status:
            after = dict(after)
            _restore(after, live, "status")
        metadata.carried_over(live, after, resource)
        _check_finalizers(target, live, after)
        if not owned:
            admission.decode(resource, after, writer)
        if writer.guard is not None:
            writer.guard.check(target, live, after)
        admission.update(resource, target.subresource, live, after, self._view())
        if self.webhooks.active:
            after = await self._mutated(Change("UPDATE", target, live, after, writer))
        self._check(target, after, live)
        if not owned:
            self._take_ownership(target, live, after, writer)
        self._inspect(target, live, after, writer)
        if self.webhooks.active:
            await self.webhooks.validate(Change("UPDATE", target, live, after, writer))
            found = self.store.latest(target.key)
            if found is None or found.revision != int(live["metadata"]["resourceVersion"]):
                raise _Overtaken(f"Operation cannot be fulfilled on {target}: the object has been modified", target=target.name)
        admission.hold(resource, target.subresource, live, after, self._view())
        if _without_times(after) == _without_times(live):
            found = self.store.latest(target.key)
            assert found is not None
            return found
        if _finished(after, resource):
            return await self.remove(target, after, writer)
        return await self.save(target, after, writer)

    def _take_ownership(self, target: Target, live: Manifest, after: Manifest, writer: Writer) -> None:
        resource = target.resource
        changed, gone = apply.changes(live, after, shape_of(resource))
        if not changed and not gone:
            _restore(after["metadata"], live["metadata"], "managedFields")
            return
        ownership = apply.read_ownership(live)
        by = apply.Manager(writer.manager, "Update", resource.kind.api_version, target.subresource)
        owners = apply.updated(changed, gone, ownership.fields, by)
        if owners.get(by) != ownership.fields.get(by):
            ownership.times[by] = rfc3339(self.clock())
        ownership.fields = owners
        apply.write_ownership(after, ownership)

    async def bind(self, target: Target, node: str, writer: Writer, *, uid: str = "") -> Entry:
        """Assign a pod to a node, once: the `binding` subresource. With `uid`, that very pod and none that has taken its name since."""
        pod = self._latest(target)
        if uid and pod["metadata"]["uid"] != uid:
            found = pod["metadata"]["uid"]
            raise Conflict(
                f'Operation cannot be fulfilled on pods/binding "{target.name}": Precondition failed: UID in precondition: {uid}, '
                f"UID in object meta: {found}",
                target=target.name,
            )
        if pod["spec"].get("nodeName"):
            raise Conflict(
                f'Operation cannot be fulfilled on pods/binding "{target.name}": pod {target.name} is already assigned to node "{pod["spec"]["nodeName"]}"',
                target=target.name,
            )
        if "deletionTimestamp" in pod["metadata"]:
            raise Conflict(
                f'Operation cannot be fulfilled on pods/binding "{target.name}": pod {target.name} is being deleted', target=target.name
            )
        pod["spec"]["nodeName"] = node
        pod.setdefault("status", {}).pop("nominatedNodeName", None)
        conditions = [c for c in pod.setdefault("status", {}).get("conditions") or () if c.get("type") != "PodScheduled"]
        moment = rfc3339(self.clock())
        pod["status"]["conditions"] = [
            *conditions,
            {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": moment},
        ]
        return await self.save(target, pod, writer)

    # Shared steps.

    def _view(self) -> admission.View:
        return admission.View(self.store, self.clock)

    async def _mutated(self, change: Change) -> Manifest:
        """The object as mutating webhooks leave it, decoded and completed anew."""
        after = await self.webhooks.mutate(change)
        if after is not change.after:
            admission.decode(change.target.resource, after, change.writer)
            admission.default(change.target.resource, after)
        return after

    async def _again(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat what another write has overtaken while webhooks were asked; a Conflict when that goes on."""
        for _ in range(_OVERTAKEN_AGAIN):
            try:
                return await attempt()
            except _Overtaken:
                continue
        return await attempt()

    def _inspect(self, target: Target, before: Manifest | None, after: Manifest, writer: Writer) -> None:
        for text in admission.inspect(target.resource, target.subresource, before, after, self._view()):
            # As a quoted string of a Warning header.
            writer.warnings.append(text.replace("\\", "\\\\").replace('"', '\\"'))

    def _latest(self, target: Target) -> Manifest:
        found = self.store.latest(target.key)
        if found is None:
            raise not_found(target)
        return found.manifest()

    async def save(self, target: Target, manifest: Manifest, writer: Writer) -> Entry:
        if writer.dry_run:
            return tried(target.key, manifest)
        entry = await self.store.put(target.key, manifest)
        if target.resource.kind == CRD:
            self.catalog.define(target.name, custom.resources(manifest))
        return entry

    async def remove(self, target: Target, manifest: Manifest, writer: Writer) -> Entry:
        if writer.dry_run:
            return tried(target.key, manifest)
        entry = await self.store.remove(target.key, manifest)
        if target.resource.kind == CRD:
            self.catalog.withdraw(target.name)
        elif target.resource.definition is not None:
            await self._finish_definition(target.resource.definition.name, target.resource)
        return entry

    async def _finish_definition(self, name: str, resource: Resource) -> None:
        """Let a definition that is being deleted go with the last of its objects."""
        target = Target(self.catalog.of(CRD), "", name)
        found = self.store.latest(target.key)
        if found is None or self.store.latest_all(resource.storage):
            return
        crd = found.manifest()
        finalizers = [f for f in crd["metadata"].get("finalizers") or () if f != DEFINITION_FINALIZER]
        if "deletionTimestamp" not in crd["metadata"] or finalizers == (crd["metadata"].get("finalizers") or []):
            return
        crd["metadata"]["finalizers"] = finalizers
        await (self.save(target, crd, Writer()) if finalizers else self.remove(target, crd, Writer()))

    def _addressed(self, target: Target, manifest: Manifest, *, creating: bool) -> Manifest:
        """The manifest with kind, name and namespace that agree with the address; Invalid (400) when they do not."""
        kind = target.resource.kind
        if manifest.get("kind", kind.kind) != kind.kind or manifest.get("apiVersion", kind.api_version) != kind.api_version:
            raise Invalid(
                f"the object provided ({manifest.get('apiVersion')}, {manifest.get('kind')}) does not match the expected kind ({kind.api_version}, {kind.kind})",
                code="BadRequest",
            )
        if not isinstance(manifest.get("metadata"), dict):
            manifest["metadata"] = {}
        given = manifest["metadata"]
        if kind.namespaced:
            if not target.namespace:
                raise Invalid("an empty namespace may not be set during creation", code="BadRequest", target="metadata.namespace")
            if given.get("namespace") not in (None, "", target.namespace):
                raise Invalid("the namespace of the provided object does not match the namespace sent on the request", code="BadRequest")
            given["namespace"] = target.namespace
        else:
            given.pop("namespace", None)
        if creating and not given.get("name") and given.get("generateName"):
            given["name"] = metadata.generated_name(given["generateName"])
        if target.name and given.setdefault("name", target.name) != target.name:
            words = f"the name of the object ({given['name']}) does not match the name on the URL ({target.name})"
            raise Invalid(words, code="BadRequest", target="metadata.name")
        if not given.get("name"):
            raise invalid(
                target, [Invalid("Required value: name or generateName is required", code="FieldValueRequired", target="metadata.name")]
            )
        return {"apiVersion": kind.api_version, "kind": kind.kind, **{k: v for k, v in manifest.items() if k not in ("apiVersion", "kind")}}

    def _check_namespace(self, target: Target) -> None:
        found = self.store.latest(Key("", "namespaces", "", target.namespace))
        if found is None:
            raise NotFound(f'namespaces "{target.namespace}" not found', target=target.namespace)
        if "deletionTimestamp" in found.manifest()["metadata"]:
            raise Forbidden(
                f"{target} is forbidden: unable to create new content in namespace {target.namespace} because it is being terminated",
                target=target.name,
            )

    def _check_definition(self, target: Target, name: str) -> None:
        found = self.store.latest(Key(CRD.group, CRD.plural, "", name))
        if found is not None and "deletionTimestamp" in found.manifest()["metadata"]:
            raise Invalid(f"create not allowed while custom resource definition is terminating ({target})", code="MethodNotAllowed")

    def _check(self, target: Target, manifest: Manifest, before: Manifest | None) -> None:
        known = before is not None and all(before["metadata"].get(name) == manifest["metadata"].get(name) for name in _CHECKED)
        found = [] if known else metadata.invalid_fields(manifest, target.resource)
        found += admission.invalid_fields(target.resource, target.subresource, manifest, before)
        if found:
            raise invalid(target, found)


def not_found(target: Target) -> NotFound:
    return NotFound(f"{target} not found", target=target.name)


def invalid(target: Target, causes: Sequence[Invalid]) -> Invalid:
    """422 with Kubernetes' sentence: `Job.batch "x" is invalid: spec.template: Required value`."""
    kind = target.resource.kind
    shown = [f"{cause.target}: {cause.message}" for cause in causes]
    text = shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"
    name = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    return Invalid(f'{name} "{target.name}" is invalid: {text}', code="Invalid", target=target.name, details=tuple(causes))


def _check_version(target: Target, live: Manifest, after: Manifest) -> None:
    asked = after["metadata"].get("resourceVersion")
    if asked and asked != live["metadata"]["resourceVersion"]:
        raise Conflict(
            f"Operation cannot be fulfilled on {target}: the object has been modified; please apply your changes to the latest version and try again",
            target=target.name,
        )


def _check_identity(target: Target, live: Manifest, after: Manifest) -> None:
    asked = after["metadata"].get("uid")
    if asked and asked != live["metadata"]["uid"]:
        raise Conflict(
            f"Operation cannot be fulfilled on {target}: Precondition failed: UID in precondition: {asked}, UID in object meta: {live['metadata']['uid']}",
            target=target.name,
        )


def _check_finalizers(target: Target, live: Manifest, after: Manifest) -> None:
    if "deletionTimestamp" not in live["metadata"]:
        return
    added = [f for f in after["metadata"].get("finalizers") or () if f not in (live["metadata"].get("finalizers") or ())]
    if added:
        raise invalid(
            target,
            [
                Invalid(
                    f"Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {added}",
                    code="FieldValueForbidden",
                    target="metadata.finalizers",
                )
            ],
        )


def _within_subresource(target: Target, live: Manifest, after: Manifest) -> Manifest:
    """The live object with only what the subresource may write taken from `after`."""
    result = dict(live)
    result["metadata"] = dict(live["metadata"])
    if "managedFields" in after["metadata"]:
        result["metadata"]["managedFields"] = after["metadata"]["managedFields"]
    match target.subresource:
        case "status":
            _restore(result, after, "status")
        case "finalize":
            _restore(result, after, "spec")
        case other:
            raise NotFound(f"the server could not find the requested resource ({target.resource.kind.plural}/{other})")
    return result


def _only_subresource(target: Target, config: Manifest) -> Manifest:
    if not target.subresource:
        return {name: value for name, value in config.items() if name != "status"} if target.resource.has_status else config
    return {name: value for name, value in config.items() if name in ("apiVersion", "kind", target.subresource)} | {
        "metadata": {"name": config["metadata"]["name"]}
    }


def _restore(into: Manifest, source: Manifest, name: str) -> None:
    if name in source:
        into[name] = source[name]
    else:
        into.pop(name, None)


def _finished(manifest: Manifest, resource: Resource) -> bool:
    """Whether an object that is being deleted has nothing left to wait for."""
    meta = manifest["metadata"]
    if "deletionTimestamp" not in meta or meta.get("finalizers") or meta.get("deletionGracePeriodSeconds"):
        return False
    return not (resource.kind.kind == "Namespace" and (manifest.get("spec") or {}).get("finalizers"))


def _without_times(manifest: Manifest) -> Manifest:
    """For telling whether an update changes anything: managedFields without the moments in them, no resourceVersion."""
    meta = {name: value for name, value in manifest["metadata"].items() if name != "resourceVersion"}
    if "managedFields" in meta:
        meta["managedFields"] = [{k: v for k, v in entry.items() if k != "time"} for entry in meta["managedFields"]]
    return {**manifest, "metadata": meta}
