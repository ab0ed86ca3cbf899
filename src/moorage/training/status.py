"""What a job's pods say about it: phase, reason, and words for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moorage.specs import pod_status, workload
from moorage.specs.condition import find
from moorage.specs.manifest import Manifest
from moorage.specs.pod_status import Ended
from moorage.specs.refusal import Refusal
from moorage.training import interruption
from moorage.training.launchers import mpi
from moorage.training.template import UPLOAD_CONTAINER

TERMINAL = ("Completed", "Failed", "Canceled")
# Reasons of a Job's condition Failed that a pod's end has brought about (Kubernetes: batch/v1 types.go).
_BY_A_POD = ("BackoffLimitExceeded", "PodFailurePolicy")
_NOTICES = {"notice": workload.ENVIRONMENT_CONTAINER, "outputs": UPLOAD_CONTAINER}
# From Pod.status.reason and the DisruptionTarget condition.
_POD_REASONS = {
    "Evicted": "The node took the pod's place away",
    "NodeLost": "The node was lost",
    "NodeShutdown": "The node shut down",
    "Terminated": "The node shut down",
    "Preempting": "A pod of higher priority took its place",
    "UnexpectedAdmissionError": "The node refused the pod",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a job stands."""

    phase: str
    reason: str
    message: str
    exit_code: int | None = None
    finished: str | None = None

    @property
    def terminal(self) -> bool:
        return self.phase in TERMINAL


# Where what is known of a job's pods is older than what is known of its end.
LATE = Outcome("Finalizing", "PodEnded", "The pod has ended; waiting for its node's last word.")


def observe(job: Manifest | None, pods: Sequence[Manifest], refused: Refusal | None = None) -> Outcome:
    """The job's state from its Job and pods; `refused`: why the last pod that the Job wanted could not be created."""
    pod = pod_status.newest(pods)
    conditions = ((job or {}).get("status") or {}).get("conditions")
    failed = find(conditions, "Failed")
    if failed and failed.get("status") == "True":
        if pod and awaited(failed, pod):
            return LATE
        return failure(pod) if pod and phase_of(pod) == "Failed" else job_failure(failed, pod)
    complete = find(conditions, "Complete")
    if complete and complete.get("status") == "True":
        return success(pod)
    if refused and (pod is None or phase_of(pod) == "Failed"):
        return Outcome("Queued", refused.reason, refused.message)
    if pod is None:
        met = find(conditions, "SuccessCriteriaMet")
        if met and met.get("status") == "True":
            return Outcome("Finalizing", "PodEnded", "The pod has ended; waiting for the cluster to conclude the job.")
        return Outcome("Queued", "Starting", "Waiting for the cluster to create the job's pod.")
    return progress(pod)


def pods_summary(pods: Sequence[Manifest], earlier: Sequence[Manifest] = ()) -> list[Manifest]:
    """`status.pods`, as it was `earlier` and is now."""
    found: list[Manifest] = []
    for pod in sorted(pods, key=lambda each: str(each["metadata"]["name"])):
        metadata = pod["metadata"]
        index = (metadata.get("annotations") or {}).get("batch.kubernetes.io/job-completion-index")
        summary: Manifest = {"name": metadata["name"], "phase": phase_of(pod) or "Pending"}
        if index is not None and str(index).isdigit():
            summary["rank"] = int(index)
        if node := (pod.get("spec") or {}).get("nodeName"):
            summary["node"] = node
        if message := (pod.get("status") or {}).get("message"):
            summary["message"] = message
        if why := interruption.told_to_end(pod, earlier):
            summary["takenAway"] = why
        for key, container in _NOTICES.items():
            if said := pod_status.notice(pod, container):
                summary[key] = said
        found.append(summary)
    return found


def phase_of(pod: Manifest) -> str:
    """`status.phase`; empty while the node has said nothing."""
    return str((pod.get("status") or {}).get("phase") or "")


def _over(pod: Manifest) -> bool:
    return phase_of(pod) in ("Succeeded", "Failed")


def began(pod: Manifest) -> str | None:
    """When the pod's command began; None where it has not."""
    main = pod_status.container(pod, workload.MAIN_CONTAINER)
    ended = pod_status.ended(main)
    found = ended.started if ended else (pod_status.running(main) or {}).get("startedAt")
    # The kubelet's word for a container that could not be started.
    return None if not found or found.startswith("1970-") else str(found)


def progress(pod: Manifest) -> Outcome:
    """Where a pod stands whose Job has not ended."""
    main = pod_status.container(pod, workload.MAIN_CONTAINER)
    if finished := pod_status.ended(main):
        return Outcome("Finalizing", "StoringOutputs", "The command has ended; its outputs are being stored.", finished.exit_code)
    if phase_of(pod) == "Failed" and pod_status.running(main) is None:
        return Outcome("Preparing", "StartingPod", "The pod ended before the command began; the cluster replaces it or gives the job up.")
    if _over(pod):
        return Outcome("Finalizing", "PodEnded", "The pod has ended; waiting for the cluster to conclude the job.")
    if pod_status.running(main):
        return Outcome("Running", "Running", "The command is running.")
    waiting = pod_status.unscheduled(pod)
    if waiting is not None:
        reason = "Unschedulable" if waiting else "Scheduling"
        return Outcome("Queued", reason, f"Waiting for a node: {waiting}" if waiting else "Waiting for a node.")
    if found := pod_status.trouble(pod):
        return Outcome("Preparing", *found)
    if pod_status.running(pod_status.container(pod, workload.ENVIRONMENT_CONTAINER)):
        return Outcome("Preparing", "PreparingEnvironment", "The environment is being prepared.")
    if pod_status.running(pod_status.container(pod, workload.FETCH_CONTAINER)):
        return Outcome("Preparing", "FetchingInputs", "Code and inputs are being downloaded.")
    return Outcome("Preparing", "StartingPod", f"Node {pod['spec']['nodeName']} is starting the pod.")


def success(pod: Manifest | None) -> Outcome:
    """How a pod of a Job that is complete has ended."""
    if pod is None:
        said = (
            "The command succeeded. Its pod was gone before it could be asked whether all outputs were stored: look whether they are there."
        )
        return Outcome("Completed", "Completed", said, 0)
    if not _over(pod):
        # Job and pod come by watches of their own: after a restart of the API the pod's news may be seconds behind the Job's.
        return replace(LATE, exit_code=0)
    main = pod_status.ended(pod_status.container(pod, workload.MAIN_CONTAINER))
    lost = _upload_failure(pod) or _upload_silence(pod)
    finished = main.finished if main else None
    if lost:
        message = f"The command succeeded, but its outputs could not be stored: {lost}"
        return Outcome("Failed", "UploadFailed", message, 0, finished)
    if notice := pod_status.notice(pod, UPLOAD_CONTAINER):
        return Outcome("Completed", "Completed", f"The command succeeded and its outputs are stored, but for this: {notice}", 0, finished)
    return Outcome("Completed", "Completed", "The command succeeded and its outputs are stored.", 0, finished)


def failure(pod: Manifest) -> Outcome:
    """Why the pod that failed ended the job."""
    status = pod.get("status") or {}
    main = pod_status.ended(pod_status.container(pod, workload.MAIN_CONTAINER))
    if reason := status.get("reason"):
        said = f"{_POD_REASONS.get(reason, f'The pod ended with {reason}')}: {status.get('message') or 'no further word.'}"
        return Outcome("Failed", reason, said, *_end(main))
    environment = pod_status.ended(pod_status.container(pod, workload.ENVIRONMENT_CONTAINER))
    if environment and environment.exit_code:
        return Outcome("Failed", "EnvironmentFailed", f"The environment could not be prepared: {_said(environment, pod)}")
    fetch = pod_status.ended(pod_status.container(pod, workload.FETCH_CONTAINER))
    if fetch and fetch.exit_code:
        return Outcome("Failed", "FetchFailed", f"Code or inputs could not be downloaded: {_said(fetch, pod)}")
    if main and main.exit_code:
        return _command_failure(pod, main)
    if lost := _upload_failure(pod):
        message = f"The command succeeded, but its outputs could not be stored: {lost}"
        return Outcome("Failed", "UploadFailed", message, *_end(main))
    return Outcome("Failed", "PodFailed", f"The pod failed: {status.get('message') or 'its node gave no reason.'}", *_end(main))


def _command_failure(pod: Manifest, main: Ended) -> Outcome:
    lost = _upload_failure(pod)
    appendix = f"\nIts outputs could not be stored either: {lost}" if lost else ""
    if main.reason == "OOMKilled":
        limit = pod_status.memory_limit(pod, workload.MAIN_CONTAINER)
        bound = f"its memory limit of {limit}" if limit else "the memory there was"
        message = f"The command used more than {bound}; choose a larger instance type."
        return Outcome("Failed", "OutOfMemory", message + appendix, *_end(main))
    if main.reason in ("StartError", "ContainerCannotRun"):
        message = f"The command could not be started: {main.message or 'the node gave no reason.'}"
        return Outcome("Failed", "CommandNotStarted", message, *_end(main))
    if main.code in mpi.CODES:
        return Outcome("Failed", main.code, main.message + appendix, *_end(main))
    tail = f" Its last lines:\n{main.message}" if main.message else ""
    return Outcome("Failed", "CommandFailed", f"The command ended with exit code {main.exit_code}.{tail}{appendix}", *_end(main))


def awaited(condition: Manifest, pod: Manifest) -> bool:
    """Whether a Job that has failed by its pods' end has one whose end is yet to be heard of: that one tells why. Others' pods are deleted."""
    return condition.get("reason") in _BY_A_POD and not _over(pod) and not pod["metadata"].get("deletionTimestamp")


def job_failure(condition: Manifest, pod: Manifest | None) -> Outcome:
    """What the Job itself says, where no pod tells."""
    main = pod_status.ended(pod_status.container(pod, workload.MAIN_CONTAINER)) if pod else None
    return Outcome("Failed", condition.get("reason") or "JobFailed", condition.get("message") or "The cluster ended the job.", *_end(main))


def _upload_failure(pod: Manifest) -> str:
    """Why the sidecar could not store everything; empty when it did, or has not ended."""
    entry = pod_status.container(pod, UPLOAD_CONTAINER)
    upload = pod_status.ended(entry)
    if upload is None and pod_status.running(entry) is None and _over(pod):
        # It had fallen over again and again, and was to be started again later when the pod's end came.
        upload = pod_status.ended(entry, last=True)
    return _said(upload, pod) if upload and upload.exit_code else ""


def unstored(pod: Manifest) -> str:
    """What the sidecar itself says it could not store; empty when it says nothing of the kind, being killed included."""
    upload = pod_status.ended(pod_status.container(pod, UPLOAD_CONTAINER))
    return upload.message if upload and upload.exit_code and upload.code else ""


def _upload_silence(pod: Manifest) -> str:
    """That nothing confirms the sidecar's good end, which is no reason to believe in it; empty when something does."""
    if pod_status.ended(pod_status.container(pod, UPLOAD_CONTAINER)):
        return ""
    return f"the node does not say how the container that stores them ended on pod {pod['metadata']['name']}."


def _said(ended: Ended, pod: Manifest) -> str:
    if ended.reason == "OOMKilled":
        return "the container ran out of memory."
    if ended.message:
        return ended.message
    if ended.exit_code == 137:
        return "the container was killed before it was done."
    return f"the container ended with exit code {ended.exit_code}; its log on pod {pod['metadata']['name']} says more."


def _end(main: Ended | None) -> tuple[int | None, str | None]:
    return (main.exit_code, main.finished) if main else (None, None)
