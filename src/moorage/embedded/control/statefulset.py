"""StatefulSet: pods with names that stay, each with its own claims, made, updated and removed one after the other unless told otherwise. Pure.

There is no DNS on the embedded cluster: a pod's hostname and subdomain are set as on Kubernetes, and nothing resolves them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from moorage.embedded.control import claims, revisions
from moorage.embedded.control.objects import is_controlled_by, selector_of
from moorage.embedded.control.pods import available_in, claim, from_template, is_finished, is_ready, phase_of
from moorage.embedded.control.revisions import POD_LABEL, History
from moorage.embedded.control.rollout import share
from moorage.embedded.control.steps import NOTHING, Create, Decision, Delete, Patch, Record, Step, set_status, sooner
from moorage.kube.kinds import POD, STATEFUL_SET
from moorage.kube.metadata import is_deleting, labels_of, name_of
from moorage.specs.manifest import Manifest

COMPONENT = "statefulset-controller"
HASH_LABEL = "controller.kubernetes.io/hash"
_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
_INDEX_LABEL = "apps.kubernetes.io/pod-index"
_NUMBERED = re.compile(r"(.*)-([0-9]+)$")


@dataclass(frozen=True, slots=True)
class _Turn:
    """A set with its pods sorted out: by ordinal those that are wanted, and those too many with the highest ordinal first."""

    set: Manifest
    current: Manifest
    update: Manifest
    pods: Sequence[Manifest]
    replicas: Mapping[int, Manifest]
    condemned: Sequence[Manifest]
    claims: Mapping[str, Manifest]
    now: datetime

    @property
    def ordinals(self) -> range:
        return ordinals(self.set)

    @property
    def in_order(self) -> bool:
        return bool(self.set["spec"].get("podManagementPolicy") != "Parallel")

    def wait(self, pod: Manifest) -> timedelta | None:
        """Zero for an available pod, see `available_in`."""
        return available_in(pod, timedelta(seconds=self.set["spec"].get("minReadySeconds") or 0), self.now)

    def is_available(self, pod: Manifest) -> bool:
        return self.wait(pod) == timedelta(0)

    def is_unavailable(self, pod: Manifest | None) -> bool:
        return pod is None or is_deleting(pod) or not self.is_available(pod)

    def is_old(self, pod: Manifest) -> bool:
        return labels_of(pod).get(POD_LABEL) != name_of(self.update)


def ordinals(stateful_set: Manifest) -> range:
    """The numbers of the pods that should be."""
    start = (stateful_set["spec"].get("ordinals") or {}).get("start", 0)
    return range(start, start + stateful_set["spec"].get("replicas", 1))


def ordinal_of(pod: Manifest) -> int:
    """The number a pod's name ends with, -1 when there is none."""
    found = _NUMBERED.match(name_of(pod))
    return int(found[2]) if found else -1


def parent_of(pod: Manifest) -> str:
    found = _NUMBERED.match(name_of(pod))
    return found[1] if found else ""


def decide(
    stateful_set: Manifest,
    candidates: Sequence[Manifest],
    history: Sequence[Manifest],
    volume_claims: Mapping[str, Manifest],
    now: datetime,
) -> Decision:
    """One turn for a StatefulSet.

    Args:
        candidates: pods of its namespace that it owns or that have no controller.
        history: revisions of its namespace that it owns or that have no controller.
        volume_claims: the claims of its namespace by name.
    """
    selector = selector_of(stateful_set)
    if not selector:
        return NOTHING
    named = [pod for pod in candidates if is_controlled_by(pod, stateful_set) or parent_of(pod) == name_of(stateful_set)]
    claimed = claim(stateful_set, named, selector)
    owned = [one for one in history if is_controlled_by(one, stateful_set)]
    found = revisions.history(stateful_set, STATEFUL_SET, HASH_LABEL, owned, history, now)
    if found.update is None:
        return Decision([*claimed.steps, *found.steps] if not is_deleting(stateful_set) else [])
    current = found.named((stateful_set.get("status") or {}).get("currentRevision", "")) or found.update
    turn = _sorted(stateful_set, (current, found.update), claimed.owned, volume_claims, now)
    steps = [] if is_deleting(stateful_set) else _manage(turn)
    status, wait = observe(turn, steps)
    return Decision([*set_status(STATEFUL_SET, stateful_set, status), *claimed.steps, *steps, *_forget(turn, found)], wait)


def _sorted(
    stateful_set: Manifest, known: tuple[Manifest, Manifest], pods: Sequence[Manifest], volume_claims: Mapping[str, Manifest], now: datetime
) -> _Turn:
    wanted = ordinals(stateful_set)
    replicas = {ordinal_of(pod): pod for pod in pods if ordinal_of(pod) in wanted}
    condemned = sorted((pod for pod in pods if ordinal_of(pod) >= 0 and ordinal_of(pod) not in wanted), key=ordinal_of, reverse=True)
    return _Turn(stateful_set, *known, pods, replicas, condemned, volume_claims, now)


def _forget(turn: _Turn, history: History) -> list[Step]:
    live = {name_of(turn.current), name_of(turn.update), *(labels_of(pod).get(POD_LABEL, "") for pod in turn.pods)}
    return revisions.forget(turn.set, history.all, live)


def observe(turn: _Turn, steps: Sequence[Step]) -> tuple[Mapping[str, Any], timedelta | None]:
    """The status, and when a ready pod becomes available. Pods that `steps` delete for an update count as current no more."""
    waits = [turn.wait(pod) for pod in turn.pods]
    alive = [pod for pod in turn.pods if not is_deleting(pod)]
    gone = sum(isinstance(step, Delete) and step.kind == POD and ordinal_of(step.object) in turn.ordinals for step in steps)
    status: dict[str, Any] = {
        "observedGeneration": turn.set["metadata"].get("generation", 1),
        "replicas": len(turn.pods),
        "readyReplicas": sum(phase_of(pod) == "Running" and is_ready(pod) for pod in turn.pods),
        "availableReplicas": sum(wait == timedelta(0) for wait in waits),
        "currentReplicas": max(0, sum(labels_of(pod).get(POD_LABEL) == name_of(turn.current) for pod in alive) - gone),
        "updatedReplicas": sum(not turn.is_old(pod) for pod in alive),
        "currentRevision": name_of(turn.current),
        "updateRevision": name_of(turn.update),
        "collisionCount": (turn.set.get("status") or {}).get("collisionCount", 0),
    }
    if status["updatedReplicas"] == status["readyReplicas"] == status["replicas"] == len(turn.ordinals):
        status |= {"currentReplicas": status["updatedReplicas"], "currentRevision": status["updateRevision"]}
    if conditions := (turn.set.get("status") or {}).get("conditions"):
        status["conditions"] = conditions
    always = ("replicas", "availableReplicas", "collisionCount")
    return {name: value for name, value in status.items() if value or name in always}, sooner(*(wait for wait in waits if wait))


def _manage(turn: _Turn) -> list[Step]:
    """The writes on pods and claims, up to the first pod that has to be waited for."""
    steps, blocked = _fill(turn)
    if blocked:
        return steps
    for pod in turn.condemned:
        steps += claims.kept(turn.set, pod, turn.claims, wanted=False)
    removed, blocked = _shrink(turn)
    steps += removed
    if blocked or turn.set["spec"]["updateStrategy"].get("type") == "OnDelete":
        return steps
    return [*steps, *_roll(turn)]


def _fill(turn: _Turn) -> tuple[list[Step], bool]:
    steps: list[Step] = []
    for ordinal in turn.ordinals:
        pod = turn.replicas.get(ordinal)
        if pod is None:
            steps += _make(turn, ordinal)
            if turn.in_order:
                return steps, True
            continue
        if is_finished(pod):
            steps += [] if is_deleting(pod) else _delete(turn, pod)
            if turn.in_order:
                return steps, True
            continue
        if phase_of(pod) == "Pending":
            steps += claims.missing(turn.set, name_of(pod), ordinal, turn.claims, COMPONENT)
        if turn.in_order and turn.is_unavailable(pod):
            return steps, True
        steps += _identity(pod)
        steps += claims.kept(turn.set, pod, turn.claims, wanted=True)
    return steps, False


def _shrink(turn: _Turn) -> tuple[list[Step], bool]:
    steps: list[Step] = []
    everyone = [*(turn.replicas.get(ordinal) for ordinal in turn.ordinals), *reversed(turn.condemned)]
    first = next((pod for pod in everyone if turn.is_unavailable(pod)), None)
    for pod in turn.condemned:
        if is_deleting(pod):
            if turn.in_order:
                return steps, True
            continue
        if turn.in_order and turn.is_unavailable(pod) and pod is not first:
            return steps, True
        steps += _delete(turn, pod)
        if turn.in_order:
            return steps, True
    return steps, False


def _roll(turn: _Turn) -> list[Step]:
    """Delete pods of an earlier revision, from the highest ordinal down to the partition, as far as `maxUnavailable` allows."""
    rolling = turn.set["spec"]["updateStrategy"].get("rollingUpdate") or {}
    least = rolling.get("partition", 0)
    allowed = max(1, share(rolling.get("maxUnavailable", 1), len(turn.ordinals), up=False))
    budget = allowed - sum(turn.is_unavailable(turn.replicas.get(ordinal)) for ordinal in turn.ordinals)
    first = turn.ordinals.start
    # The partition counts from the first ordinal, as Kubernetes' loop over indexes does.
    old = [
        pod
        for index in range(len(turn.ordinals) - 1, least - 1, -1)
        if (pod := turn.replicas.get(first + index)) is not None and turn.is_old(pod) and not is_deleting(pod)
    ]
    if turn.in_order:
        return [step for pod in old[: max(0, budget)] for step in _delete(turn, pod)]
    broken = [pod for pod in old if turn.is_unavailable(pod)]
    healthy = [pod for pod in old if not turn.is_unavailable(pod)]
    return [step for pod in [*broken, *healthy[: max(0, budget)]] for step in _delete(turn, pod)]


def _make(turn: _Turn, ordinal: int) -> list[Step]:
    name = f"{name_of(turn.set)}-{ordinal}"
    about = f"Create Pod {name} in StatefulSet {name_of(turn.set)}"
    if claims.is_stale(turn.set, name, ordinal, turn.claims):
        return []  # the garbage collector takes the claim of the pod that had this name; its going wakes the set
    if (leaving := claims.leaving(turn.set, ordinal, turn.claims)) is not None:
        return [Record(turn.set, "Warning", "FailedCreate", f"{about} failed error: pvc {leaving} is being deleted", COMPONENT)]
    words = f"{about} successful", f"{about} failed error: "
    pod = new_pod(turn.set, _revision_for(turn, ordinal), ordinal)
    made = claims.missing(turn.set, name, ordinal, turn.claims, COMPONENT)
    return [*made, Create(POD, pod, announce=turn.set, component=COMPONENT, words=words)]


def _revision_for(turn: _Turn, ordinal: int) -> Manifest:
    """A pod below the partition comes back as it was."""
    rolling = turn.set["spec"]["updateStrategy"].get("rollingUpdate") or {}
    return turn.current if ordinal < turn.ordinals.start + rolling.get("partition", 0) else turn.update


def new_pod(stateful_set: Manifest, revision: Manifest, ordinal: int) -> Manifest:
    """The whole pod of that ordinal, as the revision has it."""
    pod = from_template(stateful_set, revisions.template_of(revision))
    name = f"{name_of(stateful_set)}-{ordinal}"
    pod["metadata"]["name"] = name
    pod["metadata"]["labels"] |= {_NAME_LABEL: name, _INDEX_LABEL: str(ordinal), POD_LABEL: name_of(revision)}
    spec = pod["spec"]
    spec["hostname"] = name
    if service := stateful_set["spec"].get("serviceName"):
        spec["subdomain"] = service
    else:
        spec.pop("subdomain", None)
    own = claims.volumes(stateful_set, ordinal)
    names = {volume["name"] for volume in own}
    volumes = [*own, *(volume for volume in spec.get("volumes") or () if volume["name"] not in names)]
    if volumes:
        spec["volumes"] = volumes
    return pod


def _identity(pod: Manifest) -> list[Step]:
    wanted = {_NAME_LABEL: name_of(pod), _INDEX_LABEL: str(ordinal_of(pod))}
    lacking = {label: value for label, value in wanted.items() if labels_of(pod).get(label) != value}
    return [Patch(POD, pod, {"metadata": {"labels": lacking}})] if lacking else []


def _delete(turn: _Turn, pod: Manifest) -> list[Step]:
    message = f"Delete Pod {name_of(pod)} in StatefulSet {name_of(turn.set)} successful"
    return [Delete(POD, pod), Record(turn.set, "Normal", "SuccessfulDelete", message, COMPONENT)]
