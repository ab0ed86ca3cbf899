"""Loads the script, calls init(), and serves on `$POD_IP:5001` until SIGTERM; requests in flight are finished first.

Nothing listens before init() is done, so that probes see a replica only when it can score. A script that cannot be loaded, or whose init()
fails, ends the process with code 3, as in the original.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from .application import Application, trimmed
from .script import Script, ScriptError, load

_INIT_FAILED = 3
_DEFAULT_PORT = 5001
# Longer than the router keeps an idle connection, so that it is never the server that closes first.
_KEEP_ALIVE_SECONDS = 75
# How long callers have to hear that this replica goes. A router lets go of its connections as soon as it does; others may keep theirs for ever.
_LINGER_SECONDS = 5.0


def serve() -> int:
    """Run until told to stop; answers the exit status."""
    # Process 1 hears no signal that it has not asked for, and init() may take minutes.
    signal.signal(signal.SIGTERM, _end)
    listener = _bind()
    if listener is None:
        return 1
    workers = max(1, _number("WORKER_COUNT", 1))
    with listener:
        return _serve_one(listener) if workers == 1 else _serve_many(listener, workers)


def _bind() -> socket.socket | None:
    """Bound, not listening: until a worker is ready, connections are refused."""
    host, port = os.environ.get("POD_IP") or "127.0.0.1", _number("AZUREML_SCORING_PORT", _DEFAULT_PORT)
    # The protocol is named, because asyncio turns Nagle's algorithm off only then, and every second answer would take 40 ms.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        print(f"Cannot listen on {host}:{port}: {error.strerror}", file=sys.stderr, flush=True)
        return None
    return listener


def _serve_one(listener: socket.socket) -> int:
    script = _initialised()
    if script is None:
        return _INIT_FAILED
    import uvicorn

    class Server(uvicorn.Server):
        """Closes no connection that a request may be on its way through: a caller could not tell whether it has run, and may not send it again."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            print("Told to end; serving on until callers have let go", flush=True)
            deadline = time.monotonic() + _LINGER_SECONDS
            while self.server_state.connections and not self.force_exit and time.monotonic() < deadline:  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(0.02)
            await super().shutdown(sockets)

    threads = ThreadPoolExecutor(max_workers=max(1, _number("MOORAGE_CONCURRENCY", 1)), thread_name_prefix="run")
    configuration = uvicorn.Config(
        Application(script, threads),
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        server_header=False,
    )
    server = Server(configuration)

    def stop(number: int, frame: FrameType | None) -> None:
        """While uvicorn's own is not there: before it starts, and when it hands the signal on after the last request."""
        server.should_exit = True

    signal.signal(signal.SIGTERM, stop)
    listener.listen(2048)
    host, port = listener.getsockname()[:2]
    print(f"Serving on {host}:{port} (pid {os.getpid()})", flush=True)
    asyncio.run(server.serve(sockets=[listener]))
    # What run() has not finished by now will not be answered any more.
    threads.shutdown(wait=False, cancel_futures=True)
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    """Nobody waits for an answer yet, and code of the user's must not take it for a failure."""
    os._exit(128 + number)


def _initialised() -> Script | None:
    started = time.perf_counter()
    try:
        script = load()
        script.init()
    except ScriptError as error:
        print(error, file=sys.stderr, flush=True)
        return None
    except BaseException as error:  # noqa: BLE001 - the boundary to the user's code, sys.exit() included
        print(f"The scoring script failed before it could serve:\n{trimmed(error)}", file=sys.stderr, flush=True)
        return None
    print(f"init() is done ({time.perf_counter() - started:.2f} s with imports)", flush=True)
    return script


def _serve_many(listener: socket.socket, workers: int) -> int:
    """Processes that accept from one socket. The first to end takes the others with it: the node starts all of them anew."""
    children: set[int] = set()
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and is about to be counted
                os.kill(child, signal.SIGTERM)

    # Held back while there are more to come, so that each is told, and none takes the signal for its parent.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, stop)
    for _ in range(workers):
        children.add(_forked(listener))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    worst = 0
    while children:
        child, status = os.wait()
        children.discard(child)
        code = os.waitstatus_to_exitcode(status)
        if not stopping:
            worst = worst or (code if code > 0 else 1)
            stop(signal.SIGTERM, None)
    return worst


def _forked(listener: socket.socket) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGTERM, _end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        code = _serve_one(listener)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default
