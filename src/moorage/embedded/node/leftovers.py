"""Containers whose node agent died and that nobody will take up again: `moorage down` ends them. Used where no agent runs."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
from datetime import timedelta
from pathlib import Path

from moorage.clock import monotonic

_MEMORY = Path("/dev/shm")
# A kill takes effect at once; more is a machine that stands still.
_KILLED_WITHIN = timedelta(seconds=10)


def end_containers(folder: Path, grace: timedelta) -> int:
    """End every container of every node: TERM, and KILL once the grace is over. Returns how many there were, when none is left.

    Args:
        folder: one folder per node in it (`cluster/nodes`).
        grace: for all of them together.
    """
    left: set[int] = set()
    try:
        for control in sorted(folder.glob("*/pods/*/containers/*/*/control")):
            # A FIFO without reader, or none any more: its shim is gone (`shim.py`).
            with contextlib.suppress(OSError):
                left.add(os.open(control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        found = len(left)
        if grace > timedelta(0):
            _tell(left, b"T%.3f\n" % grace.total_seconds())
            _wait(left, grace)
        _tell(left, b"K\n")
        _wait(left, _KILLED_WITHIN)
        return found
    finally:
        for descriptor in left:
            os.close(descriptor)


def remove_memory(folder: Path) -> None:
    """Remove what volumes of the nodes' pods keep in memory, outside `folder`."""
    for place in folder.glob("*/pods/*"):
        shutil.rmtree(_MEMORY / f"moorage-{place.name}", ignore_errors=True)


def _tell(shims: set[int], word: bytes) -> None:
    for descriptor in shims:
        # It ends at this moment, or is told already.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(descriptor, word)


def _wait(shims: set[int], patience: timedelta) -> None:
    """Until every shim has closed its end, or for as long as the patience lasts; those that have are let go."""
    poll = select.poll()
    for descriptor in shims:
        poll.register(descriptor, 0)
    deadline = monotonic() + patience.total_seconds()
    while shims and (span := deadline - monotonic()) > 0:
        for descriptor, _ in poll.poll(span * 1000):
            poll.unregister(descriptor)
            os.close(descriptor)
            shims.discard(descriptor)
