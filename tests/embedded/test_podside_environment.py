"""Environments, prepared for real with uv from a wheel made here; nothing is taken from a network."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.fixtures.wheels import wheel

from moorage.errors import Invalid, MoorageError
from moorage.podside.environment import READY, prepare
from moorage.specs import workload
from moorage.specs.environment import SUBSTITUTE, environment_hash
from moorage.specs.manifest import Manifest


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder, "tinypkg", "1.0")
    # As on nodes of ours; what the others do stands in test_podside_interpreter.py.
    monkeypatch.setenv("MOORAGE_INTERPRETER", "shared")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    return folder


def plan(*pip: str, conda: str = "") -> Manifest:
    return {"environment": {"hash": environment_hash(conda, pip), "name": "env:1", "conda": conda, "pip": list(pip)}}


def run(root: Path, wanted: Manifest, program: str, *arguments: str) -> str:
    path = root / str(wanted["environment"]["hash"]) / "bin" / program
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout.strip()


def test_an_environment_is_prepared_once_and_its_scripts_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, wanted = tmp_path / "root", plan("tinypkg==1.0", conda="dependencies:\n  - python=3.11\n")
    prepare(wanted, root)
    assert run(root, wanted, "python", "-c", "import tinypkg; print(tinypkg.VALUE)") == "42"
    assert run(root, wanted, "tiny") == "tiny 42"
    assert list((root / wanted["environment"]["hash"]).rglob("tinypkg/__pycache__/*.pyc")), "users see it read-only"
    assert not list((root / ".building").iterdir())
    capsys.readouterr()
    prepare(wanted, root)
    assert capsys.readouterr().out == f"Environment {wanted['environment']['hash']} is there already\n"


@pytest.mark.slow  # a real installation
def test_a_ready_made_environment_makes_do_with_another_python_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conda = f"dependencies:\n- python=3.2\n- pip:\n  - tinypkg==0.9.*\n{SUBSTITUTE}: true\n"
    root, wanted = tmp_path / "root", plan(conda=conda)
    notice = prepare(wanted, root)
    assert "env:1 is made for Python 3.2, which this cluster does not have; it runs on Python 3." in notice
    assert f"Warning: {notice}" in capsys.readouterr().out
    assert run(root, wanted, "tiny") == "tiny 42", "1.0 is the nearest version above 0.9"
    assert prepare(wanted, root) == notice, "whoever finds it there is told as well"


@pytest.mark.slow  # two environments are made
def test_an_environment_of_the_user_s_own_gets_its_python_or_none(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"asks for Python 3\.2, which this cluster cannot provide"):
        prepare(plan(conda="dependencies:\n- python=3.2\n"), tmp_path / "root")


def test_what_a_killed_pod_left_is_built_anew(tmp_path: Path) -> None:
    root, wanted = tmp_path / "root", plan("tinypkg")
    key = wanted["environment"]["hash"]
    for left in (root / ".building" / key, root / key):
        (left / "bin").mkdir(parents=True)
        (left / "bin/python").write_text("half")
    prepare(wanted, root)
    assert (root / key / READY).exists()
    assert run(root, wanted, "tiny") == "tiny 42"


def test_two_pods_prepare_it_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, wanted = tmp_path / "root", plan("tinypkg")
    pods = [threading.Thread(target=prepare, args=(wanted, root)) for _ in range(2)]
    for pod in pods:
        pod.start()
    for pod in pods:
        pod.join()
    assert capfd.readouterr().out.count("Prepared environment") == 1


def test_nothing_to_prepare_prepares_nothing(tmp_path: Path) -> None:
    prepare({"downloads": []}, tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("wanted", "code", "words"),
    [
        (plan("no-such-package"), "RequirementNotFound", "'no-such-package' does not exist"),
        (plan("tinypkg==2.0"), "RequirementNotFound", "tinypkg==2.0"),
        pytest.param(
            plan(conda="dependencies: ['python=2.7']"),
            "PythonNotFound",
            "Python 2.7, which this cluster cannot provide. It has: 3.",
            marks=pytest.mark.slow,  # every interpreter is looked for
        ),
    ],
)
def test_what_cannot_be_had_is_named_in_one_sentence_and_leaves_nothing(tmp_path: Path, wanted: Manifest, code: str, words: str) -> None:
    root = tmp_path / "root"
    with pytest.raises(MoorageError) as caught:
        prepare(wanted, root)
    assert isinstance(caught.value, Invalid)
    assert caught.value.code == code
    assert words in caught.value.message
    assert not (root / wanted["environment"]["hash"]).exists()


@pytest.mark.slow  # an environment is made
def test_an_exact_python_gives_way_to_its_minor_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minor = ".".join(map(str, sys.version_info[:2]))
    wanted = plan(conda=f"dependencies: ['python={minor}.99']")
    prepare(wanted, tmp_path / "root")
    assert f"Python {minor}.99 is not available; another Python {minor} is used" in capsys.readouterr().out


@pytest.mark.slow  # two environments and an installation
def test_what_a_job_installs_lies_above_the_shared_environment(tmp_path: Path, wheels: Path) -> None:
    root, wanted, installs = tmp_path / "root", plan("tinypkg==1.0"), tmp_path / "work" / ".python"
    installs.parent.mkdir()
    prepare(wanted, root)
    environment = root / str(wanted["environment"]["hash"])
    before = sorted(path.name for path in next(environment.glob("lib/*/site-packages")).iterdir())
    wheel(wheels, "tinypkg", "2.0", value=43)
    wheel(wheels, "morepkg", "1.0", value=7)

    def job(command: str) -> str:
        given = {"hash": wanted["environment"]["hash"], "pip": ["tinypkg==1.0"]}
        text = workload.with_environment(given, command, installs=str(installs)).replace(workload.ENVIRONMENTS_FOLDER, str(root))
        done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    install = f"pip install --quiet --disable-pip-version-check --no-index --find-links {wheels}"
    assert job("tiny; python -c 'import sys, tinypkg; print(tinypkg.VALUE, sys.prefix)'") == f"tiny 42\n42 {installs}\n"
    assert job(f"{install} morepkg tinypkg==1.0 && more && tiny") == "more 7\ntiny 42\n", "what is there already is not installed again"
    assert job(f"{install} tinypkg==2.0 && tiny && more") == "tiny 43\nmore 7\n"
    assert (installs / "share" / "morepkg.txt").read_text() == "1.0\n"
    assert run(root, wanted, "tiny") == "tiny 42"
    assert sorted(path.name for path in next(environment.glob("lib/*/site-packages")).iterdir() if path.name != "__pycache__") == before


def test_processes_of_one_pod_may_make_the_place_for_installs_together(tmp_path: Path) -> None:
    root, wanted, installs = tmp_path / "root", plan("tinypkg==1.0"), tmp_path / ".python"
    prepare(wanted, root)
    environment = root / str(wanted["environment"]["hash"])
    command = [str(environment / "bin" / "python"), "-I", str(environment / "overlay.py"), str(installs)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert [path.name for path in tmp_path.glob(".python*")] == [".python"]
    made = subprocess.run(
        [installs / "bin" / "python", "-c", "import tinypkg; print(tinypkg.VALUE)"], capture_output=True, text=True, check=True
    )
    assert made.stdout == "42\n"
