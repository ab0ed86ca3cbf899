"""The pods of a job of several, seen together: what the job waits for, when its processes may begin, and when a lost pod means that all begin anew."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from moorage.kube.reconcile import Note
from moorage.specs import pod_status, workload
from moorage.specs.condition import find
from moorage.specs.distribution import PEERS_ANNOTATION, Layout, index_of
from moorage.specs.manifest import Manifest
from moorage.specs.refusal import Refusal
from moorage.training.launchers.gang import PEERS_CONTAINER
from moorage.training.status import LATE, Outcome, awaited, failure, job_failure, phase_of, progress, success, unstored
from moorage.training.template import UPLOAD_CONTAINER

# Ends that follow from another's. SIGKILL (137) does so only for our own containers: what kills a command while nobody deletes its pod is what
# ran out of memory, where the node does not say so.
_TOLD_TO_END, _KILLED = 143, 137


def observe(job: Manifest | None, pods: Sequence[Manifest], found: Layout, refused: Refusal | None = None) -> Outcome:
    """The job's state from its Job and that Job's pods; `refused`: why the last pod that the Job wanted could not be created."""
    current = newest(pods, found)
    conditions = ((job or {}).get("status") or {}).get("conditions")
    failed = find(conditions, "Failed")
    if failed and failed.get("status") == "True":
        return _failure(failed, pods, found)
    complete = find(conditions, "Complete")
    if complete and complete.get("status") == "True":
        return _success(current, found)
    if refused and len(current) < found.pods:
        return Outcome("Queued", refused.reason, refused.message)
    if not current:
        return Outcome("Queued", "Starting", "Waiting for the cluster to create the job's pods.")
    return _progress(current, found)


def newest(pods: Iterable[Manifest], found: Layout) -> dict[int, Manifest]:
    """The pod that counts of each completion index."""
    by_index: dict[int, list[Manifest]] = {}
    for pod in pods:
        index = index_of(pod)
        if index is not None and index < found.pods:
            by_index.setdefault(index, []).append(pod)
    return {index: chosen for index in sorted(by_index) if (chosen := pod_status.newest(by_index[index])) is not None}


def notes(pods: Sequence[Manifest], found: Layout) -> list[Note]:
    """The peers' addresses for every pod, once all pods are prepared: a process that meets the others must not have to wait for their downloads."""
    current = newest(pods, found)
    value = next((text for pod in current.values() if (text := peers_of(pod))), "")
    if not value:
        if len(current) < found.pods or not all(_at_the_gate(pod) for pod in current.values()):
            return []
        value = json.dumps([{"pod": pod["metadata"]["name"], "address": pod["status"]["podIP"]} for pod in current.values()])
    named = _named(value)
    return [
        Note(pod, {PEERS_ANNOTATION: value})
        for index, pod in current.items()
        if not peers_of(pod) and named.get(index) == pod["metadata"]["name"]
    ]


def untold(outcome: Outcome, forbidden: str) -> Outcome:
    """The state of a job whose instances are prepared and cannot be told of each other: nothing else would ever say so."""
    if outcome.reason != "WaitingForPeers":
        return outcome
    said = forbidden if forbidden.endswith((".", "!")) else f"{forbidden}."
    return Outcome(
        "Preparing",
        "PeersForbidden",
        f"The instances are prepared, but the cluster forbids the operator to tell them of each other: {said} Where its role is of an earlier "
        "version and lacks the verb patch on pods, install the extension again (moorage extension create); the job goes on within two minutes.",
    )


def lost(pods: Sequence[Manifest], found: Layout) -> str:
    """Why the processes cannot go on together: the cluster took a pod away after they had met. Empty while nothing of the kind has happened."""
    met = next((text for pod in pods if (text := peers_of(pod))), "")
    if not met:
        return ""
    named = _named(met)
    for pod in pods:
        index = index_of(pod)
        if index is None or phase_of(pod) == "Succeeded":
            continue
        disruption = find((pod.get("status") or {}).get("conditions"), "DisruptionTarget")
        if disruption and disruption.get("status") == "True" and peers_of(pod):
            said = disruption.get("message") or disruption.get("reason") or "the cluster took it away"
            return f"{_capital(found.role(index))} was lost: {said.rstrip('.')}."
        # One that failed before they met was replaced by the Job, and stays beside its successor.
        if named.get(index) != pod["metadata"]["name"] and not peers_of(pod) and phase_of(pod) != "Failed":
            return f"{_capital(found.role(index))} was lost: its pod {named.get(index)} is gone."
    return ""


def succeeded(job: Manifest) -> bool:
    """Whether the job has what it wants, so that nothing that happens to its pods now matters."""
    conditions = (job.get("status") or {}).get("conditions")
    return any((find(conditions, type) or {}).get("status") == "True" for type in ("SuccessCriteriaMet", "Complete"))


def peers_of(pod: Manifest) -> str:
    """The annotation with the peers; empty while there is none."""
    return str((pod["metadata"].get("annotations") or {}).get(PEERS_ANNOTATION) or "")


def _named(value: str) -> Mapping[int, str]:
    return {index: str(peer["pod"]) for index, peer in enumerate(json.loads(value))}


def _at_the_gate(pod: Manifest) -> bool:
    waits = pod_status.running(pod_status.container(pod, PEERS_CONTAINER)) is not None
    return waits and bool((pod.get("status") or {}).get("podIP")) and not pod["metadata"].get("deletionTimestamp")


def _progress(current: Mapping[int, Manifest], found: Layout) -> Outcome:
    each = {index: _state(pod) for index, pod in current.items()}
    running = [one for one in each.values() if one.phase == "Running"]
    done = {index: one for index, one in each.items() if one.phase == "Finalizing"}
    if len(done) == found.pods:
        return next(iter(done.values()))
    if running or done:
        ended = f" {len(done)} of {found.pods} have ended." if done else ""
        return Outcome("Running", "Running", f"The command is running on {len(running)} instances.{ended}")
    for index, one in each.items():
        if one.reason in ("ImagePullFailed", "ContainerNotStarted"):
            return replace(one, message=f"{_capital(found.role(index))}: {one.message}")
    return _waiting(each, found)


def _waiting(each: Mapping[int, Outcome], found: Layout) -> Outcome:
    queued = {index: one for index, one in each.items() if one.phase == "Queued"}
    placed = len(each) - len(queued)
    missing = found.pods - len(each)
    if missing or queued:
        if not queued:
            return Outcome(
                "Queued", "Starting", f"{placed} of {found.pods} instances have a place; the cluster is creating the others' pods."
            )
        index, first = next(((index, one) for index, one in queued.items() if one.reason == "Unschedulable"), next(iter(queued.items())))
        if not placed:
            return Outcome("Queued", first.reason, f"{found.pods} instances wait for nodes. {_capital(found.role(index))}: {first.message}")
        message = f"{placed} of {found.pods} instances have a place; waiting for {found.role(index)}: {first.message}"
        return Outcome("Queued", "WaitingForPeers", message)
    slow = {index: one for index, one in each.items() if one.reason != "WaitingForPeers"}
    if not slow:
        return Outcome("Preparing", "WaitingForPeers", f"All {found.pods} instances are prepared; they are told of each other.")
    index, first = next(iter(slow.items()))
    if len(slow) == len(each):
        same = Counter(one.reason for one in slow.values())[first.reason]
        return replace(first, message=f"{same} of {found.pods} instances: {first.message}")
    message = f"{found.pods - len(slow)} of {found.pods} instances are prepared; waiting for {found.role(index)}: {first.message}"
    return Outcome("Preparing", "WaitingForPeers", message)


def _state(pod: Manifest) -> Outcome:
    if pod_status.running(pod_status.container(pod, PEERS_CONTAINER)) is not None:
        return Outcome("Preparing", "WaitingForPeers", "Waiting for the other instances.")
    return progress(pod)


def _failure(condition: Manifest, pods: Sequence[Manifest], found: Layout) -> Outcome:
    current = newest(pods, found).values()
    if any(awaited(condition, pod) for pod in current):
        return LATE
    over = [pod for pod in current if phase_of(pod) == "Failed"]
    first = min(over, key=_when(str(condition.get("message") or "")), default=None)
    if first is None:
        return job_failure(condition, None)
    outcome = failure(first)
    return replace(outcome, message=f"{_capital(found.role(index_of(first) or 0))}: {outcome.message}")


def _when(said: str) -> Callable[[Manifest], tuple[bool, bool, str, bool, int]]:
    """The order in which failed pods are likely to be the cause: by themselves before those told to end, then by time, then the Job's own word."""

    def order(pod: Manifest) -> tuple[bool, bool, str, bool, int]:
        ends = [one for entry in _containers(pod) if (one := pod_status.ended(entry)) and one.exit_code]
        main = pod_status.ended(pod_status.container(pod, workload.MAIN_CONTAINER))
        told = all(one.exit_code in (_TOLD_TO_END, _KILLED) and one.reason != "OOMKilled" for one in ends)
        told = told and not (main and main.exit_code == _KILLED)
        when = min((one.finished or "~" for one in ends), default="~")
        return bool(pod["metadata"].get("deletionTimestamp")), told, when, pod["metadata"]["name"] not in said, index_of(pod) or 0

    return order


def _containers(pod: Manifest) -> list[Manifest]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _success(current: Mapping[int, Manifest], found: Layout) -> Outcome:
    outcomes = {index: success(pod) for index, pod in current.items() if index < found.workers}
    for index, one in outcomes.items():
        if one.phase == "Failed":
            return replace(one, message=f"{_capital(found.role(index))}: {one.message}")
    if late := next((one for one in outcomes.values() if not one.terminal), None):
        return late
    # A parameter server is told to end, which is no failure; but what it says it could not store is lost.
    for index, pod in current.items():
        if index >= found.workers and (said := unstored(pod)):
            return Outcome("Failed", "UploadFailed", f"{_capital(found.role(index))}: Its outputs could not be stored: {said}", 0)
    finished = max((one.finished for one in outcomes.values() if one.finished), default=None)
    if missing := found.workers - len(outcomes):
        gone = "Its pods were" if missing == found.workers else f"{missing} of its {found.workers} pods were"
        message = (
            f"The command succeeded. {gone} gone before they could be asked whether all outputs were stored: look whether they are there."
        )
        return Outcome("Completed", "Completed", message, 0, finished)
    told = [(index, said) for index, pod in current.items() if (said := pod_status.notice(pod, UPLOAD_CONTAINER))]
    but = f", but for this: {_capital(found.role(told[0][0]))}: {told[0][1]}" if told else "."
    message = f"The command succeeded on all {found.workers} {'workers' if found.workers < found.pods else 'instances'} and its outputs are stored{but}"
    return Outcome("Completed", "Completed", message, 0, finished)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
