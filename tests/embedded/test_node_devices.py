"""GPUs of a fake driver given to real processes: each sees its own, a finished pod's are free again, and a restarted agent gives none twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.node.declared import Declared
from moorage.embedded.node.devices import RESOURCE, Gpu, find
from moorage.embedded.node.run import Nodes
from moorage.kube.kinds import CONFIG_MAP, NODE, POD, SERVICE_ACCOUNT
from moorage.specs.manifest import Manifest
from moorage.testing.world import until

UUIDS = [f"GPU-0000000{number}-1111-2222-3333-444444444444" for number in range(2)]
SHOW = 'printf "%s|%s" "$CUDA_VISIBLE_DEVICES" "$NVIDIA_VISIBLE_DEVICES" > $TERMINATION; '


@pytest.fixture
def gpus(tmp_path: Path) -> list[Gpu]:
    """Two GPUs, as the driver would tell of them."""
    (tmp_path / "dev").mkdir()
    for number, uuid in enumerate(UUIDS):
        folder = tmp_path / "driver" / "gpus" / f"0000:{number}7:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA Test\nGPU UUID: \t {uuid}\nDevice Minor: \t {number}\n")
        (tmp_path / "dev" / f"nvidia{number}").touch()
    return find(tmp_path / "driver", tmp_path / "dev")


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    opened = await open_cluster()
    await opened.create(SERVICE_ACCOUNT, {"metadata": {"name": "default", "namespace": "default"}})
    await opened.create(CONFIG_MAP, {"metadata": {"name": "kube-root-ca.crt", "namespace": "default"}, "data": {"ca.crt": "CA"}})
    yield opened
    await opened.close()


@asynccontextmanager
async def nodes(cluster: LocalCluster, folder: Path, gpus: Sequence[Gpu], *names: str | Declared) -> AsyncIterator[Nodes]:
    """Nodes until the end of the block; their containers go on after it."""
    kept = Nodes(cluster, cluster.tokens, names=names, folder=folder, api=("127.0.0.1", 6550), ca=b"CA", proxied=False, gpus=gpus)
    task = asyncio.create_task(kept.run())
    try:
        async with asyncio.timeout(60):
            await kept.ready.wait()
        yield kept
        assert not task.done(), task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def a_pod(name: str, gpus: int, script: str = "true", *, env: Sequence[Manifest] = (), node: str = "n1") -> Manifest:
    main: Manifest = {
        "name": "main",
        "image": "moorage.dev/component:test",
        "command": ["/bin/sh", "-c", SHOW + script],
        "env": [{"name": "TERMINATION", "value": "/dev/termination-log"}, *env],
    }
    if gpus:
        main["resources"] = {"limits": {RESOURCE: str(gpus)}}
    spec = {"restartPolicy": "Never", "nodeName": node, "terminationGracePeriodSeconds": 2, "containers": [main]}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def until_phase(cluster: LocalCluster, name: str, phase: str) -> Manifest:
    return await until(cluster, POD, name, "default", lambda pod: (pod.get("status") or {}).get("phase") == phase)


def shown(pod: Manifest) -> str:
    return str(pod["status"]["containerStatuses"][0]["state"]["terminated"].get("message"))


async def test_each_container_sees_its_own_and_the_others_none(cluster: LocalCluster, tmp_path: Path, gpus: list[Gpu]) -> None:
    async with nodes(cluster, tmp_path / "nodes", gpus, "n1") as kept:
        assert (await cluster.get(NODE, "n1"))["status"]["allocatable"][RESOURCE] == "2"
        await cluster.create(POD, a_pod("first", 1))
        assert shown(await until_phase(cluster, "first", "Succeeded")) == f"{UUIDS[0]}|{UUIDS[0]}"
        await cluster.create(POD, a_pod("plain", 0, env=[{"name": "CUDA_VISIBLE_DEVICES", "value": "0,1"}]))
        assert shown(await until_phase(cluster, "plain", "Succeeded")) == "|void"
        # What a finished pod had is free, though its object is still there.
        await cluster.create(POD, a_pod("holds", 2, "exec sleep 300"))
        await until_phase(cluster, "holds", "Running")
        await cluster.create(POD, a_pod("greedy", 1))
        refused = await until_phase(cluster, "greedy", "Failed")
        assert refused["status"]["reason"] == "UnexpectedAdmissionError"
        assert refused["status"]["message"].startswith(f"Allocate failed due to requested number of devices unavailable for {RESOURCE}.")
        await cluster.delete(POD, "holds", "default")
        async with asyncio.timeout(60):
            await kept.stop_containers()


@pytest.mark.slow  # it waits that nothing happens
async def test_a_pod_that_somebody_calls_failed_keeps_what_it_has_while_it_runs(
    cluster: LocalCluster, tmp_path: Path, gpus: list[Gpu]
) -> None:
    async with nodes(cluster, tmp_path / "nodes", gpus, "n1") as kept:
        stubborn = a_pod("stubborn", 2, "trap '' TERM; while :; do sleep 1; done")
        stubborn["spec"]["terminationGracePeriodSeconds"] = 600
        await cluster.create(POD, stubborn)
        await until_phase(cluster, "stubborn", "Running")
        await cluster.patch(POD, "stubborn", "default", {"status": {"phase": "Failed"}}, subresource="status")
        await cluster.create(POD, a_pod("next", 1))
        assert (await until_phase(cluster, "next", "Failed"))["status"]["reason"] == "UnexpectedAdmissionError"
        await cluster.delete(POD, "stubborn", "default", grace=timedelta(0))
        async with asyncio.timeout(60):
            await kept.stop_containers()


async def test_a_restarted_agent_remembers_who_has_what(cluster: LocalCluster, tmp_path: Path, gpus: list[Gpu]) -> None:
    async with nodes(cluster, tmp_path / "nodes", gpus, "n1"):
        await cluster.create(POD, a_pod("runs", 1, "exec sleep 300"))
        await until_phase(cluster, "runs", "Running")
    async with nodes(cluster, tmp_path / "nodes", gpus, "n1") as kept:
        await cluster.create(POD, a_pod("next", 1))
        assert shown(await until_phase(cluster, "next", "Succeeded")) == f"{UUIDS[1]}|{UUIDS[1]}"
        async with asyncio.timeout(60):
            await kept.stop_containers()


async def test_declared_nodes_have_labels_taints_and_resources_in_name(cluster: LocalCluster, tmp_path: Path, gpus: list[Gpu]) -> None:
    taint = {"key": "example.com/own", "value": "yes", "effect": "NoSchedule"}
    one = Declared("one", {"pool": "own"}, (taint,), {"cpu": "64", "example.com/dongle": "3", RESOURCE: "1"})
    async with nodes(cluster, tmp_path / "nodes", gpus, one, "two"):
        found: dict[str, Any] = {name: await cluster.get(NODE, name) for name in ("one", "two")}
        assert found["one"]["metadata"]["labels"]["pool"] == "own"
        assert found["one"]["spec"]["taints"] == [taint]
        offered = found["one"]["status"]["allocatable"]
        assert (offered["cpu"], offered["example.com/dongle"], offered[RESOURCE]) == ("64", "3", "1")
        assert found["two"]["status"]["allocatable"][RESOURCE] == "1"
        await cluster.create(POD, a_pod("other", 1, node="two"))
        assert shown(await until_phase(cluster, "other", "Succeeded")) == f"{UUIDS[1]}|{UUIDS[1]}"
    # What somebody has changed since stays.
    await cluster.patch(NODE, "one", None, {"spec": {"taints": None}})
    async with nodes(cluster, tmp_path / "nodes", gpus, one, "two"):
        assert not (await cluster.get(NODE, "one"))["spec"].get("taints")
