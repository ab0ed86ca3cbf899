"""Several pods run the command together: an Indexed Job whose pods wait for each other, and with Volcano a PodGroup, so that all get a place or none.

Why the pods learn each other's addresses from an annotation and not from DNS: docs/decisions/0013-distributed-training.md.
"""

from __future__ import annotations

from moorage.specs import workload
from moorage.specs.distribution import PEERS_ANNOTATION, port
from moorage.specs.manifest import Manifest
from moorage.training.launchers import plain
from moorage.training.plan import PEERS_FOLDER, USER_LOGS_FOLDER
from moorage.training.template import Rendering, work_mounts

PEERS_CONTAINER = "peers"
# How often the pods of this Job's TrainingJob had been started anew when it was made.
ATTEMPT = "moorage.dev/attempt"
_FOLDER = "/moorage/peers"
_GROUP = "scheduling.k8s.io/group-name"
_SCHEDULER = "volcano"


def launch(rendering: Rendering) -> list[Manifest]:
    """A Job of one pod per instance that ends with the first failure, and the PodGroup where the cluster has such."""
    found = rendering.layout
    pod_metadata: Manifest = {"labels": rendering.metadata["labels"]}
    pod = _waiting(rendering)
    if rendering.grouped:
        pod_metadata["annotations"] = {_GROUP: rendering.metadata["name"]}
        pod["schedulerName"] = _SCHEDULER
    spec: Manifest = {
        "completionMode": "Indexed",
        "parallelism": found.pods,
        "completions": found.pods,
        "backoffLimit": plain.RETRIES,
        "podFailurePolicy": {"rules": plain.failure_rules(pod)},
        "template": {"metadata": pod_metadata, "spec": pod},
    }
    if found.workers < found.pods:
        # Parameter servers never end by themselves.
        last = found.workers - 1
        spec["successPolicy"] = {"rules": [{"succeededIndexes": f"0-{last}" if last else "0"}]}
    annotations = {ATTEMPT: str(rendering.attempt)}
    job: Manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {**rendering.metadata, "annotations": annotations}, "spec": spec}
    return [*([group(rendering.metadata, found.pods)] if rendering.grouped else ()), job]


def group(metadata: Manifest, members: int) -> Manifest:
    """Volcano's gang: no pod gets a place before all have one. In the queue `default`, as Volcano has it where none is named."""
    return {"apiVersion": "scheduling.volcano.sh/v1beta1", "kind": "PodGroup", "metadata": metadata, "spec": {"minMember": members}}


def is_grouped(job: Manifest) -> bool:
    """Whether the Job's pods are members of a PodGroup."""
    return _GROUP in (job["spec"]["template"].get("metadata") or {}).get("annotations", {})


def _waiting(rendering: Rendering) -> Manifest:
    """The pod with a last init container that waits for the others, and the command started by `start.sh`."""
    pod = rendering.pod
    gate = ["python", "-m", "moorage.podside", "peers", "--plan", workload.PLAN_FILE, "--annotation", f"{_FOLDER}/annotation"]
    gate += ["--port", str(port(rendering.uid, rendering.attempt)), "--to", PEERS_FOLDER, "--logs", USER_LOGS_FOLDER]
    mounts: list[Manifest] = [
        {"name": "plan", "mountPath": workload.PLAN_FOLDER, "readOnly": True},
        {"name": "peers", "mountPath": _FOLDER, "readOnly": True},
        *work_mounts(),
    ]
    peers = workload.component(PEERS_CONTAINER, gate, mounts, {"cpu": ("10m", "1"), "memory": ("64Mi", "128Mi")})
    (main,) = pod["containers"]
    shell, _, text = main["command"]
    items = [{"path": "annotation", "fieldRef": {"fieldPath": f"metadata.annotations['{PEERS_ANNOTATION}']"}}]
    return {
        **pod,
        "initContainers": [*pod["initContainers"], peers],
        "containers": [{**main, "command": [shell, f"{PEERS_FOLDER}/start.sh", text]}],
        "volumes": [*pod["volumes"], {"name": "peers", "downwardAPI": {"items": items}}],
    }
