"""Deleting objects: preconditions, propagation, finalizers, and the grace a running pod gets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded import fieldcheck
from moorage.embedded.objects import Entry
from moorage.embedded.registry import DEFINITION_FINALIZER, Registry, Target, Writer, not_found
from moorage.embedded.selectors import Selector
from moorage.embedded.webhooks import Change
from moorage.errors import Conflict, Forbidden, Invalid, NotFound
from moorage.kube.kinds import CRD
from moorage.specs.manifest import Manifest

_DEFAULT_GRACE_SECONDS = 30
_LONGEST_GRACE_SECONDS = 2**31 - 1
_PROPAGATION_FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """metav1.DeleteOptions. `grace` None: the object's own."""

    grace: timedelta | None = None
    propagation: str = "Background"
    uid: str | None = None
    resource_version: str | None = None

    def __post_init__(self) -> None:
        if self.propagation not in ("Background", "Foreground", "Orphan"):
            raise Invalid(
                f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "{self.propagation}": supported values: '
                '"Background", "Foreground", "Orphan"',
                code="Invalid",
                target="propagationPolicy",
            )


def read_options(given: Manifest, *, grace: int | None = None, propagation: str = "") -> DeleteOptions:
    """The options that a body asks for; Invalid when a value has the wrong type.

    Args:
        given: the body's DeleteOptions; empty for none.
        grace, propagation: what the query says, for a body that does not (seconds).
    """
    fieldcheck.check_message("meta.v1.DeleteOptions", "DeleteOptions", given)
    seconds = given.get("gracePeriodSeconds", grace)
    preconditions = given.get("preconditions") or {}
    return DeleteOptions(
        # No date could say when the longest that the field allows is over.
        grace=None if seconds is None else timedelta(seconds=max(-_LONGEST_GRACE_SECONDS, min(seconds, _LONGEST_GRACE_SECONDS))),
        propagation="Orphan" if given.get("orphanDependents") else given.get("propagationPolicy") or propagation or "Background",
        uid=preconditions.get("uid"),
        resource_version=preconditions.get("resourceVersion"),
    )


@dataclass(frozen=True, slots=True)
class Deleted:
    """The object's last or present state; `gone` when nothing of it is left."""

    entry: Entry
    gone: bool


async def delete(registry: Registry, target: Target, options: DeleteOptions, writer: Writer) -> Deleted:
    """Ask for an object's deletion. Repeating it is harmless, and may shorten a pod's grace."""
    found = registry.store.latest(target.key)
    if found is None:
        raise not_found(target)
    manifest = found.manifest()
    meta = manifest["metadata"]
    if target.resource.kind.kind == "PriorityClass" and target.name.startswith("system-"):
        words = "this is a system priority class and cannot be deleted"
        raise Forbidden(f'priorityclasses.scheduling.k8s.io "{target.name}" is forbidden: {words}', target=target.name)
    _check_preconditions(target, meta, options)
    if registry.webhooks.active:
        await registry.webhooks.validate(Change("DELETE", target, found.manifest(), None, writer))
        found = registry.store.latest(target.key)
        if found is None:
            raise not_found(target)
        manifest = found.manifest()
        meta = manifest["metadata"]
        # Once more: another one may have taken its name while the webhooks were asked.
        _check_preconditions(target, meta, options)
    grace = _grace(target, manifest, options)
    before = _state(meta)
    finalizers = [f for f in meta.get("finalizers") or () if f not in _PROPAGATION_FINALIZERS.values() or "deletionTimestamp" in meta]
    if (wanted := _PROPAGATION_FINALIZERS.get(options.propagation)) and wanted not in finalizers:
        finalizers.append(wanted)
    instances = _instances(registry, target, manifest)
    if instances and DEFINITION_FINALIZER not in finalizers:
        finalizers.append(DEFINITION_FINALIZER)
    _set(meta, "finalizers", finalizers)
    namespace = target.resource.kind.kind == "Namespace" and bool((manifest.get("spec") or {}).get("finalizers"))
    if not finalizers and not grace and not namespace:
        return Deleted(await registry.remove(target, manifest, writer), gone=True)
    _mark(registry, meta, grace)
    if target.resource.kind.kind == "Namespace":
        manifest.setdefault("status", {})["phase"] = "Terminating"
    if _state(meta) == before:
        return Deleted(found, gone=False)
    marked = await registry.save(target, manifest, writer)
    for instance in () if writer.dry_run else instances:
        try:
            await delete(registry, instance, DeleteOptions(), writer)
        except NotFound:
            continue
    return Deleted(marked, gone=False)


def _instances(registry: Registry, target: Target, manifest: Manifest) -> list[Target]:
    """The objects that go with a CustomResourceDefinition."""
    if target.resource.kind != CRD:
        return []
    storage = (manifest["spec"]["group"], manifest["spec"]["names"]["plural"])
    resource = registry.catalog.stored(storage)
    if resource is None:
        return []
    return [Target(resource, entry.key.namespace, entry.key.name) for entry in registry.store.latest_all(storage)]


async def delete_collection(registry: Registry, target: Target, selector: Selector, options: DeleteOptions, writer: Writer) -> list[Entry]:
    """Delete every selected object; one that goes meanwhile is no failure."""
    removed = []
    for entry in registry.list(target.resource, target.namespace or None, selector):
        one = Target(target.resource, entry.key.namespace, entry.key.name)
        try:
            removed.append((await delete(registry, one, options, writer)).entry)
        except NotFound:
            continue
    return removed


def _check_preconditions(target: Target, meta: dict[str, Any], options: DeleteOptions) -> None:
    for name, asked in (("uid", options.uid), ("resourceVersion", options.resource_version)):
        if asked is not None and asked != meta[name]:
            words = "UID" if name == "uid" else "ResourceVersion"
            raise Conflict(
                f"Operation cannot be fulfilled on {target}: Precondition failed: {words} in precondition: {asked}, {words} in object meta: {meta[name]}",
                target=target.name,
            )


def _grace(target: Target, manifest: Manifest, options: DeleteOptions) -> int:
    """Seconds a node has to stop the pod; none for what no node runs."""
    if target.resource.kind.kind != "Pod":
        return 0
    asked = None if options.grace is None else max(0, round(options.grace.total_seconds()))
    spec = manifest.get("spec") or {}
    if not spec.get("nodeName") or (manifest.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    grace = asked if asked is not None else int(spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_SECONDS))
    earlier = manifest["metadata"].get("deletionGracePeriodSeconds")
    return grace if earlier is None else min(grace, int(earlier))


def _mark(registry: Registry, meta: dict[str, Any], grace: int) -> None:
    if "deletionTimestamp" in meta and meta.get("deletionGracePeriodSeconds") == grace:
        return
    if "deletionTimestamp" not in meta and "generation" in meta:
        meta["generation"] += 1
    meta["deletionTimestamp"] = rfc3339(registry.clock() + timedelta(seconds=grace))
    meta["deletionGracePeriodSeconds"] = grace


def _state(meta: dict[str, Any]) -> tuple[Any, ...]:
    return meta.get("deletionTimestamp"), meta.get("deletionGracePeriodSeconds"), tuple(meta.get("finalizers") or ())


def _set(meta: dict[str, Any], name: str, value: list[str]) -> None:
    if value:
        meta[name] = value
    else:
        meta.pop(name, None)
