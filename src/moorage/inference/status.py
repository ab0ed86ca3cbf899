"""What a deployment's pods say about it: how far a new one has come, and why one will not come up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from moorage.inference.manifests import REVISION
from moorage.specs import pod_status, workload
from moorage.specs.condition import find
from moorage.specs.manifest import Manifest
from moorage.specs.pod_status import Ended

# A crash may be the node's fault once; the same one twice more is the code's. A script that says itself that it cannot serve needs no third try.
_CRASHES = 3
_INIT_FAILED, _INIT_FAILURES = 3, 2
# Failures of our containers that time may heal.
_PASSING_CODES = frozenset(
    {"", "ServiceUnavailable", "TooManyRequests", "Unauthorized", "PackageIndexUnavailable", "NoSpace", "InternalError"}
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason in CamelCase, and words."""

    reason: str
    message: str


def current(pods: Iterable[Manifest], revision: str) -> list[Manifest]:
    """Pods of this revision that are not on their way out."""
    return [
        pod
        for pod in pods
        if (pod["metadata"].get("annotations") or {}).get(REVISION) == revision and not pod["metadata"].get("deletionTimestamp")
    ]


def rolled_out(deployment: Manifest, replicas: int) -> bool:
    """Whether every replica is of the newest revision and available, and no older one is left."""
    status = deployment.get("status") or {}
    seen: bool = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    return (
        seen
        and status.get("replicas", 0) == replicas
        and status.get("updatedReplicas", 0) == replicas
        and status.get("availableReplicas", 0) == replicas
    )


def deadline_exceeded(deployment: Manifest) -> bool:
    condition = find((deployment.get("status") or {}).get("conditions"), "Progressing")
    return bool(condition and condition.get("reason") == "ProgressDeadlineExceeded")


def failure(pods: Sequence[Manifest]) -> Finding | None:
    """Why these pods will not become ready; None while they still may."""
    for pod in sorted(pods, key=lambda each: str(each["metadata"]["name"])):
        if found := _failed_init(pod) or _crashed(pod):
            return found
    return None


def notices(pods: Iterable[Manifest]) -> list[str]:
    """What the user must know about the environment that these pods got; each thing once."""
    found = (pod_status.notice(pod, workload.ENVIRONMENT_CONTAINER) for pod in sorted(pods, key=lambda each: str(each["metadata"]["name"])))
    return list(dict.fromkeys(notice for notice in found if notice))


def progress(pods: Sequence[Manifest]) -> Finding:
    """Which phase the pod that is furthest behind is in."""
    waiting = [pod for pod in pods if not pod_status.ready(pod)]
    if not waiting:
        return Finding("Starting", "Waiting for the cluster to create pods.")
    return min((_phase(pod) for pod in waiting), key=lambda each: _ORDER.index(each.reason))


def timings(pods: Sequence[Manifest]) -> str:
    """How long each phase of the newest ready pod took, e.g. `environment 12 s, download 1 s, start 3 s`."""
    pod = pod_status.newest(pod for pod in pods if pod_status.ready(pod))
    if pod is None:
        return ""
    parts: list[str] = []
    for name, word in ((workload.ENVIRONMENT_CONTAINER, "environment"), (workload.FETCH_CONTAINER, "download")):
        if done := pod_status.ended(pod_status.container(pod, name)):
            parts.append(f"{word} {_seconds(done.started, done.finished)} s")
    begun = pod_status.running(pod_status.container(pod, workload.MAIN_CONTAINER))
    ready = find((pod.get("status") or {}).get("conditions"), "Ready")
    if begun and ready:
        parts.append(f"start {_seconds(begun.get('startedAt'), ready.get('lastTransitionTime'))} s")
    return ", ".join(parts)


_ORDER = (
    "Scheduling",
    "Unschedulable",
    "ImagePullFailed",
    "ContainerNotStarted",
    "PullingImages",
    "PreparingEnvironment",
    "DownloadingModel",
    "StartingCode",
)


def _phase(pod: Manifest) -> Finding:
    name = pod["metadata"]["name"]
    unscheduled = pod_status.unscheduled(pod)
    if unscheduled is not None:
        return (
            Finding("Unschedulable", f"Pod {name} waits for a node: {unscheduled}")
            if unscheduled
            else Finding("Scheduling", f"Pod {name} waits for a node.")
        )
    if trouble := pod_status.trouble(pod):
        return Finding(*trouble)
    running = {
        container: pod_status.running(pod_status.container(pod, container))
        for container in (workload.ENVIRONMENT_CONTAINER, workload.FETCH_CONTAINER, workload.MAIN_CONTAINER)
    }
    for container, reason, words in (
        (workload.ENVIRONMENT_CONTAINER, "PreparingEnvironment", "prepares the environment"),
        (workload.FETCH_CONTAINER, "DownloadingModel", "downloads model and code"),
        (workload.MAIN_CONTAINER, "StartingCode", "starts the scoring code"),
    ):
        if state := running[container]:
            return Finding(reason, f"Pod {name} {words} since {state.get('startedAt', 'a moment')}.{_troubles(pod, container)}")
    for container, reason in ((workload.ENVIRONMENT_CONTAINER, "PreparingEnvironment"), (workload.FETCH_CONTAINER, "DownloadingModel")):
        if last := _last_end(pod, container):
            return Finding(reason, f"Pod {name} will try again: {last.message or f'exit code {last.exit_code}'}")
    if last := _last_end(pod, workload.MAIN_CONTAINER):
        return Finding("StartingCode", f"Pod {name} will be started again; it ended with exit code {last.exit_code}.{_tail(last)}")
    return Finding("PullingImages", f"Node {pod['spec']['nodeName']} pulls images and mounts volumes of pod {name}.")


def _troubles(pod: Manifest, container: str) -> str:
    last = pod_status.ended(pod_status.container(pod, container), last=True)
    return f" An earlier start ended with exit code {last.exit_code}.{_tail(last)}" if last and last.exit_code else ""


def _failed_init(pod: Manifest) -> Finding | None:
    for container, reason, words in (
        (workload.ENVIRONMENT_CONTAINER, "EnvironmentFailed", "The environment could not be prepared"),
        (workload.FETCH_CONTAINER, "DownloadFailed", "Model or code could not be downloaded"),
    ):
        entry = pod_status.container(pod, container)
        last = _last_end(pod, container)
        if last and (last.code not in _PASSING_CODES or _failures(entry) >= _CRASHES):
            return Finding(reason, f"{words}: {last.message or f'exit code {last.exit_code}'}")
    return None


def _crashed(pod: Manifest) -> Finding | None:
    entry = pod_status.container(pod, workload.MAIN_CONTAINER) or {}
    last = _last_end(pod, workload.MAIN_CONTAINER)
    if last is None or pod_status.ready(pod) or _failures(entry) < (_INIT_FAILURES if last.exit_code == _INIT_FAILED else _CRASHES):
        return None
    if last.reason == "OOMKilled":
        limit = pod_status.memory_limit(pod, workload.MAIN_CONTAINER)
        return Finding("OutOfMemory", f"The scoring code used more than its memory limit of {limit}; choose a larger instance type.")
    if last.exit_code == _INIT_FAILED:
        return Finding("ScoringScriptFailed", f"The scoring script cannot be loaded, or its init() fails.{_tail(last)}")
    return Finding("ContainerCrashed", f"The scoring container ends with exit code {last.exit_code} again and again.{_tail(last)}")


def _failures(entry: Manifest | None) -> int:
    """How often the container has ended: its restarts, and the end that waits for the next one."""
    return int((entry or {}).get("restartCount", 0)) + (0 if pod_status.running(entry) else 1)


def _last_end(pod: Manifest, container: str) -> Ended | None:
    """How the container failed last, now or before its present run."""
    entry = pod_status.container(pod, container)
    now = pod_status.ended(entry)
    if now:
        return now if now.exit_code else None
    before = pod_status.ended(entry, last=True)
    return before if before and before.exit_code and not _done(entry) else None


def _done(entry: Manifest | None) -> bool:
    return bool((entry or {}).get("ready"))


def _tail(ended: Ended) -> str:
    return f" Its last lines:\n{ended.message}" if ended.message else ""


def _seconds(start: str | None, end: str | None) -> int:
    if not start or not end:
        return 0
    span = datetime.fromisoformat(end.replace("Z", "+00:00")) - datetime.fromisoformat(start.replace("Z", "+00:00"))
    return max(0, round(span.total_seconds()))
