"""The pods of a Job: completion indexes, tracking finalizer, back-off between failures, and the pod failure policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from moorage.embedded.control.objects import annotations_of, condition, created_at, finalizers_of, time_of
from moorage.embedded.control.pods import from_template, phase_of
from moorage.kube.metadata import is_deleting, uid_of
from moorage.specs.manifest import Manifest

FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
_JOB_NAME = "batch.kubernetes.io/job-name"
_CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
# Kubernetes' DefaultJobPodFailureBackOff and MaxJobPodFailureBackOff.
_FIRST_BACKOFF = timedelta(seconds=10)
_LONGEST_BACKOFF = timedelta(minutes=10)


def is_indexed(job: Manifest) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def completions_of(job: Manifest) -> int | None:
    """How many successes complete the Job; None: one success, and no more pods once there is one (a work queue)."""
    count: int | None = job["spec"].get("completions")
    return count


def index_of(pod: Manifest) -> int | None:
    text = annotations_of(pod).get(INDEX, "")
    return int(text) if text.isdigit() else None


def is_failed(pod: Manifest, job: Manifest) -> bool:
    """Whether the pod counts as failed: it ended so, or is being deleted and may never get there."""
    if phase_of(pod) == "Failed":
        return True
    if job["spec"].get("podReplacementPolicy") == "Failed" or job["spec"].get("podFailurePolicy"):
        return is_deleting(pod) and phase_of(pod) == "Pending" and not (pod.get("spec") or {}).get("nodeName")
    return is_deleting(pod) and phase_of(pod) != "Succeeded"


def parse_indexes(text: str | None) -> frozenset[int]:
    """`0-2,5` as numbers."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def format_indexes(indexes: Iterable[int]) -> str:
    """Numbers as `0-2,5`; two neighbours stay apart (`0,1`), as Kubernetes writes them."""
    parts: list[str] = []
    run: list[int] = []
    for index in [*sorted(indexes), None]:
        if run and (index is None or index != run[-1] + 1):
            parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(one) for one in run]
            run = []
        if index is not None:
            run.append(index)
    return ",".join(parts)


def success_rule(job: Manifest, succeeded: Iterable[int]) -> int | None:
    """The first rule of the success policy that the indexes which have succeeded fulfil; None where none does."""
    done = frozenset(succeeded)
    for number, rule in enumerate((job["spec"].get("successPolicy") or {}).get("rules") or ()):
        count, wanted = rule.get("succeededCount"), rule.get("succeededIndexes")
        chosen = parse_indexes(wanted) if wanted is not None else None
        met = done if chosen is None else done & chosen
        if not done or (chosen is not None and not chosen):
            continue
        if (chosen is not None and met == chosen) or (count is not None and len(met) >= count):
            return number
    return None


def new_pod(job: Manifest, index: int | None) -> Manifest:
    """A pod of the Job's template, tracked by finalizer, with its completion index where the Job is indexed."""
    pod = from_template(job, job["spec"].get("template") or {})
    metadata, spec = pod["metadata"], pod["spec"]
    metadata["labels"] |= {
        _JOB_NAME: job["metadata"]["name"],
        "job-name": job["metadata"]["name"],
        _CONTROLLER_UID: uid_of(job),
        "controller-uid": uid_of(job),
    }
    metadata["finalizers"] = [*(metadata.get("finalizers") or ()), FINALIZER]
    spec.setdefault("restartPolicy", "Never")
    if index is None:
        return pod
    metadata["generateName"] = f"{job['metadata']['name']}-{index}-"
    metadata["labels"][INDEX] = metadata["annotations"][INDEX] = str(index)
    spec["hostname"] = f"{job['metadata']['name']}-{index}"
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        env = container.setdefault("env", [])
        if not any(one.get("name") == "JOB_COMPLETION_INDEX" for one in env):
            field = {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX}']"}
            env.append({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": field}})
    return pod


def without_tracking(pod: Manifest) -> dict[str, Any]:
    """The patch that lets go of a pod."""
    return {"metadata": {"finalizers": [one for one in finalizers_of(pod) if one != FINALIZER] or None}}


def finished_at(pod: Manifest, now: datetime) -> datetime:
    """When its last container ended, else when it was marked for deletion, else now."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    ends = [((one.get("state") or {}).get("terminated") or {}).get("finishedAt") for one in statuses]
    times = [time_of(end, now) for end in ends if end]
    if times:
        return max(times)
    disrupted = condition(pod, "DisruptionTarget")
    fallback = pod["metadata"].get("deletionTimestamp") or (disrupted or {}).get("lastTransitionTime")
    return time_of(fallback, created_at(pod, now))


def backoff_wait(pods: Sequence[Manifest], now: datetime) -> timedelta:
    """How long to hold back new pods: 10 s, 20 s, 40 s ... after each failure in a row, counted from the last one's end."""
    succeeded = [finished_at(pod, now) for pod in pods if phase_of(pod) == "Succeeded"]
    since = max(succeeded, default=None)
    # Pods that are being deleted were disturbed, not broken: they are replaced at once.
    failures = [finished_at(pod, now) for pod in pods if phase_of(pod) == "Failed" and not is_deleting(pod)]
    in_a_row = [end for end in failures if since is None or end > since]
    if not in_a_row:
        return timedelta(0)
    pause: timedelta = min(_FIRST_BACKOFF * 2 ** min(len(in_a_row) - 1, 10), _LONGEST_BACKOFF)
    # A clock set back must not stretch the pause beyond itself.
    return min(pause, max(timedelta(0), max(in_a_row) + pause - now))


class Verdict(StrEnum):
    COUNT = "Count"
    IGNORE = "Ignore"
    FAIL_JOB = "FailJob"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the pod failure policy says of one failed pod, and why."""

    verdict: Verdict
    message: str = ""


def judge(pod: Manifest, policy: Mapping[str, Any] | None) -> Judgement:
    """The first rule of the policy that matches decides; without one a failure counts. `FailIndex` counts too, as there is no per-index limit."""
    for number, rule in enumerate((policy or {}).get("rules") or ()):
        matched = (
            _by_exit_code(pod, rule["onExitCodes"]) if rule.get("onExitCodes") else _by_condition(pod, rule.get("onPodConditions") or ())
        )
        if not matched:
            continue
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        message = f"{matched.format(pod=name)} matching {rule['action']} rule at index {number}"
        action = rule.get("action")
        return Judgement(Verdict(action) if action in tuple(Verdict) else Verdict.COUNT, message)
    return Judgement(Verdict.COUNT)


def _by_exit_code(pod: Manifest, requirement: Mapping[str, Any]) -> str:
    status = pod.get("status") or {}
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if requirement.get("containerName") not in (None, one.get("name")):
            continue
        code = ((one.get("state") or {}).get("terminated") or {}).get("exitCode", 0)
        if code != 0 and (code in (requirement.get("values") or ())) == (requirement.get("operator") == "In"):
            return f"Container {one['name']} for pod {{pod}} failed with exit code {code}"
    return ""


def _by_condition(pod: Manifest, patterns: Sequence[Mapping[str, Any]]) -> str:
    for pattern in patterns:
        found = condition(pod, pattern.get("type", ""))
        if found and found.get("status") == pattern.get("status", "True"):
            return f"Pod {{pod}} has condition {pattern['type']}"
    return ""
