"""Job: pods until enough of them succeeded or too many failed.

A finished pod keeps a finalizer until its end stands in the Job's status, so that no count is lost, whatever is deleted or killed meanwhile: first its
uid goes into `uncountedTerminatedPods`, then the finalizer goes, then the uid becomes a number.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from moorage.clock import rfc3339
from moorage.embedded.control.jobpods import (
    FINALIZER,
    Verdict,
    backoff_wait,
    completions_of,
    format_indexes,
    index_of,
    is_failed,
    is_indexed,
    judge,
    new_pod,
    parse_indexes,
    success_rule,
    without_tracking,
)
from moorage.embedded.control.objects import condition, finalizers_of, is_true, time_of, until
from moorage.embedded.control.pods import doomed_first, is_active, is_finished, is_ready, phase_of, restarts
from moorage.embedded.control.steps import Create, Decision, Delete, Patch, Record, Step, set_status, sooner
from moorage.kube.kinds import JOB, POD
from moorage.kube.metadata import is_deleting, uid_of
from moorage.specs.manifest import Manifest

COMPONENT = "job-controller"
# Uids in one status write (Kubernetes' MaxUncountedPods), and pods created in one turn.
_MAX_UNCOUNTED = 500
_BURST = 500

_REACHED = ("CompletionsReached", "Reached expected number of succeeded pods")


@dataclass(slots=True)
class _Tally:
    """A Job's counts while a turn works on them."""

    succeeded: int = 0
    failed: int = 0
    indexes: set[int] = field(default_factory=set)
    uncounted_succeeded: list[str] = field(default_factory=list)
    uncounted_failed: list[str] = field(default_factory=list)
    released: list[Manifest] = field(default_factory=list)
    verdict: str = ""

    @property
    def successes(self) -> int:
        return self.succeeded + len(self.uncounted_succeeded)

    @property
    def failures(self) -> int:
        return self.failed + len(self.uncounted_failed)


def decide(job: Manifest, pods: Sequence[Manifest], now: datetime) -> Decision:
    """One turn for a Job; `pods` are those it controls."""
    if ended := _end_of(job):
        return _after_the_end(job, pods, ended, now)
    tally = _count(job, pods)
    status = copy.deepcopy(dict(job.get("status") or {}))
    steps: list[Step] = []
    suspended = bool(job["spec"].get("suspend"))
    wait = _start(job, status, now, suspended)
    verdict = _verdict(job, pods, tally, status, now)
    active = [pod for pod in pods if is_active(pod)]
    late: list[Step] = []
    if verdict is not None:
        _note(status, *verdict, now)
        late = [_removal(job, pod) for pod in active]
    elif not is_deleting(job):
        if suspended:
            late = _withdrawal(job, active)
        else:
            late, pause = _population(job, pods, active, tally, now)
            wait = sooner(wait, pause)
        steps += _note_suspension(job, status, suspended, now)
    _write_counts(job, status, pods, tally)
    steps += _conclude(job, status, pods, tally, now)
    writes = set_status(JOB, job, status)
    letting_go = [Patch(POD, pod, without_tracking(pod)) for pod in tally.released]
    return Decision([*writes, *letting_go, *steps, *late], wait if verdict is None else None)


def release(pods: Sequence[Manifest]) -> Decision:
    """Let go of tracked pods whose Job is gone: nobody waits for their end."""
    return Decision([Patch(POD, pod, without_tracking(pod)) for pod in pods if FINALIZER in finalizers_of(pod)])


def _count(job: Manifest, pods: Sequence[Manifest]) -> _Tally:
    """Move counted uids into numbers and newly ended pods into the uncounted."""
    status = job.get("status") or {}
    uncounted = status.get("uncountedTerminatedPods") or {}
    tracked = {uid_of(pod) for pod in pods if FINALIZER in finalizers_of(pod)}
    tally = _Tally(status.get("succeeded", 0), status.get("failed", 0), set(parse_indexes(status.get("completedIndexes"))))
    for uid in uncounted.get("succeeded") or ():
        if uid in tracked:
            tally.uncounted_succeeded.append(uid)
        else:
            tally.succeeded += 1
    for uid in uncounted.get("failed") or ():
        if uid in tracked:
            tally.uncounted_failed.append(uid)
        else:
            tally.failed += 1
    policy = job["spec"].get("podFailurePolicy")
    failing = condition(status, "FailureTarget") is not None or is_deleting(job)
    over = failing or condition(status, "SuccessCriteriaMet") is not None
    for pod in pods:
        if uid_of(pod) not in tracked or len(tally.released) >= _MAX_UNCOUNTED:
            continue
        if phase_of(pod) == "Succeeded" or is_failed(pod, job) or (failing and is_deleting(pod)):
            _count_one(job, pod, tally, policy)
        elif over and is_deleting(pod):
            # Of a Job that has succeeded, what is still running when it goes has not failed.
            tally.released.append(pod)
    if is_indexed(job):
        tally.succeeded = len(tally.indexes)
    return tally


def _count_one(job: Manifest, pod: Manifest, tally: _Tally, policy: Mapping[str, Any] | None) -> None:
    uid, completions = uid_of(pod), completions_of(job)
    index = index_of(pod)
    in_range = not is_indexed(job) or (index is not None and index < (completions or 0))
    if phase_of(pod) == "Succeeded":
        tally.released.append(pod)
        if is_indexed(job):
            if in_range and index is not None:
                tally.indexes.add(index)
        elif uid not in tally.uncounted_succeeded:
            tally.uncounted_succeeded.append(uid)
        return
    judgement = judge(pod, policy)
    if judgement.verdict is Verdict.FAIL_JOB:
        tally.verdict = judgement.message
    tally.released.append(pod)
    if judgement.verdict is not Verdict.IGNORE and in_range and uid not in tally.uncounted_failed:
        tally.uncounted_failed.append(uid)


def _start(job: Manifest, status: dict[str, Any], now: datetime, suspended: bool) -> timedelta | None:
    """Set the start time, and tell how long the Job may still be active."""
    if suspended or is_deleting(job):
        return None
    status.setdefault("startTime", rfc3339(now))
    limit = job["spec"].get("activeDeadlineSeconds")
    return None if limit is None else until(time_of(status["startTime"], now) + timedelta(seconds=limit), now)


def _verdict(
    job: Manifest, pods: Sequence[Manifest], tally: _Tally, status: Mapping[str, Any], now: datetime
) -> tuple[str, str, str] | None:
    """The condition (type, reason, message) that ends the Job, None while it goes on."""
    for kind in ("FailureTarget", "SuccessCriteriaMet"):
        if found := condition(status, kind):
            return kind, found["reason"], found["message"]
    if tally.verdict:
        return "FailureTarget", "PodFailurePolicy", tally.verdict
    limit = job["spec"].get("backoffLimit", 6)
    if tally.failures > limit or _restarted_too_often(job, pods, limit):
        return "FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    deadline = job["spec"].get("activeDeadlineSeconds")
    running = deadline is not None and not job["spec"].get("suspend") and "startTime" in status
    if running and now >= time_of(status["startTime"], now) + timedelta(seconds=deadline):
        return "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline"
    if is_indexed(job) and (rule := success_rule(job, tally.indexes)) is not None:
        return "SuccessCriteriaMet", "SuccessPolicy", f"Matched rules at index {rule}"
    completions = completions_of(job)
    if completions is None:
        reached = tally.successes > 0 and not any(is_active(pod) for pod in pods)
    else:
        reached = tally.successes >= completions
    return ("SuccessCriteriaMet", *_REACHED) if reached else None


def _restarted_too_often(job: Manifest, pods: Sequence[Manifest], limit: int) -> bool:
    """With restartPolicy OnFailure the containers' restarts count."""
    if ((job["spec"].get("template") or {}).get("spec") or {}).get("restartPolicy") != "OnFailure":
        return False
    count = sum(restarts(pod) for pod in pods if phase_of(pod) in ("Running", "Pending"))
    return count > 0 if limit == 0 else count >= limit


def _population(
    job: Manifest, pods: Sequence[Manifest], active: Sequence[Manifest], tally: _Tally, now: datetime
) -> tuple[list[Step], timedelta | None]:
    """Pods to make or remove, and how long the back-off still holds."""
    parallelism = job["spec"].get("parallelism", 1)
    completions = completions_of(job)
    if completions is None:
        wanted = len(active) if tally.successes else parallelism
        wanted = min(wanted, parallelism)
    else:
        wanted = max(0, min(completions - tally.successes, parallelism))
    surplus = _surplus(job, active, tally, len(active) - wanted, now)
    if surplus:
        return _withdrawal(job, surplus), None
    terminating = [pod for pod in pods if is_deleting(pod) and not is_finished(pod)]
    waits_for_end = job["spec"].get("podReplacementPolicy") == "Failed" or bool(job["spec"].get("podFailurePolicy"))
    missing = wanted - len(active) - (len(terminating) if waits_for_end else 0)
    if missing <= 0:
        return [], None
    if (pause := backoff_wait(pods, now)) > timedelta(0):
        return [], pause
    held = [*active, *(terminating if waits_for_end else ())]
    made = [new_pod(job, index) for index in _free_indexes(job, held, tally, min(missing, _BURST))]
    return [Create(POD, pod, announce=job, component=COMPONENT) for pod in made], None


def _free_indexes(job: Manifest, held: Sequence[Manifest], tally: _Tally, count: int) -> list[int | None]:
    if not is_indexed(job):
        return [None] * count
    taken = tally.indexes | {index_of(pod) for pod in held}
    return list(islice((index for index in range(completions_of(job) or 0) if index not in taken), count))


def _surplus(job: Manifest, active: Sequence[Manifest], tally: _Tally, count: int, now: datetime) -> list[Manifest]:
    """Active pods that must go: of an index that is done, out of range or held twice, then as many as are too many."""
    gone: list[Manifest] = []
    rest = list(doomed_first(active, now))
    if is_indexed(job):
        holders: dict[int, Manifest] = {}
        for pod in reversed(rest):
            index = index_of(pod)
            if index is None or index in tally.indexes or index >= (completions_of(job) or 0) or index in holders:
                gone.append(pod)
            else:
                holders[index] = pod
        rest = [holders[index] for index in sorted(holders, reverse=True)]
    return [*gone, *rest[: max(0, count - len(gone))]]


def _note_suspension(job: Manifest, status: dict[str, Any], suspended: bool, now: datetime) -> list[Step]:
    was = is_true(status, "Suspended")
    if suspended and not was:
        _note(status, "Suspended", "JobSuspended", "Job suspended", now)
        status.pop("startTime", None)
        return [Record(job, "Normal", "Suspended", "Job suspended", COMPONENT)]
    if not suspended and was:
        _note(status, "Suspended", "JobResumed", "Job resumed", now, value="False")
        status["startTime"] = rfc3339(now)
        return [Record(job, "Normal", "Resumed", "Job resumed", COMPONENT)]
    return []


def _write_counts(job: Manifest, status: dict[str, Any], pods: Sequence[Manifest], tally: _Tally) -> None:
    active = [pod for pod in pods if is_active(pod)]
    counts = {
        "active": len(active),
        "succeeded": tally.succeeded,
        "failed": tally.failed,
    }
    for name, count in counts.items():
        if count:
            status[name] = count
        else:
            status.pop(name, None)
    status["ready"] = sum(is_ready(pod) for pod in active)
    status["terminating"] = sum(is_deleting(pod) and not is_finished(pod) for pod in pods)
    uncounted = {"succeeded": tally.uncounted_succeeded, "failed": tally.uncounted_failed}
    status["uncountedTerminatedPods"] = {name: uids for name, uids in uncounted.items() if uids}
    if tally.indexes:
        status["completedIndexes"] = format_indexes(tally.indexes)


def _conclude(job: Manifest, status: dict[str, Any], pods: Sequence[Manifest], tally: _Tally, now: datetime) -> list[Step]:
    """The final condition, once nothing of the Job runs any more and every end is counted."""
    if status.get("uncountedTerminatedPods") or any(not is_finished(pod) for pod in pods) or tally.released:
        return []
    if found := condition(status, "SuccessCriteriaMet"):
        _note(status, "Complete", found["reason"], found["message"], now)
        status["completionTime"] = rfc3339(now)
        return [Record(job, "Normal", "Completed", "Job completed", COMPONENT)]
    if found := condition(status, "FailureTarget"):
        _note(status, "Failed", found["reason"], found["message"], now)
        return [Record(job, "Warning", found["reason"], found["message"], COMPONENT)]
    return []


def _note(status: dict[str, Any], type: str, reason: str, message: str, now: datetime, *, value: str = "True") -> None:
    """Add or change a condition; one that says the same already keeps its times."""
    before = condition(status, type)
    if before and before.get("status") == value and before.get("reason") == reason:
        return
    made = {
        "type": type,
        "status": value,
        "lastProbeTime": rfc3339(now),
        "lastTransitionTime": rfc3339(now),
        "reason": reason,
        "message": message,
    }
    status["conditions"] = [one for one in status.get("conditions") or () if one.get("type") != type] + [made]


def _withdrawal(job: Manifest, pods: Sequence[Manifest]) -> list[Step]:
    """Remove pods that nobody asks for any more: let go of them first, so that they do not count as failed."""
    freed = [Patch(POD, pod, without_tracking(pod)) for pod in pods if FINALIZER in finalizers_of(pod)]
    return [*freed, *(_removal(job, pod) for pod in pods)]


def _removal(job: Manifest, pod: Manifest) -> Delete:
    return Delete(POD, pod, announce=job, component=COMPONENT)


def _end_of(job: Manifest) -> Manifest | None:
    for type in ("Complete", "Failed"):
        found = condition(job, type)
        if found and found.get("status") == "True":
            return found
    return None


def _after_the_end(job: Manifest, pods: Sequence[Manifest], ended: Manifest, now: datetime) -> Decision:
    """Let go of what is still tracked, and delete the Job when its time is over."""
    steps: list[Step] = [Patch(POD, pod, without_tracking(pod)) for pod in pods if FINALIZER in finalizers_of(pod)]
    life = job["spec"].get("ttlSecondsAfterFinished")
    if life is None or is_deleting(job):
        return Decision(steps)
    end = time_of(ended.get("lastTransitionTime"), now) + timedelta(seconds=life)
    if now < end:
        return Decision(steps, until(end, now))
    return Decision([*steps, Delete(JOB, job, propagation="Foreground")])
