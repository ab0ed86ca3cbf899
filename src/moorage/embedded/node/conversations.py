"""Commands run inside a container for somebody who talks to them (`kubectl exec`): their streams, their end, and that they leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import struct
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from moorage.embedded.backend import Asked, CannotStart
from moorage.embedded.node import shim
from moorage.embedded.node.attempt import Attempt
from moorage.embedded.node.descriptors import Descriptor
from moorage.embedded.node.mounts import Rewriting
from moorage.specs.mounted import VARIABLE

_PIECE = 1 << 16
_REPORT_LIMIT = 1 << 14


class Conversation:
    """A running command; see `embedded.backend.Talk`."""

    def __init__(
        self, child: asyncio.subprocess.Process, stdin: Descriptor | None, outputs: dict[str, Descriptor], attempt: Attempt
    ) -> None:
        self._child = child
        self._stdin = stdin
        self._outputs = outputs
        self._terminal = stdin if stdin is not None and stdin is outputs.get("stdout") else None
        self._guard = asyncio.create_task(self._end_with(attempt), name="end of a container")

    @property
    def outputs(self) -> Sequence[str]:
        return tuple(self._outputs)

    async def read(self, output: str) -> bytes:
        return await self._outputs[output].read(_PIECE)

    async def write(self, data: bytes) -> None:
        if self._stdin is not None:
            await self._stdin.write(data)

    async def finish_input(self) -> None:
        if self._stdin is None:
            return
        if self._terminal is not None:
            # A terminal has no end of its own; what ends the input of its reader is Ctrl-D.
            await self._terminal.write(b"\x04")
        else:
            self._stdin.close()

    def resize(self, width: int, height: int) -> None:
        if self._terminal is not None and not self._terminal.closed:
            fcntl.ioctl(self._terminal.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def wait(self) -> int:
        code = await self._child.wait()
        return 128 - code if code < 0 else code

    async def close(self) -> None:
        """End what is left of it."""
        self._guard.cancel()
        self._kill()
        await self._child.wait()
        for descriptor in {self._stdin, *self._outputs.values()} - {None}:
            assert descriptor is not None
            descriptor.close()

    def _kill(self) -> None:
        left = list(shim.tree(self._child.pid)) if shim.LINUX and self._child.returncode is None else []
        # The group outlives its leader, as long as anything that it started is in it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _end_with(self, attempt: Attempt) -> None:
        await attempt.ended.wait()
        self._kill()


async def converse(attempt: Attempt, asked: Asked) -> Conversation:
    """Run `asked.command` inside the container; CannotStart, in the words of the container runtimes, when it cannot be."""
    document = json.loads(await asyncio.to_thread((attempt.folder / "launch.json").read_text))
    # Empty where the container has a root of its own.
    places = Rewriting(json.loads(document["env"].get(VARIABLE) or "{}") if document["namespace"] == "none" else {})
    report, report_end = os.pipe()
    words = [sys.executable, "-I", "-S", "-B", str(Path(shim.__file__)), "converse", str(attempt.folder), str(attempt.pid)]
    words += [str(report_end), str(os.getpid()), *map(places.text, asked.command)]
    ours, theirs = _streams(asked)
    try:
        child = await asyncio.create_subprocess_exec(
            *words,
            stdin=theirs["stdin"],
            stdout=theirs["stdout"],
            stderr=theirs["stderr"],
            start_new_session=True,
            pass_fds=(report_end,),
            env={"PATH": os.defpath},
        )
    except (OSError, ValueError) as error:
        # ValueError: a NUL byte in an argument.
        for number in {report, *ours.values()}:
            os.close(number)
        raise CannotStart(f"the command cannot be run: {error}") from error
    finally:
        for number in {report_end, *theirs.values()}:
            os.close(number)
    message = await _reported(report)
    descriptors = {number: Descriptor(number) for number in set(ours.values())}
    outputs = {name: descriptors[number] for name, number in ours.items() if name != "stdin"}
    conversation = Conversation(child, descriptors.get(ours.get("stdin", -1)), outputs, attempt)
    if message:
        await conversation.close()
        raise CannotStart(message)
    return conversation


async def _reported(report: int) -> str:
    """What the child says before it becomes the command; nothing when it has."""
    reader = Descriptor(report)
    said = b""
    try:
        while len(said) < _REPORT_LIMIT and (data := await reader.read(_PIECE)):
            said += data
    finally:
        reader.close()
    return said.decode(errors="replace")


def _streams(asked: Asked) -> tuple[dict[str, int], dict[str, int]]:
    """Our ends of the streams that were asked for, and the child's of all three."""
    if asked.tty:
        master, slave = os.openpty()
        ours = {name: master for name, wanted in (("stdin", asked.stdin), ("stdout", asked.stdout)) if wanted} or {"stdout": master}
        return ours, dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    ours, theirs = {}, {}
    for name, wanted in (("stdin", asked.stdin), ("stdout", asked.stdout), ("stderr", asked.stderr)):
        if not wanted:
            theirs[name] = os.open(os.devnull, os.O_RDONLY if name == "stdin" else os.O_WRONLY)
            continue
        reading, writing = os.pipe()
        ours[name], theirs[name] = (writing, reading) if name == "stdin" else (reading, writing)
    return ours, theirs
