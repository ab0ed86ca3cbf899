"""What this machine is and allows: its size, shared among the nodes, its GPUs, and whether containers can have a root of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from moorage.embedded.node import cgroups, devices, shim
from moorage.embedded.node.devices import Gpu
from moorage.embedded.node.images import of_this_installation
from moorage.embedded.node.launch import Confinement, Machine
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
MAX_PODS = 110


async def confinement(folder: Path) -> Confinement:
    """Try a private mount namespace in a child process: as root, else in a user namespace."""
    if not sys.platform.startswith("linux"):
        return Confinement("none", f"{platform.system()} has no mount namespaces")
    mode = "root" if os.geteuid() == 0 else "user"
    with tempfile.TemporaryDirectory(dir=folder) as root:
        words = [sys.executable, "-I", "-S", "-B", str(Path(shim.__file__)), "attempt", root, mode]
        child = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL)
        _, output = await child.communicate()
    if child.returncode == 0:
        return Confinement(mode)
    reason = output.decode(errors="replace").strip()[-300:]
    log.warning("containers share this machine's file system: %s", reason)
    return Confinement("none", f"the kernel does not allow a mount namespace: {reason}")


async def inspect(folder: Path, api: tuple[str, int], *, confined: Confinement | None = None, gpus: Sequence[Gpu] | None = None) -> Machine:
    """The machine as all nodes see it. `confined` overrides what the kernel allows, `gpus` what the driver tells."""
    folder.mkdir(parents=True, exist_ok=True)
    controllers = await asyncio.to_thread(cgroups.detect)
    found = await asyncio.to_thread(devices.find) if gpus is None else gpus
    return Machine(confined or await confinement(folder), controllers, of_this_installation(folder / "bin"), api, folder, gpus=found)


def capacity(count: int, gpus: int, folder: Path) -> dict[str, str]:
    """What each of `count` nodes offers: every core, since cores are shared by time, and its part of what is not."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // count
    offered = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{memory // 1024}Ki",
        "pods": str(MAX_PODS),
        "ephemeral-storage": f"{shutil.disk_usage(folder).total // 1024}Ki",
    }
    return {**offered, devices.RESOURCE: str(gpus)} if gpus else offered


def labels(name: str) -> dict[str, str]:
    machine = platform.machine().lower()
    system, architecture = platform.system().lower(), _ARCHITECTURES.get(machine, machine)
    return {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": system,
        "kubernetes.io/arch": architecture,
        "beta.kubernetes.io/os": system,
        "beta.kubernetes.io/arch": architecture,
    }


def node_info() -> Manifest:
    return {
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kernelVersion": platform.release(),
        "osImage": platform.platform(),
        "containerRuntimeVersion": "moorage://processes",
        "kubeletVersion": "v1.37.0",
        "kubeProxyVersion": "",
        "operatingSystem": platform.system().lower(),
        "architecture": _ARCHITECTURES.get(platform.machine().lower(), platform.machine().lower()),
    }
