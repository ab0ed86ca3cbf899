"""Wrong input and dying processes. Each wrong input gives one clear message, a non-zero exit, and leaves nothing half-made."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.stack.conftest import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

JOB = """
type: command
command: {command}
environment: {{image: python:3.11}}
compute: azureml:local
"""


def write(folder: Path, text: str, name: str = "job.yml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def jobs(stack: Stack) -> list[str]:
    return [job["name"] for job in stack.ok("job", "list").json]


@pytest.mark.parametrize(
    ("change", "said", "code"),
    [
        ("type: command\n  command: x", "job.yml", 2),
        ("type: command\ncommandd: python x.py\nenvironment: {image: x}\ncompute: azureml:local", "command", 2),
        ("type: command\nenvironment: {image: x}\ncompute: azureml:local", "command", 2),
        (JOB.format(command="'true'").replace("azureml:local", "azureml:nowhere"), "nowhere", (2, 3)),
        (JOB.format(command="'true'") + "resources: {instance_type: huge}", "defaultinstancetype", 2),
        (JOB.format(command="'true'") + "code: no/such/folder", "no/such/folder", 2),
        (JOB.format(command="'echo ${{inputs.missing}}'"), "missing", 2),
        (JOB.format(command="'true'") + "inputs: {m: {type: custom_model, path: 'azureml:ghost:1'}}", "ghost", (2, 3)),
    ],
    ids=["unparsable", "unknown field", "missing field", "compute", "instance type", "code folder", "input reference", "model"],
)
def test_a_wrong_job_is_refused_with_field_and_remedy_and_no_job_is_made(
    stack: Stack, tmp_path: Path, change: str, said: str, code: int | tuple[int, ...]
) -> None:
    before = jobs(stack)
    ran = stack.run("job", "create", "-f", write(tmp_path, change))
    assert ran.code in (code if isinstance(code, tuple) else (code,)), ran.err
    assert said in ran.err and "Traceback" not in ran.err
    assert ran.out == ""
    assert jobs(stack) == before


def test_a_requirement_that_does_not_exist_fails_the_job_and_names_it(stack: Stack, tmp_path: Path) -> None:
    conda = "{dependencies: [pip, {pip: ['moorage-no-such-package-at-all==1.0']}]}"
    text = JOB.format(command="'true'").replace("{image: python:3.11}", f"{{image: python:3.11, conda_file: {conda}}}")
    ran = stack.run("job", "create", "-f", write(tmp_path, text), "--stream")
    assert ran.code == 1
    assert "moorage-no-such-package-at-all" in ran.err and "Traceback" not in ran.err


def test_a_failing_script_shows_its_exit_code_and_last_lines_and_keeps_its_outputs(stack: Stack, tmp_path: Path) -> None:
    text = JOB.format(command='"echo kept > ${{outputs.o}}/kept.txt; echo the last words; exit 7"') + "outputs: {o: {type: uri_folder}}\n"
    ran = stack.run("job", "create", "-f", write(tmp_path, text), "--name", "failing", "--stream")
    assert ran.code == 1
    assert "7" in ran.err and "the last words" in ran.out + ran.err
    assert stack.job_status("failing") == "Failed"
    stack.ok("job", "download", "-n", "failing", "--output-name", "o", "--download-path", str(tmp_path / "got"))
    assert [path.read_text() for path in (tmp_path / "got").rglob("kept.txt")] == ["kept\n"]


def test_interrupting_a_stream_leaves_the_job_running(stack: Stack, tmp_path: Path, gate: Path) -> None:
    text = JOB.format(command=f'"echo begun; while [ ! -e {gate} ]; do sleep 0.1; done; echo done"')
    stack.ok("job", "create", "-f", write(tmp_path, text), "--name", "watched")
    streaming = stack.popen("job", "stream", "-n", "watched")
    assert streaming.stdout is not None
    # What it shows says that it follows the job; before that Ctrl-C would end an interpreter that is still starting.
    shown = b""
    while b"begun" not in shown:
        line = streaming.stdout.readline()
        assert line, shown
        shown += line
    streaming.send_signal(signal.SIGINT)
    said, _ = streaming.communicate(timeout=100)
    assert streaming.returncode == 130 and b"moorage job" in said and b"Traceback" not in said
    gate.touch()
    stack.until(lambda: stack.job_status("watched") == "Completed", "the job goes on to its end")


def test_cancelling_ends_a_job(stack: Stack, tmp_path: Path) -> None:
    stack.ok("job", "create", "-f", write(tmp_path, JOB.format(command="'sleep 600'")), "--name", "endless")
    stack.until(lambda: stack.job_status("endless") == "Running", "the job runs")
    stack.ok("job", "cancel", "-n", "endless")
    stack.until(lambda: stack.job_status("endless") == "Canceled", "the job is cancelled")
    assert "already ended: Canceled" in stack.ok("job", "cancel", "-n", "endless").err


@pytest.mark.parametrize("victim", ["cluster", "server", "agent", "supervisor"])
def test_a_job_completes_although_a_process_is_killed_in_the_middle(stack: Stack, tmp_path: Path, gate: Path, victim: str) -> None:
    text = JOB.format(
        command=f'"echo begun; while [ ! -e {gate} ]; do sleep 0.1; done; echo result > ${{{{outputs.o}}}}/r.txt; echo ended"'
    )
    text += "outputs: {o: {type: uri_folder}}\n"
    name = f"survives-{victim}"
    stack.ok("job", "create", "-f", write(tmp_path, text), "--name", name)
    stack.until(lambda: stack.job_status(name) == "Running", "the job runs")
    if victim == "agent":
        stack.kill_in_pod("azureml", "app.kubernetes.io/component=gateway", "run agent --enable")
    else:
        stack.kill(victim)
    gate.touch()
    stack.until(lambda: stack.job_status(name) == "Completed", f"the job completes without {victim}", seconds=120)
    stack.ok("job", "download", "-n", name, "--output-name", "o", "--download-path", str(tmp_path / "got"))
    assert [path.read_text() for path in (tmp_path / "got").rglob("r.txt")] == ["result\n"]
    log = stack.ok("job", "stream", "-n", name)
    assert "begun" in log.out + log.err and "ended" in log.out + log.err
    if victim == "supervisor":
        assert stack.up().code == 0, "up starts a supervisor again"


def test_four_processes_end_well_although_the_cluster_and_the_agent_are_killed(stack: Stack, tmp_path: Path, gate: Path) -> None:
    text = JOB.format(command=f'"echo begun $RANK; while [ ! -e {gate} ]; do sleep 0.1; done; echo ended $RANK"')
    text += "resources: {instance_count: 2}\ndistribution: {type: pytorch, process_count_per_instance: 2}\n"
    stack.ok("job", "create", "-f", write(tmp_path, text), "--name", "four")
    # Before its instances have met, and after.
    stack.kill("cluster")
    stack.until(lambda: stack.job_status("four") == "Running", "the job runs", seconds=240)
    stack.kill_in_pod("azureml", "app.kubernetes.io/component=gateway", "run agent --enable")
    gate.touch()
    stack.until(lambda: stack.job_status("four") == "Completed", "the job completes", seconds=240)
    stack.ok("job", "download", "-n", "four", "--all", "--download-path", str(tmp_path / "got"))
    logs = {path.name: path.read_text() for path in (tmp_path / "got").rglob("std_log*.txt")}
    assert logs == {f"std_log_process_{rank}.txt": f"begun {rank}\nended {rank}\n" for rank in range(4)}


def test_a_job_completes_although_its_download_is_killed(stack: Stack, tmp_path: Path) -> None:
    write(tmp_path, "1,2", "data.csv")
    text = JOB.format(command="'cat ${{inputs.data}}'") + "inputs: {data: {type: uri_file, path: data.csv}}\n"
    nodes = stack.kubectl("get", "nodes", "-o", "name").out.split()
    # No node takes the job until the service is held, so that its download lasts for as long as we like.
    for node in nodes:
        assert stack.kubectl("cordon", node).code == 0
    stack.ok("job", "create", "-f", write(tmp_path, text), "--name", "survives-fetch")
    found = "jsonpath={.items[?(@.spec.job=='survives-fetch')].metadata.name}"
    stack.until(lambda: bool(stack.kubectl("get", "trainingjobs", "-o", found).out), "the cluster has the job")
    access = f"secret/{stack.kubectl('get', 'trainingjobs', '-o', found).out}-access"
    stack.until(lambda: stack.kubectl("get", access).code == 0, "the job may ask for its files")
    os.kill(stack.pid("server"), signal.SIGSTOP)
    try:
        for node in nodes:
            assert stack.kubectl("uncordon", node).code == 0
        stack.until(lambda: _kill_below(f"shim.py run {stack.home}/.*/containers/fetch/"), "the download begins")
    finally:
        os.kill(stack.pid("server"), signal.SIGCONT)
    stack.until(lambda: stack.job_status("survives-fetch") == "Completed", "the job is prepared again")
    assert "1,2" in stack.ok("job", "stream", "-n", "survives-fetch").out


def _kill_below(pattern: str) -> bool:
    """Kill what the matching processes started; whether anything was hit."""
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    hit = False
    for shim in found.stdout.split():
        for pid in subprocess.run(["pgrep", "-P", shim], capture_output=True, text=True, check=False).stdout.split():
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(int(pid), signal.SIGKILL)
                hit = True
    return hit


def test_a_scoring_script_that_fails_in_init_shows_its_traceback(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "score").mkdir()
    write(tmp_path / "score", "def init():\n    raise ValueError('no model here')\n\ndef run(raw_data):\n    return 1\n", "score.py")
    endpoint = write(tmp_path, "name: broken\ncompute: azureml:local\nauth_mode: key\n", "endpoint.yml")
    deployment = write(
        tmp_path,
        "name: blue\nendpoint_name: broken\ntype: kubernetes\ncode_configuration: {code: score, scoring_script: score.py}\n"
        "environment: {image: python:3.11}\ninstance_count: 1\n",
        "deployment.yml",
    )
    stack.ok("online-endpoint", "create", "-f", endpoint)
    ran = stack.run("online-deployment", "create", "-f", deployment)
    assert ran.code == 1
    assert "ValueError: no model here" in ran.err
    stack.ok("online-endpoint", "delete", "-n", "broken", "--yes")


def test_a_scoring_script_that_fails_in_run_gives_the_contracts_status_and_leaves_its_traceback_in_the_log(
    stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "score").mkdir()
    write(tmp_path / "score", "def init():\n    pass\n\ndef run(raw_data):\n    raise KeyError('pixels')\n", "score.py")
    stack.ok("online-endpoint", "create", "-f", write(tmp_path, "name: fragile\ncompute: azureml:local\nauth_mode: key\n", "endpoint.yml"))
    deployment = write(
        tmp_path,
        "name: blue\nendpoint_name: fragile\ntype: kubernetes\ncode_configuration: {code: score, scoring_script: score.py}\n"
        "environment: {image: python:3.11}\ninstance_count: 1\n",
        "deployment.yml",
    )
    stack.ok("online-deployment", "create", "-f", deployment, "--all-traffic")
    request = write(tmp_path, "{}", "request.json")

    def failed() -> bool:
        ran = stack.run("online-endpoint", "invoke", "-n", "fragile", "--request-file", request)
        return ran.code == 1 and "424" in ran.err and "500" in ran.err

    # Commands wait for the cluster to have a change, not for the router to have read it; a log is written beside the answer.
    stack.until(failed, "the status says whose failure it is")
    shown = ("online-deployment", "get-logs", "-e", "fragile", "-n", "blue")
    stack.until(lambda: "KeyError: 'pixels'" in stack.ok(*shown).out, "the log has the traceback")
    stack.ok("online-endpoint", "delete", "-n", "fragile", "--yes")


def test_a_second_up_says_that_it_runs_already(stack: Stack) -> None:
    ran = stack.up()
    assert ran.code == 4 and "already running" in ran.err


def test_up_waits_for_what_runs_and_is_not_ready(stack: Stack) -> None:
    """As a service that was started again a moment ago; held, so that it stays so until it was seen."""
    server = stack.pid("server")
    os.kill(server, signal.SIGSTOP)
    try:
        going_on = stack.popen("up")
        assert going_on.stdout is not None
        said = going_on.stdout.readline()
        assert said.startswith(b"Moorage runs already, but ") and b"server" in said and b"not ready yet; going on with that" in said, said
    finally:
        os.kill(server, signal.SIGCONT)
    said, _ = going_on.communicate(timeout=150)
    assert going_on.returncode == 0 and b"Ready after" in said, said


def test_up_goes_on_where_one_that_was_killed_stopped(own_stack: Stack) -> None:
    """All that is kept of it are processes, of which the next one would say that they run already."""
    words = ("up", "--api-port", str(own_stack.ports[0]), "--port", str(own_stack.ports[1]))
    cut = own_stack.popen(*words)
    own_stack.until(lambda: (own_stack.home / "cluster" / "kubeconfig").exists(), "the cluster starts")
    cut.kill()
    cut.communicate()
    own_stack.until(
        lambda: all(row["state"] in ("ready", "running") for row in own_stack.run("status", "-o", "json").json), "all are ready"
    )
    ran = own_stack.up()
    assert ran.code == 0 and "going on with that" in ran.err, ran
    assert own_stack.ok("compute", "show", "-n", "local").json["provisioning_state"] == "Succeeded"
    assert own_stack.up().code == 4


def test_up_signs_in_again_where_the_token_is_gone(stack: Stack) -> None:
    stack.ok("logout")
    assert stack.run("whoami").code == 5
    again = stack.up()
    assert again.code == 0 and "signed in" in again.err, again
    assert json.loads(stack.ok("whoami", "-o", "json").out)["name"] == "local"


def test_a_taken_port_is_named_with_the_option_that_chooses_another(own_stack: Stack) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", own_stack.ports[1]))
        holder.listen()
        ran = own_stack.up()
    assert ran.code == 4 and str(own_stack.ports[1]) in ran.err and "--port" in ran.err
    assert own_stack.run("status").code == 5


def test_a_proxy_for_the_world_outside_is_not_asked_for_this_machine(
    own_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    started = own_stack.up()
    assert started.code == 0, started.err
    own_stack.ok("job", "create", "-f", write(tmp_path, JOB.format(command="'echo through'")), "--stream")


def test_a_folder_that_is_not_ours_is_never_touched(own_stack: Stack) -> None:
    own_stack.home.mkdir()
    (own_stack.home / "thesis.txt").write_text("mine")
    assert own_stack.up().code == 2
    assert own_stack.run("down", "--purge", "--yes").code == 3
    assert (own_stack.home / "thesis.txt").read_text() == "mine"
    (own_stack.home / "thesis.txt").unlink()


def test_interrupting_up_stops_what_it_started_and_purge_leaves_nothing(own_stack: Stack) -> None:
    starting = own_stack.popen("up", "--api-port", str(own_stack.ports[0]), "--port", str(own_stack.ports[1]))
    own_stack.until(lambda: (own_stack.home / "run" / "cluster.json").exists(), "the cluster process starts")
    starting.send_signal(signal.SIGINT)
    said, _ = starting.communicate(timeout=90)
    assert starting.returncode == 130, said
    assert b"Traceback" not in said
    assert not [role for role in ("supervisor", "cluster", "server") if (own_stack.home / "run" / f"{role}.json").exists()]
    assert own_stack.run("down", "--purge", "--yes").code == 0
    assert not own_stack.home.exists()
    left = subprocess.run(["pgrep", "-f", str(own_stack.home)], capture_output=True, text=True, check=False).stdout.split()
    assert left == []
