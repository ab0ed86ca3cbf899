"""ControllerRevisions: the templates a StatefulSet or DaemonSet has had, which of them is today's, and which may be forgotten. Pure.

`kubectl rollout history` and `undo` read them: a revision's data is a strategic patch that puts its template back.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moorage.embedded.control.objects import annotations_of, canonical, created_at, short_hash
from moorage.embedded.control.steps import Create, Delete, Patch, Step
from moorage.kube.kinds import CONTROLLER_REVISION, Kind
from moorage.kube.metadata import is_deleting, labels_of, name_of, namespace_of, owner_reference
from moorage.specs.manifest import Manifest

POD_LABEL = "controller-revision-hash"
_LONGEST_PREFIX = 223


@dataclass(frozen=True, slots=True)
class History:
    """An owner's revisions, oldest first. While `steps` is not empty they have to be written before anything else, and there is no `update` yet."""

    all: Sequence[Manifest]
    update: Manifest | None = None
    steps: Sequence[Step] = ()

    def named(self, name: str) -> Manifest | None:
        return next((one for one in self.all if name_of(one) == name), None)


def history(owner: Manifest, kind: Kind, label: str, owned: Sequence[Manifest], candidates: Sequence[Manifest], now: datetime) -> History:
    """Find today's template among the revisions `owned`, or say how it becomes one.

    Args:
        kind: the owner's.
        label: where a revision carries its hash.
        candidates: every revision of the namespace whose name could be in the way.
    """
    ordered = sorted(owned, key=lambda one: (one.get("revision", 0), created_at(one, now), name_of(one)))
    template = canonical(owner["spec"]["template"])
    latest = ordered[-1].get("revision", 0) if ordered else 0
    equal = [one for one in ordered if canonical(template_of(one)) == template]
    if equal and equal[-1] is ordered[-1]:
        return History(ordered, equal[-1])
    if equal:
        # Rolled back: the old revision becomes the newest.
        return History(ordered, steps=[Patch(CONTROLLER_REVISION, equal[-1], {"revision": latest + 1})])
    made = _revision(owner, label, latest + 1)
    if any(name_of(one) == name_of(made) for one in candidates):
        count = (owner.get("status") or {}).get("collisionCount", 0) + 1
        return History(ordered, steps=[Patch(kind, owner, {"status": {"collisionCount": count}}, "status")])
    return History(ordered, steps=[Create(CONTROLLER_REVISION, made)])


def template_of(revision: Manifest) -> Mapping[str, Any]:
    """The pod template a revision puts back."""
    template = ((revision.get("data") or {}).get("spec") or {}).get("template") or {}
    return {name: value for name, value in template.items() if name != "$patch"}


def hash_of(revision: Manifest, label: str) -> str:
    return labels_of(revision).get(label) or name_of(revision)


def forget(owner: Manifest, revisions: Sequence[Manifest], live: Collection[str]) -> list[Step]:
    """Delete the oldest revisions beyond the history limit that nobody runs any more; `live` are names in use."""
    limit: int = owner["spec"].get("revisionHistoryLimit", 10)
    idle = [one for one in revisions if name_of(one) not in live and not is_deleting(one)]
    return [Delete(CONTROLLER_REVISION, one) for one in idle[: max(0, len(idle) - limit)]]


def _revision(owner: Manifest, label: str, number: int) -> Manifest:
    template = copy.deepcopy(owner["spec"]["template"])
    collisions = (owner.get("status") or {}).get("collisionCount", 0)
    mark = short_hash(canonical(template), *([str(collisions)] if collisions else []))
    metadata: Manifest = {
        "name": f"{name_of(owner)[:_LONGEST_PREFIX]}-{mark}",
        "namespace": namespace_of(owner),
        "labels": {**((template.get("metadata") or {}).get("labels") or {}), label: mark},
        "ownerReferences": [owner_reference(owner)],
    }
    if annotations := dict(annotations_of(owner)):
        metadata["annotations"] = annotations
    return {
        "apiVersion": CONTROLLER_REVISION.api_version,
        "kind": CONTROLLER_REVISION.kind,
        "metadata": metadata,
        "data": {"spec": {"template": {**template, "$patch": "replace"}}},
        "revision": number,
    }
