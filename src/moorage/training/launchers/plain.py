"""One pod runs the command."""

from __future__ import annotations

from moorage.specs.manifest import Manifest
from moorage.training.template import Rendering


def launch(rendering: Rendering) -> list[Manifest]:
    """A Job of one pod that is never run twice for the command's own failure."""
    job: Manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": rendering.metadata,
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,
            # A pod that the cluster takes away (node drained or lost, preemption) is replaced and not counted; any other failure ends the job.
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}],
            },
            "template": {"metadata": {"labels": rendering.metadata["labels"]}, "spec": rendering.pod},
        },
    }
    return [job]
