"""One run of a container's process, seen through the folder that its shim keeps (`shim.py`): start it, find it again, signal it, read its end."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from moorage.clock import now, parse_rfc3339
from moorage.embedded.node import cgroups, shim
from moorage.embedded.node.records import Exit
from moorage.errors import Unavailable
from moorage.specs.manifest import Manifest

_SHIM = Path(shim.__file__)
# Descriptors that are handed to a shim are first moved out of the way of the numbers that they get there.
_ABOVE_THE_SHIMS = 16
_UNKNOWN_END = "The container's shim was killed, so that how the container ended is unknown."


@dataclass(frozen=True, slots=True)
class LogLimits:
    """The kubelet's containerLogMaxSize and containerLogMaxFiles."""

    size: int = 10 * 2**20
    files: int = 5


def read_pairs(file: Path) -> dict[str, str] | None:
    """The `key=value` lines of a file of the shim; None while it has not written it."""
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return None
    pairs = (line.partition("=") for line in lines)
    return {key: value.encode().decode("unicode_escape") for key, _, value in pairs}


def _spawn(words: list[str], folder: Path) -> int:
    """Start the shim of a folder, and wait until it has detached itself; its first process's wait status."""
    # Its ends of both FIFOs are open before it exists, and stay so when this process is killed: nobody takes one that comes up for one that never was.
    held: list[int] = []
    try:
        for name in ("events", "control"):
            descriptor = os.open(folder / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            held.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE_THE_SHIMS))
            os.close(descriptor)
        pid = os.posix_spawn(
            sys.executable,
            words,
            {"PATH": os.defpath},
            file_actions=[(os.POSIX_SPAWN_DUP2, held[0], shim.EVENTS), (os.POSIX_SPAWN_DUP2, held[1], shim.CONTROL)],
            setsigmask=(),
            setsigdef=(signal.SIGTERM, signal.SIGINT),
        )
        return os.waitpid(pid, 0)[1]
    finally:
        for descriptor in held:
            os.close(descriptor)


class Attempt:
    """A container's process and its shim.

    Args:
        folder: the shim's folder.
        container_id: as it stands in the pod's status.
        changed: told on every event: started, ended.
    """

    def __init__(self, folder: Path, container_id: str, changed: Callable[[], None]) -> None:
        self.folder = folder
        self.container_id = container_id
        self.grown = asyncio.Event()
        self.pid = 0
        self.started: datetime | None = None
        self.exit: Exit | None = None
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self._changed = changed
        self._events = -1
        self._control = -1
        self._followers = 0

    async def start(self, launch: Manifest, limits: LogLimits, memory_limit: int, oom_file: str) -> None:
        """Start the container; return once its process runs or has failed to. Unavailable when not even the shim could start."""
        (self.folder / "launch.json").write_text(json.dumps(launch))
        for name in ("events", "control", *(["stdin"] if launch.get("stdin") else [])):
            os.mkfifo(self.folder / name, 0o600)
        if launch.get("tty"):
            (self.folder / "terminal").touch()
        words = [sys.executable, "-I", "-S", "-B", str(_SHIM), "run", str(self.folder)]
        words += [str(limits.size), str(limits.files), str(memory_limit), oom_file]
        # The first process ends at once, its child is the shim: nothing of it is left to this process to reap.
        status = await asyncio.to_thread(_spawn, words, self.folder)
        if status:
            reason = self._shim_error() or f"wait status {status}"
            raise Unavailable(f"the container's shim could not start: {reason}", target=str(self.folder))
        self.attach()
        await self.begun.wait()

    def attach(self) -> None:
        """Take up the link to the shim, and read what it has recorded; its container may have ended long ago."""
        try:
            self._events = os.open(self.folder / "events", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._control = os.open(self.folder / "control", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
            self._end()
            return
        asyncio.get_running_loop().add_reader(self._events, self._read)
        self._note_start()

    @property
    def alive(self) -> bool:
        return self._control >= 0

    def terminate(self, grace: timedelta) -> None:
        """TERM to the container's processes now, KILL to what is left after the grace."""
        if grace <= timedelta(0):
            self.kill()
        else:
            self._send(f"T{grace.total_seconds():.3f}\n")

    def kill(self) -> None:
        self._send("K\n")

    def resize(self, width: int, height: int) -> None:
        """Tell the container's terminal, if it has one."""
        self._send(f"W{width}x{height}\n")

    def finish_input(self) -> None:
        """The container's input has come to its end."""
        self._send("E\n")

    def follow(self, start: bool) -> None:
        """Count one follower more or less; `grown` is set on new log lines while there is one."""
        self._followers += 1 if start else -1
        if self._followers in (0, 1):
            self._send("F1\n" if self._followers else "F0\n")

    def close(self) -> None:
        """Let go of the shim; the container goes on."""
        for descriptor in (self._events, self._control):
            if descriptor >= 0:
                if descriptor == self._events:
                    asyncio.get_running_loop().remove_reader(descriptor)
                os.close(descriptor)
        self._events = self._control = -1

    def _send(self, command: str) -> None:
        if self._control < 0:
            return
        try:
            os.write(self._control, command.encode())
        except (BrokenPipeError, BlockingIOError):
            pass  # it ends at this moment: the events FIFO says so next

    def _read(self) -> None:
        try:
            data = os.read(self._events, 4096)
        except BlockingIOError:
            return
        if b"l" in data:
            self.grown.set()
        if b"s" in data:
            self._note_start()
            self._changed()
        if not data:
            self._end()

    def _note_start(self) -> None:
        pairs = read_pairs(self.folder / "started")
        if pairs is not None:
            self.pid, self.started = int(pairs["pid"]), parse_rfc3339(pairs["started"])
            self.begun.set()

    def _end(self) -> None:
        self.close()
        self._note_start()
        self.exit = self._read_exit()
        self.grown.set()
        self.begun.set()
        self.ended.set()
        self._changed()

    def _read_exit(self) -> Exit:
        pairs = read_pairs(self.folder / "exit")
        if pairs is None:
            self._end_orphan()
            detail = self._shim_error()
            message = f"{_UNKNOWN_END} {detail}".strip()
            return Exit(137, "ContainerStatusUnknown", now(), self.started, signal.SIGKILL, message, self.container_id)
        return Exit(
            int(pairs["code"]),
            pairs["reason"],
            parse_rfc3339(pairs["finished"]),
            self.started,
            int(pairs["signal"]),
            pairs["message"],
            self.container_id,
        )

    def _end_orphan(self) -> None:
        """End a process whose shim is gone, if the pid is still the same process and not its successor, and what else is in its cgroup."""
        pairs = read_pairs(self.folder / "started")
        fields = shim.stat_fields(pairs["pid"]) if pairs else None
        if pairs and fields and str(fields[1]) == pairs["ticks"]:
            try:
                os.killpg(int(pairs["pid"]), signal.SIGKILL)
            except ProcessLookupError:
                pass
        # The kernel takes the container's first process along with its shim, and nothing that this had started.
        cgroups.kill(self.folder)

    def _shim_error(self) -> str:
        try:
            return (self.folder / "shim.err").read_text()[-400:].strip()
        except FileNotFoundError:
            return ""
