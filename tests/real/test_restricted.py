"""Namespaces that ask more of pods, on a real API server: Pod Security "restricted", and quotas that refuse the pods of jobs and deployments.

Pods run on our own node agent, as processes of this user whatever they ask for; what is held here is what the API server admits and what the workspace
says of the rest. Slow: a service, an installation, real jobs.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.extension.manifests import NAMESPACE
from tests.real import audit
from tests.real.audit import Permission
from tests.real.control_plane.plane import Plane
from tests.real.workspace import COMPUTE, TRAINING, Workspace, served_workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STRICT = "strict"
ENFORCE = "pod-security.kubernetes.io/enforce"
JOB = """
type: command
command: id -u && touch "$HOME/written" && mkdir -p outputs && echo kept > outputs/note && echo done
environment: {{image: python:3.11}}
compute: azureml:{compute}
"""
ENDPOINT = "name: strict\ncompute: azureml:{compute}\nauth_mode: key\n"
DEPLOYMENT = """
name: blue
endpoint_name: strict
code_configuration: {{code: {code}, scoring_script: score.py}}
environment: {{image: python:3.11}}
instance_count: 1
"""
SCORE = "def init():\n    pass\n\ndef run(data):\n    return 1\n"
QUOTA = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": TRAINING}, "spec": {"hard": {"pods": "0"}}}


@pytest.fixture(scope="module")
def workspace(plane: Plane) -> Iterator[Workspace]:
    """A workspace with the extension, and a second compute in a namespace that enforces the strictest standard."""
    # Below /tmp each container has a folder of its own, and they take packages from the service's machine.
    folder = Path(tempfile.mkdtemp(prefix="restricted-", dir="/var/tmp"))
    since = plane.layout.audit_log.stat().st_size
    try:
        with served_workspace(folder / "home", plane.layout.kubeconfig) as workspace:
            workspace.since = since
            workspace.kubectl("create", "namespace", STRICT)
            workspace.kubectl("label", "namespace", STRICT, f"{ENFORCE}=restricted")
            workspace.kubectl("create", "namespace", TRAINING)
            workspace.kubectl("label", "namespace", TRAINING, f"{ENFORCE}=baseline")
            workspace.install()
            cluster = workspace.ok("cluster", "show", "--name", "real", "--query", "id", "-o", "tsv").out.strip()
            workspace.ok("compute", "attach", "--type", "Kubernetes", "--name", STRICT, "--resource-id", cluster, "--namespace", STRICT)
            yield workspace
            workspace.remove()
            workspace.kubectl("delete", "namespace", STRICT, TRAINING, "--ignore-not-found")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def submit(workspace: Workspace, folder: Path, name: str, compute: str) -> None:
    job = folder / "job.yml"
    job.write_text(JOB.format(compute=compute))
    workspace.ok("job", "create", "-f", str(job), "--name", name)


def shown(workspace: Workspace, name: str) -> str:
    """All that the service tells of a job."""
    return workspace.run("job", "show", "--name", name, "-o", "json").out


def until_ended(workspace: Workspace, name: str) -> None:
    def ended() -> bool:
        status = json.loads(shown(workspace, name))["status"]
        assert status not in ("Failed", "Canceled"), workspace.run("job", "stream", "--name", name).out
        return bool(status == "Completed")

    workspace.until(ended, f"job {name} ends", 120)


def test_the_first_job_after_an_installation_meets_no_refusal(plane: Plane, workspace: Workspace, tmp_path: Path) -> None:
    since = plane.layout.audit_log.stat().st_size
    submit(workspace, tmp_path, "first", COMPUTE)
    until_ended(workspace, "first")
    account = audit.read(plane.layout.audit_log, NAMESPACE, since=since)
    assert not account.denied
    # One look for a Secret that is not there; a second one at most when the job takes longer than a minute.
    assert account.used[Permission("gateway", "", "secrets", "get")] <= 2


def test_a_job_runs_where_the_namespace_enforces_restricted(workspace: Workspace, tmp_path: Path) -> None:
    submit(workspace, tmp_path, "strict-job", STRICT)
    until_ended(workspace, "strict-job")
    assert "done" in workspace.ok("job", "stream", "--name", "strict-job").out
    pods = json.loads(workspace.kubectl("get", "pods", "-n", STRICT, "-o", "json"))["items"]
    mains = [container for pod in pods for container in pod["spec"]["containers"]]
    assert [container["securityContext"]["runAsUser"] for container in mains] == [1000]


def test_a_deployment_runs_where_the_namespace_enforces_restricted(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "score.py").write_text(SCORE)
    (tmp_path / "endpoint.yml").write_text(ENDPOINT.format(compute=STRICT))
    (tmp_path / "deployment.yml").write_text(DEPLOYMENT.format(code=tmp_path / "code"))
    workspace.ok("online-endpoint", "create", "-f", str(tmp_path / "endpoint.yml"))
    workspace.ok("online-deployment", "create", "-f", str(tmp_path / "deployment.yml"))
    pods = json.loads(workspace.kubectl("get", "pods", "-n", STRICT, "-l", "moorage.dev/deployment", "-o", "json"))["items"]
    assert {condition["status"] for pod in pods for condition in pod["status"]["conditions"] if condition["type"] == "Ready"} == {"True"}
    workspace.ok("online-endpoint", "delete", "-n", "strict", "--yes")


def test_a_refused_pod_is_told_with_the_remedy_and_the_job_goes_on_once_it_may(workspace: Workspace, tmp_path: Path) -> None:
    quota = tmp_path / "quota.json"
    quota.write_text(json.dumps(QUOTA))
    workspace.kubectl("apply", "-f", str(quota))
    submit(workspace, tmp_path, "over-quota", COMPUTE)
    workspace.until(lambda: "raise the ResourceQuota" in shown(workspace, "over-quota"), "the job says why it waits", 60)
    assert "exceeded quota: none, requested: pods=1" in shown(workspace, "over-quota")
    assert json.loads(shown(workspace, "over-quota"))["status"] == "Queued"
    workspace.kubectl("delete", "-f", str(quota))
    until_ended(workspace, "over-quota")


def test_a_job_from_before_the_label_says_what_refuses_it(workspace: Workspace, tmp_path: Path) -> None:
    quota = tmp_path / "quota.json"
    quota.write_text(json.dumps(QUOTA))
    workspace.kubectl("apply", "-f", str(quota))
    try:
        submit(workspace, tmp_path, "too-early", COMPUTE)
        workspace.until(lambda: "exceeded quota" in shown(workspace, "too-early"), "the job is refused", 60)
        workspace.kubectl("label", "namespace", TRAINING, "--overwrite", f"{ENFORCE}=restricted")
    finally:
        workspace.kubectl("delete", "-f", str(quota))
    said = f"label the namespace {ENFORCE}=restricted and submit again"
    workspace.until(lambda: said in shown(workspace, "too-early"), "the job says that the standard refuses it", 120)
    workspace.ok("job", "cancel", "--name", "too-early")
    workspace.until(lambda: json.loads(shown(workspace, "too-early"))["status"] == "Canceled", "it is canceled", 60)
