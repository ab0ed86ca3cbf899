"""Endpoints, and what is stored but does not run yet, with the unmodified SDK. Slow: a stack, and deployments that really serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sdk.conftest import Sdk, connected, flows
from tests.stack.conftest import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

# In this order: the SDK keeps the name of a deployment that `serving` invokes for every later call (contract, pitfall 17).
FLOWS = ("not_yet", "mistakes", "serving")


def test_with_the_sdk(sdk: Sdk, flow: str, record_property: Callable[[str, object], None]) -> None:
    # For `benchmarks/run flows`.
    record_property("seconds", sdk.run(flow))


@pytest.mark.parametrize("way", ["B", "C", "D"])
def test_every_way_to_connect_reaches_everything(tiny: Stack, sdk_python: Path, tmp_path: Path, way: str) -> None:
    for other in connected(tiny, way, sdk_python, tmp_path):
        for flow in flows("ways"):
            other.run(flow)
