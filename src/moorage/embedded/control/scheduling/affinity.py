"""Node selectors and taints: whether a node is one the pod wants, and one that wants the pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moorage.embedded.control.scheduling.snapshot import Room
from moorage.kube.metadata import labels_of, name_of
from moorage.specs.manifest import Manifest

UNSCHEDULABLE_TAINT = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def matches_requirements(pod: Manifest, node: Manifest) -> bool:
    """`nodeSelector` and the required node affinity."""
    spec, labels = pod.get("spec") or {}, labels_of(node)
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    required = node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or any(_meets(term, name_of(node), labels) for term in required.get("nodeSelectorTerms") or ())


def matches_node(pod: Manifest, room: Room) -> bool:
    return matches_requirements(pod, room.node)


def preference(pod: Manifest, room: Room) -> int:
    """The summed weights of the preferred terms the node meets."""
    preferred = node_affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return sum(one.get("weight", 0) for one in preferred if matches_term(one.get("preference") or {}, room))


def node_affinity(pod: Manifest) -> Mapping[str, Any]:
    affinity = ((pod.get("spec") or {}).get("affinity") or {}).get("nodeAffinity")
    return affinity or {}


def matches_term(term: Mapping[str, Any], room: Room) -> bool:
    """One nodeSelectorTerm; an empty one matches nothing."""
    return _meets(term, room.name, room.labels)


def _meets(term: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    named = {"metadata.name": name}
    return all(_holds(one, labels) for one in expressions) and all(_holds(one, named) for one in fields)


def _holds(requirement: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    key, wanted = requirement.get("key", ""), requirement.get("values") or ()
    match requirement.get("operator"):
        case "In":
            return values.get(key) in wanted
        case "NotIn":
            return values.get(key) not in wanted
        case "Exists":
            return key in values
        case "DoesNotExist":
            return key not in values
        case "Gt" | "Lt" as operator:
            return _compares(operator, values.get(key, ""), wanted)
        case _:
            return False


def _compares(operator: str, text: str, wanted: Sequence[str]) -> bool:
    try:
        have, bound = int(text), int(wanted[0])
    except (ValueError, IndexError):
        return False
    return have > bound if operator == "Gt" else have < bound


def taints_of(node: Manifest) -> Sequence[Manifest]:
    return (node.get("spec") or {}).get("taints") or ()


def tolerates(pod: Manifest, taint: Mapping[str, Any]) -> bool:
    return any(_tolerates(one, taint) for one in (pod.get("spec") or {}).get("tolerations") or ())


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("operator") == "Exists":
        return not toleration.get("key") or toleration["key"] == taint["key"]
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated(pod: Manifest, node: Manifest) -> Manifest | None:
    """The first taint that keeps the pod away."""
    for taint in taints_of(node):
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not tolerates(pod, taint):
            found: Manifest = taint
            return found
    return None


def disliked(pod: Manifest, node: Manifest) -> int:
    """How many soft taints the pod does not tolerate."""
    return sum(taint.get("effect") == "PreferNoSchedule" and not tolerates(pod, taint) for taint in taints_of(node))
