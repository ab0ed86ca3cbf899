"""Jobs of several instances on a real control plane, as gangs of the real Volcano, with the rights that our roles grant.

Pods run on our own node agent. Slow: a service, an installation, several pods a job.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from moorage.extension.manifests import NAMESPACE, Connection, render
from moorage.extension.settings import parse_settings
from tests.real import audit
from tests.real.audit import Permission
from tests.real.control_plane.plane import Plane
from tests.real.workspace import SETTINGS, TRAINING, Workspace, served_workspace
from tests.sdk.flows.distributed import REDUCE, SERVED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 180


@pytest.fixture(scope="module")
def workspace(plane: Plane, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """A workspace with the extension; Volcano comes when the agent is there already, unless something else has brought it before."""
    # Below /tmp each container has a folder of its own.
    folder = Path(tempfile.mkdtemp(prefix="several-", dir="/var/tmp"))
    since = plane.layout.audit_log.stat().st_size
    try:
        with served_workspace(folder / "home", plane.layout.kubeconfig) as workspace:
            workspace.since = since
            workspace.install()
            try:
                request.getfixturevalue("volcano_runs")
                said = partial(workspace.kubectl, "logs", "deployment/gateway", "-n", NAMESPACE)
                workspace.until(lambda: "gangs of Volcano" in said(), "the agent notices Volcano", SECONDS)
                yield workspace
            finally:
                workspace.remove()
                workspace.kubectl("delete", "namespace", TRAINING, "--ignore-not-found")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def submit(workspace: Workspace, folder: Path, name: str, command: str, script: str = "", **more: Any) -> None:
    job: dict[str, Any] = {"type": "command", "command": command, "environment": {"image": "python:3.11"}, "compute": "azureml:local"}
    if script:
        (folder / "code").mkdir()
        (folder / "code" / "main.py").write_text(script)
        job["code"] = "code"
    (folder / "job.yml").write_text(yaml.safe_dump({**job, "resources": {"instance_count": 2}, **more}))
    workspace.ok("job", "create", "-f", str(folder / "job.yml"), "--name", name)


def until_status(workspace: Workspace, name: str, *wanted: str) -> None:
    workspace.until(lambda: status(workspace, name) in wanted, f"{name} is {' or '.join(wanted)}", SECONDS)


def status(workspace: Workspace, name: str) -> str:
    return str(workspace.ok("job", "show", "--name", name).json["status"])


def objects(workspace: Workspace, kind: str, name: str) -> list[dict[str, Any]]:
    found = json.loads(workspace.kubectl("get", kind, "-n", TRAINING, "-o", "json"))["items"]
    return [each for each in found if each["metadata"]["labels"].get("moorage.dev/job", "").startswith(f"{name}-")]


def logs(workspace: Workspace, name: str, folder: Path) -> dict[str, str]:
    workspace.ok("job", "download", "--name", name, "--download-path", str(folder / "down"), "--all")
    return {each.name: each.read_text() for each in (folder / "down").rglob("std_log*.txt")}


def test_four_processes_of_a_gang_find_each_other(workspace: Workspace, tmp_path: Path) -> None:
    distribution = {"type": "pytorch", "process_count_per_instance": 2}
    submit(workspace, tmp_path, "sum", "python main.py", REDUCE, distribution=distribution)
    until_status(workspace, "sum", "Completed", "Failed")
    written = logs(workspace, "sum", tmp_path)
    assert written == {f"std_log_process_{rank}.txt": f"process {rank} of 4: 6\n" for rank in range(4)}
    (group,) = objects(workspace, "podgroups.scheduling.volcano.sh", "sum")
    assert group["spec"]["minMember"] == 2
    assert {pod["spec"]["schedulerName"] for pod in objects(workspace, "pods", "sum")} == {"volcano"}


def test_a_job_with_a_parameter_server_is_complete_when_its_workers_are(workspace: Workspace, tmp_path: Path) -> None:
    distribution = {"type": "tensorflow", "worker_count": 2, "parameter_server_count": 1}
    submit(workspace, tmp_path, "served", "python main.py", SERVED, distribution=distribution)
    until_status(workspace, "served", "Completed", "Failed")
    written = logs(workspace, "served", tmp_path)
    assert [written.get(f"std_log_process_{rank}.txt") for rank in range(2)] == [f"worker {rank} of 2 has weights\n" for rank in range(2)]
    (job,) = objects(workspace, "jobs.batch", "served")
    assert [each["reason"] for each in job["status"]["conditions"] if each["type"] == "Complete"] == ["SuccessPolicy"]


def test_a_failing_instance_fails_the_job_with_its_exit_code(workspace: Workspace, tmp_path: Path) -> None:
    submit(workspace, tmp_path, "failing", 'if [ "$RANK" = 1 ]; then echo "no such layer" >&2; exit 7; fi; exec sleep 600')
    until_status(workspace, "failing", "Failed")
    said = workspace.run("job", "stream", "--name", "failing").err
    assert "Instance 1: The command ended with exit code 7." in said and "no such layer" in said, said


def test_when_an_instance_is_evicted_all_begin_anew(workspace: Workspace, tmp_path: Path) -> None:
    gate = Path(workspace.home.folder) / "gate"
    submit(workspace, tmp_path, "evicted", f"while [ ! -e {gate} ]; do sleep 0.1; done; echo through the gate")
    until_status(workspace, "evicted", "Running")
    pods = objects(workspace, "pods", "evicted")
    (second,) = [pod for pod in pods if pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "1"]
    name = second["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": TRAINING}}
    (tmp_path / "eviction.json").write_text(json.dumps(eviction))
    workspace.kubectl("create", "--raw", f"/api/v1/namespaces/{TRAINING}/pods/{name}/eviction", "-f", str(tmp_path / "eviction.json"))

    def anew() -> bool:
        (job,) = objects(workspace, "trainingjobs.moorage.dev", "evicted")
        return job["status"].get("restarts") == 1 and job["status"]["phase"] == "Running"

    workspace.until(anew, "all instances run again", SECONDS)
    again = objects(workspace, "pods", "evicted")
    assert {pod["metadata"]["uid"] for pod in again}.isdisjoint(pod["metadata"]["uid"] for pod in pods), again
    gate.touch()
    until_status(workspace, "evicted", "Completed", "Failed")
    # The log goes on over both attempts; the first one's shell may have told of its end.
    assert logs(workspace, "evicted", tmp_path)["std_log_process_1.txt"].splitlines()[-1] == "through the gate"
    events = workspace.kubectl("get", "events", "-n", TRAINING, "-o", "custom-columns=R:.reason,M:.message")
    assert "Instance 1 was lost: Eviction API: evicting." in events, events


def test_a_canceled_job_leaves_neither_pod_nor_group(workspace: Workspace, tmp_path: Path) -> None:
    submit(workspace, tmp_path, "canceled", "exec sleep 600")
    until_status(workspace, "canceled", "Running")
    workspace.ok("job", "cancel", "-n", "canceled")
    until_status(workspace, "canceled", "Canceled")
    assert objects(workspace, "pods", "canceled") == []
    workspace.until(lambda: objects(workspace, "podgroups.scheduling.volcano.sh", "canceled") == [], "its group goes", SECONDS)


def test_our_service_account_needs_no_other_right_and_uses_those_of_gangs(plane: Plane, workspace: Workspace) -> None:
    account = audit.read(plane.layout.audit_log, NAMESPACE, since=workspace.since)
    granted = audit.granted(render("moorage", parse_settings(SETTINGS, {}), Connection("", "", "", "")))
    assert not sorted(set(account.denied) - granted)
    verbs = ("get", "list", "watch", "create", "patch", "delete")
    gangs = {Permission("gateway", "scheduling.volcano.sh", "podgroups", verb) for verb in verbs}
    assert not sorted((gangs | {Permission("gateway", "", "pods", "patch")}) - set(account.used))
