"""What a controller is made of: its parent, what it owns, what it reads, and the pure function that decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from moorage.kube.kinds import Kind
from moorage.kube.reconcile import Reconcile
from moorage.specs.manifest import Manifest


class Update(Enum):
    """What happens when the plan's manifest of a living child changes."""

    IN_PLACE = auto()  # apply it
    ON_DELETE = auto()  # leave the child as it is until something deletes it; for immutable ones, e.g. a batch/v1 Job's pod template


@dataclass(frozen=True, slots=True)
class Child:
    """A kind of object the parent owns.

    Args:
        labels: selector every such child matches; keeps other people's objects out of memory.
    """

    kind: Kind
    labels: str | None = None
    update: Update = Update.IN_PLACE


@dataclass(frozen=True, slots=True)
class OwnedThrough:
    """Descendants found along controller references: `OwnedThrough(POD, (DEPLOYMENT, REPLICA_SET))` are a parent's Deployments' ReplicaSets' Pods.

    Args:
        through: kinds between the parent and the descendant, from the parent down; the first is one of its children.
    """

    kind: Kind
    through: tuple[Kind, ...]
    labels: str | None = None


@dataclass(frozen=True, slots=True)
class Labelled:
    """Descendants found by labels in the parent's namespace: `Labelled(POD, ("moorage.dev/job",), lambda parent: (name_of(parent),))`.

    Args:
        keys: the label keys.
        values: of a parent: the value of each key on its descendants.
    """

    kind: Kind
    keys: tuple[str, ...]
    values: Callable[[Manifest], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Related:
    """Objects the parent reads and does not own; of its namespace when they have one. A change of one wakes the parents it concerns.

    Args:
        labels, fields: selectors; keep what no parent reads out of memory.
        concerns: (parent, related) whether the parent reads it; None: all of the namespace, or of the cluster.
        matters: (old, new) whether a change can make a difference, e.g. for Nodes, whose status is written all the time.
    """

    kind: Kind
    labels: str | None = None
    fields: str | None = None
    concerns: Callable[[Manifest, Manifest], bool] | None = None
    matters: Callable[[Manifest, Manifest], bool] | None = None


def lies_in(parent: Manifest, namespace: Manifest) -> bool:
    """`Related.concerns` of Namespaces: the parent's own."""
    return bool(parent["metadata"].get("namespace") == namespace["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """One controller.

    Args:
        name: for logs and as the source of events.
        manager: field manager of everything it applies.
        namespace: only parents there; None means all.
        finalizer: with `finalize`: set on every parent, and taken away once `finalize` plans no children and none is left.
        finalize: plans instead of `reconcile` while the parent is being deleted.
        workers: parents worked on at once.
        longest_backoff: between attempts at one parent that keeps failing.
    """

    name: str
    parent: Kind
    reconcile: Reconcile
    manager: str
    children: Sequence[Child] = ()
    descendants: Sequence[OwnedThrough | Labelled] = ()
    related: Sequence[Related] = ()
    shared: Sequence[Kind] = ()
    namespace: str | None = None
    finalizer: str | None = None
    finalize: Reconcile | None = None
    workers: int = 4
    longest_backoff: timedelta = timedelta(minutes=2)
