"""Every benchmark, or those that are named: stack, api, lists, blobs, cli, embedded, router, mirror, scoring; and flows and kubernetes, only when named. Prints; asserts nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import api
import blobs
import flows
import lists
import mirror
import processes
import router
import scoring
from table import Row, show

import stack

HERE = Path(__file__).parent


def _script(name: str, *words: str, timeout: float = 120) -> Callable[[], Iterator[Row]]:
    """A benchmark that prints its own lines."""

    def measure() -> Iterator[Row]:
        done = subprocess.run(processes.python(str(HERE / name), *words), capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise SystemExit(f"{name} ended with {done.returncode}\n{done.stderr[-2000:]}")
        for line in done.stdout.splitlines():
            label, _, value = line.partition(": ") if ": " in line else line.rpartition("  ")
            yield label.strip(), value.strip()

    return measure


PARTS: dict[str, tuple[str, Callable[[], Iterable[Row]]]] = {
    "stack": ("The whole stack", stack.measure),
    "api": ("API of the workspace service", api.measure),
    "lists": ("Lists of the workspace service, SQLite", lists.measure),
    "blobs": ("Blobs, to and from the workspace service", blobs.measure),
    "cli": ("Command line, CPU time", _script("cli_start.py")),
    "embedded": ("Embedded cluster's API", _script("embedded_api.py")),
    "router": ("Router", router.measure),
    "mirror": ("Router, mirrored traffic", mirror.measure),
    "scoring": ("Scoring server", scoring.measure),
}
# Only when they are named: minutes, and a quarter of an hour; with the environment of the tests.
LONG: dict[str, tuple[str, Callable[[], Iterable[Row]]]] = {
    "flows": ("Flows of the unmodified SDK", flows.measure),
    "kubernetes": ("A real Kubernetes, and writes when nothing happens", _script("kubernetes.py", timeout=3600)),
}


def main() -> int:
    wanted = sys.argv[1:] or list(PARTS)
    parts = PARTS | LONG
    if unknown := [name for name in wanted if name not in parts]:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(parts)}", file=sys.stderr)
        return 2
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z, {platform.system()} {platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores, load {load}"
    )
    failed = False
    for name in wanted:
        title, measure = parts[name]
        try:
            for line in show(title, measure()):
                print(line, flush=True)
        except SystemExit as stopped:
            # The other figures are still worth having.
            print(f"  {stopped}", file=sys.stderr, flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
