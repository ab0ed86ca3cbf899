"""Gangs on the real Volcano, with pods that really run on our own node agent."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance.gangs")

from moorage.testing.conformance.gangs import GangConformance  # noqa: E402

# Volcano decides once a second, and pods are processes. The limit leaves out the fixture, which may have to build it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300, func_only=True), pytest.mark.usefixtures("volcano_runs")]


class TestOnVolcano(GangConformance):
    pass
