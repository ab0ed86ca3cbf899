"""`start.sh`: the processes of one instance in the shells that images have, and how they end together."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import pytest

from moorage.errors import Invalid
from moorage.podside import peers
from moorage.podside.peers import Gate, wait
from moorage.specs.distribution import Layout
from moorage.training.launchers import plain

SHELLS = [found for name in ("dash", "bash") if (found := shutil.which(name))]
# Enough for a machine that does ten other things.
SECONDS = 60.0
NONE: Mapping[str, str] = MappingProxyType({})
LAYOUT = Layout("PyTorch", 2, 2, 3)


@pytest.fixture(params=SHELLS, ids=[Path(shell).name for shell in SHELLS])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the gate leaves on instance 1 of two with three processes each."""
    (tmp_path / "annotation").write_text(json.dumps([{"pod": f"p-{index}", "address": f"10.0.0.{index}"} for index in range(2)]))
    wait(LAYOUT, Gate(tmp_path / "annotation", 1, 20001, tmp_path / "peers", tmp_path / "logs"))
    return tmp_path


def begin(shell: str, folder: Path, command: str, *, variables: Mapping[str, str] = NONE) -> subprocess.Popen[str]:
    words, known = [shell, str(folder / "peers" / "start.sh"), command], {**os.environ, **variables}
    return subprocess.Popen(words, cwd=folder, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_process_has_its_numbers_and_a_log_of_its_own(shell: str, folder: Path) -> None:
    out, said = (
        process := begin(shell, folder, 'echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT"')
    ).communicate(timeout=SECONDS)
    assert (process.returncode, out, said) == (0, "3/6 0/3 10.0.0.0:20001\n", "")
    logs = {each.name: each.read_text() for each in (folder / "logs").iterdir()}
    assert logs == {f"std_log_process_{rank}.txt": f"{rank}/6 {rank - 3}/3 10.0.0.0:20001\n" for rank in (4, 5)}


def test_a_command_finds_its_own_variables_whatever_their_names(shell: str, folder: Path) -> None:
    names = {"patience", *re.findall(r"\b_?([a-z]\w*)=", (folder / "peers" / "start.sh").read_text())}
    assert {"command", "folder", "log", "state"} <= names
    shown = begin(shell, folder, "env", variables=dict.fromkeys(names, "mine"))
    out, _ = shown.communicate(timeout=SECONDS)
    assert shown.returncode == 0
    assert {f"{name}=mine" for name in names} <= set(out.splitlines())


def test_a_failure_stays_one_when_the_command_removes_what_is_not_its_own(shell: str, folder: Path) -> None:
    process = begin(shell, folder, 'if [ "$LOCAL_RANK" = 1 ]; then rm -r peers/processes; exit 5; fi')
    process.communicate(timeout=SECONDS)
    assert process.returncode == 5


def test_a_full_disk_hides_no_failure_and_keeps_nobody_running(shell: str, folder: Path) -> None:
    """What asks for room finds none once the processes run."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "mkdir").write_text(
        f'#!/bin/sh\n[ -e full ] || exec {shutil.which("mkdir")} "$@"\necho No space left on device >&2\nexit 1\n'
    )
    (programs / "mkdir").chmod(0o755)
    command = """touch ready-$LOCAL_RANK
if [ "$LOCAL_RANK" != 1 ]; then exec sleep 600; fi
until [ -e ready-0 ] && [ -e ready-2 ]; do sleep 0.02; done
touch full; exit 5"""
    process = begin(shell, folder, command, variables={"PATH": f"{programs}:{os.environ['PATH']}"})
    process.communicate(timeout=SECONDS)
    assert process.returncode == 5


def test_the_first_failure_ends_all_with_its_code_and_says_its_last_lines(shell: str, folder: Path) -> None:
    # A child of the command's own too.
    command = 'if [ "$LOCAL_RANK" = 2 ]; then echo oh no >&2; exit 7; fi; sleep 600 & echo $! >pid-$LOCAL_RANK; wait'
    _, said = (process := begin(shell, folder, command)).communicate(timeout=SECONDS)
    assert process.returncode == 7
    assert "Process 5 ended with exit code 7. The last lines of user_logs/std_log_process_5.txt:\noh no\n" in said
    for left in folder.glob("pid-*"):
        until(lambda left=left: not alive(left))  # type: ignore[misc]


def alive(file: Path) -> bool:
    # Empty when the shell was ended between making and writing it: then there is no child.
    pid = file.read_text().strip()
    try:
        # A zombie is as good as gone; who adopts it may never ask for its status.
        return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_process_is_a_failure_of_its_signals_code(shell: str, folder: Path) -> None:
    process = begin(shell, folder, 'if [ "$LOCAL_RANK" = 0 ]; then kill -9 $$; fi; exec sleep 600')
    process.communicate(timeout=SECONDS)
    assert process.returncode == 137


def test_sigterm_reaches_every_process(shell: str, folder: Path) -> None:
    command = 'trap "echo told; exit 0" TERM; touch ready-$LOCAL_RANK; while :; do sleep 0.05; done'
    process = begin(shell, folder, command)
    until(lambda: len(list(folder.glob("ready-*"))) == LAYOUT.processes)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=SECONDS)
    # The command's shell may speak of its `sleep` too, which was told as well.
    assert process.returncode == 143
    assert [each.splitlines()[-1:] for each in (out, *(log.read_text() for log in (folder / "logs").iterdir()))] == [["told"]] * 3


@pytest.mark.slow  # it waits out the patience
def test_sigterm_is_heard_before_the_first_process_has_begun(shell: str, folder: Path) -> None:
    (folder / "bin").mkdir()
    mkdir = folder / "bin" / "mkdir"
    mkdir.write_text(f'#!/bin/sh\n{shutil.which("mkdir")} "$@"\nkill -s TERM "$PPID"\n')
    mkdir.chmod(0o755)
    process = begin(shell, folder, "touch begun", variables={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"})
    said = process.communicate(timeout=SECONDS)
    # And not killed by the signal, which process 1 would not have been.
    assert (process.returncode, said) == (143, ("", ""))
    assert not (folder / "begun").exists()


def test_a_process_that_ignores_sigterm_is_killed(shell: str, folder: Path) -> None:
    known = folder / "peers" / "instance.sh"
    known.write_text(known.read_text() + "_patience=1\n")
    command = 'trap "" TERM; touch ready-$LOCAL_RANK; if [ "$LOCAL_RANK" = 1 ]; then until [ -e ready-0 ] && [ -e ready-2 ]; do sleep 0.02; done; exit 3; fi; while :; do sleep 0.05; done'
    process = begin(shell, folder, command)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 3


def test_a_gate_that_is_told_to_end_does_so_at_once_as_one_that_was_killed(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"layout": asdict(LAYOUT)}))
    places = [word for name in ("annotation", "to", "logs") for word in (f"--{name}", str(tmp_path / name))]
    words = [sys.executable, "-um", "moorage.podside", "peers", "--plan", str(plan), "--index", "0", "--port", "20000", *places]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "Waiting for the other" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    # Replaced by the Job, as long as nobody else has failed: `plain.failure_rules`.
    assert process.returncode == plain.KILLED


def test_the_gate_waits_for_its_peers_and_refuses_what_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotation = tmp_path / "annotation"
    looks = []

    def appear(seconds: float) -> None:
        """The node's part, in the pause of the gate: no file yet, an empty one, the annotation."""
        looks.append(seconds)
        annotation.write_text("" if len(looks) == 1 else '[{"pod": "p", "address": "10.0.0.1"}]')

    monkeypatch.setattr(peers, "sleep", appear)
    gate = Gate(annotation, 0, 20000, tmp_path / "to", tmp_path / "logs")
    wait(Layout("PyTorch", 1, 1, 1), gate)
    assert len(looks) == 2
    assert "export MASTER_ADDR=10.0.0.1\n" in (tmp_path / "to" / "instance.sh").read_text()
    with pytest.raises(Invalid, match="names 1 peers; the job has 2 instances"):
        wait(Layout("", 2, 2), gate)
    annotation.write_text("nonsense")
    with pytest.raises(Invalid, match="is not a JSON list of pods"):
        wait(Layout("", 2, 2), gate)
