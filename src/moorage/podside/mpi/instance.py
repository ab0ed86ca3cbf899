"""One instance of the job: who the instances are, how it reports trouble, and how it ends the processes it has started."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

# What a connection between pods that cannot be made points to.
ADVICE = "Look whether a NetworkPolicy of the namespace keeps its pods from each other, and whether the other instances have ended."

# Exit statuses: as a shell has them for a command that is not there, and as ssh has it for a connection that is lost.
NOT_FOUND, BROKEN = 127, 255
# Of an instance that ends because another one did: as if it had been told to by a signal, so that nobody takes it for the cause.
FOLLOWS = 143
# What a command gets between SIGTERM and SIGKILL; pods get two minutes, of which storing outputs needs most.
_GRACE = timedelta(seconds=20)


class Failure(Exception):
    """The job cannot be run: `code` is one that the training operator knows, the message says what to do."""

    def __init__(self, code: str, message: str, status: int = BROKEN) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status

    def report(self) -> None:
        """As the last line of the log, where the operator reads it."""
        print(json.dumps({"code": self.code, "message": self.message}), file=sys.stderr, flush=True)


class Place:
    """An instance of the job.

    Args:
        peers: the addresses of all instances, by index.
        index: which one this is.
        port: where rank 0's instance listens.
        key: what only this job's instances know.
        patience: how long the instances wait for each other.
    """

    def __init__(self, peers: Sequence[str], index: int, port: int, key: str, patience: timedelta) -> None:
        self.peers, self.index, self.port, self.key, self.patience = tuple(peers), index, port, key, patience

    @property
    def address(self) -> str:
        return self.peers[self.index]

    @property
    def first(self) -> tuple[str, int]:
        """Where rank 0's instance listens."""
        return self.peers[0], self.port


class Inbox:
    """What has happened, in order, for one thread that decides. Signals arrive here too."""

    def __init__(self) -> None:
        # Of the queues the one that a signal handler may put something into.
        self._queue: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()

    def put(self, act: Callable[..., None], *arguments: Any) -> None:
        self._queue.put((act, arguments))

    def take(self, timeout: float) -> bool:
        """Act on the next event; False when there was none for `timeout` seconds."""
        try:
            act, arguments = self._queue.get(timeout=timeout)
        except queue.Empty:
            return False
        act(*arguments)
        return True

    def hear_signals(self, act: Callable[[int], None]) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda received, _: self.put(act, received))


def end(process: subprocess.Popen[bytes], *, all_at_once: bool, grace: timedelta = _GRACE) -> None:
    """SIGTERM, and SIGKILL to the whole group when the process, which leads it, is still there after a while.

    Args:
        process: one that was started in a session of its own.
        all_at_once: SIGTERM too goes to the whole group, and not to the process alone.
        grace: the while.
    """
    if process.poll() is not None:
        # Its number may be another's by now.
        return
    _send(process, signal.SIGTERM, group=all_at_once)
    try:
        process.wait(grace.total_seconds())
    except subprocess.TimeoutExpired:
        pass
    _send(process, signal.SIGKILL, group=True)
    process.wait()


def _send(process: subprocess.Popen[bytes], number: signal.Signals, *, group: bool) -> None:
    try:
        if group:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        # Nothing is left of it. macOS answers the second for a group that has only zombies.
        pass


def status_of(process: subprocess.Popen[bytes]) -> int:
    """The exit status as a shell tells it."""
    status = process.wait()
    return 128 - status if status < 0 else status
