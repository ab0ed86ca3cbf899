"""The command line and the client against the real service, a process of its own on loopback TLS; the cluster's agent is played over the gateway protocol."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.embedded.client_peers import Agent, Run, Service, agent, client, job_key, moorage, profile, service, token

from moorage.client.assets import datastore
from moorage.client.connection import Client
from moorage.client.profile import Profile
from moorage.client.snapshot import File
from moorage.identity.pki import ensure_authority

__all__ = ["agent", "client", "moorage", "profile", "service", "token"]


@pytest.fixture
def job_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "train.py").write_text("print('hello')\n")
    (folder / "data.csv").write_text("1,2\n")
    (folder / "conda.yml").write_text("dependencies: [python=3.11, pip, {pip: [numpy]}]\n")
    (folder / "train.yml").write_text(
        "type: command\ncommand: python train.py --n ${{inputs.n}} ${{inputs.data}}\ncode: ./src\n"
        "environment: {image: 'python:3.11', conda_file: conda.yml}\ncompute: azureml:local\n"
        "inputs:\n  n: 3\n  data: {type: uri_file, path: data.csv}\noutputs:\n  model: {type: custom_model}\n"
    )
    return folder


def test_a_job_is_submitted_with_its_code_and_inputs_and_nothing_is_sent_twice(agent: Agent, moorage: Run, job_folder: Path) -> None:
    code, out, err = moorage("job", "create", "-f", str(job_folder / "train.yml"), "-n", "first", "--set", "tags.a=b")
    assert code == 0, err
    assert "code: 15 B" in err and "data.csv: 4 B" in err
    job = json.loads(out)
    assert (job["name"], job["status"], job["compute"]) == ("first", "Queued", "azureml:local") or job["status"] in (
        "NotStarted",
        "Preparing",
    )
    assert job["inputs"]["n"] == "3" and job["tags"] == {"a": "b"} and job["experiment_name"] == "job"
    assert job["inputs"]["data"]["path"].startswith("azureml://datastores/workspaceblobstore/paths/LocalUpload/")
    code, out, err = moorage("job", "create", "-f", str(job_folder / "train.yml"), "-n", "second", "--query", "code", "-o", "tsv")
    assert code == 0, err
    assert "code:" not in err and "data.csv" not in err
    assert out.strip() == job["code"]


def test_a_job_is_streamed_to_its_end_over_a_killed_service(service: Service, agent: Agent, moorage: Run, job_folder: Path) -> None:
    assert moorage("job", "create", "-f", str(job_folder / "train.yml"), "-n", "streamed")[0] == 0
    key = job_key("streamed")
    agent.report(agent.status(key, "Queued", message="0/2 nodes are available: 2 Insufficient cpu."))
    agent.report(agent.status(key, "Running"), agent.log(key, 0, "première ligne\n".encode()))
    with following("streamed") as follower:
        assert follower.stdout is not None and follower.stderr is not None
        assert follower.stdout.readline() == "première ligne\n"
        assert "[streamed] Running" in follower.stderr.readline()
        service.end(signal.SIGKILL)
        service.start()
        half = b"zweite Zeile: gr"
        agent.report(agent.log(key, 16, half + "ü".encode()[:1]))
        agent.report(agent.log(key, 16 + len(half) + 1, "ü".encode()[1:] + b"n\n"))
        agent.report(agent.status(key, "Completed", complete=True, exitCode=0))
        out, err = follower.communicate(timeout=90)
    assert follower.returncode == 0, err
    assert out == "zweite Zeile: grün\n"
    assert "[streamed] Completed" in err


@contextmanager
def following(job: str) -> Iterator[subprocess.Popen[str]]:
    """Somebody who follows a job in a process of its own, so that what is shown can be waited for."""
    words = [sys.executable, "-m", "moorage.cli.main", "job", "stream", "-n", job]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_a_job_left_behind_is_fetched(agent: Agent, moorage: Run, client: Client, job_folder: Path, tmp_path: Path) -> None:
    assert moorage("job", "create", "-f", str(job_folder / "train.yml"), "-n", "fetched")[0] == 0
    code, _, err = moorage("job", "download", "-n", "fetched", "-p", str(tmp_path / "out"))
    assert code == 2 and "its outputs can be fetched once it has ended" in err
    with datastore(client) as container:
        container.upload([File("model.pkl", job_folder / "data.csv", 4)], "azureml/fetched/model")
    key = job_key("fetched")
    agent.report(agent.log(key, 0, b"done\n"), agent.status(key, "Completed", complete=True))
    code, _, err = moorage("job", "download", "-n", "fetched", "--all", "-p", str(tmp_path / "out"))
    assert code == 0 and "replaced" not in err, err
    assert (tmp_path / "out" / "artifacts" / "user_logs" / "std_log.txt").read_text() == "done\n"
    assert (tmp_path / "out" / "named-outputs" / "model" / "model.pkl").read_text() == "1,2\n"
    (tmp_path / "out" / "named-outputs" / "model" / "model.pkl").write_text("mine")
    code, _, err = moorage("job", "download", "-n", "fetched", "--output-name", "model", "-p", str(tmp_path / "out"))
    assert code == 0 and "; 1 replaced what was there under the same name, model.pkl for one" in err, err
    assert (tmp_path / "out" / "named-outputs" / "model" / "model.pkl").read_text() == "1,2\n"
    code, _, err = moorage("job", "download", "-n", "fetched", "--output-name", "absent")
    assert code == 2 and "has no output 'absent'; it has model." in err
    code, _, err = moorage("model", "create", "-n", "none", "--path", "azureml://jobs/nosuch/outputs/model")
    assert code == 2 and "--path: path: the workspace has no job 'nosuch'." in err
    uri = "azureml://jobs/fetched/outputs/model"
    assert moorage("model", "create", "-n", "from-job", "--path", uri, "--type", "custom_model")[0] == 0
    code, _, err = moorage("model", "download", "-n", "from-job", "-v", "1", "-p", str(tmp_path / "models"))
    assert code == 0, err
    assert (tmp_path / "models" / "from-job" / "model.pkl").read_text() == "1,2\n"


def test_a_failed_job_ends_the_stream_with_its_reason_and_exit_code_1(agent: Agent, moorage: Run, job_folder: Path) -> None:
    assert moorage("job", "create", "-f", str(job_folder / "train.yml"), "-n", "failing")[0] == 0
    key = job_key("failing")
    agent.report(agent.status(key, "Running"), agent.log(key, 0, b"Traceback\n"))
    agent.report(
        agent.status(key, "Failed", complete=True, exitCode=3, reason="ExitCode", message="exit code 3; the last lines: Traceback")
    )
    code, out, err = moorage("job", "stream", "-n", "failing")
    assert code == 1
    assert out == "Traceback\n"
    assert "error: the job failing ended as Failed: exit code 3; the last lines: Traceback" in err


def test_a_waiting_job_says_why_and_can_be_cancelled(agent: Agent, moorage: Run, client: Client, job_folder: Path) -> None:
    assert moorage("job", "create", "-f", str(job_folder / "train.yml"), "-n", "waiting")[0] == 0
    key = job_key("waiting")
    agent.report(agent.status(key, "Queued", message="0/1 nodes are available: 1 Insufficient cpu."))
    with following("waiting") as follower:
        assert follower.stderr is not None
        assert "[waiting] Queued: 0/1 nodes are available: 1 Insufficient cpu." in follower.stderr.readline()
        client.action(f"{client.path('jobs', 'waiting')}/cancel", wait=False)
        agent.report(agent.status(key, "Canceled", complete=True))
        _, err = follower.communicate(timeout=90)
    assert follower.returncode == 1
    assert "the job waiting was canceled" in err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("compute=azureml:nowhere", "--set compute: compute: the workspace has no compute 'nowhere'"),
        ("resources.instance_type=huge", "--set resources.instance_type: resources.instance_type: the compute has no instance type 'huge'"),
        (
            "environment=azureml:absent:1",
            "--set environment: environment: there is no environment 'absent' of version 1. See what there is: moorage environment list --name absent.",
        ),
        (
            "environment=azureml:absent@latest",
            "there is no environment named 'absent'. See what there is: moorage environment list; ready-made ones: moorage environment list --registry-name azureml.",
        ),
        ("environment=sklearn", "One that is registered is written azureml:sklearn@latest."),
        ("code=./absent", "--set code: code: the code folder './absent' does not exist"),
        ("inputs.data.path=absent.csv", "--set inputs.data.path: inputs.data.path: 'absent.csv' does not exist"),
        ("inputs.data.type=uri_folder", "'data.csv' is a file; write `type: uri_file`."),
    ],
)
def test_what_a_job_names_and_is_not_there_is_refused(agent: Agent, moorage: Run, job_folder: Path, change: str, expected: str) -> None:
    code, out, err = moorage("job", "create", "-f", str(job_folder / "train.yml"), "-n", "refused", "--set", change)
    assert (code, out) == (2, ""), err
    assert expected in err
    assert "Traceback" not in err
    assert moorage("job", "show", "-n", "refused")[0] == 3


def test_a_job_s_folder_over_the_limit_names_the_largest_files(
    agent: Agent, moorage: Run, job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOORAGE_CODE_LIMIT_MB", "1")
    (job_folder / "src" / "weights.bin").write_bytes(b"0" * (1 << 21))
    code, _, err = moorage("job", "create", "-f", str(job_folder / "train.yml"))
    assert code == 2
    assert "train.yml:3: code: the code folder './src' holds 2.0 MB (the limit is 1.0 MB). The largest files: weights.bin (2.0 MB)" in err
    (job_folder / "src" / ".amlignore").write_text("*.bin\n")
    assert moorage("job", "create", "-f", str(job_folder / "train.yml"))[0] == 0


def test_lists_tables_queries_and_errors_in_json(agent: Agent, moorage: Run, job_folder: Path) -> None:
    assert moorage("job", "create", "-f", str(job_folder / "train.yml"), "-n", "listed")[0] == 0
    code, out, _ = moorage("job", "list", "-o", "table")
    assert code == 0 and out.splitlines()[0].split()[:3] == ["Name", "Status", "Compute"]
    code, out, _ = moorage("job", "list", "--query", "[?name=='listed'].[name,compute]", "-o", "tsv")
    assert (code, out) == (0, "listed\tazureml:local\n")
    code, out, err = moorage("job", "show", "-n", "absent", "-o", "json")
    assert (code, out) == (3, "")
    assert json.loads(err)["error"]["message"]
    code, _, err = moorage("job", "list", "--query", "[?")
    assert code == 2 and "--query '[?'" in err


def test_a_model_travels_there_and_back(moorage: Run, tmp_path: Path) -> None:
    model = tmp_path / "digits-model"
    (model / "deep").mkdir(parents=True)
    (model / "weights.bin").write_bytes(bytes(range(256)) * 1000)
    (model / "deep" / "naïve #1 %.txt").write_text("é")
    (model / "empty").write_bytes(b"")
    code, out, err = moorage("model", "create", "-n", "digits", "--path", str(model))
    assert code == 0, err
    assert json.loads(out)["version"] == "1"
    code, out, err = moorage("model", "create", "-n", "digits", "--path", str(model), "--query", "version", "-o", "tsv")
    assert (code, out.strip()) == (0, "2"), err
    code, _, err = moorage("model", "download", "-n", "digits", "--label", "latest", "-p", str(tmp_path / "back"))
    assert code == 0, err
    back = tmp_path / "back" / "digits"
    assert {str(path.relative_to(back)) for path in back.rglob("*") if path.is_file()} == {
        str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()
    }
    assert (back / "weights.bin").read_bytes() == (model / "weights.bin").read_bytes()


def test_an_environment_s_same_content_makes_no_new_version(moorage: Run, tmp_path: Path) -> None:
    conda = tmp_path / "conda.yml"
    conda.write_text("dependencies: [python=3.11]\n")
    words = ("environment", "create", "-n", "sk", "--image", "python:3.11", "--conda-file", str(conda), "--query", "version", "-o", "tsv")
    assert moorage(*words)[:2] == (0, "1\n")
    assert moorage(*words)[:2] == (0, "1\n")
    conda.write_text("dependencies: [python=3.11, pip]\n")
    assert moorage(*words)[:2] == (0, "2\n")
    assert moorage("environment", "list", "-n", "sk", "--query", "length(@)")[:2] == (0, "2\n")


def test_computes_and_clusters_are_shown(agent: Agent, moorage: Run) -> None:
    assert moorage("cluster", "show", "-n", "c1", "--query", "kubernetes_version", "-o", "tsv")[1] == "v1.37.0\n"
    code, out, err = moorage("compute", "show", "-n", "local")
    assert code == 0, err
    assert json.loads(out)["namespace"] == "default"
    assert "defaultinstancetype" in out
    code, out, _ = moorage("compute", "list", "-o", "table")
    assert "local" in out
    assert moorage("workspace", "show", "--query", "name", "-o", "tsv")[1] == "default\n"


def test_a_service_that_is_not_there_or_not_trusted_is_exit_code_5(
    profile: Profile, moorage: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOORAGE_TOKEN", "wrong")
    code, _, err = moorage("job", "list")
    assert code == 5 and "Sign in again" in err and "wrong" not in err
    monkeypatch.delenv("MOORAGE_TOKEN")
    monkeypatch.setenv("MOORAGE_URL", "https://127.0.0.1:1")
    code, _, err = moorage("job", "list")
    assert code == 5 and "cannot reach the workspace service at https://127.0.0.1:1" in err
    monkeypatch.setenv("MOORAGE_URL", profile.url)
    other = ensure_authority(tmp_path / "other")
    monkeypatch.setenv("MOORAGE_CA", str(other.certificate_path))
    code, _, err = moorage("job", "list")
    assert code == 5 and "is not trusted" in err


def test_ctrl_c_while_a_job_is_followed_says_that_it_goes_on(
    service: Service, agent: Agent, moorage: Run, profile: Profile, job_folder: Path
) -> None:
    assert moorage("job", "create", "-f", str(job_folder / "train.yml"), "-n", "interrupted")[0] == 0
    agent.report(agent.status(job_key("interrupted"), "Running"))
    with following("interrupted") as follower:
        assert follower.stderr is not None
        assert "Running" in follower.stderr.readline()
        follower.send_signal(signal.SIGINT)
        _, err = follower.communicate(timeout=90)
    assert follower.returncode == 130
    assert "The job goes on. `moorage job stream -n interrupted` comes back to it; `moorage job cancel -n interrupted` ends it." in err
    assert "Traceback" not in err


def test_debug_output_shows_requests_without_secrets(agent: Agent, moorage: Run, token: str, job_folder: Path) -> None:
    (job_folder / "src" / "new.py").write_text("# sent, so that a signed link is used")
    code, _, err = moorage("job", "create", "-f", str(job_folder / "train.yml"), "--set", "inputs.n=99", "--debug")
    assert code == 0
    assert "PUT https://" in err and "jobs/" in err
    assert token not in err
    assert "sig=..." in err and not re.search(r"sig=(?!\.\.\.)", err)
