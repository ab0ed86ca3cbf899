"""Jobs of several instances: what is made, what the job waits for, whose failure counts, and when all begin anew."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest

from moorage.errors import Invalid
from moorage.kube.reconcile import Observed, Plan
from moorage.specs import distribution
from moorage.specs.distribution import Layout, log_name, variables
from moorage.specs.manifest import Manifest
from moorage.training.reconcile import reconcile

from .test_training_reconcile import COMPLETE, FAILED, GPU, NOW, RUNNING, status_of, terminated, training_job

PEERS = "moorage.dev/peers"
UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}]
DISRUPTED = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}]


def a_job(instances: int = 2, **changes: Any) -> Manifest:
    return training_job(resources={"instanceCount": instances}, environment={"image": "i"}, **changes)


def pod(
    index: int, phase: str = "Pending", *, conditions: Sequence[Manifest] = (), node: bool = True, uid: str = "j1", **states: Manifest
) -> Manifest:
    """A pod of the Job `uid`, with an address once it has a node."""
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)}
    main = states.pop("main", None)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"train-1-ab-{index}-{uid}",
            "namespace": "team",
            "uid": f"pod-{index}-{uid}",
            "creationTimestamp": "2026-11-22T10:59:00Z",
            "annotations": annotations,
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "train-1-ab", "uid": uid, "controller": True}],
        },
        "spec": {"containers": [{"name": "main"}]} | ({"nodeName": f"node-{index}"} if node else {}),
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "initContainerStatuses": [{"name": name, "state": state} for name, state in states.items()],
            "containerStatuses": [{"name": "main", "image": "i", "state": main}] if main else [],
        }
        | ({"podIP": f"10.0.0.{index}"} if node else {}),
    }


def told(*pods: Manifest) -> list[Manifest]:
    """The pods with the peers' annotation, which names them all."""
    value = json.dumps([{"pod": each["metadata"]["name"], "address": each["status"]["podIP"]} for each in pods])
    for each in pods:
        each["metadata"]["annotations"][PEERS] = value
    return list(pods)


def running(index: int, **more: Any) -> Manifest:
    return pod(index, "Running", fetch=terminated(0), upload=RUNNING, peers=terminated(0), main=RUNNING, **more)


def renamed(given: Manifest) -> Manifest:
    return {**given, "metadata": {**given["metadata"], "name": "another"}}


def waiting(index: int, **more: Any) -> Manifest:
    return pod(index, fetch=terminated(0), upload=RUNNING, peers=RUNNING, **more)


def see(parent: Manifest, children: Sequence[Manifest] = (), pods: Sequence[Manifest] = ()) -> Observed:
    by_kind: dict[str, list[Manifest]] = {"Job": [], "ConfigMap": [], "PodGroup": [], "Pod": list(pods)}
    for child in children:
        by_kind[child["kind"]].append(child)
    return Observed(parent, by_kind, NOW, {"InstanceType": [GPU]})


def made(parent: Manifest, *, uid: str = "j1", grouped: bool = False, **status: Any) -> list[Manifest]:
    """The children of a first plan, as a cluster has them."""
    children = copy.deepcopy(list(reconcile(see(parent), grouped=grouped).children))
    (job,) = [child for child in children if child["kind"] == "Job"]
    job["metadata"]["uid"] = uid
    job["status"] = status
    return children


def decided(parent: Manifest, pods: Sequence[Manifest], **status: Any) -> Plan:
    return reconcile(see(parent, made(parent, **status), pods))


def test_an_indexed_job_has_a_pod_for_each_instance_which_waits_for_the_others() -> None:
    plan, job = reconcile(see(a_job(3))), made(a_job(3))[1]
    assert json.loads(plan.children[0]["data"]["plan.json"])["layout"] == {"type": "", "pods": 3, "workers": 3, "processes": 1}
    spec = job["spec"]
    assert (spec["completionMode"], spec["parallelism"], spec["completions"]) == ("Indexed", 3, 3)
    assert "successPolicy" not in spec
    template = spec["template"]["spec"]
    assert [each["name"] for each in template["initContainers"]] == ["fetch", "upload", "peers"]
    assert template["containers"][0]["command"][:2] == ["/bin/sh", "/mnt/azureml/.peers/start.sh"]
    assert template["volumes"][-1]["downwardAPI"]["items"][0]["fieldRef"] == {"fieldPath": "metadata.annotations['moorage.dev/peers']"}
    rules = {rule["onExitCodes"]["containerName"]: rule["action"] for rule in spec["podFailurePolicy"]["rules"][1:]}
    assert rules == dict.fromkeys(("main", "fetch", "upload", "peers"), "FailJob")


def test_with_volcano_the_pods_are_a_gang_and_without_it_they_are_not() -> None:
    # The group first: pods that are there before it are refused a place, and everything may end after any write.
    group, job = made(a_job(3), grouped=True)[1:]
    assert (group["kind"], group["metadata"]["name"], group["spec"]) == ("PodGroup", "train-1-ab", {"minMember": 3})
    assert job["spec"]["template"]["metadata"]["annotations"] == {"scheduling.k8s.io/group-name": "train-1-ab"}
    assert job["spec"]["template"]["spec"]["schedulerName"] == "volcano"
    assert "schedulerName" not in made(a_job(3))[1]["spec"]["template"]["spec"]
    assert [child["kind"] for child in reconcile(see(training_job()), grouped=True).children] == ["ConfigMap", "Job"]


def test_a_group_stays_with_its_job() -> None:
    children = made(a_job(), grouped=True)
    plan = reconcile(see(a_job(), children, [running(0), running(1)]), grouped=True)
    assert sorted(child["kind"] for child in plan.children) == ["ConfigMap", "Job", "PodGroup"]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("instances", [1, 3])
def test_whichever_children_an_operator_that_was_killed_has_made_the_next_plan_has_all(instances: int, grouped: bool) -> None:
    parent = a_job(instances)
    children = made(parent, grouped=grouped)
    wanted = sorted((child["kind"], child["metadata"]["name"]) for child in children)
    for count in range(len(children)):
        for there in combinations(children, count):
            plan = reconcile(see(parent, there), grouped=grouped)
            assert sorted((child["kind"], child["metadata"]["name"]) for child in plan.children) == wanted, [one["kind"] for one in there]


def test_a_group_that_is_missing_beside_its_job_is_made_and_a_job_without_one_stays_without() -> None:
    children = made(a_job(3), grouped=True)
    group = next(child for child in children if child["kind"] == "PodGroup")
    alone = [child for child in children if child["kind"] != "PodGroup"]
    assert group in reconcile(see(a_job(3), alone), grouped=True).children
    # Volcano is gone, or came after the job.
    assert [child["kind"] for child in reconcile(see(a_job(3), alone)).children] == ["ConfigMap", "Job"]
    assert [child["kind"] for child in reconcile(see(a_job(3), made(a_job(3))), grouped=True).children] == ["ConfigMap", "Job"]


def test_parameter_servers_are_further_pods_that_the_job_does_not_wait_for() -> None:
    parent = a_job(2, distribution={"type": "TensorFlow", "parameterServerCount": 1})
    spec = made(parent)[1]["spec"]
    assert (spec["completions"], spec["successPolicy"]) == (3, {"rules": [{"succeededIndexes": "0-1"}]})


@pytest.mark.parametrize(
    ("pods", "phase", "reason", "words"),
    [
        ([], "Queued", "Starting", "Waiting for the cluster to create the job's pods."),
        ([waiting(0)], "Queued", "Starting", "1 of 3 instances have a place; the cluster is creating the others' pods."),
        (
            [pod(index, node=False, conditions=UNSCHEDULABLE) for index in range(3)],
            "Queued",
            "Unschedulable",
            "3 instances wait for nodes. Instance 0: Waiting for a node: 0/2 nodes are available: 2 Insufficient cpu.",
        ),
        (
            [waiting(0), pod(1, fetch=RUNNING), pod(2, node=False, conditions=UNSCHEDULABLE)],
            "Queued",
            "WaitingForPeers",
            "2 of 3 instances have a place; waiting for instance 2: Waiting for a node: 0/2 nodes are available: 2 Insufficient cpu.",
        ),
        (
            [waiting(0), pod(1, fetch=RUNNING), waiting(2)],
            "Preparing",
            "WaitingForPeers",
            "2 of 3 instances are prepared; waiting for instance 1: Code and inputs are being downloaded.",
        ),
        (
            [pod(index, fetch=RUNNING) for index in range(3)],
            "Preparing",
            "FetchingInputs",
            "3 of 3 instances: Code and inputs are being downloaded.",
        ),
        (
            [waiting(index) for index in range(3)],
            "Preparing",
            "WaitingForPeers",
            "All 3 instances are prepared; they are told of each other.",
        ),
        (
            [waiting(0), pod(1, main={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}), waiting(2)],
            "Preparing",
            "ImagePullFailed",
            "Instance 1: The image 'i' cannot be pulled: not found",
        ),
        (told(running(0), waiting(1), waiting(2)), "Running", "Running", "The command is running on 1 instances."),
        (
            told(running(0), running(1), pod(2, "Running", upload=RUNNING, main=terminated(0))),
            "Running",
            "Running",
            "The command is running on 2 instances. 1 of 3 have ended.",
        ),
        ([pod(index, "Running", upload=RUNNING, main=terminated(0)) for index in range(3)], "Finalizing", "StoringOutputs", "being stored"),
    ],
)
def test_a_jobs_phase_follows_all_of_its_pods(pods: Sequence[Manifest], phase: str, reason: str, words: str) -> None:
    status = status_of(decided(a_job(3), pods))
    assert (status["phase"], status["reason"]) == (phase, reason)
    assert words in status["message"]
    if phase == "Running":
        assert status["startTime"] == "2026-11-22T11:00:00Z"


def test_the_pods_are_told_of_each_other_once_all_are_prepared() -> None:
    assert decided(a_job(), [waiting(0)]).notes == []
    assert decided(a_job(), [waiting(0), pod(1, fetch=RUNNING)]).notes == []
    notes = decided(a_job(), [waiting(1), waiting(0)]).notes
    assert [note.of["metadata"]["name"] for note in notes] == ["train-1-ab-0-j1", "train-1-ab-1-j1"]
    (value,) = {note.annotations[PEERS] for note in notes}
    assert json.loads(value) == [{"pod": f"train-1-ab-{index}-j1", "address": f"10.0.0.{index}"} for index in range(2)]
    # Who was interrupted goes on with what it had begun.
    both = told(waiting(0), waiting(1))
    del both[1]["metadata"]["annotations"][PEERS]
    (note,) = decided(a_job(), both).notes
    assert (note.of["metadata"]["name"], note.annotations[PEERS]) == ("train-1-ab-1-j1", value)
    assert decided(a_job(), told(waiting(0), waiting(1))).notes == []


def failed(index: int, code: int, at: str, *, deleted: bool = False, said: str = "") -> Manifest:
    found = pod(index, "Failed", peers=terminated(0), main=terminated(code, said))
    found["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = f"2026-11-22T11:10:{at}Z"
    if deleted:
        found["metadata"]["deletionTimestamp"] = f"2026-11-22T11:10:{at}Z"
    return found


@pytest.mark.parametrize(
    ("pods", "words"),
    [
        (
            [failed(0, 1, "05", said="connection reset"), failed(1, 3, "04", said="boom")],
            "Instance 1: The command ended with exit code 3. Its last",
        ),
        # At the same second, and told to end only later: the Job's own word.
        ([failed(0, 1, "04"), failed(1, 3, "04")], "Instance 1: The command ended with exit code 3."),
        ([failed(0, 143, "01", deleted=True), failed(1, 3, "09")], "Instance 1: The command ended with exit code 3."),
        ([failed(0, 143, "01"), failed(1, 3, "09")], "Instance 1: The command ended with exit code 3."),
        # Killed for its memory where the node sees the first process only; the other lost its connection because of it.
        ([failed(0, 137, "01"), failed(1, 1, "02")], "Instance 0: The command ended with exit code 137."),
        ([failed(0, 137, "01", deleted=True), failed(1, 1, "02")], "Instance 1: The command ended with exit code 1."),
        ([failed(1, 137, "01")], "Instance 1: The command ended with exit code 137."),
        ([], "Container main for pod team/train-1-ab-1-j1 failed"),
    ],
)
def test_the_instance_that_failed_first_is_named(pods: Sequence[Manifest], words: str) -> None:
    said = "Container main for pod team/train-1-ab-1-j1 failed with exit code 3 matching FailJob rule at index 1"
    conditions = [{"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": said}]
    status = status_of(decided(a_job(), pods, conditions=conditions))
    assert status["phase"] == "Failed"
    assert status["message"].startswith(words), status["message"]


def test_a_job_is_complete_when_every_worker_has_stored_its_outputs() -> None:
    done = [pod(index, "Succeeded", upload=terminated(0), main=terminated(0)) for index in range(2)]
    status = status_of(decided(a_job(), done, **COMPLETE))
    assert (status["phase"], status["exitCode"]) == ("Completed", 0)
    assert status["message"].endswith("on all 2 instances and its outputs are stored.")
    done[1]["status"]["initContainerStatuses"] = [
        {"name": "upload", "state": terminated(0, '{"code": "LinksNotStored", "message": "x is a link."}')}
    ]
    status = status_of(decided(a_job(), done, **COMPLETE))
    assert status["message"].endswith("its outputs are stored, but for this: Instance 1: x is a link.")
    assert status["pods"][1]["outputs"] == "x is a link."
    done[1]["status"]["initContainerStatuses"] = [
        {"name": "upload", "state": terminated(1, '{"code": "UploadFailed", "message": "no room"}')}
    ]
    status = status_of(decided(a_job(), done, **COMPLETE))
    assert (status["phase"], status["reason"]) == ("Failed", "UploadFailed")
    assert status["message"].startswith("Instance 1: The command succeeded, but its outputs could not be stored: no room")
    servers = a_job(distribution={"type": "TensorFlow", "parameterServerCount": 1})
    done = [*(pod(index, "Succeeded", upload=terminated(0), main=terminated(0)) for index in range(2)), failed(2, 143, "09")]
    assert status_of(decided(servers, done, **COMPLETE))["phase"] == "Completed"
    done[2]["status"]["initContainerStatuses"] = [{"name": "upload", "state": terminated(137)}]
    assert status_of(decided(servers, done, **COMPLETE))["phase"] == "Completed", (
        "it was killed with its server, and names nothing that is lost"
    )
    done[2]["status"]["initContainerStatuses"] = [
        {"name": "upload", "state": terminated(1, '{"code": "UploadFailed", "message": "no room"}')}
    ]
    status = status_of(decided(servers, done, **COMPLETE))
    assert (status["phase"], status["reason"]) == ("Failed", "UploadFailed")
    assert status["message"] == "Parameter server 0: Its outputs could not be stored: no room"


def test_a_failed_job_waits_for_the_last_news_of_every_pod_since_each_may_be_the_cause() -> None:
    told = pod(0, "Failed", upload=terminated(0), main=terminated(143))
    late = pod(1, "Running", upload={"running": {}}, main={"running": {}})
    assert status_of(decided(a_job(), [told, late], **FAILED))["phase"] == "Finalizing"
    cause = pod(1, "Failed", upload=terminated(0), main=terminated(3))
    assert status_of(decided(a_job(), [told, cause], **FAILED))["message"].startswith("Instance 1: The command ended with exit code 3")


def test_a_complete_job_waits_for_the_last_news_of_its_pods() -> None:
    done = [pod(index, "Succeeded", upload=terminated(0), main=terminated(0)) for index in range(2)]
    late = pod(1, "Running", upload={"running": {}}, main=terminated(0))
    assert status_of(decided(a_job(), [done[0], late], **COMPLETE))["phase"] == "Finalizing"


def test_a_complete_job_does_not_claim_what_pods_that_are_gone_can_not_confirm() -> None:
    done = [pod(index, "Succeeded", upload=terminated(0), main=terminated(0)) for index in range(2)]
    for pods, words in (([], "Its pods were gone"), (done[:1], "1 of its 2 pods were gone")):
        status = status_of(decided(a_job(), pods, **COMPLETE))
        assert (status["phase"], status["exitCode"]) == ("Completed", 0)
        assert words in status["message"]
        assert "look whether they are there" in status["message"]


def test_an_instance_that_ended_well_only_because_it_was_told_to_end_is_named() -> None:
    evicted = [{**DISRUPTED[0], "lastTransitionTime": "2026-11-22T11:09:58Z"}]
    done = [pod(0, "Succeeded", upload=terminated(0), main=terminated(0)), pod(1, "Succeeded", upload=terminated(0), main=terminated(0))]
    done[1]["status"]["conditions"] = evicted
    status = status_of(decided(a_job(), done, **COMPLETE))
    assert (status["phase"], status["reason"]) == ("Failed", "Interrupted")
    assert status["message"].startswith("The cluster took the pod of instance 1 away (Eviction API: evicting), ")


def test_when_the_cluster_takes_an_instance_away_all_begin_anew_and_whoever_is_killed_meanwhile_goes_on() -> None:
    parent, pods = a_job(), told(running(0), running(1, conditions=DISRUPTED))
    first = reconcile(see(parent, made(parent), pods))
    assert [child["kind"] for child in first.children] == ["ConfigMap", "Job"], "the count is written down first"
    status = status_of(first)
    assert (status["phase"], status["reason"], status["restarts"]) == ("Queued", "Restarting", 1)
    assert status["message"] == (
        "Instance 1 was lost: Eviction API: evicting. The other instances cannot go on without it: all begin anew (1 of at most 5 times)."
    )
    assert [(event[0], event[1]) for event in first.events] == [("Warning", "Restarting")]
    children = made(parent)
    parent["status"] = status
    for left in (pods, pods[:1]):
        second = reconcile(see(parent, children, left))
        assert [child["kind"] for child in second.children] == ["ConfigMap"]
        assert (status_of(second)["restarts"], status_of(second)["message"], second.events) == (1, status["message"], [])
        # Killed here, it finds no Job and the former one's pods.
        assert reconcile(see(parent, children[:1], left)).children == second.children
    third = reconcile(see(parent, children[:1]))
    assert [child["kind"] for child in third.children] == ["ConfigMap", "Job"]
    job = third.children[1]
    assert job["metadata"]["annotations"] == {"moorage.dev/attempt": "1"}
    ports = {each["spec"]["template"]["spec"]["initContainers"][-1]["command"][9] for each in (job, children[1])}
    assert len(ports) == 2
    again = {**job, "metadata": {**job["metadata"], "uid": "j2"}, "status": {}}
    plan = reconcile(see(parent, [children[0], again], [running(index, uid="j2") for index in range(2)]))
    assert (status_of(plan)["phase"], status_of(plan)["restarts"]) == ("Running", 1)


@pytest.mark.parametrize(
    ("pods", "job", "lost"),
    [
        # Before they have met the Job replaces it by itself.
        ([waiting(0), waiting(1, conditions=DISRUPTED)], {}, False),
        (told(running(0), running(1)), {}, False),
        # Another pod has come for it.
        ([*told(running(0), running(1))[:1], renamed(pod(1))], {}, True),
        # One whose download was killed was replaced before they met.
        ([*told(running(0), running(1)), renamed(pod(1, "Failed", fetch=terminated(137)))], {}, False),
        # Others have failed because of it, and the Job has ended with them.
        (told(failed(0, 1, "09"), running(1, conditions=DISRUPTED)), FAILED, True),
        # One that is done is not missed.
        (told(running(0), pod(1, "Succeeded", main=terminated(0), conditions=DISRUPTED)), {}, False),
        (told(running(0), running(1, conditions=DISRUPTED)), COMPLETE, False),
    ],
)
def test_all_begin_anew_only_when_they_cannot_go_on(pods: Sequence[Manifest], job: Manifest, lost: bool) -> None:
    assert (status_of(decided(a_job(), pods, **job)).get("restarts") == 1) is lost


def test_they_do_not_begin_anew_for_ever_nor_when_the_job_is_to_stop() -> None:
    parent, pods = a_job(), told(running(0), running(1, conditions=DISRUPTED))
    children = made(parent)
    children[1]["metadata"]["annotations"]["moorage.dev/attempt"] = "5"
    parent["status"] = {"phase": "Running", "restarts": 5}
    # First it is written down, then the Job goes, and only then the job has failed: whoever is killed in between, or cannot delete it, goes on.
    plan = reconcile(see(parent, children, pods))
    assert (status_of(plan)["phase"], status_of(plan)["reason"]) == ("Running", "InstanceLost")
    assert [child["kind"] for child in plan.children] == ["ConfigMap", "Job"]
    parent["status"] = status_of(plan)
    plan = reconcile(see(parent, children, pods))
    assert (status_of(plan)["phase"], [child["kind"] for child in plan.children]) == ("Running", ["ConfigMap"])
    for left in (pods, []):
        plan = reconcile(see(parent, children[:1], left))
        assert (status_of(plan)["phase"], status_of(plan)["reason"]) == ("Failed", "InstanceLost")
        assert [child["kind"] for child in plan.children] == ["ConfigMap"]
        assert "given up" in status_of(plan)["message"]
    stopping = a_job(cancelRequested=True)
    plan = reconcile(see(stopping, made(a_job()), pods))
    assert status_of(plan)["reason"] == "CancelRequested"


def test_reconciling_again_changes_nothing() -> None:
    for pods in ([], [waiting(0)], told(running(0), running(1)), told(running(0), running(1, conditions=DISRUPTED))):
        parent = a_job()
        children = made(parent, grouped=True)
        for _ in range(4):
            plan = reconcile(see(parent, children, pods), grouped=True)
            parent["status"] = json.loads(json.dumps(plan.status))
            kept = {child["kind"]: child for child in children}
            children = [
                {
                    **child,
                    "metadata": {**child["metadata"], "uid": kept.get(child["kind"], {"metadata": {"uid": "j2"}})["metadata"].get("uid")},
                }
                for child in plan.children
            ]
        again = reconcile(see(parent, children, pods), grouped=True)
        assert (again.status, again.events) == (parent["status"], [])


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({}, Layout()),
        ({"resources": {"instanceCount": 4}}, Layout("", 4, 4)),
        ({"distribution": {"type": "PyTorch"}}, Layout("PyTorch", 1, 1)),
        (
            {"resources": {"instanceCount": 2}, "distribution": {"type": "PyTorch", "processCountPerInstance": 4}},
            Layout("PyTorch", 2, 2, 4),
        ),
        ({"resources": {"instanceCount": 2}, "distribution": {"type": "TensorFlow"}}, Layout("TensorFlow", 2, 2)),
        (
            {"resources": {"instanceCount": 2}, "distribution": {"type": "TensorFlow", "workerCount": 2, "parameterServerCount": 1}},
            Layout("TensorFlow", 3, 2),
        ),
        (
            {"resources": {"instanceCount": 3}, "distribution": {"type": "TensorFlow", "workerCount": 2, "parameterServerCount": 1}},
            Layout("TensorFlow", 3, 2),
        ),
    ],
)
def test_counts_make_a_layout(spec: Manifest, found: Layout) -> None:
    assert distribution.layout(spec) == found


def test_counts_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(
        Invalid, match=r"workerCount is 2, but resources.instanceCount is 4.*Set instance_count to 2 \(or 3, with the parameter"
    ) as caught:
        distribution.layout(
            {"resources": {"instanceCount": 4}, "distribution": {"type": "TensorFlow", "workerCount": 2, "parameterServerCount": 1}}
        )
    assert (caught.value.code, caught.value.target) == ("DistributionMismatch", "properties.distribution.workerCount")


def test_variables_say_who_is_who() -> None:
    known = variables(Layout("PyTorch", 2, 2, 4), ["10.0.0.1", "10.0.0.2"], 1, 20001)
    assert known == {
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "20001",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "NODE_RANK": "1",
        "AZUREML_NODE_COUNT": "2",
        "AZ_BATCH_MASTER_NODE": "10.0.0.1:20001",
    }
    config = json.loads(variables(Layout("TensorFlow", 3, 2), ["a", "b", "c"], 2, 29998)["TF_CONFIG"])
    assert config == {
        "cluster": {"worker": ["a:29998", "b:29999"], "ps": ["c:20000"]},
        "task": {"type": "ps", "index": 0},
        "environment": "cloud",
    }


def test_ports_differ_by_job_and_attempt_and_logs_are_named_as_clients_stream_them() -> None:
    ports = {distribution.port(uid, attempt) for uid in ("a", "b", "c") for attempt in range(3)}
    assert len(ports) == 9 and all(20000 <= port < 30000 for port in ports)
    assert [log_name(0, 1), log_name(0, 4), log_name(3, 16)] == ["std_log.txt", "std_log_process_0.txt", "std_log_process_03.txt"]


def test_a_job_waits_on_its_time_limit_from_the_first_start() -> None:
    plan = decided(a_job(limits={"timeoutSeconds": 7200}), told(running(0), waiting(1)))
    assert plan.requeue_after == timedelta(hours=1)


LATER: Manifest = {"running": {"startedAt": "2026-11-22T11:50:00Z"}}


def in_its_second_attempt(**changes: Any) -> tuple[Manifest, list[Manifest]]:
    """A job that had begun at 11:00 and lost an instance, with the children of its second attempt."""
    parent = a_job(**changes)
    parent["status"] = {"phase": "Queued", "reason": "Restarting", "restarts": 1, "startTime": "2026-11-22T11:00:00Z"}
    return parent, made({**a_job(), "status": {"restarts": 1}}, uid="j2")


@pytest.mark.parametrize("state", ["running", "waiting", "queued"])
def test_the_time_limit_counts_from_the_first_start_over_all_attempts(state: str) -> None:
    parent, children = in_its_second_attempt(limits={"timeoutSeconds": 5400})
    pods = {
        "running": told(*(pod(index, "Running", uid="j2", upload=RUNNING, peers=terminated(0), main=LATER) for index in range(2))),
        "waiting": [waiting(index, uid="j2") for index in range(2)],
        "queued": [pod(index, uid="j2", node=False) for index in range(2)],
    }[state]
    plan = reconcile(see(parent, children, pods))
    assert (plan.requeue_after, status_of(plan)["startTime"]) == (timedelta(minutes=30), "2026-11-22T11:00:00Z")
    assert status_of(plan)["phase"] != "Canceled"


def test_a_job_that_is_lost_after_its_limit_ends_and_does_not_begin_anew() -> None:
    # Whichever of the steps of beginning anew it is at: about to, with the former Job, with its pods, with nothing, prepared once more.
    disrupted = told(running(0), running(1, conditions=DISRUPTED))
    begun, former = a_job(limits={"timeoutSeconds": 3000}), made(a_job())
    again, second = in_its_second_attempt(limits={"timeoutSeconds": 3000})
    steps = [
        (begun, former, disrupted),
        (again, former, disrupted),
        (again, former[:1], disrupted[:1]),
        (again, [], []),
        (again, second, [waiting(index, uid="j2") for index in range(2)]),
    ]
    for parent, children, pods in steps:
        for _ in range(6):
            plan = reconcile(see(parent, children, pods))
            status = status_of(plan)
            assert status.get("restarts", 0) == (parent.get("status") or {}).get("restarts", 0)
            assert status["startTime"] == "2026-11-22T11:00:00Z"
            parent = {**parent, "status": json.loads(json.dumps(status))}
            if status["phase"] == "Canceled":
                break
            known = {child["kind"] for child in children}
            assert {child["kind"] for child in plan.children} <= known, "nothing is made that was not there"
            if not plan.children:
                children, pods = [], []
        assert (status["phase"], status["reason"]) == ("Canceled", "TimeLimit"), status


def test_what_becomes_of_a_former_attempt_does_not_decide_about_a_job_that_is_to_stop() -> None:
    children = made(a_job(), **FAILED)
    parent, _ = in_its_second_attempt(cancelRequested=True)
    pods = told(failed(0, 1, "09"), running(1, conditions=DISRUPTED))
    plan = reconcile(see(parent, children, pods))
    assert (status_of(plan)["phase"], status_of(plan)["reason"], plan.children) == ("Queued", "CancelRequested", ())


def test_a_start_that_nobody_saw_counts_once_its_pod_is_seen() -> None:
    # The operator was away while the command ran and an instance was lost.
    pods = told(failed(0, 143, "09"), pod(1, "Failed", conditions=DISRUPTED, peers=terminated(0), main=terminated(143)))
    plan = decided(a_job(limits={"timeoutSeconds": 7200}), pods)
    assert (status_of(plan)["reason"], status_of(plan)["startTime"]) == ("Restarting", "2026-11-22T11:00:00Z")


def test_a_job_whose_instances_may_not_be_told_of_each_other_says_so_with_the_remedy() -> None:
    words = 'pods "train-1-ab-0-j1" is forbidden: User "system:serviceaccount:azureml:gateway" cannot patch resource "pods"'
    parent, pods = a_job(), [waiting(0), waiting(1)]
    plan = reconcile(replace(see(parent, made(parent), pods), forbidden=words))
    assert (status_of(plan)["phase"], status_of(plan)["reason"]) == ("Preparing", "PeersForbidden")
    assert f"{words}. Where its role" in status_of(plan)["message"] and "moorage extension create" in status_of(plan)["message"]
    assert len(plan.notes) == 2, "it is tried again"
    # Once they have been told, whatever was said before.
    plan = reconcile(replace(see(parent, made(parent), told(*pods)), forbidden=words))
    assert (status_of(plan)["reason"], plan.notes) == ("WaitingForPeers", [])
