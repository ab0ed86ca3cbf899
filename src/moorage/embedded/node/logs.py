"""Container logs as the shim writes them (CRI lines in numbered files), cut and followed as `kubectl logs` asks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from moorage.clock import Clock, now
from moorage.embedded.node.attempt import Attempt
from moorage.kube.cluster import LogOptions

_CHUNK = 1 << 16
_STAMP = len("2026-11-22T15:39:20.204394617Z")


def files(folder: Path) -> list[Path]:
    """The log files of an attempt, oldest first."""
    return sorted(folder.glob("log.[0-9]*"))


class Renderer:
    """CRI lines to what was written. A line in several entries gets one timestamp, its first. `stream` leaves out the other one's lines."""

    def __init__(self, options: LogOptions, since: str = "", stream: str = "") -> None:
        self._stream = stream.encode()
        self._timestamps = options.timestamps
        self._since = since
        self._at_start = True
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The output for these bytes of log file; an unfinished line waits for the next call."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join(self.line(line) for line in lines)

    def line(self, line: bytes) -> bytes:
        stamp, _, rest = line.partition(b" ")
        stream, _, rest = rest.partition(b" ")
        tag, _, content = rest.partition(b" ")
        if self._stream and stream != self._stream:
            return b""
        if self._since and stamp.decode() < self._since:
            return b""
        head = stamp + b" " if self._timestamps and self._at_start else b""
        self._at_start = tag == b"F"
        return head + content + (b"\n" if self._at_start else b"")


def since_stamp(since: timedelta | None, clock: Clock = now) -> str:
    """The stamp before which lines are left out, comparable as text."""
    return (clock() - since).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z" if since is not None else ""


def last_lines(folder: Path, count: int, end: tuple[Path, int] | None = None) -> list[bytes]:
    """The CRI entries that make up the last `count` lines before `end` (a file and an offset in it; default: all there is)."""
    kept: deque[bytes] = deque()
    complete = 0
    for file in reversed(files(folder)):
        if end is not None and file > end[0]:
            continue
        for entry in _backwards(file, end[1] if end is not None and file == end[0] else None):
            fields = entry.split(b" ", 3)
            if not kept or (len(fields) > 2 and fields[2] == b"F"):
                complete += 1
            if complete > count:
                return list(kept)
            kept.appendleft(entry)
    return list(kept)


def _backwards(file: Path, end: int | None) -> Iterator[bytes]:
    """The lines of a file, last first, without reading all of it."""
    with file.open("rb") as stream:
        position = stream.seek(0, 2) if end is None else end
        rest = b""
        while position > 0:
            size = min(_CHUNK, position)
            position -= size
            stream.seek(position)
            lines = (stream.read(size) + rest).split(b"\n")
            rest = lines[0]
            yield from (line for line in reversed(lines[1:]) if line)
        if rest:
            yield rest


def tail_text(folder: Path, lines: int, limit: int) -> str:
    """The end of a log, for a termination message."""
    if lines == 0:
        return ""
    render = Renderer(LogOptions())
    text = b"".join(render.line(entry) for entry in last_lines(folder, lines))
    return text[-limit:].decode(errors="replace")


async def read(attempt: Attempt, options: LogOptions) -> AsyncIterator[bytes]:
    """The log of an attempt; with `follow`, until the attempt has ended and all of its log was given."""
    render = Renderer(options, since_stamp(options.since))
    follow = options.follow and attempt.alive
    if follow:
        attempt.follow(True)
    try:
        reader = _Reader(attempt.folder)
        try:
            if options.tail is not None and (end := reader.seek_end()):
                entries = await asyncio.to_thread(last_lines, attempt.folder, options.tail, end) if options.tail > 0 else []
                if text := b"".join(render.line(entry) for entry in entries):
                    yield text
            while True:
                attempt.grown.clear()
                ended = not attempt.alive
                while data := reader.read():
                    if text := render.feed(data):
                        yield text
                if ended or not follow:
                    return
                await attempt.grown.wait()
        finally:
            reader.close()
    finally:
        if follow:
            attempt.follow(False)


class Follower:
    """What a running attempt writes to one of its outputs from now on."""

    def __init__(self, attempt: Attempt, stream: str) -> None:
        self._attempt = attempt
        self._render = Renderer(LogOptions(), stream=stream)
        self._reader = _Reader(attempt.folder)
        self._reader.seek_end()
        attempt.follow(True)

    async def read(self) -> bytes:
        """The next bytes, empty once the attempt has ended and all is read."""
        while True:
            self._attempt.grown.clear()
            ended = not self._attempt.alive
            while data := self._reader.read():
                if text := self._render.feed(data):
                    return text
            if ended:
                return b""
            await self._attempt.grown.wait()

    def close(self) -> None:
        self._reader.close()
        self._attempt.follow(False)


class _Reader:
    """Reads the numbered files as one stream, across rotation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Path | None = None
        self._stream: BinaryIO | None = None

    def seek_end(self) -> tuple[Path, int] | None:
        """Go behind the last whole line there is; where that is, None without any file."""
        known = files(self._folder)
        if not known:
            return None
        stream = self._open(known[-1])
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _CHUNK))
        last = stream.read(_CHUNK).rfind(b"\n")
        # A line that is being written at this moment belongs to what follows.
        end = max(0, size - _CHUNK) + last + 1
        return known[-1], stream.seek(end)

    def read(self) -> bytes:
        """The next bytes; empty when there are none now."""
        while True:
            if self._stream is not None and (data := self._stream.read(_CHUNK)):
                return data
            ahead = [file for file in files(self._folder) if self._file is None or file.name > self._file.name]
            if not ahead:
                return b""
            # What was written between the empty read and the rotation is still in the old file.
            if self._stream is not None and (data := self._stream.read(_CHUNK)):
                return data
            self._open(ahead[0])

    def _open(self, file: Path) -> BinaryIO:
        self.close()
        stream = file.open("rb")
        self._file, self._stream = file, stream
        return stream

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
