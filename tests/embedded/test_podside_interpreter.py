"""Copies of the interpreter that run where nothing of the image they were taken from exists."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.embedded.test_podside_environment import plan, wheels  # noqa: F401  the fixture makes the wheel

from moorage.errors import MoorageError
from moorage.podside import interpreter
from moorage.podside.interpreter import standalone

SYSTEM = Path("/usr/bin/python3.11")
# Everything of the standard library that is linked to a library of its own.
IMPORTS = "import bz2, ctypes, decimal, hashlib, lzma, sqlite3, ssl, sys, uuid, zlib"

pytestmark = [
    pytest.mark.slow,  # each copies a Python installation
    pytest.mark.skipif(sys.platform != "linux", reason="pods run on Linux"),
]


def in_an_empty_root(root: Path, empty: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a file system that has nothing but the volume `root`, at its own path."""
    inside = empty / root.relative_to("/")
    inside.mkdir(parents=True, exist_ok=True)
    script = 'mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && shift 2 && exec chroot "$@"'
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(root), str(inside), str(empty), *command]
    return subprocess.run(words, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel gives no user and mount namespaces to this user")


@pytest.fixture(scope="module")
def own() -> Path:
    return Path(getattr(sys, "_base_executable", "") or sys.executable)


def test_an_environment_runs_in_a_root_that_has_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moorage.podside.environment import prepare

    monkeypatch.delenv(interpreter.VARIABLE)
    root, wanted = tmp_path / "environments", plan("tinypkg")
    prepare(wanted, root)
    python = root / str(wanted["environment"]["hash"]) / "bin" / "python"
    said = f"{IMPORTS}; import tinypkg, subprocess; print(sys.executable, tinypkg.VALUE, flush=True)"
    said += "; subprocess.run([sys.executable, '-c', 'import tinypkg; print(tinypkg.VALUE)'], check=True)"
    ran = in_an_empty_root(root, tmp_path / "empty", str(python), "-c", said)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [str(python), "42", "42"]
    # What it loads lies on the volume, byte code included: nothing is compiled where the user could not keep it.
    looked = in_an_empty_root(root, tmp_path / "empty", str(python), "-c", "import sys, json; print(json.__cached__, *sys.path)")
    assert all(Path(part).is_relative_to(root) for part in looked.stdout.split()), looked.stdout
    assert Path(looked.stdout.split()[0]).exists()


@pytest.mark.skipif(not SYSTEM.exists(), reason="there is no Python of the distribution here")
def test_a_distributions_python_is_copied_too(tmp_path: Path) -> None:
    root = tmp_path / "environments"
    python = standalone(SYSTEM, root)
    ran = in_an_empty_root(root, tmp_path / "empty", str(python), "-c", f"{IMPORTS}; print(sys.prefix)")
    assert (ran.returncode, ran.stdout.strip()) == (0, str(python.parent.parent)), ran.stderr


def test_a_copy_is_made_once_and_what_a_kill_left_is_made_anew(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "environments"
    code = f"from pathlib import Path; from moorage.podside.interpreter import standalone; print(standalone(Path({str(own)!r}), Path({str(root)!r})))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as first:
        # Killed as soon as it has begun to copy, wherever it is by then.
        while not list(root.glob(".interpreters/*.part")) and first.poll() is None:
            pass
        first.send_signal(signal.SIGKILL)
    python = standalone(own, root)
    # Whole, whoever has made it: the first may have come to its end before the signal did.
    subprocess.run([python, "-c", IMPORTS], check=True)
    changed = python.stat().st_ctime_ns
    assert standalone(own, root) == python
    assert python.stat().st_ctime_ns == changed
    assert [each.name for each in (root / ".interpreters").iterdir()] == [python.parent.parent.name]


def test_a_half_removed_copy_is_not_taken_for_one(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "environments"
    python = standalone(own, root)
    (python.parent.parent / ".moorage-ready").unlink()
    shutil.rmtree(python.parent)
    assert standalone(own, root) == python
    assert python.exists()


def test_a_volume_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path) -> None:
    root, wanted = tmp_path / "environments", tmp_path / "plan.json"
    root.mkdir()
    wanted.write_text(json.dumps(plan("tinypkg")))
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -m moorage.podside environment --plan "$3" --root "$1"'
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(root), sys.executable, str(wanted)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    told = json.loads(ran.stderr.splitlines()[-1])
    assert (ran.returncode, told["code"]) == (1, "VolumeNotWritable")
    assert "chgrp 1000" in told["message"]


def test_what_is_no_interpreter_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MoorageError) as caught:
        standalone(Path("/bin/true"), tmp_path)
    assert caught.value.code == "BrokenInstallation"
    assert not list(tmp_path.glob(".interpreters/*"))
