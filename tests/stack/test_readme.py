"""The README's tour, typed as it stands there, in its order. Slow: a real training job and a real deployment.

Nothing of a line is changed; only the environment is the test stack's. The rule for lines that are not run: `scripts/...` lines start a stack
of the user's own, which the stack under test stands for; `export` and `source` lines set what the test's environment already holds. The section
"On a cluster of your own" needs such a cluster; that its command parses is tested in tests/pure/test_docs_pages.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pure.test_docs_pages import console_commands
from tests.stack.conftest import ROOT, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

NOT_RUN = ("scripts/", "export ", "source ")
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOUR = README.partition("\n## A tour")[2].partition("\n## ")[0]
LINES = list(console_commands(TOUR))


def test_the_readme_has_a_tour_to_type() -> None:
    assert [line.split()[1:3] for line in LINES if line.startswith("moorage")][:1] == [["status"]]
    assert any("--stream" in line for line in LINES) and any(" invoke " in line for line in LINES)


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith(NOT_RUN)])
def test_a_line_of_the_tour_works_as_written(stack: Stack, line: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", line],
        capture_output=True,
        text=True,
        timeout=450,
        cwd=ROOT,
        env=stack.environment | {"PATH": path},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, f"$ {line}\n{done.stdout}\n{done.stderr}\n{stack.logs()}"
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() or done.stderr.strip()


def test_the_kubeconfig_lies_where_the_readme_says() -> None:
    from moorage.cli.home import Home

    named = re.search(r"export KUBECONFIG=~/\.moorage/(\S+)", TOUR)
    assert named
    assert Home(Path("/home")).kubeconfig == Path("/home") / named[1]
