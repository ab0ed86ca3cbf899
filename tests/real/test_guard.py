"""`scripts/test --real --kubeconfig`: a cluster that nobody marked stays untouched, a marked one is tested."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorage.kube.cluster import Cluster
from moorage.kube.kinds import NAMESPACE
from tests.real.conftest import RealCluster
from tests.real.control_plane.certificates import CONTEXT
from tests.real.control_plane.plane import MARK, ROOT

ONE_TEST = "tests/real/test_conformance.py::TestOnRealKubernetes::test_a_watch_tells_every_change_in_order"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # each starts a session of tests of its own


@pytest.fixture
def kubeconfig(real: RealCluster) -> Path:
    if real.plane is None:
        pytest.skip("on a cluster that was given its mark is not taken away")
    return real.kubeconfig


@pytest.fixture
async def unmarked(cluster: Cluster, kubeconfig: Path) -> AsyncIterator[None]:
    await cluster.patch(NAMESPACE, "default", None, {"metadata": {"labels": {MARK: None}}})
    try:
        yield
    finally:
        await cluster.patch(NAMESPACE, "default", None, {"metadata": {"labels": {MARK: "true"}}})


def ring(*words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOORAGE_", "KUBECONFIG", "PYTEST"))}
    return subprocess.run(
        [sys.executable, "-m", "tests.real.ring", *words], cwd=ROOT, env=kept, capture_output=True, text=True, timeout=240, check=False
    )


async def test_an_unmarked_cluster_is_refused_before_any_test(unmarked: None, cluster: Cluster, kubeconfig: Path) -> None:
    before = {one["metadata"]["name"] for one in (await cluster.list(NAMESPACE)).items}
    done = ring("--kubeconfig", str(kubeconfig), ONE_TEST)
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"kubectl label namespace default {MARK}=true" in done.stdout + done.stderr
    assert " passed" not in done.stdout.replace("0 passed", "")
    # Those of earlier tests may still be going.
    assert {one["metadata"]["name"] for one in (await cluster.list(NAMESPACE)).items} <= before


def test_a_marked_cluster_is_tested_by_the_context_that_was_named(kubeconfig: Path) -> None:
    done = ring("--kubeconfig", str(kubeconfig), "--context", CONTEXT, ONE_TEST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"third ring on the cluster of {kubeconfig}, context {CONTEXT}: passed: 1 passed, 0 failed, 0 skipped" in done.stdout


def test_a_context_that_is_not_there_is_refused(kubeconfig: Path) -> None:
    done = ring("--kubeconfig", str(kubeconfig), "--context", "production", ONE_TEST)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "production" in done.stdout
