"""What is known of one container at one moment, as values: the input of every decision and of the status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from moorage.specs.manifest import Manifest

Waiting = tuple[str, str]  # reason, message

FIRST_BACKOFF = timedelta(seconds=10)
LONGEST_BACKOFF = timedelta(seconds=300)
# A container that ran this long since its last restart starts afresh (client-go util/flowcontrol, twice the longest).
BACKOFF_FORGOTTEN = 2 * LONGEST_BACKOFF


@dataclass(frozen=True, slots=True)
class Exit:
    """How one attempt of a container ended."""

    code: int
    reason: str
    finished: datetime
    started: datetime | None = None
    signal: int = 0
    message: str = ""
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """One container.

    Args:
        attempt: how many times it has been started before; None: never started.
        running_since: set while its process lives.
        exit: set once the latest attempt has ended.
        last: how the attempt before the latest ended.
        started: its startup probe, if any, has succeeded and its postStart hook is over.
        ready: its readiness probe, if any, says so.
        unhealthy: why it has to be restarted, empty while it need not.
        waiting: what keeps it from starting now.
    """

    name: str
    attempt: int | None = None
    running_since: datetime | None = None
    exit: Exit | None = None
    last: Exit | None = None
    started: bool = False
    ready: bool = False
    unhealthy: str = ""
    waiting: Waiting | None = None
    container_id: str = ""

    @property
    def running(self) -> bool:
        return self.running_since is not None and self.exit is None


Views = Mapping[str, View]


def view_of(views: Views, container: Manifest) -> View:
    return views.get(container["name"]) or View(container["name"])


def is_sidecar(container: Manifest) -> bool:
    """A native sidecar: an init container that is restarted always and ends after the main containers."""
    return container.get("restartPolicy") == "Always"


@dataclass(frozen=True, slots=True)
class RestartDelay:
    """The back-off of one container: the delay that its next end is answered with, and when it was set."""

    delay: timedelta
    updated: datetime


def next_delay(before: RestartDelay | None, now: datetime) -> RestartDelay:
    """The entry after a restart at `now`: 10 s at first, doubling to 300 s, forgotten after ten quiet minutes."""
    if before is None or now - before.updated > BACKOFF_FORGOTTEN:
        return RestartDelay(FIRST_BACKOFF, now)
    return RestartDelay(min(before.delay * 2, LONGEST_BACKOFF), now)


def restart_at(entry: RestartDelay | None, finished: datetime) -> datetime:
    """When a container that ended at `finished` may start again. The first restart is immediate."""
    if entry is None or finished - entry.updated > LONGEST_BACKOFF:
        return finished
    return finished + entry.delay


def go_duration(span: timedelta) -> str:
    """`10s`, `1m20s`, `5m0s`, as Kubernetes' messages have it."""
    minutes, seconds = divmod(int(span.total_seconds()), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
