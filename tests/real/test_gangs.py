"""Gangs on the real Volcano, with pods that really run on our own node agent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance.gangs")

from moorage.testing.conformance.gangs import GangConformance  # noqa: E402
from tests.real.conftest import unused  # noqa: E402
from tests.real.control_plane import volcano  # noqa: E402
from tests.real.control_plane.binaries import NoBinaries  # noqa: E402
from tests.real.control_plane.plane import Plane  # noqa: E402

# Volcano decides once a second, and pods are processes. The limit leaves out the fixture, which may have to build it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300, func_only=True)]


@pytest.fixture(scope="module", autouse=True)
def volcano_runs(plane: Plane) -> Iterator[None]:
    """Volcano beside the control plane."""
    settings = plane.settings or {}
    if settings.get("volcano"):
        yield
        return
    try:
        found = volcano.find()
    except NoBinaries as error:
        pytest.skip(f"no Volcano here (docs/how-to/test-on-kubernetes.md): {error}")
    plane.up(settings["minor"], unused, volcano=found)
    yield
    plane.up(settings["minor"], unused, volcano=False)


class TestOnVolcano(GangConformance):
    pass
