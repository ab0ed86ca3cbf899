"""Persistent volume claims: bound to volumes that fit, or to folders made for them by the local provisioner. Pure but for the folders."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from moorage.embedded.control.objects import annotations_of, finalizers_of, selects
from moorage.embedded.control.scheduling.requests import thousandths
from moorage.embedded.control.steps import NOTHING, Create, Decision, Delete, Patch, Record, Step, set_status
from moorage.embedded.selectors import from_label_selector
from moorage.errors import Unavailable
from moorage.kube.kinds import PV, PVC
from moorage.kube.metadata import is_deleting, labels_of, name_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

COMPONENT = "persistentvolume-controller"
CLASS_NAME = "moorage-local"
PROVISIONER = "moorage.dev/local"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
_BOUND_BY = "pv.kubernetes.io/bound-by-controller"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_PROTECTION = "kubernetes.io/pv-protection"
_CLAIM_PROTECTION = "kubernetes.io/pvc-protection"
_REFUSED = "moorage.dev/unprovisioned-class"  # annotation: the class for which it was said that nothing provisions it


def storage_class() -> Manifest:
    """The default class of the embedded cluster."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS_NAME, "annotations": {_DEFAULT_CLASS: "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def decide_claim(claim: Manifest, volumes: Sequence[Manifest], classes: Sequence[Manifest], *, root: Path, in_use: bool) -> Decision:
    """One turn for a claim. `root` is where the provisioner makes folders; `in_use`: a pod that has not finished uses it."""
    protected = _CLAIM_PROTECTION in finalizers_of(claim)
    if is_deleting(claim):
        left = [one for one in finalizers_of(claim) if one != _CLAIM_PROTECTION]
        return Decision([Patch(PVC, claim, {"metadata": {"finalizers": left or None}})] if protected and not in_use else [])
    if not protected:
        return Decision([Patch(PVC, claim, {"metadata": {"finalizers": [*finalizers_of(claim), _CLAIM_PROTECTION]}})])
    spec = claim["spec"]
    if spec.get("volumeName"):
        return _bound(claim, next((one for one in volumes if name_of(one) == spec["volumeName"]), None))
    # A claim older than the default class gets that class all the same; its own spec can no longer say so.
    wanted = spec.get("storageClassName")
    if wanted is None:
        wanted = name_of(default) if (default := _default(classes)) is not None else ""
    if (volume := _fitting(claim, wanted, volumes)) is not None:
        return _bind(claim, volume)
    return _provision(claim, wanted, classes, root)


def decide_volume(volume: Manifest, claim: Manifest | None) -> Decision:
    """One turn for a volume; `claim` is the one it names, None when that is gone. Deleting its folder is the caller's, see `reclaims`."""
    reference = volume["spec"].get("claimRef")
    if reference is None:
        phase = "Available"
    elif claim is None or (reference.get("uid") and uid_of(claim) != reference["uid"]):
        phase = "Released" if reference.get("uid") else "Available"
    else:
        phase = "Bound" if claim["spec"].get("volumeName") == name_of(volume) else (volume.get("status") or {}).get("phase") or "Available"
    steps = set_status(PV, volume, {**(volume.get("status") or {}), "phase": phase})
    if not steps and reclaims(volume):
        # Twice: the deletion marks it, and the protection is taken off the marked one.
        steps = [_unprotected(volume) if is_deleting(volume) else Delete(PV, volume)]
    elif not steps and is_deleting(volume) and phase != "Bound" and _PROTECTION in finalizers_of(volume):
        steps = [_unprotected(volume)]
    return Decision(steps)


def reclaims(volume: Manifest) -> bool:
    """Whether the volume is one that the provisioner made and whose claim is gone: its folder goes with it."""
    spec = volume["spec"]
    ours = annotations_of(volume).get(_PROVISIONED_BY) == PROVISIONER
    return ours and spec.get("persistentVolumeReclaimPolicy") == "Delete" and (volume.get("status") or {}).get("phase") == "Released"


def _unprotected(volume: Manifest) -> Patch:
    left = [one for one in finalizers_of(volume) if one != _PROTECTION]
    return Patch(PV, volume, {"metadata": {"finalizers": left or None}})


def make_folder(root: Path, name: str) -> None:
    """The folder behind a volume; Unavailable when it cannot be made."""
    try:
        (root / name).mkdir(mode=0o777, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"cannot make the folder of volume {name}: {error}") from error


def remove_folder(root: Path, volume: Manifest) -> None:
    """Remove what the provisioner made for a volume, and nothing else: a direct child of `root` of the volume's own name, never through a link."""
    folder = root / name_of(volume)
    path = (volume["spec"].get("hostPath") or {}).get("path")
    if path is None or Path(path) != folder or folder.parent != root or folder.name in ("", ".", ".."):
        raise Unavailable(f"volume {name_of(volume)} points to {path}, which the local provisioner did not make; remove it by hand")
    if folder.is_symlink():
        raise Unavailable(f"{folder} is a symbolic link; the local provisioner removes only folders it made")
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        log.debug("%s is gone already", folder)
    except OSError as error:
        raise Unavailable(f"cannot remove {folder}: {error}") from error


def _bound(claim: Manifest, volume: Manifest | None) -> Decision:
    """A claim that names its volume: make both sides say so."""
    status = claim.get("status") or {}
    if volume is None:
        if annotations_of(claim).get(_BIND_COMPLETED) == "yes" and status.get("phase") != "Lost":
            words = "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
            return Decision([*set_status(PVC, claim, {**status, "phase": "Lost"}), Record(claim, "Warning", "ClaimLost", words, COMPONENT)])
        return Decision(set_status(PVC, claim, {**status, "phase": status.get("phase") or "Pending"}))
    reference = volume["spec"].get("claimRef")
    if reference is None or (not reference.get("uid") and _names(reference, claim)):
        return _bind(claim, volume)
    if reference.get("uid") != uid_of(claim):
        words = f'volume "{name_of(volume)}" already bound to a different claim.'
        steps = set_status(PVC, claim, {**status, "phase": "Pending"})
        return Decision([*steps, Record(claim, "Warning", "FailedBinding", words, COMPONENT)] if steps else [])
    return Decision(_confirm(claim, volume))


def _confirm(claim: Manifest, volume: Manifest) -> list[Step]:
    steps: list[Step] = []
    if annotations_of(claim).get(_BIND_COMPLETED) != "yes":
        steps.append(Patch(PVC, claim, {"metadata": {"annotations": {_BIND_COMPLETED: "yes"}}}))
    wanted = {"phase": "Bound", "accessModes": volume["spec"].get("accessModes") or [], "capacity": volume["spec"].get("capacity") or {}}
    return [*steps, *set_status(PVC, claim, {**(claim.get("status") or {}), **wanted})]


def _bind(claim: Manifest, volume: Manifest) -> Decision:
    """The volume first: a claim that names a volume which names another would be lost."""
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": namespace_of(claim),
        "name": name_of(claim),
        "uid": uid_of(claim),
    }
    steps: list[Step] = []
    if (volume["spec"].get("claimRef") or {}).get("uid") != uid_of(claim):
        steps.append(Patch(PV, volume, {"metadata": {"annotations": {_BOUND_BY: "yes"}}, "spec": {"claimRef": reference}}))
    marks = {_BIND_COMPLETED: "yes", _BOUND_BY: "yes"}
    steps.append(Patch(PVC, claim, {"metadata": {"annotations": marks}, "spec": {"volumeName": name_of(volume)}}))
    return Decision(steps)


def _fitting(claim: Manifest, wanted: str, volumes: Sequence[Manifest]) -> Manifest | None:
    """The volume meant for this claim, else the smallest free one that fits."""
    meant = [one for one in volumes if (reference := one["spec"].get("claimRef")) and _names(reference, claim) and not is_deleting(one)]
    if meant:
        return meant[0]
    free = [one for one in volumes if not one["spec"].get("claimRef") and not is_deleting(one) and _fits(claim, wanted, one)]
    return min(free, key=lambda one: (_capacity(one), name_of(one)), default=None)


def _names(reference: Manifest, claim: Manifest) -> bool:
    same = (reference.get("namespace"), reference.get("name")) == (namespace_of(claim), name_of(claim))
    return same and reference.get("uid") in (None, "", uid_of(claim))


def _fits(claim: Manifest, wanted: str, volume: Manifest) -> bool:
    asked, offered = claim["spec"], volume["spec"]
    terms = from_label_selector(asked["selector"]) if asked.get("selector") else ()
    return (
        wanted == (offered.get("storageClassName") or "")
        and (asked.get("volumeMode") or "Filesystem") == (offered.get("volumeMode") or "Filesystem")
        and set(asked.get("accessModes") or ()) <= set(offered.get("accessModes") or ())
        and _asked(claim) <= _capacity(volume)
        and selects(terms, labels_of(volume))
    )


def _asked(claim: Manifest) -> int:
    return thousandths(str((((claim["spec"].get("resources") or {}).get("requests")) or {}).get("storage", "0")))


def _capacity(volume: Manifest) -> int:
    return thousandths(str((volume["spec"].get("capacity") or {}).get("storage", "0")))


def _default(classes: Iterable[Manifest]) -> Manifest | None:
    """The newest of the default classes, as Kubernetes takes it."""
    found = [one for one in classes if annotations_of(one).get(_DEFAULT_CLASS) == "true"]
    return max(found, key=lambda one: (one["metadata"].get("creationTimestamp") or "", name_of(one)), default=None)


def _provision(claim: Manifest, wanted: str, classes: Sequence[Manifest], root: Path) -> Decision:
    found = next((one for one in classes if name_of(one) == wanted), None)
    waiting = set_status(PVC, claim, {**(claim.get("status") or {}), "phase": "Pending"})
    if found is None or found.get("provisioner") != PROVISIONER:
        if (claim.get("status") or {}).get("phase") == "Pending" and annotations_of(claim).get(_REFUSED) == wanted:
            return NOTHING
        return Decision([*waiting, *_refusal(claim, wanted, found)])
    if claim["spec"].get("selector"):
        words = f"claim.Spec.Selector is not supported for dynamic provisioning on class {wanted!r}"
        return Decision([*waiting, *([Record(claim, "Warning", "ProvisioningFailed", words, COMPONENT)] if waiting else [])])
    return Decision([*waiting, Create(PV, volume_for(claim, found, root))])


def _refusal(claim: Manifest, wanted: str, found: Manifest | None) -> list[Step]:
    """Say once why nothing is provisioned."""
    if not wanted:
        words = "no persistent volumes available for this claim and no storage class is set"
        reason, sort = "FailedBinding", "Normal"
    elif found is None:
        words, reason, sort = f'storageclass.storage.k8s.io "{wanted}" not found', "ProvisioningFailed", "Warning"
    else:
        words = f"Waiting for a volume to be created either by the external provisioner '{found['provisioner']}' or manually by the system administrator."
        reason, sort = "ExternalProvisioning", "Normal"
    mark = Patch(PVC, claim, {"metadata": {"annotations": {_REFUSED: wanted}}})
    return [mark, Record(claim, sort, reason, words, COMPONENT)]


def volume_for(claim: Manifest, storage: Manifest, root: Path) -> Manifest:
    """The whole volume for a claim; its name follows from the claim's uid, so that making it twice makes one."""
    name = f"pvc-{uid_of(claim)}"
    spec: dict[str, Any] = {
        "capacity": {"storage": (((claim["spec"].get("resources") or {}).get("requests")) or {}).get("storage", "1Gi")},
        "accessModes": list(claim["spec"].get("accessModes") or ["ReadWriteOnce"]),
        "persistentVolumeReclaimPolicy": storage.get("reclaimPolicy") or "Delete",
        "storageClassName": name_of(storage),
        "volumeMode": "Filesystem",
        "hostPath": {"path": os.fspath(root / name), "type": "DirectoryOrCreate"},
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": namespace_of(claim),
            "name": name_of(claim),
            "uid": uid_of(claim),
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {_PROVISIONED_BY: PROVISIONER}, "finalizers": [_PROTECTION]},
        "spec": spec,
    }
