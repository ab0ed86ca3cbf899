"""`python -m tests.real.nodes`: the node agents of a test control plane in one process, kept by `scripts/kubernetes up --nodes N`."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path
from urllib.parse import urlsplit

from moorage.cli.run import log_to_stderr, until_stopped
from moorage.clock import parse_rfc3339
from moorage.embedded.node.agent import POD_NETWORK
from moorage.embedded.node.run import Nodes
from moorage.embedded.tokens import Grant
from moorage.errors import Conflict
from moorage.kube import remote
from moorage.kube.kinds import NODE, PV, SERVICE_ACCOUNT, STORAGE_CLASS, Kind
from moorage.kube.remote import RemoteCluster
from moorage.specs.manifest import Manifest
from moorage.testing.world import until
from tests.real.nodes.kubelet import kubelet

log = logging.getLogger("moorage.nodes")

VOLUMES = 16
_CLASS = "moorage-test"


@dataclass(frozen=True, slots=True)
class RequestedTokens:
    """ServiceAccount tokens bound to pods, from the API's TokenRequest."""

    cluster: RemoteCluster

    async def issue(self, pod: Manifest, *, audiences: Sequence[str], lifetime: timedelta) -> Grant:
        metadata = pod["metadata"]
        reference = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": list(audiences), "expirationSeconds": int(lifetime.total_seconds()), "boundObjectRef": reference},
        }
        account = pod["spec"].get("serviceAccountName") or "default"
        answer = await self.cluster.create_subresource(SERVICE_ACCOUNT, account, metadata["namespace"], "token", body)
        return Grant(answer["status"]["token"], parse_rfc3339(answer["status"]["expirationTimestamp"]))


async def serve(options: argparse.Namespace) -> None:
    cluster = remote.connect(options.kubeconfig)
    names = [f"node-{number}" for number in range(options.count)]
    api = urlsplit(options.server)
    nodes = Nodes(
        cluster,
        RequestedTokens(cluster),
        names=names,
        folder=options.folder / "nodes",
        api=(api.hostname or "", api.port or 443),
        ca=(options.pki / "ca.pem").read_bytes(),
        network=options.network,
    )

    async def work() -> None:
        await ensure_storage(cluster, options.folder / "volumes")
        async with kubelet(cluster, nodes, options.pki) as port, asyncio.TaskGroup() as tasks:
            tasks.create_task(nodes.run())
            endpoint = {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}}
            for name in names:
                await until(cluster, NODE, name, None, lambda node: bool((node.get("status") or {}).get("capacity")))
                await cluster.patch(NODE, name, None, endpoint, subresource="status")
            log.info("nodes %s, logs on port %d", ", ".join(names), port)

    try:
        await until_stopped(work, on_stop=nodes.stop_containers)
    finally:
        await cluster.close()


async def ensure_storage(cluster: RemoteCluster, folder: Path) -> None:
    """A default storage class and folders for claims: Kubernetes itself provisions none."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    objects: list[tuple[Kind, Manifest]] = [
        (
            STORAGE_CLASS,
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": _CLASS, "annotations": default},
                "provisioner": "kubernetes.io/no-provisioner",
            },
        )
    ]
    for number in range(VOLUMES):
        name = volume(folder, number).name
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": _CLASS,
            "hostPath": {"path": str(volume(folder, number)), "type": "DirectoryOrCreate"},
        }
        objects.append((PV, {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}))
    for kind, manifest in objects:
        try:
            await cluster.create(kind, manifest)
        except Conflict:
            continue  # an earlier life made it


def volume(folder: Path, number: int) -> Path:
    """Where a volume lies."""
    return folder / f"moorage-test-{number}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--pki", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--network", type=IPv4Network, default=POD_NETWORK)
    log_to_stderr()
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
