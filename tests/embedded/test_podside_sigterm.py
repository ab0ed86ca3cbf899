"""Containers that prepare a pod, told to end: they do so at once, leave nothing running, and whoever comes next is not hindered by what they left.

Here they are no process 1, which would not even die of SIGTERM: their exit code says that they have heard it.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.fixtures.wheels import wheel

from moorage.podside.environment import READY
from moorage.specs.environment import environment_hash
from moorage.specs.manifest import Manifest
from moorage.training.launchers import plain

from .podside_blobs import facade, served

SECONDS = 90


@contextmanager
def container(
    command: str, plan: Manifest, folder: Path, *more: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """One of our containers as a process."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    words = [sys.executable, "-um", "moorage.podside", command, "--plan", str(path), *more]
    surroundings = {**os.environ, **(env or {})}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=surroundings) as process:
        try:
            yield process
        finally:
            process.kill()


def told_to_end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    # As one that was killed: the Job replaces its pod, where nobody has deleted the Job.
    assert process.returncode == plain.KILLED, output


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_gone(*pids: int) -> None:
    deadline = time.monotonic() + SECONDS
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.02)


@contextmanager
def stalled(content: bytes, folder: Path) -> Iterator[threading.Event]:
    """A facade whose only blob never comes whole; the event says that half of it is on its way."""
    reached, over = threading.Event(), threading.Event()

    class Exchange(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...

        def _begin(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_HEAD(self) -> None:
            self._begin()

        def do_GET(self) -> None:
            self._begin()
            self.wfile.write(content[: len(content) // 2])
            reached.set()
            over.wait()
            self.close_connection = True

    with served(folder, Exchange):
        try:
            yield reached
        finally:
            over.set()


def test_a_download_that_is_told_to_end_does_so_at_once_and_can_be_done_again(tmp_path: Path) -> None:
    content, to = os.urandom(200_000), tmp_path / "to"
    plan: Manifest = {"downloads": [{"uri": "c/a", "kind": "file", "to": str(to)}]}
    with stalled(content, tmp_path / "slow") as reached, container("fetch", plan, tmp_path, "--access", str(tmp_path / "slow")) as process:
        assert reached.wait(SECONDS)
        told_to_end(process)
    assert not (to / "a").exists(), "nothing that is not whole has its name"
    with facade(tmp_path / "access") as (store, access):
        store.blobs = {"c/a": content}
        with container("fetch", plan, tmp_path, "--access", str(access.folder)) as process:
            output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert {path.name: path.read_bytes() for path in to.iterdir()} == {"a": content}


BACKEND = """
import os, pathlib, shutil, subprocess, sys

def build_wheel(folder, config_settings=None, metadata_directory=None):
    here = pathlib.Path(os.environ["TESTED"])
    if not (here / "go").exists():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        (here / "part").write_text(f"{os.getpid()} {child.pid}")
        (here / "part").rename(here / "building")
        child.wait()
    (made,) = here.glob("*.whl")
    return pathlib.Path(shutil.copy(made, folder)).name
"""


def source(folder: Path) -> None:
    """A package that has to be built, by a program that starts another one and waits until the file `go` is there."""
    files = {
        "PKG-INFO": "Metadata-Version: 2.2\nName: tinypkg\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "tinypkg"\nversion = "1.0"\n',
        "backend.py": BACKEND,
    }
    with tarfile.open(folder / "tinypkg-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"tinypkg-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


def an_environment(*pip: str) -> Manifest:
    return {"environment": {"hash": environment_hash("", pip), "name": "env:1", "conda": "", "pip": list(pip)}}


def test_an_environment_that_is_told_to_end_takes_its_programs_along_and_can_be_built_again(tmp_path: Path) -> None:
    links, here, root = tmp_path / "links", tmp_path / "here", tmp_path / "root"
    links.mkdir()
    here.mkdir()
    source(links)
    wheel(here, "tinypkg", "1.0")
    plan = an_environment("tinypkg==1.0")
    target = root / plan["environment"]["hash"]
    offline = {"MOORAGE_INTERPRETER": "shared", "UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(links), "TESTED": str(here)}
    with container("environment", plan, tmp_path, "--root", str(root), env=offline) as process:
        deadline = time.monotonic() + SECONDS
        while not (here / "building").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        told_to_end(process)
    until_gone(*map(int, (here / "building").read_text().split()))
    assert not target.exists()
    assert not list((root / ".building").iterdir()), "a volume that stays keeps nothing that is half built"
    (here / "go").touch()
    with container("environment", plan, tmp_path, "--root", str(root), env=offline) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert "Another pod" not in output
    assert (target / READY).exists()


def test_whoever_waits_for_another_pods_environment_hears_that_it_should_end(tmp_path: Path) -> None:
    plan, root = an_environment("tinypkg==1.0"), tmp_path / "root"
    lock = root / ".locks" / plan["environment"]["hash"]
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with container("environment", plan, tmp_path, "--root", str(root)) as process:
            assert process.stdout is not None
            assert "Another pod is preparing environment env:1" in process.stdout.readline()
            told_to_end(process)


def test_a_program_that_is_just_being_started_does_not_stay_either() -> None:
    code = """
import signal, subprocess
from moorage.podside import programs

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print(self.pid, flush=True)
        signal.raise_signal(signal.SIGTERM)

subprocess.Popen = Popen
programs.end_at_sigterm(137)
programs.run(["sleep", "1000"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=SECONDS)
    assert ended.returncode == plain.KILLED, ended.stderr
    until_gone(int(ended.stdout))
