"""Locks between pods on one volume: held by one process at a time, let go by the kernel when it dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock `path` (made when missing); while another has it, wait and say for `what`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another pod is preparing {what}; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
