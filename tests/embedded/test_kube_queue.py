"""The work queue against client-go's semantics, under virtual time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.kube.queue import WorkQueue


async def test_a_key_waits_only_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_added_during_work_comes_back_after_it_and_not_before() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert queue.idle


async def test_closing_hands_out_what_waits_and_then_ends_every_get() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add_after("later", timedelta(hours=1))
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    queue.add("too late")
    assert sorted(str(found) for found in await asyncio.gather(*waiting)) == ["None", "None", "a"]
    assert await queue.get() is None


async def test_a_canceled_taker_does_not_swallow_a_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")  # wakes the first, which is canceled before it runs
    first.cancel()
    assert await asyncio.wait_for(second, 60) == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_key_added_between_a_takers_cancelation_and_its_end_goes_to_another() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    first.cancel()
    queue.add("a")
    assert await asyncio.wait_for(second, 60) == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.looptime
async def test_retries_of_a_key_double_up_to_the_longest_and_start_over_after_success() -> None:
    queue: WorkQueue[str] = WorkQueue(initial=timedelta(milliseconds=5), maximum=timedelta(seconds=1))
    loop = asyncio.get_running_loop()
    waits = []
    for _ in range(10):
        began = loop.time()
        queue.retry("a")
        assert await queue.get() == "a"
        queue.done("a")
        waits.append(round(loop.time() - began, 3))
    assert waits == [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0]
    assert queue.failures("a") == 10
    queue.forget("a")
    assert queue.retry("a") == timedelta(milliseconds=5)
    queue.close()


@pytest.mark.looptime
async def test_of_several_delays_the_earliest_counts_and_only_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    loop = asyncio.get_running_loop()
    queue.add_after("a", timedelta(seconds=60))
    queue.add_after("a", timedelta(seconds=10))
    queue.add_after("a", timedelta(seconds=30))
    began = loop.time()
    assert await queue.get() == "a"
    assert round(loop.time() - began) == 10
    queue.done("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 1000)


KEYS = st.sampled_from("abc")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS),
        st.tuples(st.just("later"), KEYS),
        st.tuples(st.just("retry"), KEYS),
        st.tuples(st.just("take"), KEYS),
        st.tuples(st.just("finish"), KEYS),
        st.tuples(st.just("pass"), KEYS),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_wish_is_followed_by_work_and_no_key_is_worked_on_twice_at_once(steps: list[tuple[str, str]]) -> None:
    async def play() -> None:
        queue: WorkQueue[str] = WorkQueue()
        working: list[str] = []
        owed: set[str] = set()  # asked for since it was last taken
        for step, key in steps:
            match step:
                case "add":
                    queue.add(key)
                    owed.add(key)
                case "later":
                    queue.add_after(key, timedelta(seconds=3))
                    owed.add(key)
                case "retry":
                    queue.retry(key)
                    owed.add(key)
                case "take" if len(queue):
                    taken = await queue.get()
                    assert taken is not None and taken not in working
                    working.append(taken)
                    owed.discard(taken)
                    if taken in queue._delayed:  # an earlier wish for later still stands
                        owed.add(taken)
                case "finish" if working:
                    queue.done(working.pop(0))
                case "pass":
                    await asyncio.sleep(1)
        for key in working:
            queue.done(key)
        await asyncio.sleep(3600)
        while len(queue):
            taken = await queue.get()
            assert taken is not None
            owed.discard(taken)
            queue.done(taken)
        assert not owed
        assert queue.idle

    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop()) as runner:
        runner.run(play())
