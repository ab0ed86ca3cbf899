"""Launchers turn one pod template into the objects that run a job: one pod, or the pods of a job of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from moorage.errors import Invalid
from moorage.specs.distribution import Layout
from moorage.specs.manifest import Manifest
from moorage.training.launchers import gang, plain
from moorage.training.template import Rendering


class Launcher(Protocol):
    """Pure: complete manifests with deterministic names; the first is the Job."""

    def __call__(self, rendering: Rendering) -> Sequence[Manifest]: ...


def choose(found: Layout) -> Launcher:
    """The launcher of a job's layout; Invalid for one that is not there yet."""
    if found.type == "Mpi":
        raise Invalid(
            f"The job asks for Mpi on {found.pods} instances; MPI comes with a later version. Use the distribution PyTorch, or none.",
            code="DistributionNotSupported",
            target="distribution",
        )
    return gang.launch if found.together else plain.launch
