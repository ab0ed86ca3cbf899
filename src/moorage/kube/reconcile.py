"""What a pure reconcile sees and answers; the runtime in `controller.py` does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from moorage.specs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Observed:
    """The world around one parent at one moment.

    Args:
        parent: the object being reconciled.
        children: what it owns (controller owner reference), keyed by kind (`"Pod"`), grandchildren included where the controller declares them.
        related: objects it reads and does not own (InstanceTypes, PVCs of the namespace), keyed by kind.
        now: wall-clock UTC.
        forbidden: what the cluster said when it forbade the notes of the last plan; empty when it did not. Nothing else is known of how a plan fared.
    """

    parent: Manifest
    children: Mapping[str, Sequence[Manifest]]
    now: datetime
    related: Mapping[str, Sequence[Manifest]] = field(default_factory=dict)
    forbidden: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Annotations for a descendant, which belongs to another controller: a pod of the parent's Job. Others of its annotations stay.

    Args:
        of: the object as it was seen; of a kind among the controller's descendants.
        annotations: what should stand there.
    """

    of: Manifest
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be.

    Args:
        children: complete manifests. Owned children of the declared kinds that are not among them are deleted, unless `status` is None.
        status: the parent's whole status; written only when it differs. None: nothing could be decided, touch nothing.
        requeue_after: look again after this even if nothing changes.
        shared: complete manifests that several parents want alike, e.g. a namespace's volume claim: created while missing, owned by nobody, never
            changed or deleted. Their kinds stand in the controller's configuration.
        notes: annotations for descendants, written when the children and the status are; nothing for those that have them.
        events: (type, reason, message) to record on the parent, `type` being Normal or Warning; repeated ones are counted, not multiplied.
    """

    children: Sequence[Manifest] = ()
    status: Manifest | None = None
    requeue_after: timedelta | None = None
    events: Sequence[tuple[str, str, str]] = ()
    shared: Sequence[Manifest] = ()
    notes: Sequence[Note] = ()


Reconcile = Callable[[Observed], Plan]
