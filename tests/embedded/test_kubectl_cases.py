"""Two clusters, one behaviour: the embedded cluster answers the stock kubectl as a real control plane did when the cases were recorded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.kubectl.table import Case, Runner, Step, cases, differences, themes

pytestmark = pytest.mark.kubectl

# kubectl waits for the API and for pods much of the time.
_AT_ONCE = 4
Outcome = Sequence[tuple[Step, Sequence[str]]]


def _parameters() -> Iterator[object]:
    for theme in themes():
        for case in cases(theme):
            marks = [pytest.mark.slow] if case.slow else []
            yield pytest.param(case, id=f"{theme}: {case.title}", marks=marks)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Outcome | Exception]]:
    """What every selected case printed. They run together once, because a case by itself mostly waits."""
    selected = [item.callspec.params["case"] for item in request.session.items if "outcomes" in getattr(item, "fixturenames", ())]
    folder = tmp_path_factory.mktemp("cases")
    with _Cluster(folder) as kubeconfig:
        runner = Runner(kubeconfig, folder)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            together = [case for case in selected if not case.exclusive]
            found = dict(zip([case.slug for case in together], pool.map(lambda case: _outcome(runner, case), together), strict=True))
        for case in selected:
            if case.exclusive:
                found[case.slug] = _outcome(runner, case)
        yield found


def _outcome(runner: Runner, case: Case) -> Outcome | Exception:
    try:
        return list(runner.run(case))
    except (subprocess.SubprocessError, OSError) as error:
        return error


class _Cluster:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        self._log = (self._folder / "cluster.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kubectl.cluster", str(self._folder / "c")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said == b"serving\n", (self._folder / "cluster.log").read_text()
        return self._folder / "c" / "kubeconfig"

    def __exit__(self, *_: object) -> None:
        ended = self._process.poll()
        self._process.communicate(timeout=90)
        assert ended is None, f"the cluster ended with {ended} before the cases did: {(self._folder / 'cluster.log').read_text()[-2000:]}"
        self._log.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", list(_parameters()))
def test_the_embedded_cluster_answers_as_the_real_one_did(case: Case, outcomes: Mapping[str, Outcome | Exception]) -> None:
    outcome = outcomes[case.slug]
    if isinstance(outcome, Exception):
        raise outcome
    found = differences((step, step.expected if step.embedded is None else step.embedded[1], lines) for step, lines in outcome)
    assert not found, found
