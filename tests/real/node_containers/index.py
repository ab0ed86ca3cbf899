"""A package index for pods that reach nothing but this machine: the wheels that a test needs, served on the bridge."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.real.control_plane.binaries import cache
from tests.real.node_containers.addresses import HOST

_PYTHON = "3.11"  # the component image's
_SECONDS = 600


def wheels(requirements: Sequence[str]) -> Path:
    """A folder with the wheels of these requirements and all that they need, fetched once by pip, as this machine is set up for it."""
    folder = cache().parent / "wheels" / hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            pip = folder.parent / "pip"
            uv = Path(sys.executable).with_name("uv")
            _run([str(uv), "pip", "install", "--quiet", "--target", str(pip), "pip"], {})
            making = folder.with_name(f".{folder.name}")
            words = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(making), "--only-binary", ":all:"]
            words += [
                "--python-version",
                _PYTHON,
                "--platform",
                f"manylinux_2_28_{os.uname().machine}",
                "--platform",
                f"manylinux2014_{os.uname().machine}",
            ]
            _run([*words, *requirements], {"PYTHONPATH": str(pip)})
            making.rename(folder)
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's address, as `--find-links` takes it, until the block ends."""
    server = ThreadingHTTPServer((HOST, 0), partial(_Quiet, directory=str(folder)))
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Tests print nothing on their own."""


def _run(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        words, env=os.environ | environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}:\n{(done.stdout + done.stderr)[-1500:]}"
