"""What the table of kubectl cases says a real control plane answers is what this one answers.

Slow: the whole table, pods that run included. Only on the Kubernetes minor that the embedded cluster follows, whose words were recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moorage.embedded.version import MINOR
from tests.kubectl.table import Case, Runner, cases, differences, themes
from tests.real.conftest import RealCluster
from tests.real.control_plane.binaries import Binaries

pytestmark = [pytest.mark.slow, pytest.mark.kubectl, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def runner(real: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    plane = real.plane
    if plane is None:
        pytest.skip("a cluster that was given has other nodes, images and plug-ins than the recorded one")
    settings = plane.settings or {}
    if settings.get("minor") != f"1.{MINOR}":
        pytest.skip(f"the cases were recorded on Kubernetes 1.{MINOR}")
    before = settings.get("nodes") or 0
    if not before:
        plane.up(settings["minor"], _unused, nodes=2)
    yield Runner(real.kubeconfig, tmp_path_factory.mktemp("cases"))
    if not before:
        plane.up(settings["minor"], _unused, nodes=0)


def _unused() -> Binaries:
    raise AssertionError("the control plane is up already")


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{theme}: {case.title}") for theme in themes() for case in cases(theme)])
def test_the_recorded_answers_are_still_those_of_a_real_cluster(case: Case, runner: Runner) -> None:
    found = differences((step, step.expected, lines) for step, lines in runner.run(case))
    assert not found, found
