"""Required pod affinity and anti-affinity, and hard topology spread: where a pod may be, given where other pods are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from moorage.embedded.control.objects import selects
from moorage.embedded.control.scheduling.snapshot import Room, Snapshot
from moorage.embedded.selectors import LabelTerm, from_label_selector
from moorage.errors import Invalid
from moorage.kube.metadata import labels_of, namespace_of
from moorage.specs.manifest import Manifest

_NOTHING = (LabelTerm("", "in"),)
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
NO_AFFINITY = "node(s) didn't match pod affinity rules"
NO_ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
EXISTING = "node(s) didn't satisfy existing pods anti-affinity rules"
SPREAD = "node(s) didn't match pod topology spread constraints"
UNSUPPORTED = "pod affinity with namespaceSelector is not supported by the embedded scheduler; name the namespaces instead"


def terms_of(pod: Manifest, sort: str) -> Sequence[Mapping[str, Any]]:
    """The required terms of `podAffinity` or `podAntiAffinity`."""
    affinity = ((pod.get("spec") or {}).get("affinity") or {}).get(sort) or {}
    return affinity.get(_REQUIRED) or ()


def matters(pod: Manifest) -> bool:
    """Whether where other pods are decides about this one; such a decision cannot be carried over to its like."""
    spec = pod.get("spec") or {}
    affinity = spec.get("affinity") or {}
    return bool(affinity.get("podAffinity") or affinity.get("podAntiAffinity") or spec.get("topologySpreadConstraints"))


def unsupported(pod: Manifest) -> str | None:
    every = (*terms_of(pod, "podAffinity"), *terms_of(pod, "podAntiAffinity"))
    return UNSUPPORTED if any(term.get("namespaceSelector") is not None for term in every) else None


def objection(pod: Manifest, room: Room, snapshot: Snapshot) -> str | None:
    """Why the pod's neighbours keep it off the node, None when they do not."""
    for term in terms_of(pod, "podAffinity"):
        if not _near(pod, term, room, snapshot) and not _first_of_its_kind(pod, term, room, snapshot):
            return NO_AFFINITY
    if any(_near(pod, term, room, snapshot) for term in terms_of(pod, "podAntiAffinity")):
        return NO_ANTI_AFFINITY
    for other in snapshot.rooms.values():
        for neighbour in other.pods.values():
            for term in terms_of(neighbour, "podAntiAffinity"):
                if _same_domain(term, room, other) and _meant(neighbour, term, pod):
                    return EXISTING
    return SPREAD if any(_too_many(pod, one, room, snapshot) for one in _spreads(pod)) else None


def _near(pod: Manifest, term: Mapping[str, Any], room: Room, snapshot: Snapshot) -> bool:
    spaces = term.get("namespaces") or [namespace_of(pod)]
    return any(_same_domain(term, room, other) and _meant(pod, term, neighbour) for other, neighbour in snapshot.neighbours(spaces))


def _first_of_its_kind(pod: Manifest, term: Mapping[str, Any], room: Room, snapshot: Snapshot) -> bool:
    """A pod that wants to be near its like may go anywhere when there is none yet."""
    spaces = term.get("namespaces") or [namespace_of(pod)]
    nobody = not any(_meant(pod, term, neighbour) for _, neighbour in snapshot.neighbours(spaces))
    return nobody and _meant(pod, term, pod) and term.get("topologyKey", "") in room.labels


def _same_domain(term: Mapping[str, Any], room: Room, other: Room) -> bool:
    key = term.get("topologyKey", "")
    return key in room.labels and room.labels[key] == other.labels.get(key)


def _meant(owner: Manifest, term: Mapping[str, Any], candidate: Manifest) -> bool:
    """Whether the term of `owner` speaks of `candidate`."""
    if term.get("labelSelector") is None:
        return False
    if namespace_of(candidate) not in (term.get("namespaces") or [namespace_of(owner)]):
        return False
    return selects(_terms(term["labelSelector"]), labels_of(candidate))


def _terms(selector: Mapping[str, Any] | None) -> Sequence[LabelTerm]:
    """A selector that cannot be read selects nothing: raised from here, one pod's would keep all others from being placed."""
    try:
        return from_label_selector(selector)
    except Invalid:
        return _NOTHING


def _spreads(pod: Manifest) -> list[Mapping[str, Any]]:
    constraints = (pod.get("spec") or {}).get("topologySpreadConstraints") or ()
    return [one for one in constraints if one.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule"]


def _too_many(pod: Manifest, constraint: Mapping[str, Any], room: Room, snapshot: Snapshot) -> bool:
    key = constraint["topologyKey"]
    if key not in room.labels:
        return True
    terms = _terms(constraint.get("labelSelector"))
    counts: Counter[str] = Counter({other.labels[key]: 0 for other in snapshot.rooms.values() if key in other.labels})
    for other, neighbour in snapshot.neighbours([namespace_of(pod)]):
        if key in other.labels and selects(terms, labels_of(neighbour)):
            counts[other.labels[key]] += 1
    own = int(selects(terms, labels_of(pod)))
    skew: int = constraint.get("maxSkew", 1)
    return counts[room.labels[key]] + own - min(counts.values()) > skew
