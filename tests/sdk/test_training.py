"""Assets and jobs with the unmodified SDK. Slow: a stack, and jobs that really run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sdk.conftest import Sdk

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

FLOWS = ("assets", "jobs")


def test_with_the_sdk(sdk: Sdk, flow: str, record_property: Callable[[str, object], None]) -> None:
    # For `benchmarks/run flows`.
    record_property("seconds", sdk.run(flow))
