"""Launchers turn one pod template into the objects that run a job: one pod now, ranks of a distributed job later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.training.launchers import plain
from moorage.training.template import Rendering


class Launcher(Protocol):
    """Pure: complete manifests with deterministic names; the first is the Job."""

    def __call__(self, rendering: Rendering) -> Sequence[Manifest]: ...


def choose(spec: Manifest) -> Launcher:
    """The launcher of a job's distribution; Invalid for one that is not there yet."""
    count = (spec.get("resources") or {}).get("instanceCount", 1)
    distribution = (spec.get("distribution") or {}).get("type")
    if distribution or count > 1:
        wish = f"{distribution} on {count} instances" if distribution else f"{count} instances"
        raise Invalid(
            f"The job asks for {wish}; distributed training comes with a later version. "
            "Run it with instance_count 1 and without distribution.",
            code="DistributionNotSupported",
            target="distribution" if distribution else "resources.instance_count",
        )
    return plain.launch
