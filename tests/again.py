"""`python -m tests.again ARGUMENTS`: pytest, and once more, alone, the files in which one or two tests failed.

What passes then is named as unsteady on the last lines, with the first failure above: it is a fault, of the test or of Moorage, which shows now and then. Why it
does not refuse the commit: docs/decisions/0017-unsteady-tests.md. Exit codes are pytest's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
# More than this is no chance.
MOST = 2
_FAILED = 1


@dataclass(frozen=True, slots=True)
class Report:
    """What a run's JUnit report says.

    Args:
        passed, failed, skipped: numbers of tests.
        failures: file and name of each test that failed, as pytest takes them: `FILE::NAME`.
    """

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        ran = self.passed + self.failed + self.skipped
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped" if ran else "no test ran"


def read(report: Path) -> Report:
    """The report of a run; an empty one when it wrote none."""
    if not report.exists():
        return Report()
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    ran, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    bad = [case for case in suite.iter("testcase") if case.find("failure") is not None or case.find("error") is not None]
    # A file that cannot be imported is an error without a name of its own.
    names = dict.fromkeys(f"{case.get('file') or case.get('name')}::{case.get('name')}" for case in bad)
    return Report(ran - skipped - failed, failed, skipped, tuple(names))


def files(report: Report) -> list[str]:
    """The files to be run once more; none when that cannot change the answer."""
    found = list(dict.fromkeys(name.partition("::")[0] for name in report.failures))
    return found if 0 < len(report.failures) <= MOST and all((ROOT / file).is_file() for file in found) else []


def run(words: Sequence[str], paths: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> tuple[int, Report]:
    """Run pytest with the arguments on the paths.

    Returns:
        The exit code, and what the first run's report says.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = _pytest([*words, *paths], report, environment)
        found = read(report)
        again = files(found) if code == _FAILED else []
        if not again:
            return code, found
        names = "\n".join(f"  {name}" for name in found.failures)
        print(f"\nFailed, and its whole file runs once more, alone:\n{names}\n", flush=True)
        # Last wins: nothing runs beside them.
        code = _pytest([*words, "-n", "0", *again], Path(folder) / "again.xml", environment)
        if code == 0:
            print(
                f"\nUNSTEADY: failed beside others (above) and passed alone. Either way something is wrong; please report it:\n{names}",
                flush=True,
            )
        return code, found


def _pytest(words: Sequence[str], report: Path, environment: Mapping[str, str] | None) -> int:
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | dict(environment or {}), check=False).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:])[0])
