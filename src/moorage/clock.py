"""Now, in one place, so that whoever needs another time hands in another clock. Always UTC, always aware."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def now() -> datetime:
    """The wall clock, for showing and storing. It may jump: measure spans with `monotonic`."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds on a clock that never jumps, for time-outs and spans within one process."""
    return time.monotonic()


def rfc3339(moment: datetime) -> str:
    """`2026-11-22T13:07:39Z`, Kubernetes' metav1.Time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(moment: datetime) -> str:
    """`2026-11-22T13:07:39.365497Z`, Kubernetes' metav1.MicroTime and ARM's systemData."""
    # A page of a list has hundreds of them, and `strftime` takes twice as long.
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def parse_rfc3339(text: str) -> datetime:
    """Either form back; raises ValueError on anything else."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
