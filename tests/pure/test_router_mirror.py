"""What is copied to a mirrored deployment, what a copy may hold, and who goes first where it runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moorage.router.replicas import Refusal, Replica, ReplicaPool
from moorage.router.server import ServedEndpoint
from moorage.router.tee import Budget, Overflow, Tee
from moorage.specs.routing import DeploymentRoute, EndpointRoute

# How long an example takes says nothing of the code on a machine that does other things.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Never runs: timers of waiting requests are only set."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def mirroring(loop: asyncio.AbstractEventLoop, share: int, **traffic: int) -> ServedEndpoint:
    names = (*traffic, "shadow")
    endpoint = ServedEndpoint(EndpointRoute("digits", (), {}, traffic, {"shadow": share} if share else {}))
    endpoint.pools = {name: ReplicaPool(DeploymentRoute(name), loop) for name in names}
    return endpoint


@patient
@given(st.integers(0, 50), st.integers(1, 99), st.integers(1, 3))
def test_of_each_deployments_requests_exactly_the_share_is_copied(
    loop: asyncio.AbstractEventLoop, share: int, blue: int, rounds: int
) -> None:
    endpoint = mirroring(loop, share, blue=blue, green=100 - blue)
    copied: Counter[str] = Counter()
    # Over 100 rounds of the traffic's rotation each deployment sees whole rounds of the mirror's.
    for _ in range(rounds * 100):
        live = endpoint.choose("")
        assert live is not None
        if endpoint.choose_mirror(live.route.name) is endpoint.pools["shadow"]:
            copied[live.route.name] += 1
    for name, weight in (("blue", blue), ("green", 100 - blue)):
        assert abs(copied[name] - rounds * weight * share / 100) < 1


def test_copies_are_spread_evenly_not_in_bursts(loop: asyncio.AbstractEventLoop) -> None:
    endpoint = mirroring(loop, 10, blue=100)
    copied = [number for number in range(200) if endpoint.choose_mirror("blue")]
    assert {after - before for before, after in pairwise(copied)} == {10}


def test_a_changed_table_keeps_the_rotation_unless_the_share_changed(loop: asyncio.AbstractEventLoop) -> None:
    endpoint = mirroring(loop, 50, blue=100)
    before = [endpoint.choose_mirror("blue") is not None for _ in range(3)]
    endpoint.update(EndpointRoute("digits", (b"k" * 32,), {}, {"blue": 100}, {"shadow": 50}))
    assert [*before, endpoint.choose_mirror("blue") is not None].count(True) == 2
    endpoint.update(EndpointRoute("digits", (), {}, {"blue": 100}, {}))
    assert endpoint.choose_mirror("blue") is None


def test_a_share_for_a_deployment_that_is_gone_copies_nothing(loop: asyncio.AbstractEventLoop) -> None:
    endpoint = mirroring(loop, 50, blue=100)
    del endpoint.pools["shadow"]
    assert [endpoint.choose_mirror("blue") for _ in range(4)] == [None] * 4


def unframed(data: bytes) -> tuple[bytes, bool]:
    """The body of a chunked stream as far as it goes, and whether it has ended."""
    body = b""
    while data:
        head, _, data = data.partition(b"\r\n")
        size = int(head, 16)
        if size == 0:
            assert data == b"\r\n"
            return body, True
        body, data = body + data[:size], data[size + 2 :]
    return body, False


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("take"), st.just(b"")),
        st.tuples(st.just("stuck"), st.binary(max_size=30)),
    ),
    max_size=60,
)


@patient
@given(STEPS, st.booleans(), st.integers(1, 120), st.integers(0, 120))
def test_what_is_taken_is_what_was_put_and_neither_bound_is_passed(
    steps: list[tuple[str, bytes]], chunked: bool, limit: int, others: int
) -> None:
    budget = Budget(limit=150, held=others)
    tee = Tee(limit, budget, chunked=chunked)
    put, taken, stuck = b"", b"", 0
    for what, data in steps:
        if what == "put":
            held = tee.held
            overflow = tee.put(data)
            if overflow is None:
                put += data
                assert tee.held <= limit + stuck and budget.held <= 150 + stuck
            else:
                assert tee.held == held, "what is refused weighs nothing"
                least = held + len(data)
                assert (least + 6 if chunked else least) > (limit if overflow is Overflow.COPY else 150 - others)
        elif what == "take":
            taken += tee.take()
        else:
            stuck = len(data)
            tee.stuck(stuck)
        assert budget.held == others + tee.held
    tee.end()
    taken += tee.take()
    assert (unframed(taken) if chunked else (taken, True)) == (put, True)
    tee.close()
    assert (tee.held, budget.held) == (0, others)


def test_a_copy_whose_connection_is_stuck_takes_no_more_than_its_bound() -> None:
    tee = Tee(100, Budget(1000), chunked=False)
    assert tee.put(b"x" * 90) is None
    tee.take()
    tee.stuck(90)
    assert tee.put(b"y" * 11) is Overflow.COPY
    assert tee.put(b"y" * 10) is None
    tee.stuck(0)
    assert tee.put(b"z" * 90) is None


ACTIONS = st.lists(st.sampled_from(["live", "copy", "release", "leave"]), max_size=80)


@patient
@given(ACTIONS, st.integers(1, 3), st.integers(1, 3))
def test_copies_take_only_what_no_caller_wants_and_never_pass_the_limits(
    loop: asyncio.AbstractEventLoop, actions: list[str], replicas: int, concurrency: int
) -> None:
    addresses = tuple((f"127.0.0.{number}", 1) for number in range(replicas))
    pool = ReplicaPool(DeploymentRoute("shadow", addresses, concurrency), loop)
    running: list[Replica] = []
    order: list[tuple[str, int]] = []
    refusals: list[tuple[str, Refusal, int]] = []
    asked: dict[str, int] = {"live": 0, "copy": 0}
    waiters = {"live": pool.queue, "copy": pool.copies}

    def ask(kind: str) -> None:
        number, asked[kind] = asked[kind], asked[kind] + 1

        def granted(replica: Replica) -> None:
            assert kind == "live" or not pool.queue, "a caller waits, and a copy went before"
            running.append(replica)
            order.append((kind, number))

        def refused(reason: Refusal) -> None:
            refusals.append((kind, reason, len(waiters[kind])))

        pool.acquire(granted, refused, copy=kind == "copy")

    for action in actions:
        if action in ("live", "copy"):
            ask(action)
        elif action == "release" and running:
            pool.release(running.pop(0))
        elif action == "leave" and pool.copies:
            pool.cancel(pool.copies[0])
        assert all(replica.busy <= concurrency for replica in pool.replicas)
        assert pool.busy == len(running)
        assert pool.busy == replicas * concurrency or not pool.waiting, "whoever waits, waits for a slot"
    for kind in ("live", "copy"):
        mine = [number for each, number in order if each == kind]
        assert mine == sorted(mine), "first in, first out"
    for _, reason, waiting in refusals:
        assert (reason, waiting) == (Refusal.QUEUE_FULL, replicas * concurrency)
    pool.close()
    assert not pool.waiting
