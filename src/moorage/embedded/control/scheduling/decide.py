"""`decide`: the node for one pod, or why there is none, worded as Kubernetes words it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from moorage.embedded.control.scheduling import neighbours
from moorage.embedded.control.scheduling.affinity import UNSCHEDULABLE_TAINT, disliked, matches_node, preference, tolerates, untolerated
from moorage.embedded.control.scheduling.snapshot import Room, Snapshot, host_ports, weight
from moorage.kube.metadata import controller_uid
from moorage.specs.manifest import Manifest

_NO_VICTIMS = "No preemption victims found for incoming pod"
NOT_HELPFUL = "Preemption is not helpful for scheduling"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one node does not take the pod. `fixed`: other pods going away would not change it."""

    reasons: Sequence[str]
    fixed: bool = True


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """No node takes the pod now; `message` is that of the FailedScheduling event, `head` the part of it before preemption."""

    message: str
    head: str = field(default="", compare=False)
    refusals: Mapping[str, Refusal] = field(default_factory=dict, compare=False)


def decide(pod: Manifest, nodes: Iterable[Manifest], pods: Iterable[Manifest]) -> str | Unschedulable:
    """The name of the best node for `pod` among `nodes` that hold `pods`."""
    return choose(pod, Snapshot(nodes, pods))


def choose(
    pod: Manifest, snapshot: Snapshot, *, waits_for: str | None = None, volumes: Mapping[str, str] | None = None
) -> str | Unschedulable:
    """As `decide`, over a prepared snapshot.

    Args:
        waits_for: why no node can be right yet whatever they look like (an unbound claim), in Kubernetes' words.
        volumes: nodes to which the pod's volumes do not reach, with the reason.
    """
    if not snapshot.rooms:
        return Unschedulable("no nodes available to schedule pods")
    waits_for = waits_for or neighbours.unsupported(pod)
    if waits_for:
        return _unschedulable(len(snapshot.rooms), waits_for, {})
    refusals: dict[str, Refusal] = {}
    best: tuple[float, str] | None = None
    for room in snapshot.rooms.values():
        refusal = refusal_of(pod, room, snapshot, (volumes or {}).get(room.name))
        if refusal is not None:
            refusals[room.name] = refusal
            continue
        score = _score(pod, room, snapshot)
        if best is None or score > best[0]:
            best = score, room.name
    if best is not None:
        return best[1]
    reasons = Counter(reason for refusal in refusals.values() for reason in refusal.reasons)
    return _unschedulable(len(snapshot.rooms), _histogram(reasons), refusals)


def _unschedulable(nodes: int, why: str, refusals: Mapping[str, Refusal]) -> Unschedulable:
    head = f"0/{nodes} nodes are available: {why}"
    hopeless = sum(refusal.fixed for refusal in refusals.values()) if refusals else nodes
    preemption = Counter({NOT_HELPFUL: hopeless, _NO_VICTIMS: nodes - hopeless})
    return Unschedulable(f"{head}. preemption: 0/{nodes} nodes are available: {_histogram(+preemption)}.", head, refusals)


def _histogram(reasons: Counter[str]) -> str:
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))


def refusal_of(pod: Manifest, room: Room, snapshot: Snapshot, volume: str | None = None) -> Refusal | None:
    """The filters in the order of Kubernetes' default plugins; the first that refuses speaks."""
    node = room.node
    if (node.get("spec") or {}).get("unschedulable") and not tolerates(pod, UNSCHEDULABLE_TAINT):
        return Refusal(["node(s) were unschedulable"])
    if untolerated(pod, node) is not None:
        return Refusal(["node(s) had untolerated taint(s)"])
    if not matches_node(pod, room):
        return Refusal(["node(s) didn't match Pod's node affinity/selector"])
    if any(_taken(port, room) for port in host_ports(pod)):
        return Refusal(["node(s) didn't have free ports for the requested pod ports"], fixed=False)
    if (lacking := _lacking(pod, room, snapshot)) is not None:
        return lacking
    if volume is not None:
        return Refusal([volume])
    objection = neighbours.objection(pod, room, snapshot)
    return Refusal([objection], fixed=objection == neighbours.NO_AFFINITY) if objection else None


def _taken(port: tuple[str, str, int], room: Room) -> bool:
    address, protocol, number = port
    return any(
        count > 0 and taken[1:] == (protocol, number) and (taken[0] == address or "0.0.0.0" in (taken[0], address))
        for taken, count in room.ports.items()
    )


def _lacking(pod: Manifest, room: Room, snapshot: Snapshot) -> Refusal | None:
    reasons = []
    fixed = False
    places = room.allocatable.get("pods")
    if places is not None and (len(room.pods) + 1) * 1000 > places:
        reasons.append("Too many pods")
    for resource, amount in snapshot.requests.of(pod).items():
        if amount and amount > room.free(resource):
            reasons.append(f"Insufficient {resource}")
            fixed = fixed or amount > room.allocatable.get(resource, 0)
    return Refusal(reasons, fixed) if reasons else None


def _score(pod: Manifest, room: Room, snapshot: Snapshot) -> float:
    """Higher is better: room left, CPU and memory used evenly, away from pods of the same owner, preferences, soft taints."""
    asked = weight(snapshot.requests.of(pod))
    shares = []
    for resource in ("cpu", "memory"):
        total = room.allocatable.get(resource, 0)
        shares.append(min(1.0, (room.weighed[resource] + asked[resource]) / total) if total else 1.0)
    least = 100 * (1 - sum(shares) / len(shares))
    balanced = 100 * (1 - abs(shares[0] - shares[1]) / 2)
    owner = controller_uid(pod)
    crowd = max((other.owners[owner] for other in snapshot.rooms.values()), default=0) if owner else 0
    spread = 100 * (1 - room.owners[owner] / crowd) if crowd else 100.0
    return least + balanced + 2 * spread + 2 * preference(pod, room) - 300 * disliked(pod, room.node)
