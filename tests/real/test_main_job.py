"""The main job on a real control plane: install, train, serve, score, with the rights that our roles grant and with servers that go away meanwhile.

Pods run on our own node agent (tests/real/nodes). Slow: a real training job and a real deployment, each with an environment of its own.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.extension.manifests import NAMESPACE, Connection, render
from moorage.extension.settings import parse_settings
from tests.real import audit
from tests.real.audit import Permission
from tests.real.control_plane.plane import Plane, routed
from tests.real.inventory import inventory
from tests.real.workspace import COMPUTE, SETTINGS, TRAINING, Workspace, served_workspace
from tests.stack.conftest import EXAMPLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Needed, but only after what does not happen in these tests.
RARELY = {
    # An event that is recorded again is counted up.
    *(Permission("gateway", "", "events", verb) for verb in ("get", "patch")),
    # Taken away when a plan leaves them out while the owner lives; else they go with their owner.
    *(Permission("gateway", "", resource, "delete") for resource in ("configmaps", "services")),
    Permission("gateway", "apps", "deployments", "delete"),
    # Only for jobs of several instances, and the groups where there is Volcano (tests/real/test_distributed.py).
    Permission("gateway", "", "pods", "patch"),
    *(Permission("gateway", "scheduling.volcano.sh", "podgroups", verb) for verb in ("get", "watch", "create", "patch", "delete")),
    # Where Volcano is not there before the agent, which then looks out for it.
    *(Permission("gateway", "apiextensions.k8s.io", "customresourcedefinitions", verb) for verb in ("list", "watch")),
    # A log that breaks off makes the agent ask whether its pod is still there.
    Permission("gateway", "", "pods", "get"),
    # An apply that conflicts looks at what is there.
    *(Permission("gateway", "moorage.dev", resource, "get") for resource in ("onlineendpoints", "onlinedeployments")),
    # Checked at admission of owned objects, where the audit log does not show it.
    *(
        Permission("gateway", "moorage.dev", f"{name}/finalizers", "update")
        for name in ("trainingjobs", "onlineendpoints", "onlinedeployments")
    ),
}
WAITING = """
type: command
command: while [ ! -e {gate} ]; do sleep 0.1; done; echo through the gate
environment: {{image: python:3.11}}
compute: azureml:local
"""


@pytest.fixture(scope="module")
def before() -> set[tuple[str, str, str]]:
    """What the cluster held before the extension was installed, once `workspace` is there."""
    return set()


@pytest.fixture(scope="module")
def workspace(plane: Plane, before: set[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with the extension installed and the cluster attached; `since` says where its part of the audit log begins."""
    # Below /tmp each container has a folder of its own, and they take the environment's packages from the service's machine.
    folder = Path("/var/tmp") / tmp_path_factory.mktemp("real").name
    since = plane.layout.audit_log.stat().st_size
    try:
        with served_workspace(folder / "home", plane.layout.kubeconfig) as workspace:
            workspace.since = since
            before.update(inventory(workspace.kubectl))
            # Our own pods need no more than the strictest Pod Security Standard allows; users' images may run as root, which it forbids.
            workspace.kubectl("create", "namespace", NAMESPACE)
            workspace.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
            workspace.install()
            yield workspace
            workspace.remove()
            workspace.kubectl("delete", "namespace", TRAINING, "--ignore-not-found")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_every_component_of_the_extension_is_ready(workspace: Workspace) -> None:
    shown = workspace.ok("extension", "show", "--name", "moorage").json
    assert shown["provisioningState"] == "Succeeded", shown
    states = {each["name"]: each["state"] for each in shown["components"]}
    assert states["gateway"] == states["aml-operator"] == states["azureml-fe-v2"], states
    cluster = workspace.ok("cluster", "show", "--name", "real").json
    assert cluster["connectivity_status"] == "Connected", cluster


def test_the_example_trains(workspace: Workspace) -> None:
    ran = workspace.ok("job", "create", "-f", str(EXAMPLE / "train.yml"), "--name", "digits-real", "--stream")
    assert "accuracy on the held-out ones" in ran.out
    assert workspace.ok("job", "show", "-n", "digits-real").json["status"] == "Completed"


def test_a_canceled_job_ends_and_leaves_no_pod(workspace: Workspace, tmp_path: Path) -> None:
    job = tmp_path / "job.yml"
    job.write_text(WAITING.format(gate="/nowhere"))
    workspace.ok("job", "create", "-f", str(job), "--name", "canceled")
    workspace.until(lambda: _status(workspace, "canceled") == "Running", "the job runs", 120)
    workspace.ok("job", "cancel", "-n", "canceled")
    workspace.until(lambda: _status(workspace, "canceled") == "Canceled", "the job is canceled", 120)
    assert "canceled" not in workspace.kubectl("get", "pods", "-n", TRAINING, "-o", "name")


@pytest.mark.parametrize("component", ["kube-apiserver", "etcd"])
def test_a_job_outlives_a_restart_of(component: str, plane: Plane, workspace: Workspace, tmp_path: Path) -> None:
    gate = Path(workspace.home.folder) / f"gate-{component}"
    name = f"through-{component}"
    job = tmp_path / "job.yml"
    job.write_text(WAITING.format(gate=gate))
    workspace.ok("job", "create", "-f", str(job), "--name", name)
    workspace.until(lambda: _status(workspace, name) == "Running", "the job runs", 120)
    restarting = threading.Thread(target=plane.restart, args=(component,))
    restarting.start()
    # The job ends while nobody can be told.
    gate.touch()
    restarting.join(120)
    workspace.until(lambda: _status(workspace, name) == "Completed", f"the job outlives {component}", 120)
    assert "through the gate" in workspace.ok("job", "stream", "-n", name).out


def test_the_model_is_served_and_scores(workspace: Workspace, tmp_path: Path) -> None:
    if not routed():
        pytest.skip("EndpointSlices refuse loopback addresses, and this user may not route others to this machine (ip route add local)")
    workspace.ok("model", "create", "--name", "digits", "--type", "custom_model", "--path", "azureml://jobs/digits-real/outputs/model")
    workspace.ok("online-endpoint", "create", "-f", str(EXAMPLE / "endpoint.yml"))
    workspace.ok("online-deployment", "create", "-f", str(EXAMPLE / "deployment.yml"), "--all-traffic")
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"images": [[0.0] * 64]}))
    answer = workspace.ok("online-endpoint", "invoke", "-n", "digits", "--request-file", str(request))
    assert len(answer.json["digits"]) == 1
    workspace.ok("online-endpoint", "delete", "-n", "digits", "--yes")
    workspace.until(lambda: "digits-blue" not in workspace.kubectl("get", "pods", "-n", TRAINING, "-o", "name"), "its pods go", 120)


def test_a_detached_compute_keeps_only_what_is_its_users(workspace: Workspace) -> None:
    workspace.ok("compute", "detach", "--name", COMPUTE, "--yes")
    kinds = "trainingjobs,onlinedeployments,onlineendpoints,jobs,pods,secrets"
    workspace.until(lambda: workspace.kubectl("get", kinds, "-n", TRAINING, "-o", "name").strip() == "", "all that we made there goes", 120)
    assert "moorage-environments" in workspace.kubectl("get", "persistentvolumeclaims", "-n", TRAINING, "-o", "name")


def test_our_service_accounts_use_every_right_they_have_and_need_no_other(plane: Plane, workspace: Workspace) -> None:
    account = audit.read(plane.layout.audit_log, NAMESPACE, since=workspace.since)
    settings = parse_settings(SETTINGS, {})
    granted = audit.granted(render("moorage", settings, Connection("", "", "", "")))
    wanting, idle = sorted(set(account.denied) - granted), sorted(granted - set(account.used) - RARELY)
    # A starting API server denies what it grants a moment later, since it has not read the roles yet; clients live with that.
    assert not wanting
    assert not idle
    assert granted >= RARELY


def test_the_extension_leaves_nothing_but_what_belongs_to_others(workspace: Workspace, before: set[tuple[str, str, str]]) -> None:
    during = inventory(workspace.kubectl)
    assert {("Namespace", "<none>", NAMESPACE), ("ClusterRole", "<none>", "moorage-gateway")} <= during - before
    workspace.ok("extension", "delete", "--name", "moorage", "--force", "--yes")
    # Of the whole cluster, custom resource definitions included; a namespace in which somebody trained stays, with its prepared environments.
    mine = {
        ("Namespace", "<none>", TRAINING),
        ("ServiceAccount", TRAINING, "default"),
        ("ConfigMap", TRAINING, "kube-root-ca.crt"),
        ("PersistentVolumeClaim", TRAINING, "moorage-environments"),
    }
    assert inventory(workspace.kubectl) - before == mine
    left = workspace.kubectl(
        "get", "clusterroles,clusterrolebindings,deployments,secrets,serviceaccounts", "-A", "-l", "moorage.dev/extension"
    )
    assert left.strip() == ""
    assert workspace.kubectl("get", "namespaces", "azureml", "--ignore-not-found").strip() == ""


def _status(workspace: Workspace, job: str) -> str:
    return workspace.run("job", "show", "--name", job, "--query", "status", "-o", "tsv").out.strip()
