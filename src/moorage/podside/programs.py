"""Programs that a container of ours runs: none outlives it, nor does what they have started, so that nobody writes where the next pod begins anew."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress


class _Sigterm:
    """What SIGTERM means: the end, but not in the moment in which a program is being started, which nobody would know to end."""

    def __init__(self) -> None:
        self._code = 0
        self._starting = self._told = False

    def ends_with(self, code: int) -> None:
        self._code = code
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, *_: object) -> None:
        # A second one must not interrupt what the first has begun to tidy up.
        signal.signal(signal.SIGTERM, lambda *_: None)
        self._told = True
        self._end()

    def _end(self) -> None:
        if self._told and not self._starting:
            self._told = False
            raise SystemExit(self._code)

    @contextmanager
    def waits(self) -> Iterator[None]:
        self._starting = True
        try:
            yield
        finally:
            self._starting = False
            self._end()


_sigterm = _Sigterm()


def end_at_sigterm(code: int) -> None:
    """Let SIGTERM end this process with `code`, by SystemExit in the main thread: what is open is closed, what is half made is removed.

    Process 1 of a container does not hear SIGTERM unless it says so.
    """
    _sigterm.ends_with(code)


@contextmanager
def started(command: Sequence[str], *, errors: int, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program whose output is read as text. It has ended when the block has: an exception kills it and its process group.

    Args:
        errors: where its standard error goes, as for `subprocess`.
        env: its environment variables; None: ours.
    """
    process: subprocess.Popen[str] | None = None
    try:
        with _sigterm.waits():
            process = subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8", errors="replace", process_group=0
            )
        yield process
        process.wait()
    except BaseException:
        # Its number is its own until somebody has waited for it.
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    finally:
        for pipe in (process.stdout, process.stderr) if process is not None else ():
            if pipe is not None:
                pipe.close()


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run to the end; its exit code, what it printed, and its errors."""
    with started(command, errors=subprocess.PIPE, env=env) as process:
        output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
