"""TrainingJob -> Job, ConfigMap, PodGroup and status.

A Job that exists stays as it is: pod templates are immutable, so a changed instance type or a newer Moorage concerns later jobs only. When one of
several pods is lost, the Job goes with all its pods, and another one is made: `status.restarts` counts, and a Job whose annotation is behind must go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from moorage.errors import Invalid
from moorage.kube.metadata import controller_uid, written
from moorage.kube.reconcile import Observed, Plan
from moorage.specs import refusal, security, workload
from moorage.specs.condition import Condition, find, merge, moment, timestamp
from moorage.specs.distribution import Layout, layout
from moorage.specs.manifest import Manifest
from moorage.specs.refusal import Refusal
from moorage.training import claims, instances, interruption, launchers
from moorage.training.launchers import gang
from moorage.training.plan import plan as job_plan
from moorage.training.status import TERMINAL, Outcome, began, observe, pods_summary
from moorage.training.template import Rendering, pod_template

_MESSAGE_LIMIT = 8192
# How often the pods of a job of several begin anew because the cluster took one of them away.
_MOST_RESTARTS = 5
# Why the Job goes, in the status from before it does.
_GIVEN_UP = "InstanceLost"
_ANYWHERE: Mapping[str, str] = MappingProxyType({})


def reconcile(seen: Observed, pinned: Mapping[str, str] = _ANYWHERE, grouped: bool = False) -> Plan:
    """The whole decision about one TrainingJob.

    Args:
        pinned: labels of the nodes that the extension's settings allow.
        grouped: the cluster's scheduler knows gangs (Volcano's PodGroup).
    """
    earlier: Manifest = seen.parent.get("status") or {}
    if earlier.get("phase") in TERMINAL or seen.parent["metadata"].get("deletionTimestamp"):
        return Plan(status=None)
    try:
        found = layout(seen.parent["spec"])
    except Invalid as error:
        return _plan(seen, (), Outcome("Failed", error.code, error.message))
    job, pods = _own_job(seen), _own_pods(seen)
    if found.together and not _stops(seen) and (plan := _anew(seen, job, found, grouped)) is not None:
        return _within_limit(seen, job, pods, plan, grouped)
    outcome = _outcome(seen, job, pods, found)
    if outcome.terminal:
        return _plan(seen, _kept(seen, job, grouped) if job else (), outcome)
    stop = _stopping(seen, outcome)
    if stop is not None:
        return _stopped(seen, job, pods, stop, grouped)
    try:
        children = _kept(seen, job, grouped) if job else desired(seen, pinned, grouped)
    except Invalid as error:
        return _plan(seen, (), Outcome("Failed", error.code, error.message))
    shared = [workload.environments_claim(_metadata(seen)["namespace"])] if workload.prepared(seen.parent["spec"]["environment"]) else []
    notes = instances.notes(_of(job, pods), found) if found.together else []
    if notes and seen.forbidden:
        outcome = instances.untold(outcome, seen.forbidden)
    return replace(_plan(seen, children, outcome, requeue_after=_time_left(seen, outcome.phase)), shared=shared, notes=notes)


def desired(seen: Observed, pinned: Mapping[str, str], grouped: bool = False) -> list[Manifest]:
    """The ConfigMap and the launcher's objects.

    Raises:
        Invalid: the job asks for something that is not there.
    """
    spec = seen.parent["spec"]
    metadata = _metadata(seen)
    found = layout(spec)
    launch = launchers.choose(found)
    pod = pod_template(metadata["name"], spec, list(seen.related.get("InstanceType", ())), _claims(seen), pinned, _restricted(seen))
    uid = str(seen.parent["metadata"].get("uid") or "")
    rendering = Rendering(metadata, spec, pod, found, uid, _restarts(seen), grouped)
    return [workload.plan_config_map(metadata, job_plan(spec)), *launch(rendering)]


def _outcome(seen: Observed, job: Manifest | None, pods: Sequence[Manifest], found: Layout) -> Outcome:
    outcome = _observed(seen, job, pods, found)
    if outcome.phase != "Completed":
        return outcome
    own = _of(job, pods) if found.together else pods
    taken = interruption.of(own, (seen.parent.get("status") or {}).get("pods") or (), found)
    if taken is None:
        return outcome
    message = (
        f"The cluster took {taken[0]} away ({taken[1]}), and the command ended with exit code 0 when it was told to end: whether it had done its work, "
        "only its outputs can tell. Submit the job again. A command that ends with another code on SIGTERM is run again by itself."
    )
    return Outcome("Failed", "Interrupted", message, 0, outcome.finished)


def _observed(seen: Observed, job: Manifest | None, pods: Sequence[Manifest], found: Layout) -> Outcome:
    if found.together:
        if _behind(seen, job):
            return Outcome("Queued", "Restarting", str((seen.parent.get("status") or {}).get("message") or ""))
        own = _of(job, pods)
        return instances.observe(job, own, found, _refusal(seen, job, own))
    return observe(job, pods, _refusal(seen, job, pods))


def _kept(seen: Observed, job: Manifest, grouped: bool) -> list[Manifest]:
    """The living Job as it is, beside its ConfigMap and PodGroup."""
    living = {"apiVersion": "batch/v1", "kind": "Job", "metadata": written(job), "spec": job.get("spec") or {}}
    # Its pods get no place without their PodGroup, which this operator may not have come to make, or somebody has deleted.
    lacks = grouped and gang.is_grouped(job) and not seen.children.get("PodGroup")
    groups = [gang.group(_metadata(seen), job["spec"]["parallelism"])] if lacks else []
    return [*_beside(seen), *groups, living]


def _beside(seen: Observed) -> list[Manifest]:
    """What stays when the Job goes to be made anew."""
    metadata = _metadata(seen)
    groups = [gang.group(metadata, group["spec"]["minMember"]) for group in seen.children.get("PodGroup", ())]
    return [workload.plan_config_map(metadata, job_plan(seen.parent["spec"])), *groups]


# Beginning anew: the count is written down before the Job goes, so that whoever comes next knows which Job is the former one; and so is that there
# will be no other one.


def _anew(seen: Observed, job: Manifest | None, found: Layout, grouped: bool) -> Plan | None:
    """The plan while the pods of a job of several begin anew; None while nothing of the kind goes on."""
    restarts = _restarts(seen)
    earlier = seen.parent.get("status") or {}
    if earlier.get("reason") == _GIVEN_UP:
        # Said to have failed only once the Job is gone: of a job that has ended nothing is looked at again.
        phase = str(earlier["phase"]) if job else "Failed"
        return _plan(seen, _beside(seen), Outcome(phase, _GIVEN_UP, str(earlier.get("message") or "")))
    if _behind(seen, job) or (job is None and restarts and _own_pods(seen)):
        said = str(earlier.get("message") or "")
        return _plan(seen, _beside(seen), Outcome("Queued", "Restarting", said))
    pods = _of(job, _own_pods(seen))
    why = instances.lost(pods, found)
    if not why or job is None or instances.succeeded(job):
        return None
    if restarts >= _MOST_RESTARTS:
        message = f"{why} The job has begun anew {restarts} times already, and is given up."
        over = Outcome("Failed", "InstanceLost", message)
        going = replace(over, phase=str(earlier.get("phase") or "Queued"))
        return _plan(seen, _kept(seen, job, grouped), going, requeue_after=timedelta(seconds=1))
    message = f"{why} The other instances cannot go on without it: all begin anew ({restarts + 1} of at most {_MOST_RESTARTS} times)."
    plan = _plan(seen, _kept(seen, job, grouped), Outcome("Queued", "Restarting", message), requeue_after=timedelta(seconds=1))
    assert plan.status is not None
    status = {**plan.status, "restarts": restarts + 1}
    return replace(plan, status=status, events=[*plan.events, ("Warning", "Restarting", message)])


def _within_limit(seen: Observed, job: Manifest | None, pods: Sequence[Manifest], plan: Plan, grouped: bool) -> Plan:
    """The plan of beginning anew, unless the job's time is over: a lost instance gives it no more of it."""
    if plan.status is None or plan.status["phase"] in TERMINAL:
        return plan
    left = _time_left(seen, plan.status["phase"])
    if left is None:
        return plan
    if left <= timedelta(0):
        return _stopped(seen, job, pods, _over(seen), grouped)
    return replace(plan, requeue_after=min(left, plan.requeue_after or left))


def _stops(seen: Observed) -> bool:
    recorded = find((seen.parent.get("status") or {}).get("conditions"), "Stopping")
    return bool(seen.parent["spec"].get("cancelRequested") or (recorded and recorded.get("status") == "True"))


def _restarts(seen: Observed) -> int:
    return int((seen.parent.get("status") or {}).get("restarts") or 0)


def _attempt(job: Manifest) -> int:
    text = str((job["metadata"].get("annotations") or {}).get(gang.ATTEMPT) or "")
    return int(text) if text.isdigit() else 0


def _behind(seen: Observed, job: Manifest | None) -> bool:
    """Whether the Job is a former one, which has to go: nothing that becomes of its pods counts any more."""
    return job is not None and _attempt(job) < _restarts(seen)


def _of(job: Manifest | None, pods: Sequence[Manifest]) -> list[Manifest]:
    """The pods of this very Job: those of a former one may still be ending."""
    uid = (job or {"metadata": {}})["metadata"].get("uid")
    return [pod for pod in pods if controller_uid(pod) == uid]


def _metadata(seen: Observed) -> Manifest:
    name, namespace = seen.parent["metadata"]["name"], seen.parent["metadata"]["namespace"]
    return {"name": name, "namespace": namespace, "labels": workload.labels(seen.parent["spec"], "training", {"job": name})}


def _own_job(seen: Observed) -> Manifest | None:
    name = seen.parent["metadata"]["name"]
    return next((job for job in seen.children.get("Job", ()) if job["metadata"]["name"] == name), None)


def _own_pods(seen: Observed) -> list[Manifest]:
    return list(seen.children.get("Pod", ()))


def _restricted(seen: Observed) -> bool:
    return security.enforced(seen.parent["metadata"]["namespace"], seen.related.get("Namespace", ()))


def _refusal(seen: Observed, job: Manifest | None, pods: Sequence[Manifest]) -> Refusal | None:
    if job is None:
        return None
    newest = max((str(pod["metadata"].get("creationTimestamp") or "") for pod in pods), default="")
    return refusal.of_events(seen.related.get("Event", ()), str(job["metadata"].get("uid") or ""), since=newest)


def _claims(seen: Observed) -> claims.Claims:
    return claims.select(seen.related.get("PersistentVolumeClaim", ()), seen.parent["metadata"]["namespace"])


# Stopping: on request, or at the time limit. The limit's decision is written down before the Job goes, since nothing else would
# remember it once the pods are gone.


def _stopping(seen: Observed, outcome: Outcome) -> Condition | None:
    if seen.parent["spec"].get("cancelRequested"):
        return Condition("Stopping", "True", "CancelRequested", "The job was cancelled on request.")
    recorded = find((seen.parent.get("status") or {}).get("conditions"), "Stopping")
    if recorded and recorded.get("status") == "True":
        return Condition("Stopping", "True", recorded["reason"], recorded["message"])
    left = _time_left(seen, outcome.phase)
    return _over(seen) if left is not None and left <= timedelta(0) else None


def _over(seen: Observed) -> Condition:
    limit = seen.parent["spec"]["limits"]["timeoutSeconds"]
    return Condition("Stopping", "True", "TimeLimit", f"The job ran longer than its limit of {_span(limit)}.")


def _stopped(seen: Observed, job: Manifest | None, pods: Sequence[Manifest], stop: Condition, grouped: bool) -> Plan:
    earlier = seen.parent.get("status") or {}
    if job is None and not pods:
        return _plan(seen, (), Outcome("Canceled", stop.reason, stop.message), stop=stop)
    going = Outcome(earlier.get("phase") or "Queued", stop.reason, f"{stop.message} Its pods are being stopped.")
    recorded = find(earlier.get("conditions"), "Stopping")
    if stop.reason == "TimeLimit" and not recorded and not _behind(seen, job):
        return _plan(seen, _kept(seen, job, grouped) if job else (), going, stop=stop, requeue_after=timedelta(seconds=1))
    return _plan(seen, (), going, stop=stop)


def _time_left(seen: Observed, phase: str) -> timedelta | None:
    """Until the limit; None where there is none, before the command has begun, and once it has ended.

    Counted from the command's first start, also while pods that the cluster took away are replaced: a limit is a promise about cost. Time in the
    queue before that start is not the user's.
    """
    limit = (seen.parent["spec"].get("limits") or {}).get("timeoutSeconds")
    begun = _begun(seen)
    if not limit or not begun or phase == "Finalizing" or phase in TERMINAL:
        return None
    return moment(begun) + timedelta(seconds=limit) - seen.now


def _begun(seen: Observed) -> str | None:
    """When the command began for the first time. The status remembers what pods that are gone cannot tell any more."""
    own = _of(_own_job(seen), _own_pods(seen))
    known = [(seen.parent.get("status") or {}).get("startTime"), *(began(pod) for pod in own)]
    return min((text for text in known if text), key=moment, default=None)


def _span(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{amount}{unit}" for amount, unit in ((hours, "h"), (minutes, "m"), (left, "s")) if amount]
    return "".join(parts)


# Status and events


def _plan(
    seen: Observed,
    children: Sequence[Manifest],
    outcome: Outcome,
    *,
    stop: Condition | None = None,
    requeue_after: timedelta | None = None,
) -> Plan:
    earlier: Manifest = seen.parent.get("status") or {}
    generation = seen.parent["metadata"].get("generation", 1)
    found = _conditions(seen, outcome, stop)
    status: Manifest = {
        "phase": outcome.phase,
        "reason": outcome.reason,
        "message": _cut(outcome.message),
        "observedGeneration": generation,
        "pods": pods_summary(_own_pods(seen), earlier.get("pods") or ()) or earlier.get("pods") or [],
        "conditions": merge(earlier.get("conditions") or (), found, now=seen.now, generation=generation),
    }
    if restarts := _restarts(seen):
        status["restarts"] = restarts
    if started := _begun(seen):
        status["startTime"] = started
    if outcome.exit_code is not None and outcome.terminal:
        status["exitCode"] = outcome.exit_code
    if outcome.terminal:
        status["completionTime"] = outcome.finished or timestamp(seen.now)
    return Plan(children=tuple(children), status=status, requeue_after=requeue_after, events=_events(earlier, status, found))


def _conditions(seen: Observed, outcome: Outcome, stop: Condition | None) -> list[Condition]:
    found: list[Condition] = []
    problems = _claims(seen).problems
    earlier = find((seen.parent.get("status") or {}).get("conditions"), "VolumesMounted")
    if _own_job(seen):
        # Of this job's pods nothing changes any more, whatever becomes of the claims.
        if earlier:
            found.append(Condition("VolumesMounted", earlier["status"], earlier["reason"], earlier["message"]))
    elif problems:
        found.append(Condition("VolumesMounted", "False", "ClaimRefused", " ".join(problems)))
    if stop:
        found.append(stop)
    verdict = {"Completed": "True", "Failed": "False", "Canceled": "False"}.get(outcome.phase, "Unknown")
    found.append(Condition("Succeeded", verdict, outcome.reason, _cut(outcome.message)))
    return found


def _events(earlier: Manifest, status: Manifest, found: Sequence[Condition]) -> list[tuple[str, str, str]]:
    events: list[tuple[str, str, str]] = []
    for condition in found:
        before = find(earlier.get("conditions"), condition.type)
        if condition.type == "VolumesMounted" and condition.status == "False" and not before:
            events.append(("Warning", condition.reason, condition.message))
    if status["reason"] in refusal.REASONS and status["reason"] != earlier.get("reason"):
        events.append(("Warning", status["reason"], status["message"][:1000]))
    if status["phase"] != earlier.get("phase") and status["phase"] in TERMINAL:
        kind = "Warning" if status["phase"] == "Failed" else "Normal"
        events.append((kind, status["reason"], status["message"][:1000]))
    return events


def _cut(message: str) -> str:
    """The end of a long message says more than its middle."""
    if len(message) <= _MESSAGE_LIMIT:
        return message
    head = _MESSAGE_LIMIT // 4
    return f"{message[:head]}\n...\n{message[-(_MESSAGE_LIMIT - head - 5) :]}"
