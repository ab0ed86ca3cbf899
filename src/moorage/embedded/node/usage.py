"""What containers have used so far: CPU time and memory, from their cgroups where they have one, else from the processes below their shims.

Counters only: a rate needs two readings (`meter.py`). The working set is memory less the file cache that the kernel would give up first, as the
kubelet counts it; without a memory controller it is the resident memory of all processes, in which shared pages count for each of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Running:
    """A container that runs now. `attempt` is the folder of its shim, so that a restarted container is another one; `pid` its first process."""

    node: str
    pod: str
    name: str
    attempt: Path
    pid: int


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU time since the container's start in nanoseconds, memory now in bytes."""

    cpu: int
    memory: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its parent, CPU ticks of its own and of those of its children that have ended, resident pages."""

    parent: int
    own: int
    ended: int
    pages: int


def readings(containers: Iterable[Running]) -> dict[Path, Reading]:
    """By `attempt`; what has ended meanwhile is missing. One look at /proc serves all; without /proc (macOS) there is nothing."""
    if not sys.platform.startswith("linux"):
        return {}
    processes = snapshot()
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found = {}
    for container in containers:
        if (used := of_tree(processes, container.pid)) is None:
            continue
        cpu, memory = of_cgroups(_cgroups(container.attempt))
        found[container.attempt] = Reading(
            used[0] * _NANOSECONDS // ticks if cpu is None else cpu, used[1] * page if memory is None else memory
        )
    return found


def snapshot(proc: Path = Path("/proc")) -> dict[int, Process]:
    """Every process that can be seen, by its number."""
    found = {}
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                found[int(name)] = parse_stat((proc / name / "stat").read_bytes())
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has ended since the listing, or belongs to somebody whose processes are hidden from us
    return found


def parse_stat(line: bytes) -> Process:
    """A line of /proc/PID/stat (proc_pid_stat(5)); the name in it may hold anything, brackets and spaces too."""
    fields = line.rpartition(b")")[2].split()
    return Process(int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14]), int(fields[21]))


def of_tree(processes: Mapping[int, Process], main: int) -> tuple[int, int] | None:
    """CPU ticks and resident pages of a container, None when its first process is gone. Pure.

    All that descends from its shim belongs to it. What ended is in the count of whoever waited for it: a parent among them, or the shim, which
    inherits orphans; the shim's own work is not the container's.
    """
    if main not in processes:
        return None
    if (shim := processes[main].parent) == 1:
        return None  # the shim was killed this moment, and the container with it
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    ticks, pages = processes[shim].ended if shim in processes else 0, 0
    ahead = list(children[shim])
    while ahead:
        pid = ahead.pop()
        ticks += processes[pid].own + processes[pid].ended
        pages += processes[pid].pages
        ahead += children.get(pid, ())
    return ticks, pages


def of_cgroups(folders: Sequence[Path]) -> tuple[int | None, int | None]:
    """CPU nanoseconds and working set in bytes; None each where no folder's controller counts it."""
    cpu = memory = None
    for folder in folders:
        if (used := _pairs(folder / "cpu.stat").get("usage_usec")) is not None:
            cpu = used * 1000
        elif (total := _number(folder / "cpuacct.usage")) is not None:
            cpu = total
        if (held := _number(folder / "memory.current")) is not None:
            memory = max(0, held - _pairs(folder / "memory.stat").get("inactive_file", 0))
        elif (held := _number(folder / "memory.usage_in_bytes")) is not None:
            memory = max(0, held - _pairs(folder / "memory.stat").get("total_inactive_file", 0))
    return cpu, memory


def _cgroups(attempt: Path) -> list[Path]:
    """The container's cgroups as its launch document names them: an earlier life of this process may have made them elsewhere."""
    try:
        return [Path(procs).parent for procs in json.loads((attempt / "launch.json").read_bytes())["cgroups"]]
    except FileNotFoundError:
        return []


def _pairs(file: Path) -> dict[str, int]:
    return {key: int(value) for key, _, value in (line.partition(" ") for line in _text(file).splitlines()) if value.isdigit()}


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    """A controller file; empty where this kernel has no such file, or the cgroup went with its container."""
    try:
        return file.read_text()
    except OSError:
        return ""
