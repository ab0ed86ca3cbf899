"""Which containers' logs go to the workspace, and under which names. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from moorage.kube.metadata import labels_of
from moorage.specs.manifest import Manifest

JOB_LABEL = "moorage.dev/job"
MAIN = "main"
# Ours around the user's container; their logs matter when they fail.
SYSTEM_CONTAINERS = ("environment", "fetch", "upload")
TERMINAL = frozenset({"Completed", "Failed", "Canceled"})
_INDEX = "batch.kubernetes.io/job-completion-index"


class Source(NamedTuple):
    """One container's log and where it goes."""

    container: str
    stream: str


def sources(pod: Manifest, nodes: int) -> Iterator[Source]:
    """The logs of a pod that are worth keeping and can be read by now.

    Args:
        nodes: how many pods the job has at a time.
    """
    statuses = pod.get("status") or {}
    for status in (*(statuses.get("initContainerStatuses") or ()), *(statuses.get("containerStatuses") or ())):
        state = status.get("state") or {}
        ended = state.get("terminated")
        name = status["name"]
        if name == MAIN and (ended or state.get("running")):
            yield Source(name, main_stream(rank(pod), nodes))
        elif name in SYSTEM_CONTAINERS and ended and ended.get("exitCode"):
            yield Source(name, system_stream(name, rank(pod), nodes))


def main_stream(rank: int, nodes: int) -> str:
    """`user_logs/std_log.txt`; of several pods `user_logs/std_log_process_RANK.txt`, padded so that names sort."""
    return "user_logs/std_log.txt" if nodes <= 1 else f"user_logs/std_log_process_{_padded(rank, nodes)}.txt"


def system_stream(container: str, rank: int, nodes: int) -> str:
    return f"system_logs/{container}.txt" if nodes <= 1 else f"system_logs/{container}_{_padded(rank, nodes)}.txt"


def _padded(rank: int, nodes: int) -> str:
    return str(rank).zfill(len(str(nodes - 1)))


def rank(pod: Manifest) -> int:
    index = (pod["metadata"].get("annotations") or {}).get(_INDEX) or labels_of(pod).get(_INDEX) or "0"
    return int(index) if index.isdigit() else 0


def ended(pod: Manifest | None, container: str) -> bool:
    """Whether the container will not write any more; a pod that is gone writes nothing."""
    if pod is None:
        return True
    statuses = pod.get("status") or {}
    if statuses.get("phase") in ("Succeeded", "Failed"):
        return True
    return any(
        status["name"] == container and (status.get("state") or {}).get("terminated")
        for status in (*(statuses.get("initContainerStatuses") or ()), *(statuses.get("containerStatuses") or ()))
    )


def node_count(job: Manifest) -> int:
    return int((job["spec"].get("resources") or {}).get("instanceCount") or 1)


def is_terminal(job: Manifest) -> bool:
    return (job.get("status") or {}).get("phase") in TERMINAL
