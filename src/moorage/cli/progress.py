"""Progress lines for people: plain text on stderr, few enough for a log file, nothing that moves a cursor."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

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
