"""DaemonSet: one pod on every node that takes it, bound there by the scheduler, and replaced node by node when the template changes. Pure."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from moorage.embedded.control import revisions
from moorage.embedded.control.objects import annotations_of, created_at, is_controlled_by, selector_of
from moorage.embedded.control.pods import available_in, claim, from_template, is_finished, is_ready, phase_of
from moorage.embedded.control.revisions import POD_LABEL
from moorage.embedded.control.rollout import share
from moorage.embedded.control.scheduling.affinity import matches_requirements, taints_of, tolerates
from moorage.embedded.control.steps import NOTHING, Create, Decision, Delete, Record, Step, set_status, sooner
from moorage.kube.kinds import DAEMON_SET, POD
from moorage.kube.metadata import is_deleting, labels_of, name_of, namespace_of
from moorage.specs.manifest import Manifest

COMPONENT = "daemonset-controller"
_GENERATION = "deprecated.daemonset.template.generation"
_GENERATION_LABEL = "pod-template-generation"
_BURST = 250  # Kubernetes' BurstReplicas of this controller
# Daemons stay where others have to leave (AddOrUpdateDaemonPodTolerations).
_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
_OF_THE_HOST = ("node.kubernetes.io/network-unavailable", "NoSchedule")


@dataclass(frozen=True, slots=True)
class _Turn:
    """A set with its pods by the node that each is on or meant for."""

    set: Manifest
    mark: str
    nodes: Sequence[Manifest]
    on: Mapping[str, Sequence[Manifest]]
    holds: Mapping[str, timedelta]
    now: datetime

    def wait(self, pod: Manifest) -> timedelta | None:
        return available_in(pod, timedelta(seconds=self.set["spec"].get("minReadySeconds") or 0), self.now)

    def is_available(self, pod: Manifest) -> bool:
        return self.wait(pod) == timedelta(0)

    def is_new(self, pod: Manifest) -> bool:
        generation = annotations_of(self.set).get(_GENERATION)
        labels = labels_of(pod)
        return labels.get(POD_LABEL) == self.mark or (generation is not None and labels.get(_GENERATION_LABEL) == generation)

    @property
    def desired(self) -> list[str]:
        return [name_of(node) for node in self.nodes if fits(self.set, node)[0]]

    def count(self, name: str) -> int:
        """`maxSurge` or `maxUnavailable`, both rounded up."""
        strategy = self.set["spec"]["updateStrategy"]
        if strategy.get("type") != "RollingUpdate":
            return 0
        return share((strategy.get("rollingUpdate") or {}).get(name, 0), len(self.desired), up=True)

    def oldest_first(self, pods: Sequence[Manifest]) -> list[Manifest]:
        return sorted(pods, key=lambda pod: (not (pod.get("spec") or {}).get("nodeName"), created_at(pod, self.now), name_of(pod)))


def decide(
    daemon_set: Manifest,
    candidates: Sequence[Manifest],
    history: Sequence[Manifest],
    nodes: Sequence[Manifest],
    holds: Mapping[str, timedelta],
    now: datetime,
) -> Decision:
    """One turn for a DaemonSet.

    Args:
        candidates: pods of its namespace that it owns or that have no controller.
        history: revisions of its namespace that it owns or that have no controller.
        holds: nodes on which a failed pod has to stay for that long, because the ones before it failed as well.
    """
    selector = selector_of(daemon_set)
    if not selector or is_deleting(daemon_set):
        return NOTHING
    claimed = claim(daemon_set, candidates, selector)
    owned = [one for one in history if is_controlled_by(one, daemon_set)]
    found = revisions.history(daemon_set, DAEMON_SET, POD_LABEL, owned, history, now)
    if found.update is None:
        return Decision([*claimed.steps, *found.steps])
    mark = revisions.hash_of(found.update, POD_LABEL)
    turn = _Turn(daemon_set, mark, nodes, _by_node(claimed.owned), holds, now)
    steps = _manage(turn)
    if not steps and daemon_set["spec"]["updateStrategy"].get("type") == "RollingUpdate":
        steps = _surge(turn) if turn.count("maxSurge") else _replace(turn)
    live = {name_of(found.update)} | {f"{name_of(daemon_set)}-{labels_of(pod).get(POD_LABEL)}" for pod in claimed.owned}
    status, wait = observe(turn)
    wrote = set_status(DAEMON_SET, daemon_set, status)
    return Decision([*wrote, *claimed.steps, *steps, *revisions.forget(daemon_set, found.all, live)], sooner(wait, *holds.values()))


def _by_node(pods: Sequence[Manifest]) -> dict[str, list[Manifest]]:
    found: dict[str, list[Manifest]] = {}
    for pod in pods:
        target = target_of(pod)
        if target is not None and not (is_finished(pod) and is_deleting(pod)):
            found.setdefault(target, []).append(pod)
    return found


def target_of(pod: Manifest) -> str | None:
    """The node the pod is on, or that its affinity names."""
    spec = pod.get("spec") or {}
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for one in term.get("matchFields") or ():
            if one.get("key") == "metadata.name" and one.get("operator") == "In" and len(one.get("values") or ()) == 1:
                return str(one["values"][0])
    return None


def fits(daemon_set: Manifest, node: Manifest) -> tuple[bool, bool]:
    """Whether the node should get a pod, and whether one that is there may stay."""
    spec = daemon_set["spec"]["template"].get("spec") or {}
    if spec.get("nodeName") not in (None, "", name_of(node)) or not matches_requirements({"spec": spec}, node):
        return False, False
    pod = {"spec": {"tolerations": _tolerations(spec)}}
    refused = {taint.get("effect") for taint in taints_of(node) if not tolerates(pod, taint)} & {"NoSchedule", "NoExecute"}
    return not refused, "NoExecute" not in refused


def _tolerations(spec: Mapping[str, Any]) -> list[Manifest]:
    added = [*_TOLERATED, *([_OF_THE_HOST] if spec.get("hostNetwork") else [])]
    own = [one for one in spec.get("tolerations") or () if not _is_added(one, added)]
    return [*own, *({"key": key, "operator": "Exists", "effect": effect} for key, effect in added)]


def _is_added(toleration: Manifest, added: Sequence[tuple[str, str]]) -> bool:
    return (toleration.get("key"), toleration.get("effect")) in added and toleration.get("operator") == "Exists"


def _manage(turn: _Turn) -> list[Step]:
    """A pod where one is missing, and none where none should be."""
    needing: list[str] = []
    doomed: list[Manifest] = []
    notes: list[Step] = []
    for node in turn.nodes:
        name = name_of(node)
        should_run, may_stay = fits(turn.set, node)
        pods = turn.on.get(name, ())
        if should_run and not pods:
            needing.append(name)
        elif may_stay:
            ended, running = _ended(turn, name, pods)
            notes += [_noted(turn, pod, name) for pod in ended]
            doomed += [*ended, *_too_many(turn, running)]
            if turn.count("maxSurge") and pods and not running and should_run:
                needing.append(name)
        else:
            doomed += [pod for pod in pods if not is_deleting(pod)]
    known = {name_of(node) for node in turn.nodes}
    doomed += [pod for name, pods in turn.on.items() if name not in known for pod in pods if not pod["spec"].get("nodeName")]
    return [*notes, *_writes(turn, doomed, needing)]


def _ended(turn: _Turn, node: str, pods: Sequence[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    """Pods that came to an end and may be replaced now, and those that run."""
    alive = [pod for pod in pods if not is_deleting(pod)]
    ended = [pod for pod in alive if phase_of(pod) == "Succeeded" or (phase_of(pod) == "Failed" and node not in turn.holds)]
    return ended, [pod for pod in alive if not is_finished(pod)]


def _noted(turn: _Turn, pod: Manifest, node: str) -> Record:
    where = f"daemon pod {namespace_of(pod)}/{name_of(pod)} on node {node}"
    if phase_of(pod) == "Failed":
        return Record(turn.set, "Warning", "FailedDaemonPod", f"Found failed {where}, will try to kill it", COMPONENT)
    return Record(turn.set, "Normal", "SucceededDaemonPod", f"Found succeeded {where}, will try to delete it", COMPONENT)


def _too_many(turn: _Turn, running: Sequence[Manifest]) -> list[Manifest]:
    ordered = turn.oldest_first(running)
    if not turn.count("maxSurge"):
        return ordered[1:]
    new = [pod for pod in ordered if pod["metadata"].get("labels", {}).get(POD_LABEL) == turn.mark]
    old = [pod for pod in ordered if pod not in new]
    doomed = [*new[1:], *old[1:]]
    if new and old and (not is_ready(old[0]) or turn.is_available(new[0])):
        doomed.append(old[0])
    return doomed


def _states(turn: _Turn) -> Iterator[tuple[str, Manifest | None, Manifest | None, bool]]:
    """Node, the pod of today's template, the one before; False when there are too many to tell."""
    for node in {**dict.fromkeys(turn.on), **dict.fromkeys(turn.desired)}:
        alive = [pod for pod in turn.on.get(node, ()) if not is_deleting(pod)]
        new = [pod for pod in alive if turn.is_new(pod)]
        old = [pod for pod in alive if not turn.is_new(pod)]
        yield node, new[0] if new else None, old[0] if old else None, len(new) < 2 and len(old) < 2


def _replace(turn: _Turn) -> list[Step]:
    """Delete old pods: the broken ones at once, others while no more than `maxUnavailable` nodes are without."""
    allowed = turn.count("maxUnavailable") or 1
    broken: list[Manifest] = []
    candidates: list[Manifest] = []
    unavailable = 0
    for _, new, old, clear in _states(turn):
        if not clear or (new is None) == (old is None):
            unavailable += 1
        elif new is not None:
            unavailable += not turn.is_available(new)
        elif old is not None and not turn.is_available(old):
            broken.append(old)
            unavailable += 1
        elif old is not None:
            candidates.append(old)
    return _writes(turn, [*broken, *candidates[: max(0, allowed - unavailable)]], [])


def _surge(turn: _Turn) -> list[Step]:
    """Make new pods beside old ones, as many as `maxSurge` allows, and delete an old one once its successor is available."""
    desired = set(turn.desired)
    doomed: list[Manifest] = []
    leaving: list[Manifest] = []
    urgent: list[str] = []
    candidates: list[str] = []
    surging = available = 0
    for node, new, old, clear in _states(turn):
        if not clear:
            surging += 1
            continue
        standing = old or new
        available += standing is not None and turn.is_available(standing)
        if old is None:
            continue
        if new is not None:
            if turn.is_available(new):
                doomed.append(old)
            else:
                surging += 1
        elif node not in desired:
            (leaving if turn.is_available(old) else doomed).append(old)
        else:
            (candidates if turn.is_available(old) else urgent).append(node)
    doomed += leaving[: max(0, available - len(desired))]
    return _writes(turn, doomed, [*urgent, *candidates[: max(0, turn.count("maxSurge") - surging)]])


def _writes(turn: _Turn, doomed: Sequence[Manifest], needing: Sequence[str]) -> list[Step]:
    made = [Create(POD, new_pod(turn.set, turn.mark, node), announce=turn.set, component=COMPONENT) for node in needing[:_BURST]]
    gone = [Delete(POD, pod, announce=turn.set, component=COMPONENT) for pod in doomed[:_BURST]]
    return [*made, *gone]


def new_pod(daemon_set: Manifest, mark: str, node: str) -> Manifest:
    """The whole pod for a node, which its affinity names."""
    pod = from_template(daemon_set, daemon_set["spec"]["template"])
    if generation := annotations_of(daemon_set).get(_GENERATION):
        pod["metadata"]["labels"][_GENERATION_LABEL] = generation
    pod["metadata"]["labels"][POD_LABEL] = mark
    spec = pod["spec"]
    spec["tolerations"] = _tolerations(spec)
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    affinity = copy.deepcopy(spec.get("affinity") or {})
    affinity["nodeAffinity"] = {
        **(affinity.get("nodeAffinity") or {}),
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
    }
    spec["affinity"] = affinity
    return pod


def observe(turn: _Turn) -> tuple[Mapping[str, Any], timedelta | None]:
    """The status, and when a ready pod becomes available."""
    counts: Counter[str] = Counter()
    waits: list[timedelta] = []
    desired = set(turn.desired)
    for node in turn.nodes:
        pods = turn.on.get(name_of(node), ())
        if name_of(node) not in desired:
            counts["numberMisscheduled"] += bool(pods)
            continue
        counts["desiredNumberScheduled"] += 1
        if not pods:
            continue
        pod = turn.oldest_first(pods)[0]
        wait = turn.wait(pod)
        counts["currentNumberScheduled"] += 1
        counts["numberReady"] += is_ready(pod)
        counts["numberAvailable"] += wait == timedelta(0)
        counts["updatedNumberScheduled"] += turn.is_new(pod)
        waits += [wait] if wait else []
    counts["numberUnavailable"] = counts["desiredNumberScheduled"] - counts["numberAvailable"]
    always = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady")
    named = (*always, "updatedNumberScheduled", "numberAvailable", "numberUnavailable")
    status: dict[str, Any] = {name: counts[name] for name in named if counts[name] or name in always}
    status["observedGeneration"] = turn.set["metadata"].get("generation", 1)
    for name in ("collisionCount", "conditions"):
        if (kept := (turn.set.get("status") or {}).get(name)) is not None:
            status[name] = kept
    return status, sooner(*waits)


def failed_on(decision: Decision) -> set[str]:
    """Nodes of which the decision replaces a failed pod."""
    gone = (step.object for step in decision.steps if isinstance(step, Delete) and step.kind == POD)
    return {target for pod in gone if phase_of(pod) == "Failed" and (target := target_of(pod)) is not None}
