"""Pod statuses, read: which container is where, why one waits or failed, and what it said last."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from moorage.specs.condition import find
from moorage.specs.manifest import Manifest

_PULL_TROUBLE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_START_TROUBLE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended; `code` and `message` are those of its termination message where it is one of ours."""

    exit_code: int
    reason: str
    code: str
    message: str
    started: str | None
    finished: str | None


def container(pod: Manifest, name: str) -> Manifest | None:
    """The status of an init or main container; None while the node has reported none."""
    status = pod.get("status") or {}
    for entry in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if entry.get("name") == name:
            found: Manifest = entry
            return found
    return None


def running(entry: Manifest | None) -> Manifest | None:
    """`state.running` of a container status."""
    return ((entry or {}).get("state") or {}).get("running")


def ended(entry: Manifest | None, *, last: bool = False) -> Ended | None:
    """How the container ended, or its previous run (`last`); None when it has not."""
    terminated = ((entry or {}).get("lastState" if last else "state") or {}).get("terminated")
    if not terminated:
        return None
    code, message = explained(terminated.get("message") or "")
    return Ended(
        exit_code=terminated.get("exitCode", 0),
        reason=terminated.get("reason") or "",
        code=code,
        message=message,
        started=terminated.get("startedAt"),
        finished=terminated.get("finishedAt"),
    )


def notice(pod: Manifest, name: str) -> str:
    """What a container of ours that has done its work says that its user must know; empty when it says nothing."""
    done = ended(container(pod, name))
    return done.message if done and not done.exit_code and done.code else ""


def explained(text: str) -> tuple[str, str]:
    """Code and message of a termination message: our containers write one JSON object, others any text."""
    clean = text.strip()
    # Where the node gave no message file, the end of the log stands in for it, and the object is its last line.
    try:
        body = json.loads(clean.rpartition("\n")[2])
    except ValueError:
        return "", clean
    if isinstance(body, dict) and isinstance(body.get("message"), str) and "code" in body:
        return str(body["code"] or ""), body["message"]
    return "", clean


def unscheduled(pod: Manifest) -> str | None:
    """Why no node has been found, in the scheduler's words (empty when it has said nothing yet); None once there is one."""
    if (pod.get("spec") or {}).get("nodeName"):
        return None
    condition = find((pod.get("status") or {}).get("conditions"), "PodScheduled")
    if condition and condition.get("status") == "True":
        return None
    return str((condition or {}).get("message") or "")


def trouble(pod: Manifest) -> tuple[str, str] | None:
    """(reason, message) when a container cannot be started: image not to be had, configuration refused."""
    status = pod.get("status") or {}
    for entry in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (entry.get("state") or {}).get("waiting") or {}
        reason, detail = waiting.get("reason") or "", waiting.get("message") or ""
        if reason in _PULL_TROUBLE:
            return "ImagePullFailed", f"The image '{entry.get('image', '')}' cannot be pulled: {detail or reason}"
        if reason in _START_TROUBLE:
            return "ContainerNotStarted", f"Container '{entry.get('name', '')}' cannot be started: {detail or reason}"
    return None


def ready(pod: Manifest) -> bool:
    """Whether the pod passes its readiness probes."""
    condition = find((pod.get("status") or {}).get("conditions"), "Ready")
    return bool(condition and condition.get("status") == "True")


def newest(pods: Iterable[Manifest]) -> Manifest | None:
    """The pod created last, one that has not ended before one that has."""

    def order(pod: Manifest) -> tuple[bool, str, str]:
        metadata = pod["metadata"]
        over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        return not over, metadata.get("creationTimestamp") or "", metadata.get("name") or ""

    return max(pods, key=order, default=None)


def memory_limit(pod: Manifest, name: str) -> str:
    """A container's memory limit as written; empty when it has none."""
    spec = pod.get("spec") or {}
    for entry in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        if entry.get("name") == name:
            return str(((entry.get("resources") or {}).get("limits") or {}).get("memory") or "")
    return ""
