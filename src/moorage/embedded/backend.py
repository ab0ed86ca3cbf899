"""What the API server asks of the nodes: the calls from the API down to where containers run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from moorage.clock import now
from moorage.errors import MoorageError, Unavailable
from moorage.kube.cluster import LogOptions
from moorage.specs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to talk to a container: the streams wanted, and the command (empty: the container's own process, `kubectl attach`)."""

    container: str
    command: tuple[str, ...] = ()
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU in nanocores over a window, memory in bytes at its end (the working set)."""

    cpu: int
    memory: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What was used in the `window` before `moment`: by node, and by pod (uid) and container. What could not be measured is missing."""

    moment: datetime
    window: timedelta
    nodes: Mapping[str, Usage]
    pods: Mapping[str, Mapping[str, Usage]]


class CannotStart(MoorageError):
    """A command that could not be started inside a container; whoever asked is told through his stream."""


class Talk(Protocol):
    """A process at the other end of a stream. Reads and writes are piece by piece, so that a slow side holds up the fast one."""

    @property
    def outputs(self) -> Sequence[str]:
        """Which of `stdout` and `stderr` there are; on a terminal the first only."""
        ...

    async def read(self, output: str) -> bytes:
        """The next bytes of an output, empty at its end."""
        ...

    async def write(self, data: bytes) -> None:
        """Give it input; what it does not want any more is dropped."""
        ...

    async def finish_input(self) -> None: ...

    def resize(self, width: int, height: int) -> None:
        """Tell its terminal, if it has one."""
        ...

    async def wait(self) -> int:
        """The exit code, once it has ended."""
        ...

    async def close(self) -> None:
        """Let go of it: a command ends, a container goes on."""
        ...


class NodeBackend(Protocol):
    """Reaches the kubelet of a pod's node."""

    def logs(self, node: str, namespace: str, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        """A container's log, `options.container` always set. Raises NotFound or Invalid before the first chunk, never after it.

        With `options.follow` the stream ends when the container has ended and all of its log was given.
        """
        ...

    def running(self, node: str, pod: Manifest, container: str) -> None:
        """Raise NotFound unless the container runs."""
        ...

    async def talk(self, node: str, pod: Manifest, asked: Asked) -> Talk:
        """Run a command in a container, or attach to it. NotFound when the container does not run; CannotStart."""
        ...

    async def dial(self, node: str, pod: Manifest, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port of a pod. OSError when nothing listens."""
        ...

    async def measure(self) -> Measured:
        """What the nodes and the containers that run on them use now. May take a second, since a rate needs two looks."""
        ...


class NoNodes:
    """The backend of a cluster without nodes (tests of the API alone): everything is Unavailable, and nothing is measured."""

    async def logs(self, node: str, namespace: str, pod: Manifest, options: LogOptions) -> AsyncIterator[bytes]:
        # Under a condition, because a function without a reachable yield would be no async generator to the type checker.
        if pod:
            raise Unavailable(f"node '{node}' runs no node agent, so that there is no log of pod {namespace}/{pod['metadata']['name']}.")
        yield b""

    def running(self, node: str, pod: Manifest, container: str) -> None:
        raise Unavailable(f"node '{node}' runs no node agent.")

    async def talk(self, node: str, pod: Manifest, asked: Asked) -> Talk:
        raise Unavailable(f"node '{node}' runs no node agent.")

    async def dial(self, node: str, pod: Manifest, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise Unavailable(f"node '{node}' runs no node agent.")

    async def measure(self) -> Measured:
        return Measured(now(), timedelta(0), {}, {})
