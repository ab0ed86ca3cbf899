"""Names of the workspace, completed by the real service and in a real bash."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.embedded.client_peers import Agent, Run, agent, client, moorage, profile, service, token

from moorage.cli.main import main
from moorage.client.profile import Profile, save

__all__ = ["agent", "client", "moorage", "profile", "service", "token"]

MODEL = "name: digits\nversion: '7'\npath: azureml://datastores/workspaceblobstore/paths/m/\n"
JOB = "type: command\ncommand: echo hello\nenvironment: {image: 'python:3.11'}\ncompute: azureml:local\noutputs: {model: {}}\n"
ENDPOINT = "name: scored\ncompute: azureml:local\nauth_mode: key\n"


@pytest.fixture
def offered(profile: Profile, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """What is offered for the last of some words."""
    # As long as it takes on a busy machine: what is tested here is the answer.
    monkeypatch.setenv("MOORAGE_COMPLETION_SECONDS", "60")

    def complete(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with monkeypatch.context() as line:
            line.setenv("_MOORAGE_COMPLETE", "bash_complete")
            line.setenv("COMP_WORDS", "\n".join(("moorage", *words)))
            line.setenv("COMP_CWORD", str(len(words)))
            code = main([])
        out, err = capfd.readouterr()
        return int(code), out.replace("plain,", "").strip(), err

    return complete


@pytest.mark.slow  # a process for each TAB
def test_names_are_those_of_the_workspace(agent: Agent, moorage: Run, offered: Run, tmp_path: Path) -> None:
    def document(text: str) -> str:
        (tmp_path / "document.yml").write_text(text)
        return str(tmp_path / "document.yml")

    assert moorage("model", "create", "-f", document(MODEL))[0] == 0
    for name in ("first-job", "second-job"):
        assert moorage("job", "create", "-f", document(JOB), "-n", name)[0] == 0
    assert moorage("online-endpoint", "create", "-f", document(ENDPOINT), "--no-wait")[0] == 0
    for words, names in {
        "job show -n ": "second-job\nfirst-job",
        "job stream --name fi": "first-job",
        "job stream --name = fi": "first-job",
        "job list --parent-job-name s": "second-job",
        "job cancel -n f": "first-job",
        "job download -n first-job --output-name ": "default\nmodel",
        "model show -n ": "digits",
        "model list -n ": "digits",
        "model show -n digits -v ": "7",
        "model show --name = digits --version ": "7",
        "model show -n absent -v ": "",
        "model create -n ": "",
        "compute show -n ": "local",
        "cluster show -n ": "c1",
        "online-endpoint create --compute ": "local",
        "online-endpoint show -n s": "scored",
        "online-deployment list -e ": "scored",
        "online-deployment show -e scored -n ": "",
        "online-endpoint invoke -n scored -d ": "",
        "datastore show -n workspaceb": "workspaceblobstore",
        "model create --datastore workspacea": "workspaceartifactstore",
        "environment show --registry-name azureml -n sklearn-1.5-": "sklearn-1.5-ubuntu22.04-py310-cpu",
        "environment show --registry-name azureml -n sklearn-1.5 -v ": "1",
        "job show -w ": "default",
        "workspace show -n d": "default",
        "job show -w absent -n ": "",
    }.items():
        assert offered(*words.split(" ")) == (0, names, ""), words
    assert moorage("job", "archive", "-n", "first-job")[0] == 0
    assert [offered("job", verb, "-n", "")[1] for verb in ("restore", "show")] == ["first-job", "second-job"]
    save({"workspace": ""})
    assert offered("workspace", "show", "-n", "d") == (0, "default", "")
    save({"token": "bad"})
    assert offered("job", "show", "-n", "") == (0, "", ""), "who may not read is offered nothing, and told nothing"


def test_bash_completes_a_name_as_it_is_typed(agent: Agent, moorage: Run, profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "train.yml").write_text(JOB)
    assert moorage("job", "create", "-f", str(tmp_path / "train.yml"), "-n", "calm-harbor")[0] == 0
    (tmp_path / "moorage").write_text(f'#!/bin/sh\nexec {sys.executable} -m moorage.cli.main "$@"\n')
    (tmp_path / "moorage").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    # Its own session: what is typed reaches no other shell.
    terminal, end = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "TERM": "dumb", "PS1": "> ", "MOORAGE_COMPLETION_SECONDS": "60"},
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    try:
        seen = ""

        def typed(keys: str, until: str) -> None:
            nonlocal seen
            os.write(terminal, keys.encode())
            seen, deadline = "", time.monotonic() + 120
            while until not in seen:
                assert time.monotonic() < deadline, seen
                if select.select([terminal], [], [], 1.0)[0]:
                    seen += os.read(terminal, 65536).decode(errors="replace")

        # Spelt so that its echo is not taken for its result.
        typed('eval "$(moorage completion bash)" && echo re""ady\n', "ready")
        typed("moorage job stream -n calm-\t", "calm-harbor ")
        typed("\x15moorage job stream --name=cal\t", "=calm-harbor ")
        typed("\x15moorage job create -f tra\t", "train.yml ")
        assert "error" not in seen and "Traceback" not in seen
    finally:
        os.close(terminal)
        shell.wait(90)
