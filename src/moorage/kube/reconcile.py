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
    """

    parent: Manifest
    children: Mapping[str, Sequence[Manifest]]
    now: datetime
    related: Mapping[str, Sequence[Manifest]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be.

    Args:
        children: complete manifests. Owned children of the declared kinds that are not among them are deleted, unless `status` is None.
        status: the parent's whole status; written only when it differs. None: nothing could be decided, touch nothing.
        requeue_after: look again after this even if nothing changes.
        shared: complete manifests that several parents want alike, e.g. a namespace's volume claim: created while missing, owned by nobody, never
            changed or deleted. Their kinds stand in the controller's configuration.
        events: (type, reason, message) to record on the parent, `type` being Normal or Warning; repeated ones are counted, not multiplied.
    """

    children: Sequence[Manifest] = ()
    status: Manifest | None = None
    requeue_after: timedelta | None = None
    events: Sequence[tuple[str, str, str]] = ()
    shared: Sequence[Manifest] = ()


Reconcile = Callable[[Observed], Plan]
