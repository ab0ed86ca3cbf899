"""One pass over all pods that wait for a node: in order of priority, gangs whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from moorage.embedded.control.objects import annotations_of, canonical
from moorage.embedded.control.pods import is_finished
from moorage.embedded.control.scheduling.decide import Unschedulable, choose
from moorage.embedded.control.scheduling.groups import least, not_ready, ready, state_of, why_not
from moorage.embedded.control.scheduling.neighbours import matters
from moorage.embedded.control.scheduling.preemption import Preemption, nominated_to, preempt
from moorage.embedded.control.scheduling.snapshot import Room, Snapshot
from moorage.kube.metadata import Key, controller_uid, is_deleting, key_of, name_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

GROUP = "scheduling.k8s.io/group-name"
_SERVED = frozenset({"default-scheduler", "volcano"})


@dataclass(frozen=True, slots=True)
class Volumes:
    """What a pod's claims mean for its place: a reason to wait, or nodes out of reach."""

    waits_for: str | None = None
    out_of_reach: Mapping[str, str] = field(default_factory=dict)


Reach = Callable[[Manifest, Mapping[str, Room]], Volumes]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where pods go, by uid, and why others go nowhere; `possible` are those of them that would have had a node, had their gang been whole."""

    places: Mapping[str, str]
    refused: Mapping[str, str]
    possible: frozenset[str] = frozenset()
    gangs: Mapping[Key, str] = field(default_factory=dict)
    preemptions: Sequence[Preemption] = ()
    # Pods for which room was made on a node that is of no use to them any more.
    denominated: Sequence[Manifest] = ()


def is_waiting(pod: Manifest) -> bool:
    """Whether the pod is one this scheduler has to place."""
    spec = pod.get("spec") or {}
    scheduler = spec.get("schedulerName") or "default-scheduler"
    return (
        not spec.get("nodeName")
        and scheduler in _SERVED
        and not spec.get("schedulingGates")
        and not is_deleting(pod)
        and not is_finished(pod)
    )


def group_of(pod: Manifest) -> Key | None:
    """The PodGroup the pod belongs to."""
    name = annotations_of(pod).get(GROUP)
    return (namespace_of(pod), name) if name else None


def plan(
    pods: Sequence[Manifest],
    snapshot: Snapshot,
    *,
    groups: Mapping[Key, Manifest] | None = None,
    volumes: Reach = lambda pod, rooms: Volumes(),
    budgets: Sequence[Manifest] = (),
) -> Plan:
    """Place every waiting pod among `pods` (all of the cluster).

    Args:
        groups: the PodGroups; None: groups mean nothing.
        budgets: the PodDisruptionBudgets, which preemption breaks as seldom as can be.
    """
    work = _Pass(snapshot, volumes, budgets)
    gangs = _gangs(pods) if groups is not None else {}
    done: set[Key] = set()
    for pod in sorted((pod for pod in pods if is_waiting(pod)), key=_order):
        key = group_of(pod)
        if key is None or groups is None:
            work.place_alone(pod)
        elif key not in done:
            done.add(key)
            work.place_gang(gangs[key], groups.get(key), key)
    return Plan(work.places, work.refused, frozenset(work.possible), work.gangs, work.preemptions, work.denominated)


def _order(pod: Manifest) -> tuple[int, str, str, str]:
    return -((pod.get("spec") or {}).get("priority") or 0), pod["metadata"].get("creationTimestamp") or "", *key_of(pod)


def _gangs(pods: Iterable[Manifest]) -> dict[Key, list[Manifest]]:
    found: dict[Key, list[Manifest]] = {}
    for pod in pods:
        if (key := group_of(pod)) is not None and not is_deleting(pod):
            found.setdefault(key, []).append(pod)
    return found


class _Pass:
    def __init__(self, snapshot: Snapshot, volumes: Reach, budgets: Sequence[Manifest]) -> None:
        self.places: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.possible: set[str] = set()
        self.gangs: dict[Key, str] = {}
        self.preemptions: list[Preemption] = []
        self.denominated: list[Manifest] = []
        self._snapshot = snapshot
        self._volumes = volumes
        self._budgets = budgets
        # Room only shrinks during a pass, so that what was refused to one pod is refused to its like; gangs that fail give room back to where it was.
        self._hopeless: dict[str, Unschedulable] = {}

    def place_alone(self, pod: Manifest) -> None:
        """Place a pod, by making others go if need be."""
        why = self.place_one(pod)
        if why is None:
            return
        outcome = preempt(pod, why, self._snapshot, self._budgets)
        node = nominated_to(pod)
        if isinstance(outcome, Preemption):
            self.preemptions.append(outcome)
            self.refused[uid_of(pod)] = f"{why.head}."
            node = outcome.node
        else:
            self.refused[uid_of(pod)] = outcome.message
            if node is not None and not outcome.waits:
                self.denominated.append(pod)
                return
        if node is not None:
            # Nobody who comes after may take what was made free for it.
            self._snapshot.place(pod, node)

    def place_one(self, pod: Manifest) -> Unschedulable | None:
        """Place a pod if there is a place; why not if there is none."""
        likeness = _likeness(pod)
        if likeness is not None and (known := self._hopeless.get(likeness)) is not None:
            self.refused[uid_of(pod)] = known.message
            return known
        volumes = self._volumes(pod, self._snapshot.rooms)
        found = choose(pod, self._snapshot, waits_for=volumes.waits_for, volumes=volumes.out_of_reach)
        if isinstance(found, Unschedulable):
            self.refused[uid_of(pod)] = found.message
            if likeness is not None:
                self._hopeless[likeness] = found
            return found
        self._snapshot.place(pod, found)
        self.places[uid_of(pod)] = found
        return None

    def place_gang(self, members: Sequence[Manifest], group: Manifest | None, key: Key) -> None:
        """Place as many waiting members as there is room for, if with those that have run or run they are enough; else none."""
        waiting = sorted((pod for pod in members if is_waiting(pod)), key=_order)
        if group is None:
            for pod in waiting:
                self.refused[uid_of(pod)] = f'PodGroup "{key[1]}" not found'
            return
        states = [state_of(pod) for pod in members]
        counted = ready(states)
        enough = counted + len(waiting) >= least(group)
        known = dict(self._hopeless)
        origin: tuple[str, str] | None = None
        if enough:
            for pod in waiting:
                why = self.place_one(pod)
                if why is not None and origin is None:
                    origin = name_of(pod), why.message
        placed = [pod for pod in waiting if uid_of(pod) in self.places]
        if counted + len(placed) >= least(group):
            return
        for pod in placed:
            uid = uid_of(pod)
            place = self.places.pop(uid)
            self._snapshot.take_back(pod, place)
            self.possible.add(uid)
            who = f"{namespace_of(pod)}/{name_of(pod)}"
            self.refused[uid] = f"Pod {who} can possibly be assigned to {place}, once minAvailable is satisfied"
        self._hopeless = known
        self.gangs[key] = why_not(group, states, len(placed), origin)
        if not enough:
            for pod in waiting:
                self.refused[uid_of(pod)] = not_ready(group, states, 0)


def _likeness(pod: Manifest) -> str | None:
    """Pods of one owner with one spec fare alike, unless where their neighbours are decides."""
    owner = controller_uid(pod)
    if not owner or matters(pod):
        return None
    spec = pod.get("spec") or {}
    parts = {
        name: spec.get(name)
        for name in ("containers", "initContainers", "nodeSelector", "affinity", "tolerations", "volumes", "overhead", "resources")
    }
    return owner + canonical(parts)
