"""Memory and CPU limits through whatever cgroup controllers this process may write: v1, v2, or none (then the shim watches memory itself)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_PERIOD = 100_000  # microseconds, the kernel's default and the kubelet's
_LEAST_QUOTA = 1_000
_FOLDER = "moorage"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one container may use. Zero: no limit. `cpu_shares` in v1's unit (1024 a core)."""

    memory: int = 0
    cpu: float = 0.0
    cpu_shares: int = 2


@dataclass(frozen=True, slots=True)
class Placement:
    """What the shim needs: files to write a pid to, and the file that counts OOM kills. `memory`: the limit is the kernel's."""

    procs: tuple[str, ...] = ()
    oom_file: str = ""
    memory: bool = False


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The folders in which containers get theirs, one for each usable controller; v2 has one for all."""

    v2: Path | None = None
    memory: Path | None = None
    cpu: Path | None = None

    def create(self, name: str, limits: Limits) -> Placement:
        """Make a container's cgroups; an empty placement where there is no controller or nothing to limit."""
        folders = []
        if self.v2:
            folder = self.v2 / name
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "memory.max", str(limits.memory or "max"))
            # All of the container or nothing, as the kubelet does on v2.
            _write(folder / "memory.oom.group", "1")
            _write(folder / "cpu.max", f"{_quota(limits.cpu) or 'max'} {_PERIOD}")
            _write(folder / "cpu.weight", str(1 + (max(2, min(limits.cpu_shares, 262_144)) - 2) * 9999 // 262_142))
            return Placement((str(folder / "cgroup.procs"),), str(folder / "memory.events"), memory=True)
        if self.memory:
            folder = self.memory / name
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "memory.limit_in_bytes", str(limits.memory or -1))
            if limits.memory:
                _write(folder / "memory.memsw.limit_in_bytes", str(limits.memory))
            folders.append(folder)
        if self.cpu:
            folder = self.cpu / name
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "cpu.shares", str(max(2, limits.cpu_shares)))
            _write(folder / "cpu.cfs_quota_us", str(_quota(limits.cpu) or -1))
            folders.append(folder)
        oom = str(self.memory / name / "memory.oom_control") if self.memory else ""
        return Placement(tuple(str(folder / "cgroup.procs") for folder in folders), oom, memory=self.memory is not None)


def remove(attempt: Path) -> None:
    """Forget the cgroups of an attempt, where its launch document says they are: this process may have another cgroup than the one that made them.

    One that still holds a process stays.
    """
    for procs in _files(attempt):
        folder = procs.parent
        try:
            folder.rmdir()
            if folder.parent.name == _FOLDER:
                # The last one turns off the light; while others are in there this fails, as it should.
                folder.parent.rmdir()
        except OSError as error:
            log.debug("cgroup %s stays: %s", procs, error)


def kill(attempt: Path) -> None:
    """Kill whatever is still in the cgroups of an attempt."""
    for procs in _files(attempt):
        try:
            left = [int(pid) for pid in procs.read_text().split()]
        except OSError as error:
            log.debug("cgroup %s cannot be read: %s", procs, error)
            continue
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _files(attempt: Path) -> list[Path]:
    """Where the processes of an attempt's cgroups are listed; none where it was not launched."""
    try:
        launch = json.loads((attempt / "launch.json").read_text())
    except (FileNotFoundError, ValueError):
        return []
    return [Path(procs) for procs in launch.get("cgroups") or ()]


def _quota(cores: float) -> int:
    return max(_LEAST_QUOTA, int(cores * _PERIOD)) if cores else 0


def _write(file: Path, text: str) -> None:
    """A controller file that this kernel lacks (memsw without swap accounting, oom.group before 4.19) is left out."""
    if file.exists():
        file.write_text(text)


def detect() -> Cgroups:
    """Look for controllers, and try each with a process of our own: what can be written need not let a process in."""
    mounts, own = _mounts(), _own()
    if found := _detect_v2(mounts.get("cgroup2"), own.get("", "/")):
        return Cgroups(v2=found)
    return Cgroups(memory=_detect_v1(mounts, own, "memory"), cpu=_detect_v1(mounts, own, "cpu"))


def _mounts() -> dict[str, Path]:
    """Where each v1 controller and v2 (`cgroup2`) is mounted."""
    found: dict[str, Path] = {}
    for line in _lines("/proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        kind, _, options = [*right.split(" "), "", "", ""][:3]
        place = Path(left.split(" ")[4])
        if kind == "cgroup2":
            found["cgroup2"] = place
        elif kind == "cgroup":
            found.update(dict.fromkeys(options.split(","), place))
    return found


def _own() -> dict[str, str]:
    """This process's cgroup by v1 controller, and by "" for v2."""
    own: dict[str, str] = {}
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    return own


def _lines(path: str) -> Iterable[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return ()


def _detect_v1(mounts: dict[str, Path], own: dict[str, str], controller: str) -> Path | None:
    if (place := mounts.get(controller)) is None:
        return None
    base = place / own.get(controller, "/").lstrip("/")
    # Inside a container the path is often the host's and not visible here.
    return _usable((base if base.is_dir() else place) / _FOLDER)


def _detect_v2(place: Path | None, own: str) -> Path | None:
    """The nearest ancestor that hands memory down and lets us make children: a cgroup with processes cannot have controllers below."""
    if place is None:
        return None
    base = place / own.lstrip("/")
    for folder in (base, *base.parents):
        if not folder.is_relative_to(place):
            break
        if "memory" in " ".join(_lines(str(folder / "cgroup.subtree_control"))).split() and os.access(folder, os.W_OK):
            return _usable(folder / _FOLDER)
    return None


def _usable(folder: Path) -> Path | None:
    probe = folder / f"probe-{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        if (control := folder / "cgroup.subtree_control").exists():
            for controller in ("memory", "cpu"):
                if controller in (folder / "cgroup.controllers").read_text().split():
                    control.write_text(f"+{controller}")
        probe.mkdir(exist_ok=True)
        shell = shutil.which("sh") or "/bin/sh"
        subprocess.run([shell, "-c", f'echo $$ > "{probe}/cgroup.procs"'], check=True, capture_output=True, timeout=10)
        probe.rmdir()
    except (OSError, subprocess.SubprocessError) as error:
        log.info("cgroup controllers at %s cannot be used: %s", folder, error)
        return None
    return folder
