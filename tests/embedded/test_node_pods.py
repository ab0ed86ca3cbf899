"""Pods as processes: real shims, real mount namespaces, an in-memory cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.node.launch import Confinement
from moorage.embedded.node.run import Nodes
from moorage.embedded.tokens import TokenIssuer
from moorage.kube.cluster import LogOptions
from moorage.kube.kinds import CONFIG_MAP, EVENT, NODE, POD, SECRET, SERVICE_ACCOUNT
from moorage.specs.manifest import Manifest

IMAGE = "moorage.dev/component:test"


@asynccontextmanager
async def running(cluster: LocalCluster, folder: Path, *, confined: Confinement | None = None) -> AsyncIterator[Nodes]:
    nodes = Nodes(
        cluster,
        TokenIssuer(Ed25519PrivateKey.generate(), "admin"),
        names=["n1"],
        folder=folder,
        api=("127.0.0.1", 6550),
        ca=b"CA",
        confined=confined,
    )
    cluster.backend = nodes
    task = asyncio.create_task(nodes.run())
    try:
        await asyncio.wait_for(nodes.ready.wait(), 20)
        yield nodes
        for pod in (await cluster.list(POD)).items:
            await cluster.delete(POD, pod["metadata"]["name"], "default", grace=None)
        await until(cluster, lambda pods: not pods)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    opened = await open_cluster()
    await opened.create(SERVICE_ACCOUNT, {"metadata": {"name": "default", "namespace": "default"}})
    yield opened
    await opened.close()


def pod(name: str, script: str, **spec: Any) -> Manifest:
    main = {"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", script], **spec.pop("main", {})}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"restartPolicy": "Never", "nodeName": "n1", "terminationGracePeriodSeconds": 2, "containers": [main], **spec},
    }


async def until(cluster: LocalCluster, holds: Callable[[list[Manifest]], bool], limit: float = 20) -> list[Manifest]:
    """Wait until all pods together satisfy `holds`, following the watch."""
    listing = await cluster.list(POD)
    pods = {item["metadata"]["name"]: item for item in listing.items}
    async with asyncio.timeout(limit):
        stream = cluster.watch(POD, since=listing.resource_version)
        try:
            while not holds(list(pods.values())):
                event = await anext(stream)
                name = event.object["metadata"].get("name", "")
                if event.type == "DELETED":
                    pods.pop(name, None)
                elif event.type != "BOOKMARK":
                    pods[name] = event.object
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
    return list(pods.values())


async def phase(cluster: LocalCluster, name: str, *phases: str) -> Manifest:
    def holds(pods: list[Manifest]) -> bool:
        return any(p["metadata"]["name"] == name and (p.get("status") or {}).get("phase") in phases for p in pods)

    return next(p for p in await until(cluster, holds) if p["metadata"]["name"] == name)


async def text(cluster: LocalCluster, name: str, **options: Any) -> str:
    return b"".join([chunk async for chunk in cluster.logs("default", name, LogOptions(**options))]).decode()


async def reasons(cluster: LocalCluster, name: str) -> set[str]:
    return {event["reason"] for event in (await cluster.list(EVENT)).items if event["involvedObject"]["name"] == name}


async def test_a_pod_runs_to_its_end_with_a_log_and_an_exit_code(cluster: LocalCluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path):
        await cluster.create(POD, pod("a", "echo hello; echo $HOME; pwd; exit 3"))
        ended = await phase(cluster, "a", "Failed")
        state = ended["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (state["exitCode"], state["reason"]) == (3, "Error")
        assert (await text(cluster, "a")).splitlines()[0] == "hello"
        assert ended["status"]["podIP"].startswith("127.")
        assert (await cluster.get(NODE, "n1"))["status"]["conditions"][-1]["type"] == "Ready"
