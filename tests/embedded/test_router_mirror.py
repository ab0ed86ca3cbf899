"""Mirrored traffic through the router: what the mirrored deployment sees, and that no state of it is felt by the caller."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from router_peers import DIGEST, LONG, SHORT, Behaviour, ReplicaServer, Request, Served, answer, ok, replica, request_bytes, router

from moorage.router import mirror
from moorage.router.metrics import exposition
from moorage.router.replicas import ReplicaPool
from moorage.specs.routing import Address, DeploymentRoute, EndpointRoute, RoutingTable

BOUND = 1024 * 1024


def mirrored(live: Address | tuple[Address, ...], shadow: tuple[Address, ...], share: int = 100, **limits: Any) -> RoutingTable:
    """Endpoint `digits`: all traffic to `blue`, copies of `share` percent to `green`, which has the limits given."""
    blue = DeploymentRoute("blue", live if isinstance(live[0], tuple) else (live,), concurrency=64, timeout=LONG)  # type: ignore[arg-type]
    green = DeploymentRoute("green", shadow, **{"queue_wait": LONG, "timeout": LONG, **limits})
    return RoutingTable({"digits": EndpointRoute("digits", (DIGEST,), {"blue": blue, "green": green}, {"blue": 100}, {"green": share})})


@asynccontextmanager
async def pair(shadow: Behaviour = ok, live: Behaviour = ok, **terms: Any) -> AsyncIterator[tuple[Served, ReplicaServer, ReplicaServer]]:
    """A router with its live and its mirrored replica."""
    async with replica(live) as blue, replica(shadow) as green, router(mirrored(blue.address, (green.address,), **terms)) as served:
        yield served, blue, green


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


def copies(served: Served) -> list[dict[str, Any]]:
    return [line for line in served.log if line["mirrored"]]


def errors(served: Served) -> list[str]:
    return [line["error"].removeprefix("copy dropped: ") for line in copies(served)]


def pool(served: Served, deployment: str = "green") -> ReplicaPool:
    return served.router._pools["digits", deployment]


async def nothing_held(served: Served) -> None:
    """Whatever happened: every slot and every byte comes back."""
    await until(lambda: pool(served).busy == 0 and not pool(served).waiting)
    assert served.router.mirror.budget.held == 0


def gate() -> tuple[asyncio.Event, Behaviour]:
    """A model that answers nobody until the event is set."""
    opened = asyncio.Event()

    async def waits(request: Request, writer: asyncio.StreamWriter) -> None:
        await opened.wait()
        await ok(request, writer)

    return opened, waits


async def test_a_copy_is_the_request_itself_but_for_its_mark_and_its_deployment() -> None:
    async with pair() as (served, blue, green):
        got = await served.ask(b"[1, 2]", x_request_id="mine-1", content_type="application/json", x_moorage_mirrored="forged")
        assert got.status == 200 and got.headers["azureml-model-deployment"] == "blue"
        await until(lambda: copies(served))
        (original,), (copy,) = blue.requests, green.requests
        assert (copy.line, copy.body) == (original.line, original.body) == ("POST /score HTTP/1.1", b"[1, 2]")
        assert "x-moorage-mirrored" not in original.headers and copy.headers["x-moorage-mirrored"] == "true"
        assert "authorization" not in copy.headers
        assert original.headers["azureml-model-deployment"] == "blue" and copy.headers["azureml-model-deployment"] == "green"
        same = {"x-request-id", "content-type", "content-length"}
        assert {name: copy.headers[name] for name in same} == {name: original.headers[name] for name in same}
        live, line = sorted(served.log, key=lambda line: line["mirrored"])
        assert live["requestId"] == line["requestId"] == "mine-1"
        assert (live["deployment"], live["responseCode"], live["mirrored"]) == ("blue", 200, False)
        assert (line["deployment"], line["responseCode"], line["modelCode"], line["error"]) == ("green", 0, 200, "")
        assert line["requestBytes"] == 6 and line["replica"] == f"{green.address[0]}:{green.address[1]}"


async def test_exactly_the_share_is_copied_over_many_kept_connections() -> None:
    async def client(served: Served, number: int) -> None:
        reader, writer = await asyncio.open_connection(*served.address)
        for turn in range(25):
            writer.write(request_bytes(b"%d-%d" % (number, turn)))
            assert (await answer(reader)).status == 200
        writer.close()

    async with pair(share=10, concurrency=64) as (served, blue, green):
        await asyncio.gather(*(client(served, number) for number in range(4)))
        await until(lambda: len(copies(served)) == 10)
        assert errors(served) == [""] * 10 and len(green.requests) == 10
        assert Counter(copy.body for copy in green.requests) <= Counter(each.body for each in blue.requests)
        text = exposition(served.router.metrics).decode()
        assert 'moorage_router_mirrored_total{code="200",deployment="green",endpoint="digits"} 10.0' in text
        assert 'moorage_router_mirror_seconds_count{deployment="green",endpoint="digits"} 10.0' in text
        assert 'moorage_router_requests_total{code="200",deployment="blue",endpoint="digits"} 100.0' in text
        assert 'moorage_router_requests_total{code="200",deployment="green"' not in text
        await nothing_held(served)


async def test_pinned_requests_swagger_and_refused_ones_are_not_copied() -> None:
    async with pair() as (served, _, green):
        assert (await served.ask(b"pinned", azureml_model_deployment="blue")).status == 200
        assert (await served.ask(b"pinned", azureml_model_deployment="green")).status == 200
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(b"GET /api/v1/endpoint/digits/swagger.json HTTP/1.1\r\nhost: t\r\nauthorization: Bearer correct-key\r\n\r\n")
        assert (await answer(reader)).status == 200
        writer.close()
        assert (await served.ask(key="wrong")).status == 401
        assert (await served.ask(b"scored")).status == 200
        await until(lambda: copies(served))
        assert [each.body for each in green.requests] == [b"pinned", b"scored"]
        assert "x-moorage-mirrored" not in green.requests[0].headers


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_a_request_without_a_body_is_copied_without_one(method: str) -> None:
    async with pair() as (served, _, green):
        reader, writer = await asyncio.open_connection(*served.address)
        head = f"{method} /api/v1/endpoint/digits/score?a=b%20c HTTP/1.1\r\nhost: t\r\nauthorization: Bearer correct-key\r\n\r\n"
        writer.write(head.encode())
        assert (await answer(reader)).status == 200
        writer.close()
        await until(lambda: copies(served))
        (copy,) = green.requests
        assert copy.line == f"{method} /score?a=b%20c HTTP/1.1" and copy.body == b""
        assert not {"content-length", "transfer-encoding"} & copy.headers.keys()


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
async def test_a_body_larger_than_the_bound_is_copied_when_it_is_read_as_it_is_sent(chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "COPY_BYTES", BOUND)
    piece = bytes(range(256)) * 1024
    count = 2 * BOUND // len(piece)
    arrived = 0

    async def watching(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        for number in range(count):
            if chunked:
                start = len(body)
                while len(body) - start < len(piece):
                    size = int(await reader.readline(), 16)
                    body += (await reader.readexactly(size + 2))[:-2]
            else:
                body += await reader.readexactly(len(piece))
            arrived = number + 1
        if chunked:
            assert await reader.readexactly(5) == b"0\r\n\r\n"
        assert body == piece * count
        assert (b"transfer-encoding: chunked" in head) is chunked
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    shadow = await asyncio.start_server(watching, "127.0.0.1", 0)
    async with shadow, replica() as blue:
        async with router(mirrored(blue.address, (shadow.sockets[0].getsockname(),))) as served:
            reader, writer = await asyncio.open_connection(*served.address)
            framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % (len(piece) * count)
            writer.write(
                b"POST /api/v1/endpoint/digits/score HTTP/1.1\r\nhost: t\r\nauthorization: Bearer correct-key\r\n" + framing + b"\r\n\r\n"
            )
            for number in range(count):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await writer.drain()
                await until(lambda number=number: arrived > number)
            if chunked:
                writer.write(b"0\r\n\r\n")
            assert (await answer(reader)).status == 200
            writer.close()
            await until(lambda: copies(served))
            assert (copies(served)[0]["modelCode"], copies(served)[0]["requestBytes"]) == (200, len(piece) * count)
            assert blue.requests[0].body == piece * count
            await nothing_held(served)


async def test_a_mirror_that_reads_nothing_loses_the_copy_and_the_caller_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "COPY_BYTES", BOUND)
    done = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    # A small receive buffer: else the kernel would take several MiB for a program that reads none.
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listening.bind(("127.0.0.1", 0))
    shadow = await asyncio.start_server(deaf, sock=listening)
    size = 16 * BOUND
    async with shadow, replica() as blue:
        async with router(mirrored(blue.address, (listening.getsockname(),))) as served:
            got = await served.ask(b"x" * size)
            assert got.status == 200 and json.loads(got.body) == {"length": size}
            await until(lambda: copies(served))
            assert errors(served) == ["the deployment is too far behind the caller"]
            await nothing_held(served)
        done.set()


async def test_what_all_copies_hold_together_is_bounded_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "ALL_BYTES", BOUND)
    bodies = [letter * (BOUND * 2 // 5) for letter in (b"a", b"b", b"c")]
    async with replica() as blue, replica() as green, router(mirrored(blue.address, (), concurrency=4)) as served:
        for body in bodies:
            assert (await served.ask(body)).status == 200
        await until(lambda: copies(served))
        assert errors(served) == ["all copies together hold too much"]
        assert served.router.mirror.budget.held == len(bodies[0]) * 2
        served.router.replace(mirrored(blue.address, (green.address,), concurrency=4))
        await until(lambda: len(copies(served)) == 3)
        assert sorted(each.body for each in green.requests) == bodies[:2]
        await nothing_held(served)


async def test_copies_that_a_slow_mirror_cannot_take_are_dropped_and_callers_answered() -> None:
    opened, waits = gate()
    async with pair(waits, concurrency=1) as (served, blue, green):
        for number in range(6):
            assert (await served.ask(b"%d" % number)).status == 200
        await until(lambda: len(copies(served)) == 4 and green.requests)
        assert errors(served) == ["too many copies are pending"] * 4
        assert (pool(served).busy, pool(served).waiting, green.most_running) == (1, 1, 1)
        assert pool(served, "blue").busy == 0 and len(blue.requests) == 6
        text = exposition(served.router.metrics).decode()
        assert 'moorage_router_mirror_dropped_total{deployment="green",endpoint="digits",reason="queue_full"} 4.0' in text
        assert 'moorage_router_queued{deployment="green",endpoint="digits"} 1.0' in text
        opened.set()
        await until(lambda: len(copies(served)) == 6)
        assert errors(served)[4:] == ["", ""] and green.most_running == 1
        await nothing_held(served)


async def test_a_dead_mirror_costs_the_callers_nothing_and_every_copy_is_counted() -> None:
    async with replica() as dead:
        gone = dead.address
    async with replica() as blue, router(mirrored(blue.address, (gone,), concurrency=8, queue_wait=SHORT)) as served:
        assert [(await served.ask()).status for _ in range(12)] == [200] * 12
        await until(lambda: len(copies(served)) == 12)
        assert errors(served)[0] == "connecting failed"
        assert set(errors(served)) <= {"connecting failed", "no replica became free in time", "too many copies are pending"}
        await nothing_held(served)


async def test_a_copy_whose_replica_is_dead_goes_to_another_one() -> None:
    async with replica() as dead:
        gone = dead.address
    async with replica() as blue, replica() as green, router(mirrored(blue.address, (gone, green.address))) as served:
        for number in range(4):
            assert (await served.ask(b"%d" % number)).status == 200
        await until(lambda: len(copies(served)) == 4)
        assert errors(served) == [""] * 4 and sorted(each.body for each in green.requests) == [b"0", b"1", b"2", b"3"]


async def test_what_the_mirror_answers_is_counted_and_never_seen_by_the_caller() -> None:
    async def fails(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\nx-ms-run-function-failed: True\r\ncontent-length: 4\r\n\r\noops")

    async with pair(fails) as (served, _, _):
        got = await served.ask()
        assert got.status == 200 and "ms-azureml-model-error-statuscode" not in got.headers
        await until(lambda: copies(served))
        assert (copies(served)[0]["modelCode"], copies(served)[0]["responseBytes"]) == (500, 4)
        assert 'moorage_router_mirrored_total{code="500",deployment="green"' in exposition(served.router.metrics).decode()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", b"nonsense\r\n\r\n"])
async def test_a_mirror_that_breaks_off_is_counted_as_broken(said: bytes) -> None:
    async def breaks(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    async with pair(breaks) as (served, _, _):
        assert (await served.ask()).status == 200
        await until(lambda: copies(served))
        assert errors(served) == ["the container closed the connection without a whole answer"]
        await nothing_held(served)


async def test_a_failing_live_deployment_does_not_end_the_copy() -> None:
    async def dies(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        raise ConnectionError

    async with pair(live=dies) as (served, _, green):
        assert (await served.ask(b"whole")).status == 502
        await until(lambda: copies(served))
        assert errors(served) == [""] and [each.body for each in green.requests] == [b"whole"]


async def test_a_mirror_that_never_answers_is_dropped_in_time_and_keeps_its_slot_until_it_ends() -> None:
    opened, waits = gate()
    async with pair(waits) as (served, blue, green):
        # On a machine that stands still for a moment the time may be over before the replica has anything: then with more of it.
        for asked, seconds in enumerate((0.1, 1, 10, 60), start=1):
            served.router.replace(mirrored(blue.address, (green.address,), timeout=timedelta(seconds=seconds)))
            assert (await served.ask()).status == 200
            await until(lambda asked=asked: len(copies(served)) == asked)
            assert errors(served)[-1] == "the deployment did not answer within its request timeout"
            if pool(served).busy:
                break
        assert pool(served).busy == 1, "run() cannot be interrupted, so its slot is not free"
        await until(lambda: green.running == 1)
        opened.set()
        await nothing_held(served)
        assert len(copies(served)) == asked


async def test_a_client_that_leaves_takes_its_copy_along_only_when_the_request_is_not_whole() -> None:
    opened, waits = gate()
    async with pair(live=waits) as (served, blue, green):
        _, writer = await asyncio.open_connection(*served.address)
        writer.write(request_bytes(b"whole"))
        await until(lambda: blue.requests)
        writer.transport.abort()
        await until(lambda: len(served.log) == 2)
        assert errors(served) == [""] and [each.body for each in green.requests] == [b"whole"]
        opened.set()

        _, writer = await asyncio.open_connection(*served.address)
        writer.write(request_bytes(b"half").replace(b"content-length: 4", b"content-length: 8"))
        await until(lambda: pool(served).busy == 1)
        writer.transport.abort()
        await until(lambda: len(copies(served)) == 2)
        assert errors(served)[1] == "the request itself did not come to its end"
        assert len(green.requests) == 1
        await nothing_held(served)


async def test_callers_who_name_the_mirrored_deployment_go_before_waiting_copies() -> None:
    gates: asyncio.Queue[None] = asyncio.Queue()

    async def gated(request: Request, writer: asyncio.StreamWriter) -> None:
        await gates.get()
        await ok(request, writer)

    async with pair(gated, concurrency=1) as (served, _, green):
        for body in (b"first copy", b"second copy"):
            assert (await served.ask(body)).status == 200
        await until(lambda: pool(served).copies and green.requests)
        asking = asyncio.create_task(served.ask(b"caller", azureml_model_deployment="green"))
        await until(lambda: pool(served).queue)
        for _ in range(3):
            gates.put_nowait(None)
        assert (await asking).status == 200
        await until(lambda: len(copies(served)) == 2)
        assert [each.body for each in green.requests] == [b"first copy", b"caller", b"second copy"]


async def test_a_copy_waits_for_the_first_replica_of_a_deployment_that_starts_from_zero() -> None:
    async with replica() as blue, replica() as green, router(mirrored(blue.address, ())) as served:
        assert (await served.ask(b"early")).status == 200
        await until(lambda: pool(served).waiting == 1)
        served.router.replace(mirrored(blue.address, (green.address,)))
        await until(lambda: copies(served))
        assert errors(served) == [""] and [each.body for each in green.requests] == [b"early"]
        served.router.replace(mirrored(blue.address, (), queue_wait=SHORT))
        assert (await served.ask(b"nobody")).status == 200
        await until(lambda: len(copies(served)) == 2)
        assert errors(served)[1] == "the deployment has no healthy replica"
        await nothing_held(served)


async def test_a_mirrored_deployment_that_leaves_the_table_drops_what_waits_for_it() -> None:
    opened, waits = gate()
    async with pair(waits, concurrency=1) as (served, blue, green):
        for _ in range(2):
            assert (await served.ask()).status == 200
        await until(lambda: pool(served).waiting == 1 and green.requests)
        alone = DeploymentRoute("blue", (blue.address,))
        served.router.replace(RoutingTable({"digits": EndpointRoute("digits", (DIGEST,), {"blue": alone}, {"blue": 100})}))
        await until(lambda: copies(served))
        assert errors(served) == ["the deployment has no healthy replica"]
        assert (await served.ask()).status == 200
        opened.set()
        await until(lambda: len(copies(served)) == 2)
        assert errors(served)[1] == "", "what runs goes on"


async def test_a_retried_request_is_copied_once() -> None:
    async with replica() as dead:
        gone = dead.address
    async with replica() as blue, replica() as green, router(mirrored((gone, blue.address), (green.address,))) as served:
        for number in range(6):
            assert (await served.ask(b"%d" % number)).status == 200
        assert served.router.metrics.retries >= 1
        await until(lambda: len(copies(served)) == 6)
        assert sorted(each.body for each in green.requests) == [b"%d" % number for number in range(6)]


async def test_copies_share_kept_connections_and_drain_ends_what_runs() -> None:
    opened, waits = gate()
    opened.set()
    async with pair(waits) as (served, _, green):
        for number in range(1, 11):
            assert (await served.ask()).status == 200
            await until(lambda number=number: len(copies(served)) == number)
        assert green.connections < 10
        opened.clear()
        assert (await served.ask()).status == 200
        await until(lambda: green.running == 1)
        (shadow,) = pool(served).replicas
        assert await served.router.drain(60) == 0, "nobody waits for a copy"
        assert shadow.busy == 0


async def test_requests_sent_ahead_are_copied_each_with_its_own_body() -> None:
    async with pair(concurrency=64) as (served, _, green):
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(b"".join(request_bytes(b"x" * number) for number in range(1, 6)))
        assert [json.loads((await answer(reader)).body)["length"] for _ in range(5)] == [1, 2, 3, 4, 5]
        writer.close()
        await until(lambda: len(copies(served)) == 5)
        assert sorted(len(each.body) for each in green.requests) == [1, 2, 3, 4, 5]
