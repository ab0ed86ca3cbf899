"""The whole stack as a user runs it: real processes, a state folder of its own, free ports, the `moorage` command in a shell's place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.ports import free_ports

ROOT = Path(__file__).parent.parent.parent
MOORAGE = [sys.executable, "-m", "moorage"]
KUBECTL = Path(sys.executable).parent / "kubectl"
EXAMPLE = ROOT / "examples" / "digits"


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Stack:
    """A state folder with whatever runs on it."""

    home: Path
    ports: tuple[int, int]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOORAGE_", "KUBE"))}
        return kept | {
            "MOORAGE_HOME": str(self.home),
            "KUBECONFIG": str(self.home / "cluster" / "kubeconfig"),
            "HOME": str(self.home.parent),
            **self.settings,
        }

    def run(self, *words: str, timeout: float = 300, cwd: Path = ROOT) -> Ran:
        done = subprocess.run(
            [*MOORAGE, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, timeout: float = 300) -> Ran:
        """Run a command that must succeed."""
        ran = self.run(*words, timeout=timeout)
        assert ran.code == 0, f"moorage {' '.join(words)} ended with {ran.code}\n{ran.out}\n{ran.err}\n{self.logs()}"
        return ran

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*MOORAGE, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL
        )
        self.started.append(process)
        return process

    def up(self, *words: str, timeout: float = 300) -> Ran:
        return self.run("up", "--api-port", str(self.ports[0]), "--port", str(self.ports[1]), *words, timeout=timeout)

    def kubectl(self, *words: str, timeout: float = 60, stdin: str | None = None) -> Ran:
        done = subprocess.run(
            [KUBECTL, *words], capture_output=True, text=True, timeout=timeout, env=self.environment, input=stdin, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def pid(self, role: str) -> int:
        return int(json.loads((self.home / "run" / f"{role}.json").read_text())["pid"])

    def kill(self, role: str) -> None:
        os.kill(self.pid(role), signal.SIGKILL)

    def kill_in_pod(self, namespace: str, labels: str, pattern: str) -> None:
        """kill -9 the matching process of the pod with these labels, known by the pod's address in its environment, as soon as there is one."""

        def killed() -> bool:
            address = self.kubectl("get", "pods", "-n", namespace, "-l", labels, "-o", "jsonpath={.items[0].status.podIP}").out
            found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False).stdout.split()
            mine = [int(pid) for pid in found if address and f"POD_IP={address}" in _variables(pid)]
            for pid in mine:
                with suppress(ProcessLookupError):  # the shell around another one that was killed
                    os.kill(pid, signal.SIGKILL)
            return bool(mine)

        self.until(killed, f"a process of the pod with {labels} matches {pattern}")

    def logs(self) -> str:
        """The ends of the services' logs without the requests, and what is in the cluster, for a failing test's message."""
        said = [f"--- {path.name}\n{_without_requests(path)[-3000:]}" for path in sorted((self.home / "logs").glob("*.log"))]
        for words in (
            ["get", "pods,jobs.batch,podgroups,trainingjobs,onlinedeployments", "-A", "-o", "wide"],
            ["get", "events", "-A", "--sort-by=.lastTimestamp"],
            ["logs", "-n", "azureml", "-l", "app.kubernetes.io/component=gateway", "--tail=30", "--prefix", "--all-containers"],
        ):
            try:
                ran = self.kubectl(*words)
                said.append(f"--- kubectl {' '.join(words)}\n{ran.out[-6000:]}{ran.err[-1000:]}")
            except subprocess.TimeoutExpired:
                said.append(f"--- kubectl {' '.join(words)}\nno answer")
        return "\n".join(said)

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
        """Wait for something of the world outside this process; nothing there could wake us."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.logs()}"
            time.sleep(0.1)

    def job_status(self, name: str) -> str:
        ran = self.run("job", "show", "--name", name, "--query", "status", "-o", "tsv")
        return ran.out.strip()

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self.home.exists():
            self.run("down", "--purge", "--yes", timeout=110)
        shutil.rmtree(self.home.parent, ignore_errors=True)


def _without_requests(path: Path) -> str:
    return "".join(line for line in path.read_text(errors="replace").splitlines(keepends=True) if " moorage.access " not in line)


def _variables(pid: str) -> list[str]:
    """The environment of a process; nothing of one that has ended since it was found: any program of the machine may match."""
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def new_stack(folder: Path) -> Stack:
    folder.mkdir(parents=True, exist_ok=True)
    api, port = free_ports(2)
    return Stack(folder / "moorage", (api, port))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack, shared by the tests of a file, which leave it running."""
    made = new_stack(tmp_path_factory.mktemp("stack"))
    try:
        ran = made.up()
        assert ran.code == 0, f"{ran.out}\n{ran.err}\n{made.logs()}"
        yield made
    finally:
        made.close()


@pytest.fixture
def gate() -> Iterator[Path]:
    """A file that a job waits for. Not below /tmp: each container has a /tmp of its own."""
    folder = Path(tempfile.mkdtemp(prefix="moorage-test-", dir="/var/tmp"))
    yield folder / "gate"
    shutil.rmtree(folder)


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A state folder of the test's own, nothing started."""
    made = new_stack(tmp_path / "own")
    try:
        yield made
    finally:
        made.close()
