"""`single.sh`: a job's one process hears SIGTERM and ends with the exit code that is its own, in the shells that images have.

Here it is no process 1; `tests/real/test_containers.py` has it as one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from moorage.podside.install import install_start

SHELLS = {name: [found, *more] for name, *more in (("dash",), ("bash",), ("busybox", "sh")) if (found := shutil.which(name))}
# Enough for a machine that does ten other things.
SECONDS = 60.0
NONE: Mapping[str, str] = MappingProxyType({})
# Begins with a file of its name, and stores a checkpoint when told.
STORES = """
import pathlib, signal, sys, time
def store(*_):
    print("storing", flush=True)
    time.sleep(0.1)
    with open("checkpoint", "a") as file:
        file.write("stored\\n")
    print("stored", flush=True)
    sys.exit(CODE)
signal.signal(signal.SIGTERM, store)
pathlib.Path("begun").touch()
while True:
    time.sleep(0.01)
"""
# Begins with a file of its name, and says nothing about signals.
PLAIN = 'import pathlib, time\npathlib.Path("begun").touch()\nwhile True: time.sleep(0.01)\n'
# Has somebody that works for it, and ends with them.
LEADS = """
import pathlib, signal, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-Sc", "import pathlib, time; pathlib.Path('working').touch(); time.sleep(600)"])
def end(*_):
    time.sleep(0.1)
    print("worker", worker.poll(), flush=True)
    worker.kill()
    worker.wait()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
while not pathlib.Path("working").exists(): time.sleep(0.01)
pathlib.Path("begun").touch()
while True: time.sleep(0.01)
"""


# One shell in the fast ring.
@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] if number else []) for number, name in enumerate(SHELLS)])
def shell(request: pytest.FixtureRequest) -> list[str]:
    return SHELLS[request.param]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The working folder, and what ends the rest once process 1 has ended, as a container does."""
    install_start(tmp_path / "start")
    for name, text in (
        ("stores", STORES.replace("CODE", "0")),
        ("stores7", STORES.replace("CODE", "7")),
        ("plain", PLAIN),
        ("leads", LEADS),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    # As in a container: what was ignored when a shell began (nohup) it can never hear.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield tmp_path
    finally:
        signal.signal(signal.SIGHUP, before)
    while left := [process for process in Path("/proc").glob("[0-9]*") if works_in(tmp_path, process)]:
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)


def works_in(folder: Path, process: Path) -> bool:
    try:
        return process.joinpath("cwd").readlink() == folder
    except OSError:
        return False


def begin(shell: list[str], folder: Path, command: str, *, variables: Mapping[str, str] = NONE) -> subprocess.Popen[bytes]:
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [*shell, str(folder / "start" / "single.sh"), command],
            cwd=folder,
            env={**os.environ, "python": sys.executable, **variables},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def ended(process: subprocess.Popen[bytes], folder: Path) -> tuple[int, str]:
    try:
        return process.wait(SECONDS), (folder / "said").read_text()
    finally:
        process.kill()
        process.wait()


def told(shell: list[str], folder: Path, command: str, number: int = signal.SIGTERM) -> tuple[int, str]:
    """How a command ends and what it says that is told once it has begun."""
    process = begin(shell, folder, command)
    until((folder / "begun").exists)
    process.send_signal(number)
    return ended(process, folder)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("command", "code"),
    [("true", 0), ("exit 1", 1), ("exit 143", 143), ("kill -9 $$", 137), ("kill -15 $$", 143), ("kill -11 $$", 139), ("./nothing", 127)],
)
def test_a_command_that_nobody_told_ends_with_its_own_exit_code(shell: list[str], folder: Path, command: str, code: int) -> None:
    found, said = ended(begin(shell, folder, command), folder)
    assert found == code
    # Nothing of this shell's own about signals.
    assert said == "" or (code == 127 and "nothing" in said)


def test_a_command_speaks_for_itself_and_finds_its_own_variables_whatever_their_names(shell: list[str], folder: Path) -> None:
    names = set(re.findall(r"\b(_[a-z]+)=", (folder / "start" / "single.sh").read_text()))
    assert {"_process", "_heard", "_code"} <= names
    mine = {name.lstrip("_") for name in names}
    process = begin(shell, folder, "echo first; echo second >&2; echo third; cat; env", variables=dict.fromkeys(mine, "mine"))
    code, said = ended(process, folder)
    assert (code, said.splitlines()[:3]) == (0, ["first", "second", "third"])
    assert {f"{name}=mine" for name in mine} <= set(said.splitlines())
    assert not {line.partition("=")[0] for line in said.splitlines()} & names


def test_what_a_command_leaves_in_the_background_does_not_keep_it_going(shell: list[str], folder: Path) -> None:
    assert ended(begin(shell, folder, "sleep 600 & exit 4"), folder) == (4, "")


@pytest.mark.parametrize("command", ["exec $python -S plain.py", "$python -S plain.py; echo after", "$python -S plain.py | cat"])
def test_a_command_that_says_nothing_about_sigterm_ends_of_it(shell: list[str], folder: Path, command: str) -> None:
    assert told(shell, folder, command) == (143, "")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exec $python -S stores.py", 0),
        ("exec $python -S stores7.py", 7),
        # The shell is told as well, so that it does not begin what comes after.
        ("$python -S stores.py; echo after", 143),
        ("$python -S stores.py & wait", 143),
        # What is said while a checkpoint is stored still has a reader.
        ("$python -S stores.py 2>&1 | tee log", 143),
        ("(cd . && $python -S stores.py; echo after) | cat", 143),
    ],
)
def test_a_command_that_catches_sigterm_has_time_for_its_checkpoint(shell: list[str], folder: Path, command: str, code: int) -> None:
    assert told(shell, folder, command) == (code, "storing\nstored\n")
    assert (folder / "checkpoint").read_text() == "stored\n"


def test_a_shell_that_catches_sigterm_need_not_wait_for_its_command(shell: list[str], folder: Path) -> None:
    code, said = told(shell, folder, "trap 'echo told; exit 5' TERM; $python -S stores.py; echo after")
    assert (code, said) == (5, "storing\nstored\ntold\n")


def test_a_shell_that_catches_sigterm_tells_its_background_itself(shell: list[str], folder: Path) -> None:
    if "busybox" in shell[0]:
        pytest.skip("it has what it starts ignore SIGINT, so that background and foreground look the same")
    command = "trap 'kill $own; wait $own; exit 6' TERM; $python -S stores.py & own=$!; wait $own"
    assert told(shell, folder, command) == (6, "storing\nstored\n")


def test_a_program_that_catches_sigterm_answers_for_what_it_has_started(shell: list[str], folder: Path) -> None:
    """As a training loop does whose data loaders must last until its checkpoint is stored."""
    assert told(shell, folder, "exec $python -S leads.py") == (0, "worker None\n")


def test_sigterm_is_heard_before_the_command_has_begun(shell: list[str], folder: Path) -> None:
    if "busybox" in shell[0]:
        pytest.skip("it has an `env` of its own")
    programs = folder / "programs"
    programs.mkdir()
    # What the copy of the shell asks that is to become the command: it tells the shell, and does not answer.
    told = "kill -s TERM $(cut -d' ' -f4 /proc/$PPID/stat)"
    (programs / "env").write_text(f"#!/bin/sh\ntouch asked\n{told}\nexec sleep 600\n")
    (programs / "env").chmod(0o755)
    process = begin(shell, folder, "touch begun", variables={"PATH": f"{programs}:{os.environ['PATH']}"})
    assert ended(process, folder) == (143, "")
    assert (folder / "asked").exists() and not (folder / "begun").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGHUP, 129)])
def test_what_else_is_sent_to_process_1_reaches_the_command(shell: list[str], folder: Path, number: int, code: int) -> None:
    assert told(shell, folder, "exec $python -S plain.py", number) == (code, "")


def test_a_command_can_be_interrupted_where_the_image_has_an_env_that_helps(shell: list[str], folder: Path) -> None:
    helps = subprocess.run(["env", "--default-signal=INT,QUIT", "true"], check=False, capture_output=True).returncode == 0
    _, said = ended(begin(shell, folder, "grep ^SigIgn: /proc/self/status"), folder)
    assert int(said.split()[1], 16) & 2 == (0 if helps and "busybox" not in shell[0] else 2)
