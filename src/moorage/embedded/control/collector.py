"""The garbage collector: what an object's owners mean for it once they are gone or going. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from moorage.embedded.control.objects import finalizers_of
from moorage.embedded.control.steps import NOTHING, Decision, Delete, Patch, Step
from moorage.kube.kinds import Kind
from moorage.kube.metadata import is_deleting, uid_of
from moorage.specs.manifest import Manifest

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


class Owner(Enum):
    """How an owner reference stands."""

    ALIVE = auto()
    GONE = auto()
    WAITING = auto()  # it is being deleted in the foreground and waits for its dependents
    UNKNOWN = auto()  # its kind is not served or not listed yet: nothing may be concluded


@dataclass(frozen=True, slots=True)
class Node:
    """An object with its kind, as the collector sees all kinds alike."""

    kind: Kind
    object: Manifest

    @property
    def references(self) -> Sequence[Manifest]:
        return self.object["metadata"].get("ownerReferences") or ()


def decide(node: Node, standing: Callable[[Manifest], Owner], dependents: Sequence[Node]) -> Decision:
    """One turn for an object; `dependents` are those that name it as owner."""
    if is_deleting(node.object):
        return _going(node, dependents)
    if not node.references:
        return NOTHING
    stands = [(reference, standing(reference)) for reference in node.references]
    if any(state is Owner.UNKNOWN for _, state in stands):
        return NOTHING
    kept = [reference for reference, state in stands if state is Owner.ALIVE]
    if len(kept) == len(stands):
        return NOTHING
    if kept:
        return Decision([Patch(node.kind, node.object, {"metadata": {"ownerReferences": kept}})])
    return Decision([Delete(node.kind, node.object, propagation=_propagation(node, stands, dependents))])


def _propagation(node: Node, stands: Sequence[tuple[Manifest, Owner]], dependents: Sequence[Node]) -> str:
    """A dependent of a foreground deletion goes the same way, so that the owner outlives all that is below it."""
    finalizers = finalizers_of(node.object)
    if ORPHAN in finalizers:
        return "Orphan"
    waited_for = any(state is Owner.WAITING for _, state in stands) and bool(dependents)
    return "Foreground" if waited_for or FOREGROUND in finalizers else "Background"


def _going(node: Node, dependents: Sequence[Node]) -> Decision:
    """An object that is being deleted behind one of the collector's finalizers."""
    finalizers = finalizers_of(node.object)
    if ORPHAN in finalizers:
        freed: list[Step] = [Patch(one.kind, one.object, _disowned(one, uid_of(node.object))) for one in dependents]
        return Decision([*freed, _without(node, ORPHAN)])
    if FOREGROUND in finalizers and not any(_blocks(one, uid_of(node.object)) for one in dependents):
        return Decision([_without(node, FOREGROUND)])
    return NOTHING


def _blocks(dependent: Node, uid: str) -> bool:
    return any(reference.get("uid") == uid and reference.get("blockOwnerDeletion") for reference in dependent.references)


def _disowned(dependent: Node, uid: str) -> dict[str, object]:
    left = [reference for reference in dependent.references if reference.get("uid") != uid]
    return {"metadata": {"ownerReferences": left or None}}


def _without(node: Node, finalizer: str) -> Patch:
    left = [one for one in finalizers_of(node.object) if one != finalizer]
    return Patch(node.kind, node.object, {"metadata": {"finalizers": left or None}})
