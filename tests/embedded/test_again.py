"""What passes when its file runs alone is named and does not fail the run; what fails twice, or is no chance, does."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import again

pytestmark = pytest.mark.slow  # runs of pytest

ONCE = """
from pathlib import Path
def test_first(): Path("one").touch()
def test_now_and_then():
    assert Path("one").exists(), "needs the test before it"
    seen = Path("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(again, "ROOT", tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\njunit_family = xunit1\n")
    (tmp_path / "tests").mkdir()
    return tmp_path


def test_what_passes_alone_is_named_and_lets_the_run_pass(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "tests" / "test_once.py").write_text(ONCE)
    (place / "tests" / "test_good.py").write_text("def test_good(): pass\n")
    code, report = again.run(["-n", "2", "--dist", "loadfile"])
    said = capfd.readouterr().out
    assert code == 0 and report.failures == ("tests/test_once.py::test_now_and_then",)
    assert "the first time" in said
    assert said.rstrip().endswith("please report it:\n  tests/test_once.py::test_now_and_then")


@pytest.mark.parametrize(
    "text",
    [
        "def test_bad(): assert False\n",
        # Would pass the second time, were there one.
        "".join(
            f"def test_{number}():\n    from pathlib import Path\n    seen = Path('s{number}')\n    there = seen.exists()\n    seen.touch()\n    assert there\n"
            for number in range(again.MOST + 1)
        ),
        "import nothing_of_the_kind\n",
    ],
    ids=["fails twice", "too many", "cannot be imported"],
)
def test_what_is_no_chance_fails_the_run(place: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "tests" / "test_bad.py").write_text(text)
    code, _ = again.run([])
    assert code != 0
    assert "UNSTEADY" not in capfd.readouterr().out


def test_what_pytest_refuses_is_not_tried_again(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert again.run(["--no-such-option"])[0] == 4
    assert "once more" not in capfd.readouterr().out
