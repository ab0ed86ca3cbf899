"""The main job on the embedded cluster: what a newcomer's first command does, and what survives it. Slow: whole processes, a real training job."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.stack.conftest import EXAMPLE, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_main_job_trains_serves_and_scores(stack: Stack) -> None:
    job = "digits-first"
    streamed = stack.ok("job", "create", "-f", str(EXAMPLE / "train.yml"), "--name", job, "--stream", timeout=450)
    assert "accuracy on the held-out ones" in streamed.out + streamed.err
    shown = stack.ok("job", "show", "-n", job).json
    assert shown["status"] == "Completed"
    stack.ok("model", "create", "--name", "digits", "--type", "custom_model", "--path", f"azureml://jobs/{job}/outputs/model")
    stack.ok("online-endpoint", "create", "-f", str(EXAMPLE / "endpoint.yml"))
    stack.ok("online-deployment", "create", "-f", str(EXAMPLE / "deployment.yml"), "--all-traffic", timeout=450)
    endpoint = stack.ok("online-endpoint", "show", "-n", "digits").json
    assert endpoint["provisioning_state"] == "Succeeded"
    assert re.search(r"/api/v1/endpoint/digits/score$", endpoint["scoring_uri"])


@pytest.mark.parametrize(
    ("namespace", "labels", "pattern"),
    [
        ("azureml", "app.kubernetes.io/component=azureml-fe-v2", "moorage run router"),
        ("default", "moorage.dev/endpoint=digits", "moorage_scoring"),
    ],
    ids=["router", "scoring server"],
)
def test_scoring_comes_back_after_a_process_on_its_way_was_killed(stack: Stack, namespace: str, labels: str, pattern: str) -> None:
    def scored() -> bool:
        ran = stack.run("online-endpoint", "invoke", "--name", "digits", "--request-file", str(EXAMPLE / "request.json"))
        return ran.code == 0 and set(ran.json) == {"digits"}

    stack.until(scored, "the endpoint scores")
    stack.kill_in_pod(namespace, labels, pattern)
    stack.until(scored, "the endpoint scores again")


def test_what_was_done_is_there_after_down_and_up(stack: Stack) -> None:
    stack.ok("down")
    assert stack.run("status").code == 5
    assert stack.up().code == 0
    assert stack.ok("job", "show", "-n", "digits-first").json["status"] == "Completed"
    stack.until(lambda: stack.run("online-deployment", "get-logs", "-e", "digits", "-n", "blue").code == 0, "the deployment serves again")


def test_the_stock_kubectl_works_on_it(stack: Stack) -> None:
    assert "gateway" in stack.kubectl("get", "deployments", "-n", "azureml").out
    assert stack.kubectl("wait", "--for=condition=Available", "deployment/gateway", "-n", "azureml", "--timeout=100s").code == 0
    assert stack.kubectl("get", "nodes", "-o", "wide").code == 0
    pod = stack.kubectl("get", "pods", "-n", "azureml", "-o", "name").out.split()[0]
    described = stack.kubectl("describe", "-n", "azureml", pod)
    assert described.code == 0 and "Events:" in described.out
    assert stack.kubectl("logs", "-n", "azureml", pod).code == 0
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tried, namespace: default}\ndata: {a: '1'}\n"
    assert "created" in stack.kubectl("apply", "-f", "-", stdin=manifest).out
    assert "configured" in stack.kubectl("apply", "-f", "-", stdin=manifest.replace("'1'", "'2'")).out
    assert stack.kubectl("patch", "configmap", "tried", "-p", '{"data":{"b":"3"}}').code == 0
    assert stack.kubectl("get", "configmap", "tried", "-o", "jsonpath={.data}").out == '{"a":"2","b":"3"}'
    assert stack.kubectl("delete", "configmap", "tried").code == 0


def test_kubectl_follows_the_log_of_a_pod_to_its_end(stack: Stack) -> None:
    pod = """
apiVersion: v1
kind: Pod
metadata: {name: counting, namespace: default}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'for i in 1 2 3; do echo line $i; sleep 0.3; done']
"""
    assert stack.kubectl("apply", "-f", "-", stdin=pod).code == 0
    ended = stack.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/counting", "--timeout=100s", timeout=110)
    assert ended.code == 0, ended
    assert stack.kubectl("logs", "-f", "counting").out == "line 1\nline 2\nline 3\n"
    assert stack.kubectl("delete", "pod", "counting", "--timeout=100s", timeout=110).code == 0


def test_a_finished_job_deleted_with_kubectl_does_not_run_again(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text("type: command\ncommand: 'true'\nenvironment: {image: python:3.11}\ncompute: azureml:local\n")
    for name in ("cleaned-up", "next"):
        stack.ok("job", "create", "-f", str(file), "--name", name, "--stream")
        assert stack.kubectl("delete", "trainingjob", "--all", "--timeout=100s", timeout=110).code == 0
    # What a job owned goes after it.
    stack.until(lambda: stack.kubectl("get", "trainingjobs,jobs.batch", "-o", "name").out == "", "nothing is left of the jobs")
    assert stack.job_status("cleaned-up") == "Completed"
