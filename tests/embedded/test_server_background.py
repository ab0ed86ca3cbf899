"""Work beside the requests: it stops with the service, and says so when an error stops it before."""

from __future__ import annotations

import asyncio
import logging

import pytest

from moorage.server.background import background


async def test_an_error_that_ends_the_work_is_logged_when_it_happens(caplog: pytest.LogCaptureFixture) -> None:
    failing, told = asyncio.Event(), asyncio.Event()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    async def work() -> None:
        await failing.wait()
        raise KeyError("a field nobody thought of")

    log, listening = logging.getLogger("moorage.server.background"), Listening()
    log.addHandler(listening)
    try:
        async with background(work(), name="upkeep"):
            assert not caplog.records
            failing.set()
            async with asyncio.timeout(60):
                await told.wait()
    finally:
        log.removeHandler(listening)
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL and "upkeep broke off" in record.getMessage() and "a field nobody thought of" in caplog.text


async def test_work_that_goes_on_is_stopped_at_the_end_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    stopped = False

    async def work() -> None:
        nonlocal stopped
        try:
            await asyncio.Event().wait()
        finally:
            stopped = True

    async with background(work(), name="upkeep"):
        await asyncio.sleep(0)
    assert stopped and not caplog.records
