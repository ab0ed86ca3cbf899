"""Progress lines for people: plain text on stderr, few enough for a log file, nothing that moves a cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from moorage.client.connection import Step, describe
from moorage.client.snapshot import megabytes
from moorage.clock import monotonic

# A waiting command that prints nothing looks dead; more than this is noise.
_REMIND = timedelta(seconds=15)


def transfers(say: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Shows uploads and downloads: at the end, and every few seconds of a long one."""
    shown: dict[str, float] = {}

    def show(what: str, done: int, size: int) -> None:
        now = monotonic()
        if done >= size:
            say(f"{what}: {megabytes(size)}")
        elif now - shown.setdefault(what, now) >= 2:
            shown[what] = now
            say(f"{what}: {megabytes(done)} of {megabytes(size)}")

    return show


def counted(files: int) -> str:
    """`1 file is`, `3 files are`."""
    return "1 file is" if files == 1 else f"{files} files are"


def fetched(files: Sequence[Path], folder: Path, replaced: Sequence[Path]) -> str:
    """What a download has done, files that it replaced among it."""
    instead = f"; {len(replaced)} replaced what was there under the same name, {replaced[0].name} for one" if replaced else ""
    return f"{counted(len(files))} in {folder.resolve()}{instead}"


class Lines:
    """A log, and what is said about it on another stream: where both go to a terminal, neither begins in the middle of the other's line."""

    def __init__(self, log: TextIO, other: TextIO) -> None:
        self._log = log
        # A file gets what the job wrote, and nothing of ours.
        self._shared = log.isatty() and other.isatty()
        self._open = False

    def write(self, text: str) -> None:
        if text:
            self._log.write(text)
            self._log.flush()
            self._open = not text.endswith("\n")

    def finish(self) -> None:
        """End the log's last line, before something else is said."""
        if self._open and self._shared:
            self.write("\n")


def phases(what: str, say: Callable[[str], None]) -> Callable[[Step], None]:
    """Shows an operation's phases, each with the time since its start."""
    last = ""
    reminded = timedelta(0)

    def show(step: Step) -> None:
        nonlocal last, reminded
        line = f"{step.phase}: {step.message}" if step.message else step.phase
        if line != last or step.elapsed - reminded >= _REMIND:
            last, reminded = line, step.elapsed
            say(f"{what}: {line} ({describe(step.elapsed)})")

    return show
