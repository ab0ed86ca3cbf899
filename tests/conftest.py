"""For every test: no event loop is made behind our back."""

from __future__ import annotations

import asyncio

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # looptime asks the policy for a loop even in synchronous tests; the policy would make one that nobody closes, which is a warning, hence an error.
    asyncio.set_event_loop(None)
