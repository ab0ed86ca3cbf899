"""For every test: no event loop is made behind our back, and Ctrl-C reaches those that tests start."""

from __future__ import annotations

import asyncio
import signal

import pytest

# Before any test module imports a part of it: a part registered by itself would leave the package without.
pytest.register_assert_rewrite("moorage.testing.conformance")


def pytest_configure(config: pytest.Config) -> None:
    # looptime asks the policy for a loop even in synchronous tests; the policy would make one that nobody closes, which is a warning, hence an error.
    asyncio.set_event_loop(None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # What a shell starts in the background ignores Ctrl-C, and so would every process that it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
