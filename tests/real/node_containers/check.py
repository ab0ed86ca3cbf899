"""What this machine lacks for nodes with real containers: each thing with its remedy, so that nothing is skipped silently."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

# Program: Debian package.
PROGRAMS = {"containerd": "containerd", "ctr": "containerd", "runc": "runc", "ip": "iproute2", "unshare": "util-linux", "nft": "nftables"}
PLUGINS = ("ptp", "host-local", "loopback")
PLUGIN_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
_PLUGIN_PACKAGE = "containernetworking-plugins"
_CGROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "memory", "pids")
_SYS_ADMIN, _NET_ADMIN, _SYS_RESOURCE = 21, 12, 24


def check(*, building: Iterable[str] = ()) -> list[str]:
    """Every missing thing; empty when nodes can be made.

    Args:
        building: programs that building images or binaries needs besides, as far as these are not there yet.
    """
    if sys.platform != "linux":
        return ["Linux: containers need its namespaces and cgroups"]
    found = []
    if os.geteuid() != 0:
        found.append("root: namespaces, cgroups, mounts and a bridge of its own (sudo)")
    elif not (capable(_SYS_ADMIN) and capable(_NET_ADMIN)):
        found.append("the capabilities CAP_SYS_ADMIN and CAP_NET_ADMIN, which this container or sandbox withholds")
    missing = {program: package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    packages = sorted(
        {*missing.values(), *([_PLUGIN_PACKAGE] if plugins() is None else []), *(each for each in building if shutil.which(each) is None)}
    )
    if packages:
        found.append(f"programs: apt-get install --no-install-recommends {' '.join(packages)}")
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        found.append("overlayfs in the kernel (modprobe overlay)")
    if not _CGROUPS.is_dir() or not os.access(_CGROUPS, os.W_OK) or not all(controllers(each) for each in _CONTROLLERS):
        found.append(f"cgroups at {_CGROUPS} that may be written, with {', '.join(_CONTROLLERS)}")
    return found


def plugins() -> str | None:
    """The folder that has the CNI plugins we need."""
    return next((folder for folder in PLUGIN_FOLDERS if all((Path(folder) / name).exists() for name in PLUGINS)), None)


def unified() -> bool:
    """Whether all controllers are in one hierarchy (cgroup v2)."""
    return (_CGROUPS / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """Where a cgroup must be made: one place, or one per controller."""
    if unified():
        return [_CGROUPS]
    return sorted({each.resolve() for each in _CGROUPS.iterdir() if (each / "cgroup.procs").exists()})


def controllers(name: str) -> bool:
    if unified():
        return name in (_CGROUPS / "cgroup.controllers").read_text().split()
    return (_CGROUPS / name / "cgroup.procs").exists()


def capable(number: int) -> bool:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> number & 1)


def clamped() -> bool:
    """Whether `oom_score_adj` can only be raised here."""
    return not capable(_SYS_RESOURCE)
