"""One pod runs the command."""

from __future__ import annotations

from moorage.specs import workload
from moorage.specs.manifest import Manifest
from moorage.training.template import UPLOAD_CONTAINER, Rendering

# How often a pod that was killed while it was being prepared is replaced.
RETRIES = 3
KILLED = 137


def launch(rendering: Rendering) -> list[Manifest]:
    """A Job of one pod that is never run twice for the command's own failure."""
    job: Manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": rendering.metadata,
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": RETRIES,
            "podFailurePolicy": {"rules": failure_rules(rendering.pod)},
            "template": {"metadata": {"labels": rendering.metadata["labels"]}, "spec": rendering.pod},
        },
    }
    return [job]


def failure_rules(pod: Manifest) -> list[Manifest]:
    """What a failed pod means for its Job; the first rule that holds counts.

    A pod that the cluster takes away (node drained or lost, preemption) is replaced and not counted. One whose preparation was killed before the
    command began is replaced a few times. Any other failure ends the job.
    """
    rules: list[Manifest] = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    names = [container["name"] for container in (*pod["containers"], *pod["initContainers"])]
    for name in names:
        # What these two do can be done again; a command may not be.
        again = name not in (workload.MAIN_CONTAINER, UPLOAD_CONTAINER)
        codes = {"containerName": name, "operator": "NotIn", "values": [KILLED if again else 0]}
        rules.append({"action": "FailJob", "onExitCodes": codes})
    return rules
