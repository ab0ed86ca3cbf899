"""`python -m tests.kubectl.record [THEME ...]`: write down what a real control plane answers to every case (`scripts/kubernetes up --nodes 2 --no-volcano` first)."""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.kubectl.table import CASES, Case, Runner, Step, cases, themes, written
from tests.real.control_plane.plane import Plane, default_folder

_AT_ONCE = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kubectl.record", description=__doc__)
    parser.add_argument("themes", nargs="*", metavar="THEME", help=f"of {', '.join(themes())}; all when none is given")
    parser.add_argument("-k", metavar="TEXT", default="", help="only the cases whose title has this text")
    parser.add_argument("--kubeconfig", type=Path, help="a cluster of yours; default: that of scripts/kubernetes")
    options = parser.parse_args()
    kubeconfig = options.kubeconfig or Plane(default_folder().absolute()).layout.kubeconfig
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(kubeconfig, Path(folder))
        for theme in options.themes or themes():
            found = list(cases(theme))
            wanted = [case for case in found if options.k in case.title]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                recorded = list(pool.map(partial(_recorded, runner), [case for case in wanted if not case.exclusive]))
            recorded += [_recorded(runner, case) for case in wanted if case.exclusive]
            for case in recorded:
                found[[one.title for one in found].index(case.title)] = case
            (CASES / f"{theme}.console").write_text(written(found))
            print(f"{theme}: {len(wanted)} cases")


def _recorded(runner: Runner, case: Case) -> Case:
    steps = [Step(step.command, lines, step.embedded) for step, lines in runner.run(case)]
    return replace(case, steps=steps)


if __name__ == "__main__":
    main()
