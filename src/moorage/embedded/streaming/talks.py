"""exec and attach: a client's channels joined with a process in a container, until one of the two ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

import orjson

from moorage.embedded.backend import Asked, CannotStart, NodeBackend, Talk
from moorage.embedded.streaming.channels import Channels
from moorage.errors import MoorageError
from moorage.specs.manifest import Manifest

_log = logging.getLogger(__name__)
# A process that has ended may have left its output open to another one: this long a silence is taken for the end.
_SILENCE_SECONDS = 1.0
_GOODBYE_SECONDS = 5.0


async def run(backend: NodeBackend, node: str, pod: Manifest, asked: Asked, channels: Channels) -> None:
    """Carry the talk out; how it ended is told to the client."""
    try:
        talk = await backend.talk(node, pod, asked)
    except MoorageError as failure:
        why = f"error executing command in container: {failure.message}" if isinstance(failure, CannotStart) else failure.message
        await channels.finish(_internal(why))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                async for _ in channels.incoming():
                    pass
        return
    try:
        await _join(talk, channels)
    finally:
        await talk.close()


async def _join(talk: Talk, channels: Channels) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(_listen(talk, channels))
            speaking = group.create_task(_speak(talk, channels))
            await asyncio.wait({listening, speaking}, return_when=asyncio.FIRST_COMPLETED)
            # Whoever ends first ends the other: a client that has gone leaves no process, and a process that has ended needs no input. But to
            # close before the client does could cut off what it has not read yet.
            await asyncio.wait({listening}, timeout=_GOODBYE_SECONDS)
            listening.cancel()
            speaking.cancel()
    except ExceptionGroup as failures:
        # Whoever serves the request knows a broken stream by its own name.
        raise failures.exceptions[0] from failures


async def _listen(talk: Talk, channels: Channels) -> None:
    """From the client to the process, until the client goes."""
    async for name, data in channels.incoming():
        if name == "resize":
            size = _size(data)
            if size is not None:
                talk.resize(*size)
        elif data:
            await talk.write(data)
        else:
            await talk.finish_input()


async def _speak(talk: Talk, channels: Channels) -> None:
    """From the process to the client, until the process has ended and all that it said is said."""
    ended = asyncio.create_task(talk.wait())
    pumps = [asyncio.ensure_future(each) for each in _pumps(talk, channels, ended)]
    try:
        code = await asyncio.shield(ended)
        await asyncio.gather(*pumps)
        await channels.finish(_exited(code))
    except ConnectionError:
        return
    finally:
        for task in (*pumps, ended):
            task.cancel()
        await asyncio.gather(*pumps, ended, return_exceptions=True)


def _pumps(talk: Talk, channels: Channels, ended: asyncio.Task[int]) -> list[Coroutine[Any, Any, None]]:
    async def pump(output: str) -> None:
        while True:
            reading = asyncio.ensure_future(talk.read(output))
            try:
                await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    await asyncio.wait({reading}, timeout=_SILENCE_SECONDS)
                if not reading.done():
                    return
                data = reading.result()
            finally:
                reading.cancel()
            if not data:
                return
            await channels.send(output, data)

    return [pump(output) for output in talk.outputs]


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        given = orjson.loads(data)
        width, height = int(given["Width"]), int(given["Height"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        _log.debug("a client sent %r for the size of its terminal", data[:100])
        return None
    return (width, height) if 0 < width < 1 << 16 and 0 < height < 1 << 16 else None


def _exited(code: int) -> Manifest:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _internal(message: str) -> Manifest:
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: {message}",
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }
