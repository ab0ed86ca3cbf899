"""`kubectl top` and the API behind it, against containers that really run on two nodes of one process."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from moorage.embedded import kubeconfig
from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.node.run import Nodes
from moorage.embedded.serve import serve_api
from moorage.kube.kinds import CONFIG_MAP, NODE, POD, SERVICE_ACCOUNT
from moorage.specs.quantities import parse_quantity

from .conftest import Keys, Kubectl, Served

DEADLINE = 120
PODS, NODES = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", "/apis/metrics.k8s.io/v1beta1/nodes"
BUSY, IDLE = "while :; do :; done", "exec sleep 3600"


@pytest.fixture
async def served(keys: Keys, tmp_path: Path) -> AsyncIterator[Served]:
    """A served cluster with two nodes on which pods run."""
    cluster = await open_cluster()
    await cluster.create(SERVICE_ACCOUNT, {"metadata": {"name": "default", "namespace": "default"}})
    await cluster.create(CONFIG_MAP, {"metadata": {"name": "kube-root-ca.crt", "namespace": "default"}, "data": {"ca.crt": "CA"}})
    names = ["n1", "n2"]
    nodes = Nodes(cluster, cluster.tokens, names=names, folder=tmp_path / "n", api=("127.0.0.1", 6550), ca=b"CA", proxied=False)
    cluster.backend = nodes
    task = asyncio.create_task(nodes.run())
    try:
        async with asyncio.timeout(DEADLINE):
            while [bool(node.get("status", {}).get("allocatable")) for node in (await cluster.list(NODE)).items] != [True, True]:
                await asyncio.sleep(0.01)
        async with serve_api(cluster, keys.certificate) as serving:
            path = tmp_path / "kubeconfig"
            kubeconfig.write(path, serving.url, keys.authority.pem, cluster.tokens.admin_token)
            yield Served(cluster, serving.url, path, ssl.create_default_context(cafile=str(keys.authority.certificate_path)))
            await nodes.stop_containers()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.close()


async def start(cluster: LocalCluster, name: str, node: str, **scripts: str) -> None:
    """A pod with one container for each script, all of them running."""
    containers = [{"name": each, "image": "i", "command": ["/bin/sh", "-c", script]} for each, script in scripts.items()]
    spec = {"nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers}
    made = await cluster.create(POD, {"metadata": {"name": name, "namespace": "default", "labels": {"app": name}}, "spec": spec})
    async with asyncio.timeout(DEADLINE):
        async for event in cluster.watch(POD, since=made["metadata"]["resourceVersion"]):
            conditions = (event.object.get("status") or {}).get("conditions") or ()
            if event.object["metadata"].get("name") == name and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                return
    raise AssertionError("the watch ended")


async def measured(http: httpx2.AsyncClient, path: str, pod: str) -> dict[str, Any]:
    """The figures of a pod once its first container has used CPU."""
    async with asyncio.timeout(DEADLINE):
        while True:
            found = await http.get(f"{path}/{pod}")
            assert found.status_code in (200, 404), found.text
            if found.status_code == 200 and parse_quantity(found.json()["containers"][0]["usage"]["cpu"], target="cpu") > 0:
                return dict(found.json())
            await asyncio.sleep(0.2)


async def test_a_busy_container_has_figures_of_its_own_and_its_node_has_them_too(served: Served, http: httpx2.AsyncClient) -> None:
    await start(served.cluster, "busy", "n2", main=BUSY)
    found = await measured(http, PODS, "busy")
    assert found["metadata"]["labels"] == {"app": "busy"}
    assert parse_quantity(found["containers"][0]["usage"]["memory"], target="memory") > 0
    nodes = {item["metadata"]["name"]: item["usage"] for item in (await http.get(NODES)).json()["items"]}
    assert nodes.keys() == {"n1", "n2"}
    assert nodes["n1"] == {"cpu": "0", "memory": "0Ki"}, "nothing runs there"
    assert parse_quantity(nodes["n2"]["memory"], target="memory") > 0


def columns(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.mark.slow  # kubectl starts nine times, and figures need a second
@pytest.mark.kubectl
async def test_kubectl_top_shows_nodes_pods_and_containers(served: Served, http: httpx2.AsyncClient, kubectl: Kubectl) -> None:
    missing = await kubectl("top", "pod", "nobody", code=1)
    assert missing.err == 'Error from server (NotFound): pods "nobody" not found\n'
    assert (await kubectl("top", "pods")).err == "No resources found in default namespace.\n"
    await start(served.cluster, "idle", "n1", main=IDLE)
    await start(served.cluster, "busy", "n2", main=BUSY, side=IDLE)
    await measured(http, PODS, "busy")
    head, *nodes = columns((await kubectl("top", "nodes")).out)
    assert head == ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]
    assert [row[0] for row in nodes] == ["n1", "n2"]
    async with asyncio.timeout(DEADLINE):
        # On a loaded machine a window can pass in which even a busy container gets no time.
        while (shown := columns((await kubectl("top", "pods", "--sort-by=cpu")).out))[1][1] == "0m":
            pass
    assert shown[0] == ["NAME", "CPU(cores)", "MEMORY(bytes)"]
    assert [row[0] for row in shown[1:]] == ["busy", "idle"]
    head, *pods = columns((await kubectl("top", "pods", "-A", "-l", "app=idle")).out)
    assert head == ["NAMESPACE", "NAME", "CPU(cores)", "MEMORY(bytes)"]
    assert [row[:2] for row in pods] == [["default", "idle"]]
    head, *containers = columns((await kubectl("top", "pod", "busy", "--containers")).out)
    assert head == ["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"]
    assert [row[:2] for row in containers] == [["busy", "main"], ["busy", "side"]]
    assert "metrics.k8s.io/v1beta1" in (await kubectl("api-versions")).out.split()
    assert [row[0] for row in columns((await kubectl("get", "pods", "--sort-by=.metadata.name", "--no-headers")).out)] == ["busy", "idle"]
    assert "Allocated resources:" in (await kubectl("describe", "node", "n1")).out
