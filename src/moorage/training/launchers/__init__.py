"""Launchers turn one pod template into the objects that run a job: one pod, or the pods of a job of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from moorage.specs.distribution import Layout
from moorage.specs.manifest import Manifest
from moorage.training.launchers import gang, mpi, plain
from moorage.training.template import Rendering


class Launcher(Protocol):
    """Pure: complete manifests with deterministic names; the last is the Job, after what its pods need."""

    def __call__(self, rendering: Rendering) -> Sequence[Manifest]: ...


def choose(found: Layout) -> Launcher:
    """The launcher of a job's layout."""
    if found.type == "Mpi":
        return mpi.launch
    return gang.launch if found.together else plain.launch
