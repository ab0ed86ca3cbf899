"""What the third ring asks before it runs: whose cluster it is, and whether there is something to run on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from tests.real import ring
from tests.real.control_plane import volcano
from tests.real.control_plane.binaries import Binaries, Broken, NoBinaries
from tests.real.control_plane.plane import MARK
from tests.real.guard import objection

from moorage.errors import Unavailable
from moorage.kube.kinds import NAMESPACE
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster

ROOT = Path(__file__).parent.parent.parent


async def test_a_cluster_that_nobody_marked_is_refused_and_the_refusal_says_how_to_mark_it() -> None:
    async with in_memory_cluster(crds=False) as cluster:
        refusal = await objection(cluster, "somebody's kubeconfig")
        assert refusal is not None
        assert "somebody's kubeconfig is not marked" in refusal
        assert f"kubectl label namespace default {MARK}=true" in refusal
        await cluster.patch(NAMESPACE, "default", None, {"metadata": {"labels": {MARK: "false"}}})
        assert await objection(cluster, "x") is not None
        await cluster.patch(NAMESPACE, "default", None, {"metadata": {"labels": {MARK: "true"}}})
        assert await objection(cluster, "x") is None


async def test_a_cluster_that_does_not_answer_is_refused_too() -> None:
    async with in_memory_cluster(crds=False) as memory:
        cluster = WiredCluster(memory)

        def fall_silent(request: Request) -> None:
            raise Unavailable("connection refused")

        cluster.before = fall_silent
        refusal = await objection(cluster, "x")
        assert refusal == "The cluster of x cannot be asked whether it is for tests: connection refused"


@pytest.mark.slow  # a ring of its own
def test_where_nothing_can_be_built_the_ring_says_why_and_ends_as_skipped(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOORAGE_", "KUBE", "GO"))}
    nowhere = {"GOPROXY": "off", "GOMODCACHE": str(tmp_path / "modules"), "GOFLAGS": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.real.ring"], cwd=ROOT, env=kept | nowhere, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 77, done.stdout + done.stderr
    # Without Go it says how to get some, with Go that its modules are out of reach.
    assert "third ring on Kubernetes " in done.stdout and "SKIPPED, not run: " in done.stdout
    assert "apt-get install golang-go" in done.stdout or "cannot be had here" in done.stdout


@pytest.mark.parametrize(("raised", "code"), [(Broken("undefined: x"), 1), (NoBinaries("403"), 0)])
def test_a_volcano_that_does_not_build_fails_the_ring_and_one_that_cannot_be_had_does_not(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, code: int
) -> None:
    def refuse(folder: Path | None = None) -> NoReturn:
        raise raised

    monkeypatch.setattr(ring, "find", lambda minor: Binaries("v1.99.0", "nowhere", {}))
    monkeypatch.setattr(ring.volcano, "find", refuse)
    monkeypatch.setattr(ring, "_run", lambda where, words, environment: ring.Outcome(where, 0, "passed"))
    outcome = ring._on_minor("1.37", [], {})
    assert (outcome.code, "not built: undefined: x" in outcome.words) == (code, code == 1)


def test_a_folder_without_all_of_volcano_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "vc-scheduler").write_text("#!/bin/sh\necho 'Version: v1.2.3'\n")
    (tmp_path / "vc-scheduler").chmod(0o755)
    with pytest.raises(NoBinaries, match=r"has no vc-controller-manager, crd/\*\.yaml\."):
        volcano.find(tmp_path)
    (tmp_path / "vc-controller-manager").symlink_to("vc-scheduler")
    (tmp_path / "crd").mkdir()
    (tmp_path / "crd" / "queues.yaml").write_text("kind: CustomResourceDefinition\nmetadata: {name: queues}\n---\nkind: Other\n")
    found = volcano.find(tmp_path)
    assert found.version == "v1.2.3" and found.commands["vc-scheduler"] == (str(tmp_path / "vc-scheduler"),)
    applied = [manifest["metadata"]["name"] for _, manifest in volcano.manifests(found)]
    assert applied[0] == "queues" and len(applied) == 5, applied


def test_where_volcano_can_be_neither_found_nor_built_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(volcano.GIVEN, raising=False)
    for name, value in {"GOPROXY": "off", "GOMODCACHE": str(tmp_path / "modules"), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoBinaries, match=r"^No Volcano: |cannot be had here"):
        volcano.find()
    assert not list((tmp_path / "cache" / "moorage-tests" / "binaries").glob("volcano-*"))
