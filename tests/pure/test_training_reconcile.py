"""The training operator's decisions: tables over pods, one golden manifest, and convergence."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage import __version__
from moorage.kube.reconcile import Observed, Plan
from moorage.specs.manifest import Manifest
from moorage.training.reconcile import reconcile

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
GOLDEN = Path(__file__).parent / "golden"
GPU: Manifest = {
    "metadata": {"name": "gpu"},
    "spec": {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}],
        "resources": {"requests": {"cpu": "700m", "memory": "1500Mi"}, "limits": {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": 1}},
    },
}


def training_job(**changes: Any) -> Manifest:
    spec: Manifest = {
        "subscription": "s",
        "resourceGroup": "rg",
        "workspace": "default",
        "compute": "local",
        "job": "train-1",
        "experiment": "digits",
        "command": "python train.py --n ${{inputs.n}} --data ${{inputs.data}} --out ${{outputs.model}} && echo $(date) $$",
        "environmentVariables": {"MINE": "$(HOME) stays"},
        "environment": {"name": "env:1", "image": "registry.example/py:1", "conda": "dependencies: [python=3.11]", "pip": ["numpy==2.0"]},
        "code": {"uri": "k-code-1/train"},
        "inputs": {"n": {"type": "literal", "value": "7"}, "data": {"type": "uri_file", "uri": "k-blob/up/data.csv"}},
        "outputs": {"model": {"type": "uri_folder", "uri": "k-blob/azureml/train-1/model/"}},
        "artifactsUri": "k-artifact/ExperimentRun/dcid.train-1",
        "resources": {"instanceType": "gpu", "instanceCount": 1, "shmSize": "2Gi"},
    }
    spec.update(changes)
    spec = {key: value for key, value in spec.items() if value is not None}
    return {
        "apiVersion": "moorage.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "train-1-ab", "namespace": "team", "generation": 1, "uid": "u1"},
        "spec": spec,
    }


def see(
    parent: Manifest,
    *,
    children: Sequence[Manifest] = (),
    pods: Sequence[Manifest] = (),
    claims: Sequence[Manifest] = (),
    now: datetime = NOW,
) -> Observed:
    by_kind: dict[str, list[Manifest]] = {"Job": [], "ConfigMap": [], "Pod": list(pods)}
    for child in children:
        by_kind[child["kind"]].append(child)
    return Observed(parent, by_kind, now, {"InstanceType": [GPU], "PersistentVolumeClaim": list(claims)})


def job_with(plan: Plan, **status: Any) -> list[Manifest]:
    children = copy.deepcopy(list(plan.children))
    children[1]["metadata"]["uid"] = "j1"
    children[1]["status"] = status
    return children


def started() -> list[Manifest]:
    return job_with(reconcile(see(training_job())))


def terminated(code: int, message: str = "", reason: str = "Error") -> Manifest:
    times = {"startedAt": "2026-11-22T11:00:00Z", "finishedAt": "2026-11-22T11:10:00Z"}
    return {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else reason, "message": message, **times}}


RUNNING: Manifest = {"running": {"startedAt": "2026-11-22T11:00:00Z"}}


def pod(phase: str = "Pending", *, node: str = "node-1", conditions: Sequence[Manifest] = (), **states: Manifest) -> Manifest:
    limits = {"memory": "2Gi"}
    found: Manifest = {
        "metadata": {
            "name": "train-1-ab-xyz",
            "creationTimestamp": "2026-11-22T10:59:00Z",
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "train-1-ab", "uid": "j1", "controller": True}],
        },
        "spec": {"containers": [{"name": "main", "resources": {"limits": limits}}]} | ({"nodeName": node} if node else {}),
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "initContainerStatuses": [{"name": name, "state": state} for name, state in states.items() if name != "main"],
            "containerStatuses": [{"name": "main", "image": "i", "state": states["main"]}] if "main" in states else [],
        },
    }
    return found


def status_of(plan: Plan) -> Manifest:
    assert plan.status is not None
    return plan.status


def rendered(plan: Plan) -> str:
    """YAML without anchors, whatever the version."""
    plain = json.loads(json.dumps(list(plan.children)).replace(f"component:{__version__}", "component:VERSION"))
    return str(yaml.safe_dump_all(plain, sort_keys=True, width=160))


def test_a_job_becomes_the_golden_manifests() -> None:
    plan = reconcile(see(training_job()))
    assert rendered(plan) == (GOLDEN / "training_job.yaml").read_text()


def test_pods_go_where_the_extension_is_pinned_and_the_instance_type_says() -> None:
    plan = reconcile(see(training_job()), {"zone": "a", "pool": "any"})
    job = next(child for child in plan.children if child["kind"] == "Job")
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux", "zone": "a", "pool": "gpu"}


def test_the_shared_claim_is_asked_for_only_with_an_environment_to_prepare() -> None:
    assert [shared["metadata"]["name"] for shared in reconcile(see(training_job())).shared] == ["moorage-environments"]
    assert reconcile(see(training_job(environment={"image": "i"}))).shared == []


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"resources": {"instanceType": "huge"}}, "UnknownInstanceType", "It has: defaultinstancetype, gpu"),
        ({"command": "echo ${{inputs.x}}"}, "UnknownReference", "inputs.data, inputs.n, outputs.model"),
        (
            {"distribution": {"type": "TensorFlow", "workerCount": 3}},
            "DistributionMismatch",
            "workerCount is 3, but resources.instanceCount is 1",
        ),
        ({"inputs": {"data": {"type": "uri_file"}}, "command": "x"}, "InputWithoutUri", "Input 'data' has no uri"),
    ],
)
def test_what_cannot_be_run_fails_at_once_and_says_why(changes: Manifest, reason: str, words: str) -> None:
    plan = reconcile(see(training_job(**changes)))
    status = status_of(plan)
    assert (status["phase"], status["reason"], plan.children) == ("Failed", reason, ())
    assert words in status["message"]
    assert [event[0] for event in plan.events] == ["Warning"]


@pytest.mark.parametrize(
    ("pods", "phase", "reason", "words"),
    [
        ([], "Queued", "Starting", "Waiting for the cluster"),
        (
            [
                pod(
                    node="",
                    conditions=[{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}],
                )
            ],
            "Queued",
            "Unschedulable",
            "Waiting for a node: 0/2 nodes are available: 2 Insufficient cpu.",
        ),
        ([pod(environment=RUNNING)], "Preparing", "PreparingEnvironment", "environment is being prepared"),
        ([pod(environment=terminated(0), fetch=RUNNING)], "Preparing", "FetchingInputs", "downloaded"),
        (
            [pod(main={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})],
            "Preparing",
            "ImagePullFailed",
            "The image 'i' cannot be pulled: not found",
        ),
        ([pod("Running", upload=RUNNING, main=RUNNING)], "Running", "Running", "The command is running."),
        ([pod("Running", upload=RUNNING, main=terminated(0))], "Finalizing", "StoringOutputs", "outputs are being stored"),
        ([pod("Failed", main=terminated(1))], "Finalizing", "StoringOutputs", "being stored"),
        ([pod("Failed", fetch=terminated(137))], "Preparing", "StartingPod", "before the command began"),
    ],
)
def test_a_jobs_phase_follows_its_pod(pods: Sequence[Manifest], phase: str, reason: str, words: str) -> None:
    status = status_of(reconcile(see(training_job(), children=started(), pods=pods)))
    assert (status["phase"], status["reason"]) == (phase, reason)
    assert words in status["message"]


def fallen(phase: str, **states: Manifest) -> Manifest:
    """A pod whose sidecar was to be started again when the command ended, as kubelets from 1.35 on report it."""
    found = pod(phase, upload={"waiting": {"reason": "CrashLoopBackOff"}}, **states)
    found["status"]["initContainerStatuses"][0]["lastState"] = terminated(1, '{"code": "UploadFailed", "message": "no room"}')
    return found


FAILED = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "Job has reached the limit"}]}
COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}]}


@pytest.mark.parametrize(
    ("job", "pods", "phase", "reason", "words"),
    [
        (COMPLETE, [pod("Succeeded", upload=terminated(0), main=terminated(0))], "Completed", "Completed", "outputs are stored"),
        (
            COMPLETE,
            [pod("Succeeded", upload=terminated(1, '{"code": "UploadFailed", "message": "no room"}'), main=terminated(0))],
            "Failed",
            "UploadFailed",
            "could not be stored: no room",
        ),
        (COMPLETE, [pod("Succeeded", upload=terminated(137), main=terminated(0))], "Failed", "UploadFailed", "killed before it was done"),
        (
            COMPLETE,
            [pod("Succeeded", upload=terminated(0, '{"code": "LinksNotStored", "message": "x is a link."}'), main=terminated(0))],
            "Completed",
            "Completed",
            "but for this: x is a link.",
        ),
        (COMPLETE, [fallen("Succeeded", main=terminated(0))], "Failed", "UploadFailed", "could not be stored: no room"),
        (COMPLETE, [pod("Succeeded", main=terminated(0))], "Failed", "UploadFailed", "the node does not say how"),
        (FAILED, [fallen("Failed", main=terminated(3))], "Failed", "CommandFailed", "could not be stored either: no room"),
        (
            FAILED,
            [pod("Failed", main=terminated(3, "line 1\nValueError: x"))],
            "Failed",
            "CommandFailed",
            "exit code 3. Its last lines:\nline 1",
        ),
        (
            FAILED,
            [pod("Failed", main=terminated(137, reason="OOMKilled"))],
            "Failed",
            "OutOfMemory",
            "more than its memory limit of 2Gi; choose a larger instance type",
        ),
        (
            FAILED,
            [
                pod(
                    "Failed",
                    environment=terminated(1, '{"code": "RequirementNotFound", "message": "The requirement \'nope\' does not exist."}'),
                )
            ],
            "Failed",
            "EnvironmentFailed",
            "could not be prepared: The requirement 'nope' does not exist.",
        ),
        (
            FAILED,
            [pod("Failed", fetch=terminated(1, '{"code": "BlobNotFound", "message": "nothing"}'))],
            "Failed",
            "FetchFailed",
            "nothing",
        ),
        (FAILED, [], "Failed", "BackoffLimitExceeded", "Job has reached the limit"),
        (COMPLETE, [], "Completed", "Completed", "pod was gone before it could be asked whether all outputs were stored"),
    ],
)
def test_a_jobs_end_is_told_in_words(job: Manifest, pods: Sequence[Manifest], phase: str, reason: str, words: str) -> None:
    children = started()
    children[1]["status"] = job
    status = status_of(reconcile(see(training_job(), children=children, pods=pods)))
    assert (status["phase"], status["reason"]) == (phase, reason)
    assert words in status["message"]
    assert status["completionTime"]
    if pods and pods[0]["status"]["containerStatuses"]:
        assert status["exitCode"] == pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        assert status["startTime"] == "2026-11-22T11:00:00Z"


@pytest.mark.parametrize("main", [terminated(0), {"running": {}}])
def test_a_complete_job_waits_for_the_last_news_of_its_pod(main: Manifest) -> None:
    children = started()
    children[1]["status"] = COMPLETE
    late = pod("Running", upload={"running": {}}, main=main)
    status = status_of(reconcile(see(training_job(), children=children, pods=[late])))
    assert (status["phase"], status["reason"]) == ("Finalizing", "PodEnded")


def test_a_failed_job_waits_for_the_last_news_of_the_pod_that_tells_why_unless_the_pod_is_deleted() -> None:
    children = started()
    children[1]["status"] = FAILED
    late = pod("Running", upload={"running": {}}, main={"running": {}})
    status = status_of(reconcile(see(training_job(), children=children, pods=[late])))
    assert (status["phase"], status["reason"]) == ("Finalizing", "PodEnded")
    late["metadata"]["deletionTimestamp"] = "2026-11-22T11:10:00Z"
    status = status_of(reconcile(see(training_job(), children=children, pods=[late])))
    assert (status["phase"], status["reason"]) == ("Failed", "BackoffLimitExceeded")


EVICTED = {"type": "DisruptionTarget", "status": "True", "message": "Eviction API: evicting", "lastTransitionTime": "2026-11-22T11:09:58Z"}
LATER = {**EVICTED, "lastTransitionTime": "2026-11-22T11:10:01Z"}
DONE = {"upload": terminated(0), "main": terminated(0)}  # at 11:10:00


def deleted(given: Manifest, at: str) -> Manifest:
    """With a grace of two minutes."""
    return {**given, "metadata": {**given["metadata"], "deletionTimestamp": at, "deletionGracePeriodSeconds": 120}}


@pytest.mark.parametrize(
    ("before", "after", "phase"),
    [
        (None, pod("Succeeded", conditions=[EVICTED], **DONE), "Failed"),
        (None, pod("Succeeded", conditions=[LATER], **DONE), "Completed"),  # it had ended by itself
        (None, pod("Succeeded", conditions=[{**EVICTED, "status": "False"}], **DONE), "Completed"),
        (None, deleted(pod("Succeeded", **DONE), "2026-11-22T11:11:58Z"), "Failed"),
        (None, deleted(pod("Succeeded", **DONE), "2026-11-22T11:12:01Z"), "Completed"),
        (pod("Running", conditions=[EVICTED], main=RUNNING), None, "Failed"),
        (
            pod("Running", conditions=[LATER], main=RUNNING),
            pod("Succeeded", conditions=[LATER], **DONE),
            "Failed",
        ),  # whatever the node's clock says
        (pod("Failed", conditions=[EVICTED], main=terminated(143)), None, "Completed"),  # and another took its place
        (pod("Running", main=RUNNING), None, "Completed"),
    ],
)
def test_a_command_that_ended_well_only_because_it_was_told_to_end_is_not_called_done(
    before: Manifest | None, after: Manifest | None, phase: str
) -> None:
    parent, children = training_job(), started()
    if before is not None:
        parent["status"] = status_of(reconcile(see(parent, children=children, pods=[before])))
    children[1]["status"] = COMPLETE
    plan = reconcile(see(parent, children=children, pods=[after] if after else []))
    status = status_of(plan)
    assert (status["phase"], status["exitCode"]) == (phase, 0)
    if phase == "Failed":
        assert status["reason"] == "Interrupted"
        assert status["message"].startswith("The cluster took its pod away (")
        assert "whether it had done its work, only its outputs can tell" in status["message"]


def test_a_pod_that_was_counted_and_went_leaves_no_job_in_the_queue() -> None:
    children = started()
    children[1]["status"] = {"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}
    assert status_of(reconcile(see(training_job(), children=children)))["phase"] == "Finalizing"


def test_a_terminal_state_is_kept() -> None:
    parent = training_job()
    parent["status"] = {"phase": "Completed"}
    assert reconcile(see(parent, pods=[pod("Failed", main=terminated(1))])).status is None


def test_a_running_job_keeps_its_pod_when_its_instance_type_goes() -> None:
    children = started()
    children[1]["spec"]["selector"] = {"matchLabels": {"controller-uid": "x"}}
    seen = see(training_job(resources={"instanceType": "gone"}), children=children, pods=[pod("Running", main=RUNNING)])
    plan = reconcile(seen)
    assert status_of(plan)["phase"] == "Running"
    assert plan.children[1]["spec"] == children[1]["spec"]


def test_cancelling_takes_the_job_away_and_ends_once_its_pods_are_gone() -> None:
    parent = training_job(cancelRequested=True)
    going = reconcile(see(parent, children=started(), pods=[pod("Running", main=RUNNING)]))
    assert going.children == ()
    assert "being stopped" in status_of(going)["message"]
    parent["status"] = going.status
    ending = reconcile(see(parent, pods=[pod("Failed", main=terminated(143))]))
    assert status_of(ending)["phase"] not in ("Failed", "Canceled")
    parent["status"] = ending.status
    done = status_of(reconcile(see(parent)))
    assert (done["phase"], done["reason"]) == ("Canceled", "CancelRequested")


def test_a_job_that_completed_before_its_cancelling_is_completed() -> None:
    children = started()
    children[1]["status"] = COMPLETE
    pods = [pod("Succeeded", upload=terminated(0), main=terminated(0))]
    assert status_of(reconcile(see(training_job(cancelRequested=True), children=children, pods=pods)))["phase"] == "Completed"


def test_a_job_over_its_limit_is_cancelled_and_says_so() -> None:
    parent, pods = training_job(limits={"timeoutSeconds": 1200}), [pod("Running", main=RUNNING)]
    early = reconcile(see(parent, children=started(), pods=pods, now=datetime(2026, 11, 22, 11, 5, tzinfo=UTC)))
    assert early.requeue_after == timedelta(minutes=15)
    over = reconcile(see(parent, children=started(), pods=pods))
    assert [child["kind"] for child in over.children] == ["ConfigMap", "Job"], "the decision is written down first"
    parent["status"] = over.status
    going = reconcile(see(parent, children=started(), pods=pods))
    assert going.children == ()
    parent["status"] = going.status
    done = status_of(reconcile(see(parent)))
    assert (done["phase"], done["reason"]) == ("Canceled", "TimeLimit")
    assert "ran longer than its limit of 20m" in done["message"]


def replaced() -> Manifest:
    """The pod that the Job makes in place of one that the cluster took away."""
    found = pod(fetch=RUNNING)
    return {**found, "metadata": {**found["metadata"], "name": "train-1-ab-uvw", "creationTimestamp": "2026-11-22T11:55:00Z"}}


@pytest.mark.parametrize("gone", [False, True])
def test_the_time_limit_goes_on_when_the_pod_is_replaced(gone: bool) -> None:
    lost = pod("Failed", conditions=[{"type": "DisruptionTarget", "status": "True"}], fetch=terminated(0), main=terminated(143))
    pods = [replaced()] if gone else [lost, replaced()]
    # With a start that only the pods tell of, and one that only the status does.
    remembered = {"phase": "Running", "startTime": "2026-11-22T11:00:00Z"} if gone else {}
    parent = {**training_job(limits={"timeoutSeconds": 5400}), "status": remembered}
    plan = reconcile(see(parent, children=started(), pods=pods))
    assert (status_of(plan)["phase"], plan.requeue_after) == ("Preparing", timedelta(minutes=30))
    assert status_of(plan)["startTime"] == "2026-11-22T11:00:00Z"
    parent = {**training_job(limits={"timeoutSeconds": 3000}), "status": remembered}
    over = reconcile(see(parent, children=started(), pods=pods))
    assert status_of(over)["reason"] == "TimeLimit"
    parent["status"] = over.status
    assert reconcile(see(parent, children=started(), pods=pods)).children == ()
    assert status_of(reconcile(see(parent)))["phase"] == "Canceled"


def test_a_limit_does_not_count_from_a_start_that_failed() -> None:
    # What the kubelet reports of a container that the runtime could not start.
    state = {
        "terminated": {"exitCode": 128, "reason": "StartError", "startedAt": "1970-01-01T00:00:00Z", "finishedAt": "2026-11-22T11:10:00Z"}
    }
    parent = training_job(limits={"timeoutSeconds": 60})
    assert "startTime" not in status_of(reconcile(see(parent, children=started(), pods=[pod("Running", main=state)])))


def claim(name: str, path: str | None, **labels: str) -> Manifest:
    annotations = {} if path is None else {"ml.azure.com/mountpath": path}
    return {"metadata": {"name": name, "namespace": "team", "labels": {"ml.azure.com/pvc": "true", **labels}, "annotations": annotations}}


def test_labelled_claims_are_mounted_and_bad_ones_reported() -> None:
    claims = [
        claim("data", "/mnt/data"),
        claim("a", "/mnt/x/"),
        claim("b", "/mnt/x"),
        claim("relative", "mnt/y"),
        claim("system", "/etc/ssl"),
        claim("ours", "/mnt/azureml/outputs"),
        claim("none", None),
        claim("up", "/mnt/../etc"),
        claim("whole", "/mnt"),
    ]
    plan = reconcile(see(training_job(), claims=claims))
    mounts = {mount["mountPath"] for mount in plan.children[1]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {"/mnt/azureml", "/moorage/environments", "/dev/shm", "/mnt/data"}
    condition = next(found for found in status_of(plan)["conditions"] if found["type"] == "VolumesMounted")
    for name in ("a, b are not mounted", "'relative'", "'system'", "'ours'", "'none'", "'up'", "'whole'"):
        assert name in condition["message"]
    assert [event[1] for event in plan.events] == ["ClaimRefused"]


states = st.sampled_from(
    [None, RUNNING, terminated(0), terminated(1, "boom"), terminated(137, reason="OOMKilled"), {"waiting": {"reason": "ErrImagePull"}}]
)


@settings(max_examples=150, deadline=None)
@given(
    containers=st.fixed_dictionaries(dict.fromkeys(("environment", "fetch", "upload", "main"), states)),
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
    node=st.sampled_from(["", "node-1"]),
    job=st.sampled_from([{}, FAILED, COMPLETE]),
    present=st.tuples(st.booleans(), st.booleans()),
    cancel=st.booleans(),
    limit=st.sampled_from([None, {"timeoutSeconds": 60}, {"timeoutSeconds": 86400}]),
    bad=st.booleans(),
)
def test_reconciling_a_reconciles_own_result_changes_nothing(
    containers: Mapping[str, Manifest | None],
    phase: str,
    node: str,
    job: Manifest,
    present: tuple[bool, bool],
    cancel: bool,
    limit: Manifest | None,
    bad: bool,
) -> None:
    parent = training_job(cancelRequested=cancel, limits=limit, **({"command": "${{inputs.no}}"} if bad else {}))
    children = job_with(reconcile(see(training_job())), **job) if present[0] else []
    pods = [pod(phase, node=node, **{name: state for name, state in containers.items() if state})] if present[1] else []
    for _ in range(4):
        plan = reconcile(see(parent, children=children, pods=pods))
        if plan.status is None:
            return
        parent["status"] = json.loads(json.dumps(plan.status))
        kept = {child["kind"]: child for child in children}
        children = [
            {**child, **({"status": kept[child["kind"]].get("status", {})} if child["kind"] in kept else {})} for child in plan.children
        ]
    again = reconcile(see(parent, children=children, pods=pods, now=NOW + timedelta(hours=1)))
    if again.status is not None:
        assert again.status == parent["status"]
        assert again.events == []
        assert list(again.children) == [{key: value for key, value in child.items() if key != "status"} for child in children]
