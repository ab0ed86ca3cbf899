"""A process of the SDK's environment that answers in lines: what it prints, as it comes, and its end."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def answering(process: subprocess.Popen[str]) -> Iterator[queue.Queue[str]]:
    """The lines of the process, "" once there are no more; it is ended with the context."""
    answers: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put("")

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield answers
    finally:
        process.kill()
        process.wait()
        listener.join()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
