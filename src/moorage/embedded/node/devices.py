"""The GPUs of this machine, found through NVIDIA's driver, and which container has which: nobody shares one, and nobody sees another's.

What a container sees is what its environment names, as NVIDIA's own tools read it; the device files themselves are not hidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moorage.embedded.node.records import is_sidecar
from moorage.errors import Unavailable
from moorage.specs.manifest import Manifest

RESOURCE = "nvidia.com/gpu"
_DRIVER, _DEVICES = Path("/proc/driver/nvidia"), Path("/dev")
_FACT = re.compile(r"^([^:]+):\s*(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `id` is what CUDA_VISIBLE_DEVICES takes: its UUID where the driver tells it, else its number."""

    number: int
    id: str
    model: str = ""


def find(driver: Path = _DRIVER, devices: Path = _DEVICES) -> list[Gpu]:
    """The machine's GPUs in the order of their numbers, none where no driver is.

    Args:
        driver: the driver's folder, `/proc/driver/nvidia`.
        devices: where device files are; a GPU without one cannot be used.
    """
    told: dict[int, Gpu] = {}
    for path in sorted(driver.glob("gpus/*/information")):
        facts = {name.strip(): value.strip() for name, value in _FACT.findall(path.read_text(errors="replace"))}
        if (number := facts.get("Device Minor", "")).isdigit():
            uuid = facts.get("GPU UUID", "")
            # A driver that keeps it from us writes question marks.
            known = uuid if re.fullmatch(r"GPU-[0-9a-f-]{36}", uuid) else number
            told[int(number)] = Gpu(int(number), known, facts.get("Model", ""))
    present = sorted(int(found[1]) for path in devices.glob("nvidia*") if (found := re.fullmatch(r"nvidia(\d+)", path.name)))
    return [told.get(number, Gpu(number, str(number))) for number in present]


def deal(gpus: Sequence[Gpu], asked: Sequence[int | None]) -> list[list[Gpu]]:
    """Each node's GPUs, so that no two nodes offer the same one: those that say how many come first, the others get the rest in turn.

    A node that asks for more than are left gets none: what it offers then exists in name only.
    """
    left = list(gpus)
    dealt: list[list[Gpu]] = [[] for _ in asked]
    for index, number in enumerate(asked):
        if number is not None and number <= len(left):
            dealt[index], left = left[:number], left[number:]
    others = [index for index, number in enumerate(asked) if number is None]
    for place, index in enumerate(others):
        dealt[index] = left[place :: len(others)]
    return dealt


Assigned = Mapping[str, Sequence[str]]  # container -> ids of its GPUs


@dataclass(slots=True)
class Allotment:
    """Which pod of a node has which of its GPUs. What was given is in the pods' own records, so that a restarted agent gives nothing twice."""

    gpus: Sequence[Gpu] = ()
    held: dict[str, frozenset[str]] = field(default_factory=dict)

    def keep(self, uid: str, assigned: Assigned) -> None:
        """A pod that is there already has these."""
        if ids := frozenset(id for ids in assigned.values() for id in ids):
            self.held[uid] = ids

    def give(self, uid: str, spec: Mapping[str, Any]) -> dict[str, list[str]]:
        """Take GPUs for a pod's containers, the lowest numbers that are free.

        Raises Unavailable, in the kubelet's words, when there are too few; the scheduler counts, so that somebody has bound the pod by hand.
        """
        taken = frozenset(id for ids in self.held.values() for id in ids)
        free = [gpu.id for gpu in self.gpus if gpu.id not in taken]
        needed = _needed(spec)
        if needed > len(free):
            raise Unavailable(
                f"Allocate failed due to requested number of devices unavailable for {RESOURCE}. Requested: {needed}, Available: {len(free)}, "
                "which is unexpected",
                target=RESOURCE,
            )
        assigned = _dealt(spec, free[:needed])
        self.keep(uid, assigned)
        return assigned

    def release(self, uid: str) -> None:
        self.held.pop(uid, None)


def wanted(container: Manifest) -> int:
    """How many GPUs a container asks for."""
    resources = container.get("resources") or {}
    amount = (resources.get("limits") or {}).get(RESOURCE) or (resources.get("requests") or {}).get(RESOURCE) or 0
    return int(str(amount))


def _needed(spec: Mapping[str, Any]) -> int:
    """The most that run at any one time: init containers run alone beside the sidecars before them."""
    sidecars = peak = 0
    for container in spec.get("initContainers") or ():
        if is_sidecar(container):
            sidecars += wanted(container)
        peak = max(peak, sidecars + (0 if is_sidecar(container) else wanted(container)))
    return max(peak, sidecars + sum(wanted(container) for container in spec.get("containers") or ()))


def _dealt(spec: Mapping[str, Any], ids: Sequence[str]) -> dict[str, list[str]]:
    """Each container its own; an init container uses again what the main ones will have."""
    assigned: dict[str, list[str]] = {}
    used = 0
    for container in spec.get("initContainers") or ():
        number = wanted(container)
        if number:
            assigned[container["name"]] = list(ids[used : used + number])
        used += number if is_sidecar(container) else 0
    for container in spec.get("containers") or ():
        if number := wanted(container):
            assigned[container["name"]] = list(ids[used : used + number])
            used += number
    return assigned


def environment(gpus: Sequence[Gpu], ids: Sequence[str]) -> dict[str, str]:
    """What makes a container see its GPUs and no others; nothing on a machine that has none.

    Numbers are those of the driver, hence the order of CUDA's own must be the bus's.
    """
    if not gpus:
        return {}
    shown = ",".join(ids)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": shown, "NVIDIA_VISIBLE_DEVICES": shown or "void"}
