"""The nodes of an embedded cluster together: where they are made, run and stopped, and how the API reads logs from them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path

from moorage.embedded.backend import Asked, Measured, Talk
from moorage.embedded.node.agent import POD_NETWORK, Addresses, Node, services_of
from moorage.embedded.node.declared import Declared
from moorage.embedded.node.devices import RESOURCE, Gpu, deal
from moorage.embedded.node.launch import Confinement
from moorage.embedded.node.machine import capacity, inspect
from moorage.embedded.node.meter import Meter
from moorage.embedded.node.pod import Services, Sources
from moorage.embedded.node.proxy import ServiceProxy
from moorage.embedded.node.volumes import TokenSource
from moorage.embedded.tokens import Grant, TokenIssuer
from moorage.errors import Unavailable
from moorage.kube.cluster import Cluster, LogOptions
from moorage.kube.events import EventRecorder
from moorage.kube.informer import Informer
from moorage.kube.kinds import CONFIG_MAP, POD, PV, PVC, SECRET, SERVICE_ACCOUNT
from moorage.specs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class PodTokens:
    """ServiceAccount tokens bound to pods, from the API's own issuer."""

    cluster: Cluster
    issuer: TokenIssuer

    async def issue(self, pod: Manifest, *, audiences: Sequence[str], lifetime: timedelta) -> Grant:
        metadata = pod["metadata"]
        name = pod["spec"].get("serviceAccountName") or "default"
        account = await self.cluster.get(SERVICE_ACCOUNT, name, metadata["namespace"])
        bound = {"pod": {"name": metadata["name"], "uid": metadata["uid"]}, "node": {"name": pod["spec"].get("nodeName", "")}}
        return self.issuer.issue(
            metadata["namespace"], name, account["metadata"]["uid"], audiences=audiences, lifetime=lifetime, bound=bound
        )


class Nodes:
    """Every node of one process; the API server's `NodeBackend`.

    Args:
        tokens: the API's own issuer, or whatever else brings the tokens of pods.
        names: the nodes, by name or as declared; the machine's memory and GPUs are divided among them.
        folder: one folder per node in it (`cluster/nodes`).
        api: host and port of the Kubernetes API, for in-cluster clients.
        ca: PEM of the authority that signed the API's certificate.
        confined: forces how containers are confined; None: whatever the kernel allows.
        proxied: whether Services are forwarded.
        network: where pods get their addresses.
        gpus: those to give to containers; None: whatever NVIDIA's driver tells of.
    """

    def __init__(
        self,
        cluster: Cluster,
        tokens: TokenIssuer | TokenSource,
        *,
        names: Sequence[str | Declared],
        folder: Path,
        api: tuple[str, int],
        ca: bytes,
        confined: Confinement | None = None,
        proxied: bool = True,
        network: IPv4Network = POD_NETWORK,
        gpus: Sequence[Gpu] | None = None,
    ) -> None:
        self._cluster = cluster
        self._tokens = PodTokens(cluster, tokens) if isinstance(tokens, TokenIssuer) else tokens
        self._nodes = tuple(Declared(one) if isinstance(one, str) else one for one in names)
        self._folder = folder
        self._api = api
        self._ca = ca
        self._confined = confined
        self._proxied = proxied
        self._network = network
        self._gpus = gpus
        self.ready = asyncio.Event()
        self.nodes: dict[str, Node] = {}
        self._meter = Meter(lambda: {name: node.processes() for name, node in self.nodes.items()})

    async def run(self) -> None:
        """Keep all nodes until cancelled; containers go on without us."""
        machine = await inspect(self._folder, self._api, confined=self._confined, gpus=self._gpus)
        kinds = {kind: Informer(self._cluster, kind) for kind in (POD, CONFIG_MAP, SECRET, PVC, PV, SERVICE_ACCOUNT)}
        sources = Sources(kinds[CONFIG_MAP], kinds[SECRET], kinds[PVC], kinds[PV], kinds[SERVICE_ACCOUNT])
        recorder = EventRecorder(self._cluster, "kubelet")
        services = Services(self._cluster, recorder, sources, self._tokens, machine, self._ca)
        addresses = Addresses(single=not sys.platform.startswith("linux"), network=self._network)
        asked = [int(one.capacity[RESOURCE]) if RESOURCE in one.capacity else None for one in self._nodes]
        dealt = deal(machine.gpus, asked)
        for index, declared in enumerate(self._nodes):
            offered = {**capacity(len(self._nodes), len(dealt[index]), self._folder), **declared.capacity}
            own = services_of(services, offered)
            self.nodes[declared.name] = Node(declared, self._folder / declared.name, own, kinds[POD], addresses, dealt[index])
        async with asyncio.TaskGroup() as tasks:
            for informer in kinds.values():
                tasks.create_task(informer.run())
            for informer in kinds.values():
                await informer.synced.wait()
            for kind, informer in kinds.items():
                if kind != POD:
                    informer.subscribe(self._wake)
            for node in self.nodes.values():
                tasks.create_task(node.run())
            if self._proxied:
                tasks.create_task(ServiceProxy(self._cluster, single=addresses.single).run())
            self.ready.set()

    async def stop_containers(self) -> None:
        """End every container of every node with its grace; call it while `run` runs, then cancel that."""
        await asyncio.gather(*(node.stop_containers() for node in self.nodes.values()))

    async def logs(self, node: str, namespace: str, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        """See `embedded.backend.NodeBackend`."""
        if (kept := self.nodes.get(node)) is None:
            raise Unavailable(
                f"node '{node}' does not run in this process, so that the log of {namespace}/{pod['metadata']['name']} is not here."
            )
        async for chunk in kept.logs(pod, options):
            yield chunk

    def running(self, node: str, pod: Manifest, container: str) -> None:
        """See `embedded.backend.NodeBackend`."""
        self._of(node, pod).running(pod, container)

    async def talk(self, node: str, pod: Manifest, asked: Asked) -> Talk:
        """See `embedded.backend.NodeBackend`."""
        return await self._of(node, pod).talk(pod, asked)

    async def dial(self, node: str, pod: Manifest, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `embedded.backend.NodeBackend`."""
        return await self._of(node, pod).dial(pod, port)

    async def measure(self) -> Measured:
        """See `embedded.backend.NodeBackend`."""
        return await self._meter.measure()

    def _of(self, node: str, pod: Manifest) -> Node:
        if (kept := self.nodes.get(node)) is None:
            name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            raise Unavailable(f"node '{node}' does not run in this process, so that pod {name} cannot be reached.")
        return kept

    def _wake(self, old: Manifest | None, new: Manifest | None) -> None:
        changed = new or old or {"metadata": {}}
        for node in self.nodes.values():
            node.wake(changed["metadata"].get("namespace") or "")
