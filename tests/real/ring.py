"""`scripts/test --real`: gets what the third ring needs, runs it on one Kubernetes or on each supported minor, and ends with a line for each.

Exit codes: 0 passed, 1 failed, 4 refused (pytest's own for a usage error), 77 could not run here, with the reason on the last line.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests import again
from tests.real.control_plane import volcano
from tests.real.control_plane.binaries import Broken, NoBinaries, find, minors
from tests.real.control_plane.plane import default_folder, write_private

CANNOT = 77  # what automake and meson read as "skipped"
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the ring went on one cluster."""

    where: str
    code: int
    words: str

    @property
    def line(self) -> str:
        return f"third ring on {self.where}: {self.words}"


def main(words: list[str]) -> int:
    options, rest = _parser().parse_known_args(words)
    if options.kubeconfig or options.context:
        outcomes = [_on_own(options, rest)]
    elif options.all_minors:
        # Each has its own state folder, so that a control plane that runs already is neither used nor in the way.
        home = default_folder().absolute()
        outcomes = [_on_minor(each, rest, {"MOORAGE_KUBERNETES_HOME": f"{home}-{each}"}) for each in minors()]
    else:
        outcomes = [_on_minor(options.minor, rest, {})]
    print()
    for each in outcomes:
        print(each.line, flush=True)
    codes = {each.code for each in outcomes}
    return next((code for code in (*sorted(codes - {0, CANNOT}), CANNOT) if code in codes), 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/test --real",
        description="The third ring of tests, on a real Kubernetes. Other arguments go to pytest.",
        allow_abbrev=False,
    )
    default = os.environ.get("MOORAGE_KUBERNETES_MINOR") or minors()[0]
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--minor", default=default, choices=minors(), help=f"Kubernetes minor version (default {default})")
    chosen.add_argument("--all-minors", action="store_true", help="one after another on each supported minor")
    chosen.add_argument("--kubeconfig", type=Path, help="a cluster of your own that is marked as one for tests")
    parser.add_argument("--context", help="the context of --kubeconfig (default: its current one)")
    return parser


def _on_minor(minor: str, words: list[str], environment: Mapping[str, str]) -> Outcome:
    where = f"Kubernetes {minor}"
    try:
        found = find(minor)
    except NoBinaries as error:
        return Outcome(where, CANNOT, f"SKIPPED, not run: {error}")
    except Broken as error:
        return Outcome(where, 1, f"FAILED, not built: {error}")
    where = f"Kubernetes {found.version}"
    print(f"{where}, binaries: {found.source}", flush=True)
    try:
        # Here rather than in the tests, which pytest keeps silent: a build says how far it is.
        print(f"Volcano {volcano.find().version}", flush=True)
    except NoBinaries as error:
        print(f"Tests of gangs will be skipped: {error}", flush=True)
    except Broken as error:
        # What we pinned or wrote does not build: a skip would hide it for good.
        return Outcome(where, 1, f"FAILED, Volcano not built: {error}")
    return _run(where, words, {"MOORAGE_TEST_REAL": "1", "MOORAGE_KUBERNETES_MINOR": minor, **environment})


def _on_own(options: argparse.Namespace, words: list[str]) -> Outcome:
    given = options.kubeconfig or Path(os.environ.get("KUBECONFIG") or "~/.kube/config").expanduser()
    where = f"the cluster of {given}" + (f", context {options.context}" if options.context else "")
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = given.absolute()
        if options.context:
            # Every client of the tests, kubectl included, then goes to this context without being told.
            kubectl = str(Path(sys.executable).parent / "kubectl")
            asked = [kubectl, "config", "view", f"--kubeconfig={given}", f"--context={options.context}", "--minify", "--flatten"]
            done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode != 0:
                return Outcome(where, 4, f"REFUSED: {done.stderr.strip()}")
            kubeconfig = Path(folder) / "kubeconfig"
            write_private(kubeconfig, done.stdout)
        return _run(where, words, {"MOORAGE_TEST_REAL": "1", "MOORAGE_TEST_KUBECONFIG": str(kubeconfig)})


def _run(where: str, words: list[str], environment: Mapping[str, str]) -> Outcome:
    began = time.monotonic()
    paths = [word for word in words if (ROOT / word.partition("::")[0]).exists()]
    code, found = again.run(["-m", "real", *(word for word in words if word not in paths)], paths or ["tests/real"], environment)
    taken = time.monotonic() - began
    return Outcome(where, code, f"{'passed' if code == 0 else f'FAILED ({code})'}: {found.words} in {taken:.0f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
