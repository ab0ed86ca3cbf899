"""What a shell gets that completes a line of `moorage`; names of the workspace are in tests/embedded/test_client_completion.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from moorage.cli.main import main


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MOORAGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOORAGE_HOME", str(tmp_path / "home"))


def offered(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str, shell: str = "bash") -> tuple[int, str, str]:
    """What is answered for the last of these words."""
    monkeypatch.setenv("_MOORAGE_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "\n".join(("moorage", *words)))
    monkeypatch.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(len(words)))
    capfd.readouterr()
    code = main([])
    out, err = capfd.readouterr()
    return int(code), out, err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("job", "sho"), "plain,show\nplain,show-services\n"),
        (("job", "create", "--file", "tr"), "file,tr\n"),
        (("job", "create", "--file", "=", "tr"), "file,tr\n"),
        (("job", "download", "-p", ""), "dir,\n"),
        (("online-endpoint", "invoke", "--request-file", ""), "file,\n"),
        (("up", "--tour", ""), "dir,\n"),
        (("login", "--ca", ""), "file,\n"),
        (("az", "install", ""), "dir,\n"),
        (("model", "show", "-n", "x", "--label", ""), "plain,latest\n"),
        (("environment", "list", "--registry-name", "az"), "plain,azureml\n"),
        (("job", "list", "-o", "js"), "plain,json\nplain,jsonc\n"),
        (("job", "list", "-o", "=", "js"), "\n"),
    ],
)
def test_what_needs_no_service_is_completed_without_one(
    words: tuple[str, ...], answer: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offered(capfd, monkeypatch, *words) == (0, answer, "")


def test_each_shell_gets_the_word_that_it_replaces(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for shell, answer in (("zsh", "plain\n--output=yaml\n_\n"), ("fish", "plain,--output=yaml\n")):
        assert offered(capfd, monkeypatch, "job", "list", "--output=y", shell=shell) == (0, answer, "")
    assert offered(capfd, monkeypatch, "job", "list", "--output", "=", "y") == (0, "plain,yaml\n", "")
    assert offered(capfd, monkeypatch, "job", "list", "--output", "=")[1].startswith("plain,json\n")


@pytest.mark.parametrize(
    "words",
    [
        ("jbo", "show", "-n", ""),
        ("job", "shwo", "-n", ""),
        ("job", "show", "-n", ""),
        ("model", "show", "-v", ""),
        ("online-deployment", "show", "-n", ""),
        ("job", "create", "-n", ""),
        ("job", "show", "--name", "'half"),
        ("job", "update", "--set", "a=b", "--add", ""),
    ],
)
def test_where_there_is_nothing_to_offer_nothing_is_printed(
    words: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, err = offered(capfd, monkeypatch, *words)
    assert (out.strip(), err) == ("", "")


def test_a_broken_profile_or_an_unknown_shell_is_not_told_to_the_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text("url = [")
    _, out, err = offered(capfd, monkeypatch, "job", "show", "-n", "")
    assert (out.strip(), err) == ("", "")
    assert offered(capfd, monkeypatch, "job", "", shell="tcsh") == (1, "", "")


def test_a_service_that_takes_the_connection_and_never_answers_does_not_hold_the_shell_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        profile = {
            "MOORAGE_URL": f"https://127.0.0.1:{silent.getsockname()[1]}",
            "MOORAGE_TOKEN": "secret",
            "MOORAGE_SUBSCRIPTION": "s",
            "MOORAGE_RESOURCE_GROUP": "g",
            "MOORAGE_WORKSPACE": "w",
        }
        line = {"_MOORAGE_COMPLETE": "bash_complete", "COMP_WORDS": "moorage\njob\nshow\n-n\n", "COMP_CWORD": "4"}
        # The client itself would wait for a minute, four times.
        done = subprocess.run(
            [sys.executable, "-m", "moorage.cli.main"],
            env={**os.environ, "MOORAGE_HOME": str(tmp_path), **profile, **line},
            capture_output=True,
            text=True,
            check=True,
            timeout=55,
        )
    assert (done.stdout.strip(), done.stderr) == ("", "")
