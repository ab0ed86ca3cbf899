"""Services forwarded to their endpoints over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from moorage.embedded.local import LocalCluster, open_cluster
from moorage.embedded.node.proxy import ADDRESS_ANNOTATION, ServiceProxy, endpoints_of
from moorage.kube.kinds import ENDPOINT_SLICE, SERVICE
from moorage.specs.manifest import Manifest


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    opened = await open_cluster()
    yield opened
    await opened.close()


@asynccontextmanager
async def proxied(cluster: LocalCluster) -> AsyncIterator[None]:
    task = asyncio.create_task(ServiceProxy(cluster).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def backend(name: bytes) -> AsyncIterator[int]:
    """A server that echoes each line with its name in front."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(name + b":" + line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def slice_of(*ports: int) -> list[Manifest]:
    """One slice for each endpoint, since endpoints of one slice share their port."""
    return [
        {
            "metadata": {"name": f"web-{index}", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        }
        for index, port in enumerate(ports)
    ]


async def serve(cluster: LocalCluster, *ports: int, at: int = 0) -> str:
    """Make Service `web` with these endpoints; its published address."""
    spec = {"type": "ClusterIP", "clusterIP": "127.96.7.9", "ports": [{"name": "http", "port": at or free_port(), "targetPort": 80}]}
    await cluster.create(SERVICE, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    for item in slice_of(*ports):
        await cluster.create(ENDPOINT_SLICE, item)
    service = await until(cluster, lambda item: ADDRESS_ANNOTATION in item["metadata"].get("annotations", {}))
    return str(service["metadata"]["annotations"][ADDRESS_ANNOTATION])


async def until(cluster: LocalCluster, holds: Callable[[Manifest], bool]) -> Manifest:
    item = await cluster.get(SERVICE, "web", "default")
    async with asyncio.timeout(60):
        stream = cluster.watch(SERVICE, since=item["metadata"]["resourceVersion"])
        try:
            while not holds(item):
                item = (await anext(stream)).object
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
    return item


async def ask(address: str, line: bytes = b"x\n") -> bytes:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(line)
        writer.write_eof()
        return await reader.read()
    except OSError:
        return b""  # reset
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_connections_are_spread_over_the_ready_endpoints(cluster: LocalCluster) -> None:
    async with proxied(cluster), backend(b"a") as first, backend(b"b") as second:
        address = await serve(cluster, first, second)
        assert address.startswith("127.96.7.9:")
        assert {await ask(address) for _ in range(4)} == {b"a:x\n", b"b:x\n"}


async def test_an_endpoint_that_refuses_is_passed_over(cluster: LocalCluster) -> None:
    # Taken and never listened on: connections are refused for as long as it is held.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with proxied(cluster), backend(b"a") as alive:
            address = await serve(cluster, taken.getsockname()[1], alive)
            assert [await ask(address) for _ in range(3)] == [b"a:x\n"] * 3


async def test_much_data_streams_both_ways_and_half_close_is_kept(cluster: LocalCluster) -> None:
    async with proxied(cluster), backend(b"a") as alive:
        address = await serve(cluster, alive)
        line = b"y" * 60_000 + b"\n"
        assert await ask(address, line * 50) == (b"a:" + line) * 50


async def test_without_endpoints_the_connection_ends_and_with_the_service_the_listener(cluster: LocalCluster) -> None:
    async with proxied(cluster):
        address = await serve(cluster)
        assert await ask(address) == b""
        await cluster.delete(SERVICE, "web", "default")
        async with asyncio.timeout(60):
            while True:
                try:
                    await ask(address)
                except ConnectionRefusedError:
                    break


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Without the right to open ports below 1024."""
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("every user may open every port here")
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield
    os.seteuid(was)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such addresses, and let everybody open the port")
async def test_a_port_that_this_user_may_not_open_is_opened_higher_on_the_same_address(cluster: LocalCluster, ordinary_user: None) -> None:
    async with proxied(cluster), backend(b"a") as alive:
        address = await serve(cluster, alive, at=80)
        assert address == "127.96.7.9:8080"
        assert await ask(address) == b"a:x\n"


def test_endpoints_that_end_serve_only_while_there_are_no_others() -> None:
    ready, ending = slice_of(1, 2)
    ending["endpoints"][0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
    assert endpoints_of([ready, ending], "http") == [("127.0.0.1", 1)]
    assert endpoints_of([ending], "http") == [("127.0.0.1", 2)]
    assert endpoints_of([ready], "other") == []
