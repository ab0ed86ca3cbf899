"""Reading object metadata: keys, owners, labels. Pure, and forgiving of what a manifest leaves out."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.specs.manifest import Manifest

# (namespace, name); the namespace is empty for cluster-scoped objects.
Key = tuple[str, str]

_OF_THE_SERVER = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


def key_of(manifest: Manifest) -> Key:
    meta = manifest["metadata"]
    return meta.get("namespace") or "", meta["name"]


def namespace_of(manifest: Manifest) -> str:
    return manifest["metadata"].get("namespace") or ""


def name_of(manifest: Manifest) -> str:
    name: str = manifest["metadata"]["name"]
    return name


def uid_of(manifest: Manifest) -> str:
    return manifest["metadata"].get("uid") or ""


def version_of(manifest: Manifest) -> str:
    return manifest["metadata"].get("resourceVersion") or ""


def labels_of(manifest: Manifest) -> Mapping[str, str]:
    return manifest["metadata"].get("labels") or {}


def is_deleting(manifest: Manifest) -> bool:
    """Whether deletion was asked for and goes on behind finalizers or grace."""
    return bool(manifest["metadata"].get("deletionTimestamp"))


def controller_of(manifest: Manifest) -> Manifest | None:
    """The owner reference marked `controller`; an object has at most one."""
    for reference in manifest["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            found: Manifest = reference
            return found
    return None


def controller_uid(manifest: Manifest) -> str:
    """The uid of the controlling owner, empty when nobody controls it."""
    reference = controller_of(manifest)
    return reference["uid"] if reference else ""


def owner_reference(parent: Manifest) -> Manifest:
    """What a child carries so that it belongs to `parent` alone and goes away with it."""
    return {
        "apiVersion": parent["apiVersion"],
        "kind": parent["kind"],
        "name": name_of(parent),
        "uid": uid_of(parent),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def written(manifest: Manifest) -> Manifest:
    """The metadata that somebody wrote: without what the API server keeps, finalizers, and owners, which the runtime sets."""
    return {name: value for name, value in manifest["metadata"].items() if name not in _OF_THE_SERVER}


def describe(manifest: Manifest) -> str:
    """`Job team-a/train-1`, for messages."""
    namespace, name = key_of(manifest)
    return f"{manifest.get('kind', 'object')} {f'{namespace}/' if namespace else ''}{name}"
