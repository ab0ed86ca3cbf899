"""What a control plane needs to know of its nodes before it starts: the binaries and images are there, and this machine can run them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from image.build import NotBuilt

from moorage.kube import remote
from tests.real.node_containers import images
from tests.real.node_containers.binaries import NodeBinaries, find
from tests.real.node_containers.check import check
from tests.real.node_containers.machine import NoNodes
from tests.real.nodes.__main__ import VOLUMES, ensure_storage, volume

# What making images needs besides, once.
BUILDING = ("mmdebstrap",)


def prepare(minor: str, folder: Path | None = None) -> dict[str, Any]:
    """Binaries and images as JSON, built when they are not there.

    Raises:
        NoNodes: with every thing that this machine lacks.
        NoBinaries: there are no binaries and none can be built.
    """
    if missing := check(building=BUILDING):
        raise NoNodes("Nodes with real containers cannot run here. Missing:\n" + "\n".join(f"  - {each}" for each in missing))
    binaries = find(minor, folder)
    try:
        archives = [images.pause_image(binaries), images.component_image()]
    except NotBuilt as error:
        raise NoNodes(str(error)) from error
    return {
        "kubelet": list(binaries.kubelet),
        "proxy": list(binaries.proxy),
        "pause": str(binaries.pause),
        "images": [str(each) for each in archives],
    }


def binaries_of(prepared: dict[str, Any]) -> NodeBinaries:
    return NodeBinaries(tuple(prepared["kubelet"]), tuple(prepared["proxy"]), Path(prepared["pause"]))


def furnish(kubeconfig: Path, folder: Path) -> None:
    """Volumes that any user may write, since a folder of the node has no provisioner that would give it to the pod's group."""
    for number in range(VOLUMES):
        path = volume(folder, number)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)

    async def make() -> None:
        cluster = remote.connect(kubeconfig)
        try:
            await ensure_storage(cluster, folder)
        finally:
            await cluster.close()

    try:
        asyncio.run(make())
    finally:
        # As in tests/conftest.py: no loop is left behind that nobody closes.
        asyncio.set_event_loop(None)
