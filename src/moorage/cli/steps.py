"""Numbered steps with their times, for commands that do several things in a row. Plain lines; on a terminal the running step is shown too."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TextIO

from moorage.clock import monotonic

_WIDTH = 62


class Steps:
    """Prints to stderr, so that stdout stays for results."""

    def __init__(self, total: int, *, quiet: bool = False, out: TextIO | None = None) -> None:
        self._total = total
        self._done = 0
        self._out = out or sys.stderr
        self._quiet = quiet
        self._live = self._out.isatty() and not quiet
        self._began = monotonic()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step; its time is printed when it ends well, and that it failed when it does not."""
        self._done += 1
        began = monotonic()
        head = f"[{self._done}/{self._total}] {title} "
        if self._live:
            self._out.write(f"{head}...")
            self._out.flush()
        try:
            yield
        except BaseException:
            self._line(f"{head:.<{_WIDTH}} stopped after {_seconds(began)}", over=True)
            raise
        self._line(f"{head:.<{_WIDTH}} {_seconds(began)}", over=True)

    def note(self, text: str) -> None:
        """A line that belongs to the step."""
        self._line(f"      {text}", over=True)

    def total(self) -> str:
        return _seconds(self._began)

    def _line(self, text: str, *, over: bool = False) -> None:
        if self._quiet:
            return
        self._out.write(f"\r\033[K{text}\n" if self._live and over else f"{text}\n")
        self._out.flush()


def _seconds(began: float) -> str:
    return f"{timedelta(seconds=monotonic() - began).total_seconds():.1f} s"
