"""Attaching to a container's own process: its output as its shim writes it down, its input and terminal as its shim holds them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from moorage.embedded.backend import Asked
from moorage.embedded.node import logs
from moorage.embedded.node.attempt import Attempt
from moorage.embedded.node.descriptors import Descriptor


class Attachment:
    """A look at a running container; see `embedded.backend.Talk`. Its end leaves the container alone."""

    def __init__(self, attempt: Attempt, outputs: Sequence[str], stdin: Descriptor | None, *, once: bool) -> None:
        self._attempt = attempt
        self._once = once
        # From this moment on, before any input: what the container answers to that must not be missed.
        self._outputs = {name: logs.Follower(attempt, name) for name in outputs}
        self._stdin = stdin

    @property
    def outputs(self) -> Sequence[str]:
        return tuple(self._outputs)

    async def read(self, output: str) -> bytes:
        return await self._outputs[output].read()

    async def write(self, data: bytes) -> None:
        if self._stdin is not None:
            await self._stdin.write(data)

    async def finish_input(self) -> None:
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None
            if self._once:
                self._attempt.finish_input()

    def resize(self, width: int, height: int) -> None:
        self._attempt.resize(width, height)

    async def wait(self) -> int:
        """Success, whatever the container's own end was: that stands in its status."""
        await self._attempt.ended.wait()
        return 0

    async def close(self) -> None:
        for output in self._outputs.values():
            output.close()
        await self.finish_input()


def attach(attempt: Attempt, asked: Asked, *, once: bool) -> Attachment:
    """Attach to a container. Input goes nowhere where the container was made without `stdin`; with `once` (stdinOnce) its end is the container's."""
    outputs = [name for name, wanted in (("stdout", asked.stdout), ("stderr", asked.stderr and not asked.tty)) if wanted]
    fifo = attempt.folder / "stdin"
    stdin = Descriptor(os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)) if asked.stdin and fifo.exists() else None
    return Attachment(attempt, outputs, stdin, once=once)
