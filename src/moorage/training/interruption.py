"""A command that the cluster told to end, and that then ended with success: Kubernetes counts its pod as succeeded, though nobody knows that it was done.

The pod goes as soon as it is counted, so that its end is remembered in the TrainingJob's `status.pods`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from moorage.specs import pod_status, workload
from moorage.specs.condition import find, moment
from moorage.specs.distribution import Layout, index_of
from moorage.specs.manifest import Manifest


def told_to_end(pod: Manifest, remembered: Sequence[Manifest] = ()) -> str:
    """Why the cluster takes the pod away whose command runs, or ended with success only then; empty where nothing of the kind happened.

    Args:
        remembered: `status.pods` as last written: what was seen while the command ran depends on no clock.
    """
    if before := next((each["takenAway"] for each in remembered if each["name"] == pod["metadata"]["name"] and "takenAway" in each), ""):
        return str(before)
    main = pod_status.container(pod, workload.MAIN_CONTAINER)
    ended = pod_status.ended(main)
    if ended is None and pod_status.running(main) is None:
        return ""
    for why, since in _taken_away(pod):
        if ended is None:
            return why
        # To the second, as Kubernetes notes both.
        if not ended.exit_code and since and ended.finished and moment(ended.finished) >= since:
            return why
    return ""


def of(pods: Sequence[Manifest], remembered: Sequence[Manifest], found: Layout) -> tuple[str, str] | None:
    """Whose pod the cluster took away, and why, of a job that is complete and so may not be done; None where each of its commands ended by itself.

    Args:
        pods: of the job, as far as they are still there.
        remembered: `status.pods` as last written.
    """
    for index in range(found.workers):
        here = pod_status.newest(pod for pod in pods if (index_of(pod) or 0) == index)
        if why := told_to_end(here, remembered) if here is not None else _remembered(remembered, index):
            return f"the pod of {found.role(index)}" if found.pods > 1 else "its pod", why.rstrip(".")
    return None


def _taken_away(pod: Manifest) -> Iterable[tuple[str, datetime | None]]:
    """Why, and since when."""
    disruption = find((pod.get("status") or {}).get("conditions"), "DisruptionTarget")
    if disruption and disruption.get("status") == "True":
        since = disruption.get("lastTransitionTime")
        yield disruption.get("message") or disruption.get("reason") or "disrupted", moment(since) if since else None
    metadata = pod["metadata"]
    if gone := metadata.get("deletionTimestamp"):
        # It names the end of the grace, not its beginning.
        yield "it was deleted", moment(gone) - timedelta(seconds=int(metadata.get("deletionGracePeriodSeconds") or 0))


def _remembered(summaries: Sequence[Manifest], index: int) -> str:
    # Those that failed were replaced.
    last = [each for each in summaries if int(each.get("rank") or 0) == index and each.get("phase") != "Failed"]
    told = [str(each.get("takenAway") or "") for each in last]
    return told[0] if told and all(told) else ""
