"""The whole stack in a state folder of its own: starts, the main job, what it costs when nothing happens."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import processes
from table import Row

ROOT = Path(__file__).parent.parent
IDLE_SECONDS = 20.0
# Reconciling what a start brings has an end; the idle figure begins after it.
SETTLE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Stack:
    home: Path
    ports: tuple[int, int]

    def run(self, *words: str, timeout: float = 170) -> tuple[float, str]:
        """Seconds of one command, and what it said; SystemExit with its output when it fails."""
        # A session of its own leaves Ctrl-C to us: we stop the stack then.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOORAGE_", "KUBE"))}
        began = time.perf_counter()
        done = subprocess.run(
            processes.python("-m", "moorage", *words),
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            env=kept | {"MOORAGE_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        took = time.perf_counter() - began
        if done.returncode != 0:
            raise SystemExit(f"moorage {' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return took, done.stderr

    def up(self, *words: str, timeout: float = 170) -> tuple[float, str]:
        return self.run("up", "--api-port", str(self.ports[0]), "--port", str(self.ports[1]), *words, timeout=timeout)


def measure() -> Iterator[Row]:
    folder = Path(tempfile.mkdtemp(prefix="moorage-bench-", dir="/var/tmp"))
    stack = Stack(folder / "moorage", free_ports())
    try:
        yield from _steps("first `up` with the tour, environment downloaded and prepared", *stack.up("--tour", "examples/digits"))
        stack.run("down")
        yield from _steps("second `up`, to ready", *stack.up())
        time.sleep(SETTLE_SECONDS)
        yield from _idle(stack.home)
        yield "`down`", f"{stack.run('down')[0]:6.1f} s"
        yield from _steps("`up` with the tour again, environment there", *stack.up("--tour", "examples/digits"))
    finally:
        if stack.home.exists():
            stack.run("down", "--purge", "--yes")
        shutil.rmtree(folder, ignore_errors=True)


def _steps(title: str, took: float, text: str) -> Iterator[Row]:
    """The whole and the steps it told of (`cli/steps.py`)."""
    yield title, f"{took:6.1f} s"
    for name, seconds in re.findall(r"^\[\d+/\d+\] (.+?) \.* ([\d.]+) s$", text, re.MULTILINE):
        yield f"  {name}", f"  {float(seconds):6.1f} s"


def _idle(home: Path) -> Iterator[Row]:
    pids = _of(home)
    before = {pid: processes.cpu([pid]) for pid in pids}
    began = time.perf_counter()
    time.sleep(IDLE_SECONDS)
    took = time.perf_counter() - began
    used, memory = 0.0, 0.0
    rows: list[tuple[str, float, float]] = []
    for pid in pids:
        try:
            found, name = processes.cost(pid), _role(processes.command(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
        share = (found.cpu - before[pid]) / took * 100
        rows.append((name, found.memory, share))
        used, memory = used + share, memory + found.memory
    for name, mebibytes, share in sorted(rows):
        yield f"idle: {name}", f"{mebibytes:6.0f} MiB  {share:5.1f} % of a core"
    yield f"idle: all {len(rows)} processes, the served model included", f"{memory:6.0f} MiB  {used:5.1f} % of a core"


def _of(home: Path) -> list[int]:
    """Every process of the stack: those that name its folder in command line, environment or working folder, and all below them."""
    named = str(home).encode()
    found: set[int] = set()
    for folder in processes.PROC.glob("[0-9]*"):
        try:
            cwd = os.readlink(folder / "cwd").encode()
            if named in (folder / "cmdline").read_bytes() or named in (folder / "environ").read_bytes() or named in cwd:
                found.update(processes.tree(int(folder.name)))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return sorted(found)


def _role(command: str) -> str:
    if started := re.search(r"moorage(?:\S*)? run (\w+)", command):
        return f"moorage run {started[1]}"
    if "moorage.cli.supervi" in command:
        return "moorage run supervisor"
    if "moorage_scoring" in command:
        return "scoring server with the model (scikit-learn)"
    if "shim" in command:
        return "container shim"
    return command[:50]


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
