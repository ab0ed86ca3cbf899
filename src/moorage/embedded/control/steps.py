"""What a decision may ask for: the few writes every controller of the cluster is made of. They are carried out in order; the first failure ends the turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from moorage.errors import MoorageError
from moorage.kube.cluster import PatchType
from moorage.kube.kinds import Kind
from moorage.kube.merge import merge_patch
from moorage.specs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Create:
    """Make an object. With `announce`, the outcome is recorded on that object (`SuccessfulCreate`, `FailedCreate`).

    `words` are what the two events say in place of the usual; the second is followed by what was wrong. `otherwise` is what a refusal writes.
    """

    kind: Kind
    manifest: Manifest
    announce: Manifest | None = None
    component: str = ""
    words: tuple[str, str] | None = None
    otherwise: Callable[[MoorageError], Patch] | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Ask for deletion of exactly this object (its uid is a precondition); one that is gone already counts as done."""

    kind: Kind
    object: Manifest
    grace: timedelta | None = None
    propagation: str = "Background"
    announce: Manifest | None = None
    component: str = ""


@dataclass(frozen=True, slots=True)
class Patch:
    """Merge a patch into the object as it was seen: a version that has moved on is a Conflict, and the turn is repeated on the newer one.

    A strategic patch only names the object; it is for lists that have several writers, such as a pod's conditions.
    """

    kind: Kind
    object: Manifest
    patch: Mapping[str, Any]
    subresource: str | None = None
    type: PatchType = PatchType.MERGE


@dataclass(frozen=True, slots=True)
class Bind:
    """Give a pod to a node, as `POST pods/NAME/binding` does: the one way in which a pod's node may be set."""

    pod: Manifest
    node: str


@dataclass(frozen=True, slots=True)
class Record:
    """An event about an object. The same one again counts up."""

    regarding: Manifest
    type: str
    reason: str
    message: str
    component: str


Step = Bind | Create | Delete | Patch | Record


@dataclass(frozen=True, slots=True)
class Decision:
    """The writes of one turn, and when to look again even if nothing changes.

    `apart` are runs of steps that have nothing to do with each other: each is carried out even if another fails.
    """

    steps: Sequence[Step] = ()
    requeue_after: timedelta | None = None
    apart: Sequence[Sequence[Step]] = ()


NOTHING = Decision()


def set_status(kind: Kind, seen: Manifest, status: Mapping[str, Any]) -> list[Step]:
    """The step that makes `status` the object's status, none when it is already."""
    patch = merge_patch(seen.get("status") or {}, dict(status))
    return [Patch(kind, seen, {"status": patch}, "status")] if patch else []


def sooner(*waits: timedelta | None) -> timedelta | None:
    """The shortest of the waits that there are."""
    return min((wait for wait in waits if wait is not None), default=None)
