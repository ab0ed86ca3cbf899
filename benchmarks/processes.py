"""What processes cost: CPU seconds and resident memory of a process and all below it, read from /proc; and starting them so that none is left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds since start, memory in MiB (proportional share where the kernel tells it, else resident)."""

    cpu: float
    memory: float


def cost(pid: int) -> Cost:
    return Cost(_cpu(pid), _memory(pid))


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    parents: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        found.append(each)
        todo += parents.get(each, [])
    return found


def command(pid: int) -> str:
    return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def cpu(pids: Sequence[int]) -> float:
    """CPU seconds of several processes; one that has ended counts as nothing."""
    total = 0.0
    for pid in pids:
        try:
            total += _cpu(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def _cpu(pid: int) -> float:
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _memory(pid: int) -> float:
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
        line = next(line for line in text.splitlines() if line.startswith("Pss:"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        pages = int((PROC / str(pid) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024


@contextmanager
def running(words: Sequence[str], **more: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and the first line it prints; it ends when its standard input does, or is killed."""
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def python(*words: str) -> list[str]:
    return [sys.executable, *words]


def said(log: Path, pattern: str, process: subprocess.Popen[bytes], seconds: float = 20) -> str:
    """Wait for a line in a process' log; SystemExit with the log when the process ends first."""
    deadline = time.monotonic() + seconds
    while not (found := re.search(pattern, log.read_text(errors="replace"))):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"not said: {pattern}\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
    return found[1]
