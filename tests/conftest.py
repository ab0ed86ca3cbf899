"""For every test: no event loop is made behind our back, Ctrl-C reaches those that tests start, and no generated example has to be quick."""

from __future__ import annotations

import asyncio
import signal

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine makes any example slow, which says nothing about what is tested. The same examples every time, so that the same code gets the
# same answer; `--hypothesis-profile=exploring` looks at others, which is worth a while after a change.
settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("patient", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("patient")
# Before any test module imports a part of it: a part registered by itself would leave the package without.
pytest.register_assert_rewrite("moorage.testing.conformance")


def pytest_configure(config: pytest.Config) -> None:
    # looptime asks the policy for a loop even in synchronous tests; the policy would make one that nobody closes, which is a warning, hence an error.
    asyncio.set_event_loop(None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # What a shell starts in the background ignores Ctrl-C, and so would every process that it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
