"""CPU seconds of `moorage --help` and of a command's own help, median of several runs of the installed script."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

RUNS = 7
COMMANDS = (["--help"], ["job", "create", "--help"], ["--version"])


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of one run, its start of Python included."""
    script = Path(sys.executable).parent / "moorage"
    process = subprocess.Popen([str(script), *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"moorage {' '.join(arguments)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    for arguments in COMMANDS:
        cpu_seconds(arguments)
        found = statistics.median(cpu_seconds(arguments) for _ in range(RUNS))
        print(f"moorage {' '.join(arguments):<20} {found * 1000:6.0f} ms CPU (median of {RUNS})")


if __name__ == "__main__":
    main()
