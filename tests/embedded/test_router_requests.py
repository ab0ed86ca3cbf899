"""The router in front of real replicas: who is let in, where requests go, what is said when something fails."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from router_peers import DIGEST, LONG, SHORT, ReplicaServer, Request, answer, ok, read_message, replica, request_bytes, router, table

from moorage.router.metrics import exposition
from moorage.router.replicas import Replica
from moorage.router.server import Limits
from moorage.router.upstream import UpstreamConnection, connect, idle_connection
from moorage.specs.routing import DeploymentRoute, EndpointRoute, RoutingTable


async def test_a_request_with_the_key_is_scored_and_leaves_one_log_line() -> None:
    async with replica() as peer, router(table(peer.address)) as served:
        got = await served.ask(b"[1, 2, 3]", x_request_id="mine-1")
        assert got.status == 200 and json.loads(got.body) == {"length": 9}
        assert got.headers["azureml-model-deployment"] == "blue"
        assert got.headers["x-ms-request-id"] == "mine-1"
        seen = peer.requests[0]
        assert seen.line == "POST /score HTTP/1.1"
        assert "authorization" not in seen.headers and seen.headers["x-request-id"] == "mine-1"
        (line,) = served.log
        assert (line["requestId"], line["responseCode"], line["deployment"], line["requestBytes"]) == ("mine-1", 200, "blue", 9)


@pytest.mark.parametrize("key", [None, "wrong", "", "correct-key2"])
async def test_without_the_right_key_nothing_reaches_a_replica(key: str | None) -> None:
    async with replica() as peer, router(table(peer.address)) as served:
        got = await served.ask(key=key)
        assert got.status == 401 and got.headers["www-authenticate"] == "Bearer"
        assert not peer.requests
        assert "wrong" not in served.sink.getvalue().decode()


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/api/v1/endpoint/nobody/score", {}), ("/elsewhere", {}), ("/api/v1/endpoint/digits/score", {"azureml_model_deployment": "ghost"})],
)
async def test_an_unknown_endpoint_path_or_pinned_deployment_is_404(path: str, headers: dict[str, str]) -> None:
    async with replica() as peer, router(table(peer.address)) as served:
        assert (await served.ask(path=path, **headers)).status == 404


async def test_an_endpoint_without_positive_traffic_is_404_but_a_pinned_deployment_is_served() -> None:
    async with replica() as peer, router(table(peer.address, traffic={})) as served:
        assert (await served.ask()).status == 404
        assert (await served.ask(azureml_model_deployment="blue")).status == 200


async def test_traffic_is_split_as_the_table_says() -> None:
    async with replica() as blue, replica() as green:
        deployments = {
            "blue": DeploymentRoute("blue", (blue.address,), timeout=LONG),
            "green": DeploymentRoute("green", (green.address,), timeout=LONG),
        }
        routes = RoutingTable({"digits": EndpointRoute("digits", (DIGEST,), deployments, {"blue": 90, "green": 10})})
        async with router(routes) as served:
            for _ in range(20):
                assert (await served.ask()).status == 200
        assert (len(blue.requests), len(green.requests)) == (18, 2)


async def test_an_answer_other_than_200_becomes_424_with_the_models_own_status() -> None:
    async def fails(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\nx-ms-run-function-failed: True\r\ncontent-length: 4\r\n\r\noops")

    async with replica(fails) as peer, router(table(peer.address)) as served:
        got = await served.ask()
        assert got.status == 424 and got.body == b"oops"
        assert got.headers["ms-azureml-model-error-statuscode"] == "500"
        assert got.headers["ms-azureml-model-error-reason"] == "run() failed"
        assert served.log[0]["modelCode"] == 500


async def test_a_container_that_dies_in_run_is_502() -> None:
    async def dies(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        raise ConnectionError

    async with replica(dies) as peer, router(table(peer.address)) as served:
        assert (await served.ask()).status == 502
        assert len(peer.requests) == 1, "a request that may have run is not sent twice"


async def test_an_answer_cut_off_in_the_middle_is_never_passed_on_as_whole() -> None:
    async def half(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.transport.abort()
        raise ConnectionError

    async with replica(half) as peer, router(table(peer.address)) as served:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await served.ask()


async def test_a_slow_run_is_408_and_its_slot_stays_taken_until_it_ends() -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await ok(request, writer)

    async with replica(slow) as peer, router(table(peer.address, timeout=SHORT, queue_wait=SHORT)) as served:
        # On a machine that stands still for a moment the time may be over before the replica has anything: then with more of it.
        for seconds in (0.15, 1, 10, 60):
            served.router.replace(table(peer.address, timeout=timedelta(seconds=seconds), queue_wait=SHORT))
            assert (await served.ask()).status == 408
            if peer.requests:
                break
        assert (await served.ask()).status == 503, "the replica is still busy with the first"
        assert peer.most_running == 1
        release.set()
        # Free once the first has ended, which no answer tells.
        async with asyncio.timeout(60):
            while (await served.ask()).status != 200:
                pass
        assert peer.most_running == 1


async def test_no_replica_at_all_is_503_after_the_queue_wait() -> None:
    async with router(table(queue_wait=SHORT)) as served:
        got = await served.ask()
        assert got.status == 503 and got.headers["retry-after"] == "1"


async def test_a_refused_connection_is_tried_on_another_replica() -> None:
    async with replica() as dead:
        gone = dead.address
    async with replica() as peer, router(table(gone, peer.address)) as served:
        for _ in range(6):
            assert (await served.ask()).status == 200
        assert served.router.metrics.retries >= 1


async def test_a_connection_that_is_over_when_it_begins_counts_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    create = loop.create_connection

    async def over(*arguments: Any, **options: Any) -> Any:
        transport, connection = await create(*arguments, **options)
        if arguments[1:] == first.address:
            transport.abort()
            while connection.open or connection._transport is not None:
                await asyncio.sleep(0)
        return transport, connection

    async with replica() as first, replica() as second:
        async with router(table(first.address, second.address)) as served:
            monkeypatch.setattr(loop, "create_connection", over)
            assert [(await served.ask()).status for _ in range(2)] == [200, 200]
            assert served.router.metrics.retries >= 1 and len(second.requests) == 2 and not first.requests


async def test_a_kept_connection_that_the_replica_closed_is_replaced_unnoticed() -> None:
    async def once(request: Request, writer: asyncio.StreamWriter) -> None:
        await ok(request, writer)
        await writer.drain()
        writer.close()

    async with replica(once) as peer, router(table(peer.address)) as served:
        for _ in range(5):
            assert (await served.ask(b"x" * 100)).status == 200


async def test_concurrency_is_exact_and_the_queue_is_first_in_first_out() -> None:
    gate = asyncio.Semaphore(0)

    async def gated(request: Request, writer: asyncio.StreamWriter) -> None:
        await gate.acquire()
        await ok(request, writer)

    async with replica(gated) as one, replica(gated) as two:
        async with router(table(one.address, two.address, concurrency=2)) as served:
            asking = []
            for number in range(8):
                asking.append(asyncio.create_task(served.ask(b"%d" % number)))
                while len(served.log) + sum(pool.busy + len(pool.queue) for pool in served.router._pools.values()) < number + 1:
                    await asyncio.sleep(0)
            refused = await served.ask(b"ninth")
            assert refused.status == 429
            for _ in range(8):
                gate.release()
            assert [each.status for each in await asyncio.gather(*asking)] == [200] * 8
            assert one.most_running <= 2 and two.most_running <= 2
            order = [int(request.body) for peer in (one, two) for request in peer.requests if int(request.body) >= 4]
            assert sorted(order) == [4, 5, 6, 7]


async def test_a_client_that_goes_away_in_the_queue_gives_up_its_place() -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await ok(request, writer)

    async with replica(slow) as peer, router(table(peer.address)) as served:
        first = asyncio.create_task(served.ask())
        while not peer.requests:
            await asyncio.sleep(0)
        _, writer = await asyncio.open_connection(*served.address)
        writer.write(request_bytes(b"left"))
        (pool,) = served.router._pools.values()
        while not pool.queue:
            await asyncio.sleep(0)
        writer.transport.abort()
        while pool.queue:
            await asyncio.sleep(0)
        release.set()
        assert (await first).status == 200
        assert [request.body for request in peer.requests] == [b"{}"]


async def test_large_bodies_stream_both_ways_without_being_held_whole() -> None:
    size = 8 * 1024 * 1024

    async def big(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(size // 65536):
            writer.write(b"10000\r\n" + b"y" * 65536 + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with replica(big) as peer, router(table(peer.address, timeout=LONG)) as served:
        got = await served.ask(b"x" * size)
        assert len(got.body) == size and len(peer.requests[0].body) == size


async def test_a_chunked_request_reaches_the_replica_chunk_by_chunk() -> None:
    arrived = asyncio.Event()

    async def watching(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readuntil(b"first\r\n")
        arrived.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(watching, "127.0.0.1", 0)
    async with server, router(table(server.sockets[0].getsockname())) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(
            b"POST /api/v1/endpoint/digits/score HTTP/1.1\r\nhost: t\r\nauthorization: Bearer correct-key\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(b"5\r\nfirst\r\n")
        await asyncio.wait_for(arrived.wait(), 60)
        writer.write(b"0\r\n\r\n")
        assert (await answer(reader)).status == 200
        writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NOT HTTP AT ALL\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: t\r\n" + b"".join(b"h%d: x\r\n" % number for number in range(300)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: t\r\nbig: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"DELETE /api/v1/endpoint/digits/score HTTP/1.1\r\nhost: t\r\n\r\n", 405),
    ],
)
async def test_what_is_no_proper_request_is_refused_and_the_router_lives_on(sent: bytes, status: int) -> None:
    async with replica() as peer, router(table(peer.address)) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(sent)
        assert (await answer(reader)).status == status
        writer.close()
        assert (await served.ask()).status == 200


async def test_a_body_over_the_limit_is_413_announced_or_not() -> None:
    async with replica() as peer, router(table(peer.address), Limits(body_bytes=1000)) as served:
        assert (await served.ask(b"x" * 1001)).status == 413
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(
            b"POST /api/v1/endpoint/digits/score HTTP/1.1\r\nhost: t\r\nauthorization: Bearer correct-key\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n")
        assert (await answer(reader)).status == 413
        writer.close()
        (pool,) = served.router._pools.values()
        assert pool.busy == 0


async def test_a_body_that_outgrows_the_limit_in_the_queue_gives_up_its_place() -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await ok(request, writer)

    async with replica(slow) as peer, router(table(peer.address), Limits(body_bytes=1000)) as served:
        first = asyncio.create_task(served.ask())
        while not peer.requests:
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(
            b"POST /api/v1/endpoint/digits/score HTTP/1.1\r\nhost: t\r\nauthorization: Bearer correct-key\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        (pool,) = served.router._pools.values()
        while not pool.queue:
            await asyncio.sleep(0)
        writer.write(b"3e9\r\n" + b"x" * 1001 + b"\r\n")
        assert (await answer(reader)).status == 413
        assert not pool.queue
        release.set()
        assert (await first).status == 200
        assert (await served.ask()).status == 200
        assert pool.busy == 0 and len(peer.requests) == 2
        writer.close()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections stay open between two requests, however long a busy machine takes for them."""
    monkeypatch.setattr("moorage.router.upstream.IDLE_SECONDS", 600.0)


@pytest.mark.usefixtures("kept")
async def test_a_request_whose_kept_connection_was_dead_keeps_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, go = asyncio.Event(), asyncio.Event()

    async def waits(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body == b"first":
            taken.set()
            await go.wait()
        await ok(request, writer)

    async with replica(waits) as peer, router(table(peer.address)) as served:
        assert (await served.ask(b"zeroth")).status == 200
        _close_as_it_is_taken(monkeypatch, peer)
        first = asyncio.create_task(served.ask(b"first"))
        (pool,) = served.router._pools.values()
        await asyncio.wait_for(taken.wait(), 60)
        second = asyncio.create_task(served.ask(b"second"))
        while not pool.queue:
            await asyncio.sleep(0)
        go.set()
        assert [(await first).status, (await second).status] == [200, 200]
        assert served.router.metrics.retries == 1, "the first was sent on the kept connection, and again"
        assert [request.body for request in peer.requests] == [b"zeroth", b"first", b"second"]
        assert peer.most_running == 1 and pool.busy == 0


def _close_as_it_is_taken(monkeypatch: pytest.MonkeyPatch, peer: ReplicaServer) -> None:
    """The replica closes the connection that there is just before the router, which cannot know yet, writes to it."""
    (writer,) = peer.writers

    def closing(replica: Replica) -> UpstreamConnection | None:
        connection = idle_connection(replica)
        if connection is not None and len(peer.writers) == 1:
            writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        return connection

    monkeypatch.setattr("moorage.router.exchange.idle_connection", closing)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("cut", [asyncio.WriteTransport.abort, asyncio.WriteTransport.close])
async def test_a_request_that_a_replica_had_when_it_broke_off_is_not_sent_again(cut: Callable[[asyncio.WriteTransport], None]) -> None:
    async def breaks_off(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body == b"effect":
            cut(writer.transport)
            raise ConnectionError
        await ok(request, writer)

    async with replica(breaks_off) as peer, router(table(peer.address)) as served:
        assert (await served.ask(b"{}")).status == 200
        assert (await served.ask(b"effect")).status == 502
        assert peer.connections == 1, "the request went over the connection that had been kept"
        assert [request.body for request in peer.requests] == [b"{}", b"effect"]


@pytest.mark.usefixtures("kept")
async def test_a_request_without_effects_is_sent_again_when_a_kept_connection_breaks_off() -> None:
    async def breaks_off(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(peer.requests) == 2:
            writer.transport.abort()
            raise ConnectionError
        await ok(request, writer)

    async with replica(breaks_off) as peer, router(table(peer.address)) as served:
        assert (await served.ask()).status == 200
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(request_bytes(b"", path="/api/v1/endpoint/digits/swagger.json").replace(b"POST", b"GET", 1))
        assert (await answer(reader)).status == 200
        writer.close()
        assert [request.line.split()[0] for request in peer.requests] == ["POST", "GET", "GET"]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("closed_first", [True, False])
def test_a_connection_knows_whether_its_request_had_arrived_when_the_replica_closed(
    new_loop: Callable[[], asyncio.AbstractEventLoop], closed_first: bool
) -> None:
    class Sender:
        def __init__(self) -> None:
            self.broken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def answer_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None: ...
        def answer_body(self, data: bytes) -> None: ...
        def answer_flush(self) -> None: ...
        def answer_complete(self) -> None: ...
        def upstream_writable(self, writable: bool) -> None: ...
        def answer_broken(self, *, untouched: bool) -> None:
            self.broken.set_result(untouched)

    async def known() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            connection = await connect(Replica(listening.getsockname()), asyncio.get_running_loop())
            peer, _ = listening.accept()
            with peer:
                sender = Sender()
                connection.begin(sender)
                if closed_first:
                    peer.shutdown(socket.SHUT_RDWR)
                    connection.write(b"request")
                else:
                    connection.write(b"request")
                    peer.setblocking(False)
                    assert await asyncio.get_running_loop().sock_recv(peer, 100) == b"request"
                    peer.shutdown(socket.SHUT_RDWR)
                assert await asyncio.wait_for(sender.broken, 60)
                return connection.undelivered

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(known()) is closed_first


async def test_requests_sent_ahead_are_answered_in_order_on_one_connection() -> None:
    async with replica() as peer, router(table(peer.address)) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(b"".join(request_bytes(b"x" * number) for number in range(1, 6)))
        lengths = [json.loads((await answer(reader)).body)["length"] for _ in range(5)]
        assert lengths == [1, 2, 3, 4, 5]
        writer.close()


async def test_a_client_that_never_finishes_its_request_is_cut_off() -> None:
    async with replica() as peer, router(table(peer.address), Limits(receive_seconds=0.1)) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(b"POST /api/v1/endpoint/digits/score HTTP/1.1\r\nhost: t\r\n")
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()


async def test_tables_that_change_all_the_time_lose_no_request() -> None:
    async with replica() as one, replica() as two, router(table(one.address)) as served:
        stop = asyncio.Event()

        async def flip() -> None:
            turn = 0
            while not stop.is_set():
                turn += 1
                served.router.replace(table(*((one.address,), (two.address,), (one.address, two.address))[turn % 3], concurrency=8))
                await asyncio.sleep(0.002)

        async def client() -> list[int]:
            reader, writer = await asyncio.open_connection(*served.address)
            statuses = []
            for _ in range(100):
                writer.write(request_bytes())
                statuses.append((await answer(reader)).status)
            writer.close()
            return statuses

        flipping = asyncio.create_task(flip())
        results = await asyncio.gather(*(client() for _ in range(4)))
        stop.set()
        await flipping
        assert {status for statuses in results for status in statuses} == {200}
        assert one.requests and two.requests


async def test_draining_lets_a_request_finish_and_takes_no_new_one() -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await ok(request, writer)

    async with replica(slow) as peer, router(table(peer.address)) as served:
        asking = asyncio.create_task(served.ask())
        while not peer.requests:
            await asyncio.sleep(0)
        draining = asyncio.create_task(served.router.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*served.address)
        release.set()
        got = await asking
        assert got.status == 200 and got.headers["connection"] == "close"
        assert await draining == 0


async def test_the_metrics_tell_requests_by_code_and_what_waits() -> None:
    async with replica() as peer, router(table(peer.address)) as served:
        await served.ask()
        await served.ask(key="bad")
        text = exposition(served.router.metrics).decode()
        assert 'moorage_router_requests_total{code="200",deployment="blue",endpoint="digits"} 1.0' in text
        assert 'moorage_router_requests_total{code="401",deployment="",endpoint="digits"} 1.0' in text
        assert 'moorage_router_queued{deployment="blue",endpoint="digits"} 0.0' in text
        assert 'moorage_router_replicas{deployment="blue",endpoint="digits"} 1.0' in text


async def test_expecting_100_continue_is_answered_before_the_body() -> None:
    async with replica() as peer, router(table(peer.address)) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        head = request_bytes(b"", expect="100-continue").replace(b"content-length: 0", b"content-length: 4")
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        line, _, _ = await read_message(reader)
        assert line == "HTTP/1.1 200 OK"
        assert "expect" not in peer.requests[0].headers
        writer.close()
