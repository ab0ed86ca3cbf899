"""The process between the service and a builder: it ends the builder when the service asks for it, or is gone, however it went.

It runs as a bare script (`python -I -S shim.py GRACE COMMAND...`) and imports nothing of Moorage. Its input is the wish that the builder goes on: at
its end (closed by the service, or by the kernel after kill -9) the builder gets TERM, after GRACE seconds KILL, both with all of its process group.
What the builder prints goes through here, so that the output ends when this process does, whatever the builder left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

# What shells answer for a program that is not there, or cannot be run.
NOT_FOUND, NOT_RUN = 127, 126
# Of processes that left the builder's group, and still hold its output.
_DRAIN_SECONDS = 2.0


def main(grace: float, command: list[str]) -> int:
    """Run the builder; its exit code, 128 and more when a signal ended it."""
    try:
        builder = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, bufsize=0
        )
    except OSError as error:
        os.write(1, f"{command[0]}: {error.strerror}\n".encode())
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUN
    assert builder.stdout is not None
    ended = threading.Event()
    copying = threading.Thread(target=_copy, args=(builder.stdout.fileno(),), daemon=True)
    copying.start()
    threading.Thread(target=_watch, args=(builder.pid, grace, ended), daemon=True).start()
    if hasattr(os, "waitid"):
        # Not reaped yet, so that its number cannot be another group's when what it left behind is ended.
        os.waitid(os.P_PID, builder.pid, os.WEXITED | os.WNOWAIT)
        _signal(builder.pid, signal.SIGKILL)
    code = builder.wait()
    ended.set()
    copying.join(_DRAIN_SECONDS)
    return code if code >= 0 else 128 - code


def _copy(source: int) -> None:
    while data := os.read(source, 1 << 16):
        with contextlib.suppress(BrokenPipeError):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]


def _watch(builder: int, grace: float, ended: threading.Event) -> None:
    while os.read(0, 1):
        pass
    if not ended.is_set():
        _signal(builder, signal.SIGTERM)
        if not ended.wait(grace):
            _signal(builder, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    # macOS answers EPERM when only zombies are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    # Daemon threads may be in the middle of a read.
    os._exit(main(float(sys.argv[1]), sys.argv[2:]))
