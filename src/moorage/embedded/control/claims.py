"""The persistent volume claims of a StatefulSet's pods: made before the pod, kept after it, unless the set's retention policy says otherwise. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from moorage.embedded.control.steps import Create, Patch, Step
from moorage.kube.kinds import POD, PVC, STATEFUL_SET
from moorage.kube.metadata import is_deleting, name_of, namespace_of, owner_reference, uid_of
from moorage.specs.manifest import Manifest


def _templates(stateful_set: Manifest) -> Sequence[Manifest]:
    return stateful_set["spec"].get("volumeClaimTemplates") or ()


def claim_name(stateful_set: Manifest, template: Manifest, ordinal: int) -> str:
    return f"{name_of(template)}-{name_of(stateful_set)}-{ordinal}"


def volumes(stateful_set: Manifest, ordinal: int) -> list[Manifest]:
    """The pod's volumes that are its claims."""
    return [
        {"name": name_of(one), "persistentVolumeClaim": {"claimName": claim_name(stateful_set, one, ordinal)}}
        for one in _templates(stateful_set)
    ]


def missing(stateful_set: Manifest, pod: str, ordinal: int, known: Mapping[str, Manifest], component: str) -> list[Step]:
    """Create the claims of a pod that do not exist."""
    steps: list[Step] = []
    for template in _templates(stateful_set):
        name = claim_name(stateful_set, template, ordinal)
        if name in known:
            continue
        place = f"Pod {pod} in StatefulSet {name_of(stateful_set)}"
        words = f"Create Claim {name} {place} success", f"Create Claim {name} for {place} failed error: "
        steps.append(Create(PVC, _claim(stateful_set, template, name), announce=stateful_set, component=component, words=words))
    return steps


def _claim(stateful_set: Manifest, template: Manifest, name: str) -> Manifest:
    given = template["metadata"]
    labels = {**(given.get("labels") or {}), **(stateful_set["spec"]["selector"].get("matchLabels") or {})}
    metadata: Manifest = {"name": name, "namespace": namespace_of(stateful_set), "labels": labels}
    if given.get("annotations"):
        metadata["annotations"] = dict(given["annotations"])
    return {"apiVersion": PVC.api_version, "kind": PVC.kind, "metadata": metadata, "spec": copy.deepcopy(template["spec"])}


def leaving(stateful_set: Manifest, ordinal: int, known: Mapping[str, Manifest]) -> str | None:
    """A claim of the ordinal that is being deleted: no pod can be made until it is gone."""
    names = (claim_name(stateful_set, template, ordinal) for template in _templates(stateful_set))
    return next((name for name in names if name in known and is_deleting(known[name])), None)


def is_stale(stateful_set: Manifest, pod: str, ordinal: int, known: Mapping[str, Manifest]) -> bool:
    """Whether a claim still belongs to an earlier pod of this name, and will go with it."""
    if _policy(stateful_set, "whenScaled") == "Retain":
        return False
    names = (claim_name(stateful_set, template, ordinal) for template in _templates(stateful_set))
    found = [known[name] for name in names if name in known]
    return any(_matches(reference, POD.kind, pod) for one in found for reference in _references(one))


def kept(stateful_set: Manifest, pod: Manifest, known: Mapping[str, Manifest], *, wanted: bool) -> list[Step]:
    """Make the owners of a pod's claims say what the retention policy does; `wanted`: the pod is not one too many."""
    steps: list[Step] = []
    ordinal = name_of(pod).rpartition("-")[2]
    for template in _templates(stateful_set):
        found = known.get(f"{name_of(template)}-{name_of(stateful_set)}-{ordinal}")
        if found is None or is_deleting(found):
            continue
        references = _references(found)
        ours = [_ours(reference, stateful_set, pod) for reference in references]
        if any(our is False for our in ours):
            continue  # of an earlier set or pod of that name: the garbage collector's
        others = [reference for reference, our in zip(references, ours, strict=True) if our is None]
        after = others if any(one.get("controller") for one in others) else [*others, *_owners(stateful_set, pod, wanted=wanted)]
        if after != references:
            steps.append(Patch(PVC, found, {"metadata": {"ownerReferences": after or None}}))
    return steps


def _owners(stateful_set: Manifest, pod: Manifest, *, wanted: bool) -> list[Manifest]:
    if not wanted and _policy(stateful_set, "whenScaled") == "Delete":
        return [owner_reference(pod)]
    return [owner_reference(stateful_set)] if _policy(stateful_set, "whenDeleted") == "Delete" else []


def _ours(reference: Manifest, stateful_set: Manifest, pod: Manifest) -> bool | None:
    """True for a reference to this set or pod, False for one to an earlier of its name, None for any other."""
    for kind, owner in ((STATEFUL_SET.kind, stateful_set), (POD.kind, pod)):
        if _matches(reference, kind, name_of(owner)):
            return bool(reference.get("uid") == uid_of(owner))
    return None


def _matches(reference: Manifest, kind: str, name: str) -> bool:
    return reference.get("kind") == kind and reference.get("name") == name


def _references(claim: Manifest) -> list[Manifest]:
    return list(claim["metadata"].get("ownerReferences") or ())


def _policy(stateful_set: Manifest, moment: str) -> str:
    policy: str = (stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}).get(moment, "Retain")
    return policy
