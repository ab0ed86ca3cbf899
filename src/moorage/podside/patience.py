"""How long a pod waits for the workspace: retries with growing pauses until a deadline, so that a restart of the service costs no job."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Event
from typing import TypeVar

from moorage.errors import Throttled, Unauthenticated, Unavailable

Result = TypeVar("Result")
_FIRST, _LONGEST = 0.2, 10.0


class Patience:
    """A deadline shared by all transfers of one command.

    Args:
        limit: from now until giving up.
        hurry: when set, pauses end at once (the next attempt still happens).
    """

    def __init__(self, limit: timedelta, *, hurry: Event | None = None) -> None:
        self._end = time.monotonic() + limit.total_seconds()
        self._hurry = hurry or Event()

    def left(self) -> float:
        """Seconds until giving up."""
        return self._end - time.monotonic()

    def keep_trying(self, what: str, attempt: Callable[[], Result]) -> Result:
        """The attempt's result; its error once time is up, or at once when trying again cannot help."""
        pauses = _pauses()
        while True:
            try:
                return attempt()
            except (Unavailable, Throttled, Unauthenticated) as error:
                pause = next(pauses)
                if self.left() <= pause:
                    raise
                print(f"{what}: {error.message} Trying again in {pause:.1f} s.", flush=True)
                self._hurry.wait(pause)


def _pauses() -> Iterator[float]:
    pause = _FIRST
    while True:
        # Jitter, so that the pods of a cluster do not come back in step.
        yield pause * random.uniform(0.7, 1.3)
        pause = min(pause * 2, _LONGEST)
