"""The kube-proxy of the laptop cluster: a userspace TCP forwarder from each Service's cluster address to its ready endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from moorage.errors import Conflict, MoorageError, NotFound
from moorage.kube.cluster import Cluster
from moorage.kube.events import EventRecorder
from moorage.kube.informer import Informer
from moorage.kube.kinds import ENDPOINT_SLICE, SERVICE
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

ADDRESS_ANNOTATION = "moorage.dev/address"
_SERVICE_LABEL = "kubernetes.io/service-name"
_CHUNK = 1 << 16
_BACKLOG = 512
_ACCEPT_PAUSE = timedelta(milliseconds=100)
_LOOPBACK = "127.0.0.1"
# A port below 1024 that this user may not open is opened this much higher on the same address, so that it is the same after every start.
_UNPRIVILEGED_OFFSET = 8000

Address = tuple[str, int]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a Service: where it is wanted, and by which name its endpoints are found."""

    name: str
    port: int
    node_port: int = 0


def ports_of(service: Manifest) -> list[Port]:
    """The TCP ports to forward; none for headless, external or address-less Services."""
    spec = service["spec"]
    if spec.get("clusterIP") in (None, "", "None") or spec.get("type") == "ExternalName":
        return []
    return [
        Port(item.get("name") or "", int(item["port"]), int(item.get("nodePort") or 0))
        for item in spec.get("ports") or ()
        if item.get("protocol", "TCP") == "TCP"
    ]


def endpoints_of(slices: Iterable[Manifest], port: str) -> list[Address]:
    """The ready addresses behind a Service's port of this name; those that serve while they end, when there are no others."""
    ready: set[Address] = set()
    ending: set[Address] = set()
    for item in slices:
        number = next((int(p["port"]) for p in item.get("ports") or () if (p.get("name") or "") == port and p.get("port")), None)
        for endpoint in item.get("endpoints") or () if number else ():
            conditions = endpoint.get("conditions") or {}
            addresses = {(address, number) for address in endpoint.get("addresses") or () if number}
            if conditions.get("ready") is not False:
                ready |= addresses
            elif conditions.get("serving") and conditions.get("terminating"):
                ending |= addresses
    return sorted(ready or ending)


@dataclass(slots=True)
class _Forward:
    """One listener and where it leads. It accepts by itself: asyncio's Server leaves a connection hanging that comes while it closes."""

    targets: Sequence[Address] = ()
    turn: int = 0
    address: Address = ("", 0)
    listener: socket.socket | None = None
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def listen(self, host: str, port: int) -> None:
        self.listener = socket.create_server((host, port), backlog=_BACKLOG)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()[:2]
        asyncio.get_running_loop().add_reader(self.listener, self._accept, self.listener)

    async def close(self) -> None:
        """Stop listening; what is being forwarded ends too."""
        if self.listener is not None:
            asyncio.get_running_loop().remove_reader(self.listener)
            self.listener.close()
        tasks = list(self.connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors or memory: leave the next ones in the backlog for a moment instead of spinning.
            log.warning("a connection to %s:%d was not accepted: %s", *self.address, error)
            loop.remove_reader(listener)
            loop.call_later(_ACCEPT_PAUSE.total_seconds(), self._resume, listener)
            return
        connection.setblocking(False)
        task = loop.create_task(self._serve(connection))
        self.connections.add(task)
        task.add_done_callback(self.connections.discard)
        # Also when the task is cancelled before its first step.
        task.add_done_callback(lambda _: connection.close())

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection, limit=_CHUNK)
            try:
                await self._forward(reader, writer)
            finally:
                await _close(writer)
        except OSError as error:
            log.debug("a connection to %s ended: %s", self.address, error)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (there := await self._connect()) is None:
            # As a Service without endpoints: the client sees the connection refused, here reset.
            writer.transport.abort()
            return
        far_reader, far_writer = there
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, far_writer))
                both.create_task(_pump(far_reader, writer))
        except* OSError as errors:
            log.debug("forwarding to %s: %s", far_writer.get_extra_info("peername"), errors.exceptions)
        finally:
            await _close(far_writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The next endpoint in turn; one that refuses is passed over."""
        self.turn += 1
        targets = self.targets
        for offset in range(len(targets)):
            host, port = targets[(self.turn + offset) % len(targets)]
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(host, port, limit=_CHUNK)
        return None


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class ServiceProxy:
    """Listens for every Service with a cluster address and keeps up with its endpoints.

    Args:
        single: the system has no loopback address but 127.0.0.1: all Services get ephemeral ports there.
    """

    def __init__(self, cluster: Cluster, *, single: bool = False) -> None:
        self._cluster = cluster
        self._single = single
        self._recorder = EventRecorder(cluster, "kube-proxy")
        self._services = Informer(cluster, SERVICE)
        self._slices = Informer(cluster, ENDPOINT_SLICE)
        self._slices.add_index("service", lambda item: [_service_of(item)])
        self._forwards: dict[Key, dict[tuple[str, int], _Forward]] = {}
        self._dirty: dict[Key, None] = {}
        self._awake = asyncio.Event()

    async def run(self) -> None:
        """Forward until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._services.run())
                tasks.create_task(self._slices.run())
                await self._services.synced.wait()
                await self._slices.synced.wait()
                self._services.subscribe(lambda old, new: self._mark(_key(new or old or {})))
                self._slices.subscribe(lambda old, new: self._mark(_service_of(new or old or {})))
                while True:
                    await self._awake.wait()
                    self._awake.clear()
                    while self._dirty:
                        key = next(iter(self._dirty))
                        del self._dirty[key]
                        await self._sync(key)
        finally:
            for key in list(self._forwards):
                await self._drop(key)

    def _mark(self, key: Key) -> None:
        self._dirty[key] = None
        self._awake.set()

    async def _sync(self, key: Key) -> None:
        service = self._services.get(key[1], key[0])
        if service is None:
            await self._drop(key)
            return
        slices = self._slices.find("service", key)
        host = _LOOPBACK if self._single else str(service["spec"].get("clusterIP"))
        wanted = {(host, port.port): port for port in ports_of(service)}
        wanted.update({(_LOOPBACK, port.node_port): port for port in ports_of(service) if port.node_port})
        forwards = self._forwards.setdefault(key, {})
        for place in [place for place in forwards if place not in wanted]:
            await forwards.pop(place).close()
        for place, port in wanted.items():
            if place not in forwards and (forward := await self._listen(service, place)) is not None:
                forwards[place] = forward
            if place in forwards:
                forwards[place].targets = endpoints_of(slices, port.name)
        await self._publish(service, forwards, [(host, port.port) for port in ports_of(service)])

    async def _listen(self, service: Manifest, place: Address) -> _Forward | None:
        forward = _Forward()
        host, port = place
        try:
            forward.listen(host, 0 if self._single and port else port)
            return forward
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EADDRNOTAVAIL, errno.EPERM):
                await self._complain(service, "FailedListen", f"{host}:{port} cannot be listened on: {error.strerror}")
                return None
            why = error.strerror
        taken = {each["port"] for each in service["spec"].get("ports") or ()}
        others: list[Address] = [(_LOOPBACK, 0)]
        if port + _UNPRIVILEGED_OFFSET not in taken:
            others.insert(0, (host, port + _UNPRIVILEGED_OFFSET))
        for other in others:
            with contextlib.suppress(OSError):
                forward.listen(*other)
                where = f"{forward.address[0]}:{forward.address[1]}"
                await self._complain(service, "ListensElsewhere", f"{host}:{port} cannot be listened on ({why}); it is reached at {where}.")
                return forward
        await self._complain(service, "FailedListen", f"neither {host}:{port} nor another port can be listened on: {why}")
        return None

    async def _publish(self, service: Manifest, forwards: Mapping[Address, _Forward], places: Sequence[Address]) -> None:
        """Say where the Service's first port is really reached, and give a LoadBalancer its address."""
        first = next((forwards[place] for place in places if place in forwards), None)
        metadata = service["metadata"]
        known = (metadata.get("annotations") or {}).get(ADDRESS_ANNOTATION)
        try:
            if first is not None and known != (address := f"{first.address[0]}:{first.address[1]}"):
                await self._cluster.patch(
                    SERVICE, metadata["name"], metadata["namespace"], {"metadata": {"annotations": {ADDRESS_ANNOTATION: address}}}
                )
            ingress = {"loadBalancer": {"ingress": [{"ip": first.address[0]}]}} if first is not None else None
            if service["spec"].get("type") == "LoadBalancer" and ingress and (service.get("status") or {}) != ingress:
                await self._cluster.patch(SERVICE, metadata["name"], metadata["namespace"], {"status": ingress}, subresource="status")
        except (NotFound, Conflict):
            pass  # it changes at this moment; its change brings us back
        except MoorageError as error:
            log.warning("address of Service %s/%s is not published: %s", metadata["namespace"], metadata["name"], error)

    async def _complain(self, service: Manifest, reason: str, message: str) -> None:
        try:
            await self._recorder.record(service, "Warning", reason, message, again=False)
        except MoorageError as error:
            log.warning("%s (and the event was lost: %s)", message, error)

    async def _drop(self, key: Key) -> None:
        for forward in self._forwards.pop(key, {}).values():
            await forward.close()


def _key(manifest: Manifest) -> Key:
    metadata = manifest["metadata"]
    return metadata["namespace"], metadata["name"]


def _service_of(item: Manifest) -> Key:
    return item["metadata"]["namespace"], (item["metadata"].get("labels") or {}).get(_SERVICE_LABEL, "")
