"""The inference operator's decisions: golden manifests, tables over pods, and convergence."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage import __version__
from moorage.inference import endpoint
from moorage.inference.manifests import REVISION, desired
from moorage.inference.reconcile import reconcile
from moorage.kube.reconcile import Observed, Plan
from moorage.specs.manifest import Manifest

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
GOLDEN = Path(__file__).parent / "golden"


def online_deployment(**changes: Any) -> Manifest:
    spec: Manifest = {
        "subscription": "s",
        "resourceGroup": "rg",
        "workspace": "default",
        "compute": "local",
        "endpoint": "digits",
        "deployment": "blue",
        "model": {"name": "m", "version": "3", "uri": "k-blob/azureml/train-1/model", "kind": "folder"},
        "code": {"uri": "k-code-2/onlinescoring", "scoringScript": "score.py"},
        "environment": {"name": "env:1", "image": "registry.example/py:1", "pip": ["numpy==2.0"]},
        "environmentVariables": {"MINE": "1"},
        "resources": {"requests": {"cpu": "0.1"}, "limits": {"memory": "1Gi"}},
        "replicas": 2,
        "requests": {"timeoutMilliseconds": 60000, "concurrencyPerInstance": 2},
        "livenessProbe": {"periodSeconds": 20},
        "progressDeadlineSeconds": 600,
    }
    spec.update(changes)
    return {
        "apiVersion": "moorage.dev/v1alpha1",
        "kind": "OnlineDeployment",
        "metadata": {"name": "digits-blue-ab", "namespace": "team", "generation": 3, "uid": "u2"},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def see(parent: Manifest, *, children: Sequence[Manifest] = (), pods: Sequence[Manifest] = (), now: datetime = NOW) -> Observed:
    by_kind: dict[str, list[Manifest]] = {"Deployment": [], "ConfigMap": [], "Service": [], "Pod": list(pods)}
    for child in children:
        by_kind[child["kind"]].append(child)
    return Observed(parent, by_kind, now, {"InstanceType": []})


def status_of(plan: Plan) -> Manifest:
    assert plan.status is not None
    return plan.status


def rendered(plan: Plan) -> str:
    """YAML without anchors, whatever the version and the revision that follows from it."""
    text = json.dumps(list(plan.children)).replace(f"component:{__version__}", "component:VERSION")
    revision = plan.children[1]["spec"]["template"]["metadata"]["annotations"][REVISION]
    return str(yaml.safe_dump_all(json.loads(text.replace(revision, "REVISION")), sort_keys=True, width=160))


def living(parent: Manifest, **status: Any) -> list[Manifest]:
    children = copy.deepcopy(list(reconcile(see(parent)).children))
    children[1]["status"] = {"observedGeneration": 1, **status}
    children[1]["metadata"]["generation"] = 1
    return children


RUNNING: Manifest = {"running": {"startedAt": "2026-11-22T11:00:10Z"}}


def ended(code: int, message: str = "", reason: str = "Error") -> Manifest:
    times = {"startedAt": "2026-11-22T11:00:00Z", "finishedAt": "2026-11-22T11:00:10Z"}
    return {"terminated": {"exitCode": code, "message": message, "reason": reason, **times}}


def pod(
    parent: Manifest, *, ready: bool = False, restarts: int = 0, last: Manifest | None = None, node: str = "n1", **states: Manifest
) -> Manifest:
    def entry(name: str, state: Manifest) -> Manifest:
        return {
            "name": name,
            "image": "i",
            "state": state,
            "restartCount": restarts,
            "ready": "terminated" in state,
            "lastState": last or {},
        }

    revision = desired(parent, [], {}).revision
    found: Manifest = {
        "metadata": {"name": "digits-blue-ab-x", "annotations": {REVISION: revision}, "creationTimestamp": "2026-11-22T11:00:00Z"},
        "spec": {"containers": [{"name": "main", "resources": {"limits": {"memory": "1Gi"}}}]} | ({"nodeName": node} if node else {}),
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": "2026-11-22T11:00:13Z"}],
            "initContainerStatuses": [entry(name, state) for name, state in states.items() if name != "main"],
            "containerStatuses": [entry("main", states["main"]) | {"ready": ready}] if "main" in states else [],
        },
    }
    return found


def test_a_deployment_becomes_the_golden_manifests() -> None:
    plan = reconcile(see(online_deployment()))
    assert rendered(plan) == (GOLDEN / "online_deployment.yaml").read_text()
    assert [shared["kind"] for shared in plan.shared] == ["PersistentVolumeClaim"]


def test_pods_go_where_the_extension_is_pinned() -> None:
    plan = reconcile(see(online_deployment()), {"zone": "a"})
    assert plan.children[1]["spec"]["template"]["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux", "zone": "a"}


def test_a_changed_plan_changes_the_pods() -> None:
    one, other = (desired(online_deployment(model={"name": "m", "version": "3", "uri": uri}), [], {}) for uri in ("a/b", "a/c"))
    assert one.revision != other.revision


def test_replicas_are_the_autoscalers_least_where_there_is_one() -> None:
    assert desired(online_deployment(scale={"type": "TargetUtilization", "minInstances": 3, "maxInstances": 5}), [], {}).replicas == 3
    assert desired(online_deployment(replicas=None), [], {}).replicas == 1


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"instanceType": "gpu"}, "UnknownInstanceType", "no instance type 'gpu'"),
        ({"resources": {"limits": {"memory": "8Gi"}}}, "ResourcesExceedInstanceType", "8Gi exceeds the 2Gi"),
        ({"code": None}, "ScoringScriptMissing", "no code_configuration"),
    ],
)
def test_what_cannot_be_served_fails_and_leaves_what_serves(changes: Manifest, reason: str, words: str) -> None:
    before = living(online_deployment())
    plan = reconcile(see(online_deployment(**changes), children=before))
    status = status_of(plan)
    assert (status["phase"], status["reason"]) == ("Failed", reason)
    assert words in status["message"]
    assert {child["kind"]: child.get("spec") for child in plan.children} == {child["kind"]: child.get("spec") for child in before}


GOOD = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2}
TRACEBACK = "Traceback\nRuntimeError: no model here"


@pytest.mark.parametrize(
    ("made", "phase", "reason", "words"),
    [
        ({"node": ""}, "Creating", "Scheduling", "waits for a node"),
        ({"environment": RUNNING}, "Creating", "PreparingEnvironment", "prepares the environment since 2026-11-22T11:00:10Z"),
        ({"environment": ended(0), "fetch": RUNNING}, "Creating", "DownloadingModel", "downloads model and code"),
        ({"fetch": ended(0), "main": RUNNING}, "Creating", "StartingCode", "starts the scoring code"),
        ({"main": RUNNING, "restarts": 1, "last": ended(3, TRACEBACK)}, "Creating", "StartingCode", "no model here"),
        (
            {"main": RUNNING, "restarts": 2, "last": ended(3, TRACEBACK)},
            "Failed",
            "ScoringScriptFailed",
            "init() fails. Its last lines:\nTraceback",
        ),
        (
            {"main": {"waiting": {"reason": "CrashLoopBackOff"}}, "restarts": 4, "last": ended(3, TRACEBACK)},
            "Failed",
            "ScoringScriptFailed",
            "no model",
        ),
        ({"main": {"waiting": {"reason": "CrashLoopBackOff"}}, "restarts": 1, "last": ended(3, "x")}, "Failed", "ScoringScriptFailed", "x"),
        (
            {"main": {"waiting": {"reason": "CrashLoopBackOff"}}, "restarts": 1, "last": ended(1, "x")},
            "Creating",
            "StartingCode",
            "started again",
        ),
        ({"main": RUNNING, "restarts": 2, "last": ended(1)}, "Creating", "StartingCode", "exit code 1"),
        ({"main": ended(1), "restarts": 2}, "Failed", "ContainerCrashed", "exit code 1"),
        ({"main": ended(137, reason="OOMKilled"), "restarts": 2}, "Failed", "OutOfMemory", "limit of 1Gi; choose a larger instance type"),
        (
            {"environment": ended(1, '{"code": "RequirementNotFound", "message": "no nope"}')},
            "Failed",
            "EnvironmentFailed",
            "could not be prepared: no nope",
        ),
        ({"fetch": ended(1, '{"code": "ServiceUnavailable", "message": "away"}')}, "Creating", "DownloadingModel", "will try again: away"),
        ({"fetch": ended(1, '{"code": "BlobNotFound", "message": "gone"}')}, "Failed", "DownloadFailed", "gone"),
        ({"main": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}}, "Creating", "ImagePullFailed", "cannot be pulled: denied"),
    ],
)
def test_a_deployments_phase_follows_its_pods(made: Manifest, phase: str, reason: str, words: str) -> None:
    parent = online_deployment()
    status = status_of(reconcile(see(parent, children=living(parent), pods=[pod(parent, **made)])))
    assert (status["phase"], status["reason"]) == (phase, reason)
    assert words in status["message"]
    assert status["conditions"][0]["status"] == "False"


def test_a_rolled_out_deployment_succeeds_and_names_how_long_each_phase_took() -> None:
    parent = online_deployment()
    pods = [pod(parent, ready=True, environment=ended(0), fetch=ended(0), main=RUNNING)]
    status = status_of(reconcile(see(parent, children=living(parent, **GOOD), pods=pods)))
    assert (status["phase"], status["message"]) == ("Succeeded", "2 of 2 replicas are ready (environment 10 s, download 10 s, start 3 s).")
    assert status["readyReplicas"] == 1


SUBSTITUTED = json.dumps({"code": "EnvironmentSubstituted", "message": "env:1 runs on Python 3.12."})


def test_what_its_pods_say_of_the_environment_is_told_once_and_goes_with_the_revision() -> None:
    parent = online_deployment()
    pods = [pod(parent, ready=True, environment=ended(0, SUBSTITUTED), fetch=ended(0), main=RUNNING)]
    plan = reconcile(see(parent, children=living(parent, **GOOD), pods=pods))
    parent["status"] = status_of(plan)
    assert parent["status"]["notices"] == ["env:1 runs on Python 3.12."]
    assert plan.events == [("Warning", "EnvironmentSubstituted", "env:1 runs on Python 3.12.")]
    without = reconcile(see(parent, children=living(parent)))
    assert status_of(without)["notices"] == parent["status"]["notices"] and without.events == [], "while no pod is there"
    changed = online_deployment(environment={"name": "env:2", "image": "registry.example/py:1"})
    changed["metadata"]["generation"] = 4
    changed["status"] = parent["status"]
    assert status_of(reconcile(see(changed, children=living(changed), pods=pods)))["notices"] == [], (
        "pods of the former revision do not count"
    )


def test_an_update_is_one_until_it_is_rolled_out() -> None:
    parent = online_deployment()
    parent["status"] = {"phase": "Succeeded", "observedGeneration": 2}
    assert status_of(reconcile(see(parent, children=living(parent))))["phase"] == "Updating"


def test_a_lost_replica_does_not_undo_success_but_shows() -> None:
    parent = online_deployment()
    parent["status"] = {"phase": "Succeeded", "observedGeneration": 3}
    status = status_of(reconcile(see(parent, children=living(parent), pods=[pod(parent, main=ended(1), restarts=5)])))
    assert (status["phase"], status["reason"]) == ("Succeeded", "ContainerCrashed")
    assert status["conditions"][0]["status"] == "False"


def test_a_deadline_names_the_phase_that_was_not_done() -> None:
    parent = online_deployment()
    children = living(parent, conditions=[{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}])
    status = status_of(reconcile(see(parent, children=children, pods=[pod(parent, fetch=RUNNING)])))
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert "within 600 s. Pod digits-blue-ab-x downloads" in status["message"]


states = st.sampled_from([None, RUNNING, ended(0), ended(3, TRACEBACK), {"waiting": {"reason": "CrashLoopBackOff"}}])


@settings(max_examples=100, deadline=None)
@given(
    containers=st.fixed_dictionaries(dict.fromkeys(("environment", "fetch", "main"), states)),
    ready=st.booleans(),
    restarts=st.integers(0, 3),
    counts=st.sampled_from([{}, GOOD]),
    present=st.tuples(st.booleans(), st.booleans()),
    changes=st.sampled_from([{}, {"instanceType": "none"}, {"replicas": 0}]),
    earlier=st.sampled_from([None, "Succeeded", "Failed", "Updating"]),
)
def test_reconciling_a_reconciles_own_result_changes_nothing(
    containers: dict[str, Manifest | None],
    ready: bool,
    restarts: int,
    counts: Manifest,
    present: tuple[bool, bool],
    changes: Manifest,
    earlier: str | None,
) -> None:
    good = online_deployment()
    parent = online_deployment(**changes)
    if earlier:
        parent["status"] = {"phase": earlier, "observedGeneration": 3}
    children = living(good, **counts) if present[0] else []
    states = {name: state for name, state in containers.items() if state}
    pods = [pod(good, ready=ready, restarts=restarts, last=ended(3, "x"), **states)] if present[1] else []
    for _ in range(3):
        plan = reconcile(see(parent, children=children, pods=pods))
        kept = {child["kind"]: child for child in children}
        children = [
            {**child, **({"status": kept[child["kind"]].get("status", {})} if child["kind"] in kept else {})} for child in plan.children
        ]
        parent["status"] = json.loads(json.dumps(plan.status))
    again = reconcile(see(parent, children=children, pods=pods, now=NOW + timedelta(hours=1)))
    assert again.status == parent["status"]
    assert again.events == []
    assert list(again.children) == [{key: value for key, value in child.items() if key != "status"} for child in children]


@pytest.mark.parametrize(
    ("traffic", "ready", "status", "reason"),
    [
        ({}, {}, "False", "NoTraffic"),
        ({"blue": 100}, {}, "False", "DeploymentMissing"),
        ({"blue": 100}, {"blue": 0}, "False", "NoReplicaReady"),
        ({"blue": 90, "green": 10}, {"blue": 1, "green": 0}, "True", "PartlyReady"),
        ({"blue": 100, "green": 0}, {"blue": 1, "green": 0}, "True", "Ready"),
    ],
)
def test_an_endpoint_is_ready_when_a_request_would_find_a_replica(traffic: Manifest, ready: Manifest, status: str, reason: str) -> None:
    spec = {"workspace": "default", "resourceGroup": "rg", "compute": "local", "endpoint": "digits", "authMode": "Key"}
    parent: Manifest = {"metadata": {"name": "e", "namespace": "team", "generation": 1}, "spec": {**spec, "traffic": traffic}}
    deployments = []
    for name, count in ready.items():
        found = online_deployment(deployment=name)
        found["status"] = {"readyReplicas": count}
        deployments.append(found)
    other = online_deployment(endpoint="other", deployment="else")
    plan = endpoint.reconcile(Observed(parent, {}, NOW, {"OnlineDeployment": [*deployments, other]}))
    assert plan.status is not None
    condition = plan.status["conditions"][0]
    assert (condition["status"], condition["reason"]) == (status, reason)
    assert plan.status["deployments"] == sorted(ready)


def test_an_endpoint_is_as_wanted_once_the_router_serves_it_or_has_been_silent_for_long() -> None:
    spec = {"workspace": "default", "resourceGroup": "rg", "compute": "local", "endpoint": "digits", "authMode": "Key"}
    parent: Manifest = {"metadata": {"name": "e", "namespace": "team", "generation": 1}, "spec": spec}

    def settled(generation: int, *, after: timedelta = timedelta(0), routed: int | None = None) -> tuple[int, str, timedelta | None]:
        parent["metadata"]["generation"] = generation
        if routed is not None:
            parent["status"]["routedGeneration"] = routed
        plan = endpoint.reconcile(Observed(parent, {}, NOW + after, {"OnlineDeployment": []}))
        assert plan.status is not None
        parent["status"] = json.loads(json.dumps(plan.status))
        assert plan.status == endpoint.reconcile(Observed(parent, {}, NOW + after, {"OnlineDeployment": []})).status
        assert parent["status"].get("routedGeneration") == (routed or parent["status"].get("routedGeneration"))
        return plan.status["observedGeneration"], plan.status["conditions"][1]["status"], plan.requeue_after

    second = timedelta(seconds=1)
    assert settled(1) == (0, "False", endpoint.ROUTED_WITHIN)
    assert settled(1, after=second) == (0, "False", endpoint.ROUTED_WITHIN - second)
    assert settled(1, after=second, routed=1) == (1, "True", None)
    assert settled(2, after=2 * second) == (1, "False", endpoint.ROUTED_WITHIN)
    assert settled(2, after=2 * second, routed=2) == (2, "True", None)
    assert settled(3, after=3 * second) == (2, "False", endpoint.ROUTED_WITHIN)
    assert settled(3, after=3 * second + endpoint.ROUTED_WITHIN) == (3, "False", None)
