"""Each flow of the unmodified SDK (`tests/sdk/flows`) on a stack of its own: seconds as its caller sees them. `benchmarks/run flows`, a few minutes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from table import Row

ROOT = Path(__file__).parent.parent
FILES = ("tests/sdk/test_training.py", "tests/sdk/test_serving.py")


def measure() -> Iterator[Row]:
    """A line for each flow, in order; SystemExit with pytest's output when one fails."""
    with tempfile.TemporaryDirectory(prefix="moorage-flows-") as folder:
        report = Path(folder) / "report.xml"
        words = ["-q", "-p", "no:cacheprovider", "-k", "with_the_sdk", f"--junitxml={report}", *FILES]
        # With the tests' own environment, and one after the other: each has the machine to itself.
        python = ROOT / ".venv" / "bin" / "python"
        done = subprocess.run([python, "-m", "pytest", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"a flow fails, so that nothing is measured:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
        whole = 0.0
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            found = case.find("properties/property[@name='seconds']")
            if found is not None:
                seconds = float(found.get("value") or 0)
                whole += seconds
                yield str(case.get("name")).partition("[")[2].rstrip("]"), f"{seconds:6.1f} s"
        yield "all of them", f"{whole:6.1f} s"


if __name__ == "__main__":
    for label, value in measure():
        print(f"{label}: {value}", flush=True)
    sys.exit(0)
