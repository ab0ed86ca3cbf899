"""Which containers' logs go to the workspace, and under which names. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from moorage.errors import Invalid
from moorage.specs.distribution import Layout, index_of, layout, log_name
from moorage.specs.manifest import Manifest

JOB_LABEL = "moorage.dev/job"
MAIN = "main"
# Ours around the user's container; their logs matter when they fail.
SYSTEM_CONTAINERS = ("environment", "fetch", "upload", "peers")
TERMINAL = frozenset({"Completed", "Failed", "Canceled"})


class Source(NamedTuple):
    """One container's log and where it goes."""

    container: str
    stream: str


def sources(pod: Manifest, found: Layout) -> Iterator[Source]:
    """The logs of a pod that are worth keeping and can be read by now, of a job of that layout."""
    index = index_of(pod) or 0
    statuses = pod.get("status") or {}
    for status in (*(statuses.get("initContainerStatuses") or ()), *(statuses.get("containerStatuses") or ())):
        state = status.get("state") or {}
        ended = state.get("terminated")
        name = status["name"]
        if name == MAIN and (ended or state.get("running")):
            # Its first process writes there; the pod itself stores the files of the others.
            yield Source(name, f"user_logs/{log_name(found.rank(index), found.world)}")
        elif name in SYSTEM_CONTAINERS and ended and ended.get("exitCode"):
            yield Source(name, system_stream(name, index, found.pods))


def system_stream(container: str, index: int, pods: int) -> str:
    """`system_logs/CONTAINER.txt`; of several pods `system_logs/CONTAINER_INDEX.txt`, padded so that names sort."""
    return f"system_logs/{container}.txt" if pods <= 1 else f"system_logs/{container}_{str(index).zfill(len(str(pods - 1)))}.txt"


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


def layout_of(job: Manifest) -> Layout:
    """How the TrainingJob spreads over pods; one pod where its counts contradict each other, since then it has none."""
    try:
        return layout(job["spec"])
    except Invalid:
        return Layout()


def is_terminal(job: Manifest) -> bool:
    return (job.get("status") or {}).get("phase") in TERMINAL
