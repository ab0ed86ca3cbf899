"""What happens to an object between the request and the store: field checks, defaults, allocation, validation, in Kubernetes' order."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moorage.clock import Clock
from moorage.embedded import chain, crds, defaults, fieldcheck, limitranges, pods, schema, services, validation, webhooks
from moorage.embedded.kinds import Resource
from moorage.embedded.objects import ObjectStore
from moorage.errors import Invalid
from moorage.kube.kinds import CRD
from moorage.specs.manifest import Manifest

if TYPE_CHECKING:
    from moorage.embedded.registry import Writer

_TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"


@dataclass(frozen=True, slots=True)
class View:
    """What admission may look at beside the object."""

    store: ObjectStore
    clock: Clock


def default(resource: Resource, manifest: Manifest) -> None:
    """The defaults of the kind, in place: part of decoding on Kubernetes, so that they belong to whoever creates the object."""
    if resource.definition is not None:
        schema.set_defaults(manifest, resource.definition.schema)
    else:
        defaults.built_in(resource.kind.kind, manifest)
        if resource.kind.group == webhooks.GROUP:
            webhooks.complete(manifest)


def create(resource: Resource, manifest: Manifest, view: View) -> None:
    """Bring a new, decoded object into the form in which it is stored, in place."""
    if resource.definition is not None:
        schema.set_defaults(manifest, resource.definition.schema)
        return
    if resource.has_status and resource.kind.group != "scheduling.volcano.sh" and resource.kind.kind != "Node":
        manifest.pop("status", None)
    default(resource, manifest)
    chain.default(resource, manifest, view.store)
    match resource.kind.kind:
        case "Namespace":
            manifest["spec"] = {"finalizers": ["kubernetes"]}
            manifest["status"] = {"phase": "Active"}
        case "Pod":
            pods.admit(manifest, view.store)
        case "Job":
            _own_selector(manifest)
            # Again, because a Job without labels takes its template's, which have just been made.
            defaults.built_in("Job", manifest)
        case "Service":
            services.allocate(manifest, None, view.store)
            manifest["status"] = {"loadBalancer": {}}
        case "Ingress":
            manifest["status"] = {"loadBalancer": {}}
        case "LimitRange":
            limitranges.complete(manifest)
        case "PersistentVolumeClaim":
            _default_class(manifest, view.store)
            manifest["status"] = {"phase": "Pending"}
        case "PersistentVolume":
            manifest["status"] = {"phase": "Pending"}
        case "Deployment":
            manifest["status"] = {}
        case "ReplicaSet":
            manifest["status"] = {"replicas": 0}
        case "StatefulSet":
            manifest["status"] = {"replicas": 0, "availableReplicas": 0}
        case "DaemonSet":
            manifest["status"] = {"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}
            _count_template(manifest, None)
        case "PodDisruptionBudget":
            manifest["status"] = {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}
        case "CustomResourceDefinition" if resource.kind == CRD:
            crds.complete(manifest, view.clock())


def update(resource: Resource, subresource: str, before: Manifest, after: Manifest, view: View) -> None:
    """Bring a changed, decoded object into the form in which it is stored, in place."""
    if resource.definition is not None:
        schema.set_defaults(after, resource.definition.schema)
        return
    if subresource:
        return
    default(resource, after)
    match resource.kind.kind:
        case "Pod":
            pods.tolerate(after["spec"])
        case "Service":
            services.allocate(after, before, view.store)
        case "DaemonSet":
            _count_template(after, before)
        case "CustomResourceDefinition" if resource.kind == CRD:
            crds.complete(after, view.clock())


def invalid_fields(resource: Resource, subresource: str, manifest: Manifest, before: Manifest | None) -> list[Invalid]:
    """What is wrong with the object, one finding per field."""
    if resource.definition is not None:
        return schema.validate(manifest, resource.definition.schema, before=before)
    if resource.kind == CRD:
        return crds.invalid_fields(manifest)
    return [] if subresource else validation.built_in(resource.kind.kind, manifest, before)


def inspect(resource: Resource, subresource: str, before: Manifest | None, after: Manifest, view: View) -> list[str]:
    """What looks at other objects, once the object is valid: Forbidden, or the warnings for whoever writes."""
    return [] if subresource else chain.check(resource, before, after, view.store)


def hold(resource: Resource, subresource: str, before: Manifest | None, after: Manifest, view: View) -> None:
    """Forbidden when a quota is exceeded. Nothing may wait between this and the write."""
    if not subresource:
        chain.hold_to_quotas(resource, before, after, view.store)


def decode(resource: Resource, manifest: Manifest, writer: Writer, *, creating: bool = False) -> None:
    """Types and unknown fields. What `fieldValidation` asks for happens to the unknown ones; they are dropped in any case.

    Args:
        creating: say what the body was taken for when it cannot be read; after a patch it is no longer a body.
    """
    kind = resource.kind
    try:
        _decode(resource, manifest, writer)
    except Invalid as error:
        if not creating:
            raise
        words = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {error.message}'
        raise Invalid(words, code=error.code, target=error.target) from error


def decode_applied(resource: Resource, manifest: Manifest, namespace: str) -> None:
    """`decode` of an applied configuration, in which every field has to be known, since its applier would own what nobody can keep."""
    unknown = _unknown(resource, manifest)
    if unknown:
        kind = resource.kind
        place = f"{namespace}/{manifest['metadata']['name']}"
        words = f"failed to create typed patch object ({place}; {kind.api_version if kind.group else '/v1'}, Kind={kind.kind})"
        raise Invalid(f"{words}: .{unknown[0]}: field not declared in schema", code="Untyped", target=unknown[0])


def _decode(resource: Resource, manifest: Manifest, writer: Writer) -> None:
    unknown = _unknown(resource, manifest)
    if unknown and writer.validation == "Strict":
        raise fieldcheck.strict_error(unknown)
    if writer.validation == "Warn":
        writer.warnings.extend(f'unknown field \\"{path}\\"' for path in unknown)


def _unknown(resource: Resource, manifest: Manifest) -> list[str]:
    """The paths of unknown fields, which are dropped."""
    unknown: list[str] = []
    if resource.definition is not None:
        if not resource.definition.schema.get("x-kubernetes-preserve-unknown-fields"):
            unknown = schema.prune(manifest, resource.definition.schema)
        unknown += fieldcheck.check_metadata(manifest)
    else:
        unknown = fieldcheck.check(resource.kind.group, resource.kind.kind, manifest)
        _normalise(resource, manifest)
    return unknown


def _normalise(resource: Resource, manifest: Manifest) -> None:
    if resource.kind.kind == "Secret" and (texts := manifest.pop("stringData", None)):
        data = manifest.get("data") or {}
        manifest["data"] = {**data, **{name: base64.b64encode(str(text).encode()).decode() for name, text in texts.items()}}


def _own_selector(job: Manifest) -> None:
    """A Job selects its pods by its own uid, so that no two jobs share pods (pkg/registry/batch/job/strategy.go)."""
    spec, meta = job["spec"], job["metadata"]
    labels = spec["template"]["metadata"].setdefault("labels", {}) or {}
    spec["template"]["metadata"]["labels"] = labels
    if spec.get("manualSelector"):
        return
    own = {"batch.kubernetes.io/controller-uid": meta["uid"]}
    labels |= {**own, "controller-uid": meta["uid"], "batch.kubernetes.io/job-name": meta["name"], "job-name": meta["name"]}
    if spec.get("selector") is None:
        spec["selector"] = {"matchLabels": own}


def _count_template(daemon_set: Manifest, before: Manifest | None) -> None:
    """A DaemonSet's template generation, which kubectl and old controllers read (pkg/registry/apps/daemonset/strategy.go)."""
    count = 1
    if before is not None:
        text = str((before["metadata"].get("annotations") or {}).get(_TEMPLATE_GENERATION, ""))
        count = (int(text) if text.isdigit() else 0) + (before["spec"].get("template") != daemon_set["spec"].get("template"))
    annotations = daemon_set["metadata"].get("annotations") or {}
    daemon_set["metadata"]["annotations"] = {**annotations, _TEMPLATE_GENERATION: str(count)}


def _default_class(claim: Manifest, store: ObjectStore) -> None:
    if claim["spec"].get("storageClassName") is not None or claim["spec"].get("volumeName"):
        return
    for entry in store.list(("storage.k8s.io", "storageclasses")):
        annotations: dict[str, Any] = entry.manifest()["metadata"].get("annotations") or {}
        if annotations.get("storageclass.kubernetes.io/is-default-class") == "true":
            claim["spec"]["storageClassName"] = entry.key.name
            return
