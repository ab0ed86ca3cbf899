"""The nodes as the scheduler sees them, with what their pods have taken; a placement is entered at once, so that the next decision counts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from moorage.embedded.control.pods import is_finished
from moorage.embedded.control.scheduling.requests import Amounts, amounts, requests_of
from moorage.kube.metadata import controller_uid, labels_of, name_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

Port = tuple[str, str, int]  # address, protocol, number


@dataclass(slots=True)
class Room:
    """A node and what is taken of it."""

    node: Manifest
    allocatable: Amounts
    used: Counter[str] = field(default_factory=Counter)
    # Usage with Kubernetes' least amounts for pods that ask for nothing, for scoring only.
    weighed: Counter[str] = field(default_factory=Counter)
    pods: dict[str, Manifest] = field(default_factory=dict)
    ports: Counter[Port] = field(default_factory=Counter)
    owners: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return name_of(self.node)

    @property
    def labels(self) -> Mapping[str, str]:
        return labels_of(self.node)

    def free(self, resource: str) -> int:
        return self.allocatable.get(resource, 0) - self.used[resource]

    def enter(self, pod: Manifest, asked: Amounts, sign: int = 1) -> None:
        """Count a pod in, or with `sign` -1 out again."""
        for resource, amount in asked.items():
            self.used[resource] += sign * amount
        for resource, amount in weight(asked).items():
            self.weighed[resource] += sign * amount
        for port in host_ports(pod):
            self.ports[port] += sign
        self.owners[controller_uid(pod)] += sign
        if sign > 0:
            self.pods[uid_of(pod)] = pod
        else:
            self.pods.pop(uid_of(pod), None)


class Requests:
    """Remembers what pods ask for: a pod's resources never change once it is there (except by resize, which changes its resourceVersion)."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, Amounts]] = {}

    def of(self, pod: Manifest) -> Amounts:
        uid, generation = uid_of(pod), pod["metadata"].get("generation")
        known = self._known.get(uid)
        if known is None or known[0] != generation:
            known = self._known[uid] = generation, requests_of(pod)
        return known[1]

    def forget(self, pod: Manifest) -> None:
        self._known.pop(uid_of(pod), None)


class Snapshot:
    """All nodes at one moment."""

    def __init__(self, nodes: Iterable[Manifest], pods: Iterable[Manifest], requests: Requests | None = None) -> None:
        self.requests = requests or Requests()
        self.rooms: dict[str, Room] = {}
        for node in sorted(nodes, key=name_of):
            status = node.get("status") or {}
            self.rooms[name_of(node)] = Room(node, amounts(status.get("allocatable") or status.get("capacity")))
        for pod in pods:
            room = self.rooms.get((pod.get("spec") or {}).get("nodeName") or "")
            if room is not None and not is_finished(pod):
                room.enter(pod, self.requests.of(pod))

    def place(self, pod: Manifest, node: str) -> None:
        self.rooms[node].enter(pod, self.requests.of(pod))

    def take_back(self, pod: Manifest, node: str) -> None:
        self.rooms[node].enter(pod, self.requests.of(pod), -1)

    def neighbours(self, namespaces: Iterable[str]) -> Iterable[tuple[Room, Manifest]]:
        wanted = frozenset(namespaces)
        for room in self.rooms.values():
            for pod in room.pods.values():
                if namespace_of(pod) in wanted:
                    yield room, pod


def weight(asked: Amounts) -> dict[str, int]:
    """CPU and memory for scoring: a pod that asks for nothing still weighs 100m and 200 MB (Kubernetes' non-zero requests)."""
    return {"cpu": asked.get("cpu") or 100, "memory": asked.get("memory") or 200 * 1024 * 1024 * 1000}


def host_ports(pod: Manifest) -> list[Port]:
    """Ports the pod takes on its node's own addresses."""
    return [
        (port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", port["hostPort"])
        for container in (pod.get("spec") or {}).get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]
