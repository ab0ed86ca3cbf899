"""Deployments, ReplicaSets and Jobs decided on snapshots: what a controller would write, without a cluster."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.embedded.control import deployment, job, replicaset, rollout
from moorage.embedded.control.jobpods import FINALIZER, INDEX, backoff_wait, format_indexes, judge, new_pod, parse_indexes
from moorage.embedded.control.steps import Create, Decision, Delete, Patch, Record

Manifest = dict[str, Any]
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
TEXT = "2026-11-22T12:00:00Z"
EARLIER = "2026-11-22T11:00:00Z"


def replica_set(replicas: int = 3, **more: Any) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "default", "uid": "rs", "generation": 1, "resourceVersion": "5"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}},
            **more,
        },
    }


def pod(
    name: str, owner: str | None = "rs", phase: str = "Running", *, ready: bool = True, node: str | None = "n", **metadata: Any
) -> Manifest:
    references = [{"uid": owner, "kind": "X", "name": owner, "controller": True}] if owner else []
    return {
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}, "creationTimestamp": EARLIER, "resourceVersion": "1",
            "ownerReferences": references, **metadata,
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": EARLIER}]},
    }  # fmt: skip


def made(decision: Decision) -> list[Manifest]:
    return [step.manifest for step in decision.steps if isinstance(step, Create)]


def removed(decision: Decision) -> list[str]:
    return [step.object["metadata"]["name"] for step in decision.steps if isinstance(step, Delete)]


def status_of(decision: Decision) -> Manifest:
    return next(step.patch["status"] for step in decision.steps if isinstance(step, Patch) and step.subresource == "status")


def conditions_of(status: Manifest) -> dict[str, Manifest]:
    return {one["type"]: one for one in status.get("conditions") or ()}


# ReplicaSet


def test_missing_pods_are_made_and_dying_ones_do_not_count() -> None:
    pods = [pod("a"), pod("b", deletionTimestamp=TEXT), pod("c", phase="Failed")]
    decision = replicaset.decide(replica_set(3), pods, NOW)
    assert len(made(decision)) == 2
    assert made(decision)[0]["metadata"]["generateName"] == "web-"
    assert status_of(decision) == {
        "replicas": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1, "observedGeneration": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pods", "first"),
    [
        ([pod("a"), pod("unassigned", node=None, phase="Pending", ready=False)], "unassigned"),
        ([pod("a"), pod("pending", phase="Pending", ready=False)], "pending"),
        ([pod("a"), pod("unready", ready=False)], "unready"),
        ([pod("a"), pod("cheap", annotations={"controller.kubernetes.io/pod-deletion-cost": "-5"})], "cheap"),
        ([pod("a", node="m"), pod("crowded", node="n"), pod("crowded2", node="n")], "crowded"),
        ([pod("a", creationTimestamp="2026-11-22T10:00:00Z"), pod("young")], "young"),
    ],
)
def test_the_least_useful_pod_goes_first(pods: list[Manifest], first: str) -> None:
    assert removed(replicaset.decide(replica_set(len(pods) - 1), pods, NOW)) == [first]


def test_orphans_that_match_are_adopted_and_strangers_released() -> None:
    stranger = pod("stranger", labels={"app": "other"})
    decision = replicaset.decide(replica_set(1), [pod("orphan", None), stranger], NOW)
    patches = {
        step.object["metadata"]["name"]: step.patch["metadata"]["ownerReferences"]
        for step in decision.steps
        if isinstance(step, Patch) and not step.subresource
    }
    assert patches["orphan"][0]["uid"] == "rs"
    assert patches["stranger"] is None
    assert not made(decision)


def test_a_pod_is_available_after_min_ready_seconds() -> None:
    one = pod("a")
    one["status"]["conditions"][0]["lastTransitionTime"] = "2026-11-22T11:59:50Z"
    decision = replicaset.decide(replica_set(1, minReadySeconds=30), [one], NOW)
    assert "availableReplicas" not in status_of(decision)
    assert decision.requeue_after == timedelta(seconds=20)


# Deployment


def deploy(replicas: int = 3, image: str = "v1", **spec: Any) -> Manifest:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": image}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "default",
            "uid": "d",
            "generation": 1,
            "resourceVersion": "9",
            "creationTimestamp": EARLIER,
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template, **spec},
    }


class Simulation:
    """Carries a Deployment's decisions out on dicts, with ReplicaSets whose pods come up at once or never."""

    def __init__(self, deployment_: Manifest, *, broken: str = "") -> None:
        self.deployment = deployment_
        self.sets: dict[str, Manifest] = {}
        self.broken = broken
        self.now = NOW
        self.lowest_available = 10**6
        self.highest_total = 0

    def turn(self) -> bool:
        """One decision; whether it wrote anything."""
        decision = deployment.decide(self.deployment, list(self.sets.values()), [], self.now)
        for step in decision.steps:
            match step:
                case Create(manifest=manifest):
                    self.sets[manifest["metadata"]["name"]] = copy.deepcopy(manifest) | {
                        "metadata": {
                            **manifest["metadata"],
                            "uid": manifest["metadata"]["name"],
                            "creationTimestamp": self.now.isoformat(),
                            "resourceVersion": "1",
                        },
                    }
                case Patch(object=seen, patch=patch):
                    target = (
                        self.deployment
                        if seen is self.deployment or seen["metadata"]["uid"] == "d"
                        else self.sets[seen["metadata"]["name"]]
                    )
                    _merge(target, patch)
                case Delete(object=seen):
                    del self.sets[seen["metadata"]["name"]]
        return any(not isinstance(step, Record) for step in decision.steps)

    def pods_follow(self) -> bool:
        changed = False
        for one in self.sets.values():
            size = rollout.size(one)
            working = 0 if self.broken and self.broken in str(one["spec"]["template"]) else size
            status = {"replicas": size, "observedGeneration": 1, "readyReplicas": working, "availableReplicas": working}
            changed |= one.get("status") != status
            one["status"] = status
        self.lowest_available = min(self.lowest_available, sum(one["status"]["availableReplicas"] for one in self.sets.values()))
        self.highest_total = max(self.highest_total, sum(map(rollout.size, self.sets.values())))
        return changed

    def settle(self) -> None:
        for _ in range(200):
            wrote = self.turn()
            if not (self.pods_follow() | wrote):
                return
        raise AssertionError("never settled")

    def sizes(self) -> list[int]:
        return sorted(rollout.size(one) for one in self.sets.values())


def _merge(target: Manifest, patch: Any) -> None:
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


@settings(max_examples=60, deadline=None)
@given(
    replicas=st.integers(0, 12),
    surge=st.one_of(st.integers(0, 5), st.sampled_from(["0%", "25%", "50%", "100%"])),
    unavailable=st.one_of(st.integers(0, 5), st.sampled_from(["0%", "25%", "100%"])),
    then=st.integers(0, 12),
)
def test_every_rollout_ends_within_its_fences_and_settles(replicas: int, surge: Any, unavailable: Any, then: int) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    world = Simulation(deploy(replicas, strategy=strategy))
    world.settle()
    world.lowest_available, world.highest_total = 10**6, 0
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "v2"
    world.settle()
    fences = rollout.fences(world.deployment)
    assert world.sizes() == [0, replicas]
    assert world.lowest_available >= replicas - fences.unavailable
    assert world.highest_total <= replicas + fences.surge
    world.deployment["spec"]["replicas"] = then
    world.settle()
    assert world.sizes() == [0, then]
    conditions = conditions_of(world.deployment["status"])
    assert conditions["Available"]["status"] == "True"
    assert conditions["Progressing"]["reason"] == "NewReplicaSetAvailable"
    assert world.turn() is False


def test_a_broken_rollout_stops_at_the_fences_and_times_out() -> None:
    world = Simulation(deploy(4, progressDeadlineSeconds=60), broken="v2")
    world.settle()
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "v2"
    world.settle()
    assert world.sizes() == [2, 3]
    assert conditions_of(world.deployment["status"])["Progressing"]["status"] == "True"
    world.now += timedelta(seconds=61)
    world.settle()
    progressing = conditions_of(world.deployment["status"])["Progressing"]
    assert (progressing["status"], progressing["reason"]) == ("False", "ProgressDeadlineExceeded")
    assert "has timed out progressing." in progressing["message"]


def test_going_back_reuses_the_old_replica_set_under_a_new_revision() -> None:
    world = Simulation(deploy(2))
    world.settle()
    (first,) = world.sets
    for image in ("v2", "v1"):
        world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = image
        world.settle()
    assert len(world.sets) == 2
    assert rollout.size(world.sets[first]) == 2
    assert world.sets[first]["metadata"]["annotations"][deployment.REVISION] == "3"
    assert world.deployment["metadata"]["annotations"][deployment.REVISION] == "3"


def test_only_so_many_old_replica_sets_are_kept() -> None:
    world = Simulation(deploy(1, revisionHistoryLimit=2))
    for number in range(6):
        world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = f"v{number}"
        world.settle()
    assert len(world.sets) == 3


def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    world = Simulation(deploy(2))
    world.settle()
    world.deployment["spec"]["paused"] = True
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "v2"
    world.deployment["spec"]["replicas"] = 5
    world.settle()
    assert world.sizes() == [5]
    assert conditions_of(world.deployment["status"])["Progressing"]["reason"] == "DeploymentPaused"
    del world.deployment["spec"]["paused"]
    world.settle()
    assert world.sizes() == [0, 5]


def test_recreate_waits_until_the_last_old_pod_is_gone() -> None:
    world = Simulation(deploy(2, strategy={"type": "Recreate"}))
    world.settle()
    world.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "v2"
    world.turn()
    assert world.sizes() == [0]
    (old,) = world.sets.values()
    lingering = pod("x", old["metadata"]["uid"])
    assert not made(deployment.decide(world.deployment, [old], [lingering], NOW))
    assert made(deployment.decide(world.deployment, [old], [], NOW))


def test_a_name_that_is_taken_moves_the_collision_count() -> None:
    one = deploy()
    foreign = deployment.replica_set(one, 1, 3)
    foreign["metadata"] |= {"uid": "foreign", "ownerReferences": [], "labels": {}}
    decision = deployment.decide(one, [foreign], [], NOW)
    assert status_of(decision) == {"collisionCount": 1}
    one["status"] = {"collisionCount": 1}
    assert made(deployment.decide(one, [foreign], [], NOW))[0]["metadata"]["name"] != foreign["metadata"]["name"]


# Job


def train(**spec: Any) -> Manifest:
    status = spec.pop("status", {"startTime": TEXT})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train", "namespace": "default", "uid": "j", "generation": 1, "resourceVersion": "3"},
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}},
            **spec,
        },
        "status": status,
    }


def worker(
    name: str,
    phase: str = "Running",
    *,
    index: int | None = None,
    tracked: bool = True,
    code: int = 1,
    ended: str = EARLIER,
    **metadata: Any,
) -> Manifest:
    one = pod(name, "j", phase, ready=phase == "Running", finalizers=[FINALIZER] if tracked else [], **metadata)
    if index is not None:
        one["metadata"]["annotations"] = {INDEX: str(index)}
    if phase in ("Failed", "Succeeded"):
        terminated = {"exitCode": 0 if phase == "Succeeded" else code, "finishedAt": ended}
        one["status"]["containerStatuses"] = [{"name": "main", "state": {"terminated": terminated}}]
    return one


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([0], "0"), ([0, 1], "0,1"), ([0, 1, 2, 5, 7, 8, 9], "0-2,5,7-9")])
def test_completed_indexes_are_written_as_ranges(numbers: list[int], text: str) -> None:
    assert format_indexes(numbers) == text
    assert parse_indexes(text) == frozenset(numbers)


def test_an_indexed_job_makes_the_free_indexes_with_their_identity() -> None:
    one = train(completions=4, parallelism=3, completionMode="Indexed", status={"startTime": TEXT, "completedIndexes": "0", "succeeded": 1})
    pods = made(job.decide(one, [worker("a", index=2)], NOW))
    assert [one["metadata"]["annotations"][INDEX] for one in pods] == ["1", "3"]
    assert pods[0]["spec"]["hostname"] == "train-1"
    assert pods[0]["metadata"]["generateName"] == "train-1-"
    assert pods[0]["metadata"]["labels"][INDEX] == "1"
    env = pods[0]["spec"]["containers"][0]["env"]
    assert env == [
        {"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX}']"}}}
    ]
    assert pods[0]["metadata"]["finalizers"] == [FINALIZER]


def run(one: Manifest, pods: list[Manifest], moment: datetime = NOW) -> tuple[Manifest, list[Manifest], list[Manifest]]:
    """Carry turns out on dicts until nothing changes: the job, its pods, the pods that were made."""
    one, pods, fresh = copy.deepcopy(one), copy.deepcopy(pods), []
    for _ in range(20):
        decision = job.decide(one, pods, moment)
        if not any(not isinstance(step, Record) for step in decision.steps):
            return one, pods, fresh
        for step in decision.steps:
            match step:
                case Patch(object=seen, patch=patch) if seen["metadata"]["uid"] == "j":
                    _merge(one, patch)
                case Patch(object=seen, patch=patch):
                    for found in pods:
                        if found["metadata"]["uid"] == seen["metadata"]["uid"]:
                            _merge(found, patch)
                case Delete(object=seen):
                    pods = [
                        found
                        for found in pods
                        if found["metadata"]["uid"] != seen["metadata"]["uid"] or found["metadata"].get("finalizers")
                    ]
                    for found in pods:
                        if found["metadata"]["uid"] == seen["metadata"]["uid"]:
                            found["metadata"]["deletionTimestamp"] = TEXT
                case Create(manifest=manifest):
                    fresh.append(manifest)
                    number = len(fresh)
                    pods.append(copy.deepcopy(manifest))
                    pods[-1]["metadata"] |= {
                        "name": f"new{number}",
                        "uid": f"new{number}",
                        "creationTimestamp": TEXT,
                        "resourceVersion": "1",
                    }
                    pods[-1]["status"] = {"phase": "Pending"}
        pods = [found for found in pods if found["metadata"].get("finalizers") or not found["metadata"].get("deletionTimestamp")]
    raise AssertionError("never settled")


def types(one: Manifest) -> list[tuple[str, str]]:
    return [(found["type"], found["reason"]) for found in one["status"].get("conditions") or ()]


def test_a_job_completes_once_every_end_is_counted_and_let_go() -> None:
    one, pods, _ = run(train(), [worker("a", "Succeeded")])
    assert types(one) == [("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")]
    assert one["status"]["succeeded"] == 1
    assert one["status"]["completionTime"] == TEXT
    assert "active" not in one["status"]
    assert not pods[0]["metadata"].get("finalizers")


def test_the_count_survives_a_pod_that_is_deleted_before_and_after_it_is_counted() -> None:
    first = job.decide(train(completions=2), [worker("a", "Succeeded", deletionTimestamp=TEXT)], NOW)
    assert status_of(first)["uncountedTerminatedPods"] == {"succeeded": ["a"]}
    after = train(completions=2, status={"startTime": TEXT, "uncountedTerminatedPods": {"succeeded": ["a"]}})
    assert status_of(job.decide(after, [], NOW))["succeeded"] == 1


def test_too_many_failures_end_the_job() -> None:
    pods = [worker("a", "Failed"), worker("b", "Failed"), worker("c")]
    one, _, _ = run(train(backoffLimit=1, parallelism=2, completions=2), pods)
    assert types(one) == [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")]
    assert conditions_of(one["status"])["Failed"]["message"] == "Job has reached the specified backoff limit"
    assert one["status"]["failed"] == 3
    assert "completionTime" not in one["status"]


@pytest.mark.parametrize(("failures", "seconds"), [(1, 10), (2, 20), (3, 40), (8, 600)])
def test_failures_in_a_row_hold_back_the_next_pod(failures: int, seconds: int) -> None:
    pods = [worker(f"p{number}", "Failed", ended=TEXT) for number in range(failures)]
    assert backoff_wait(pods, NOW) == timedelta(seconds=seconds)
    assert backoff_wait([*pods, worker("ok", "Succeeded", ended=TEXT)], NOW) == timedelta(0)
    decision = job.decide(train(backoffLimit=100), pods, NOW)
    assert not made(decision)
    assert decision.requeue_after == timedelta(seconds=seconds)


def test_a_clock_that_was_set_back_does_not_stretch_the_back_off() -> None:
    assert backoff_wait([worker("a", "Failed", ended="2027-01-01T00:00:00Z")], NOW) == timedelta(seconds=10)


def test_a_disturbed_pod_is_replaced_at_once() -> None:
    gone = worker("a", "Running", deletionTimestamp=TEXT)
    assert len(made(job.decide(train(), [gone], NOW))) == 1
    assert not made(job.decide(train(podReplacementPolicy="Failed"), [gone], NOW))


def test_the_deadline_ends_the_job_and_is_waited_for() -> None:
    one = train(activeDeadlineSeconds=60)
    assert job.decide(one, [worker("a")], NOW).requeue_after == timedelta(seconds=60)
    ended, _, _ = run(one, [worker("a")], NOW + timedelta(seconds=60))
    assert types(ended) == [("FailureTarget", "DeadlineExceeded"), ("Failed", "DeadlineExceeded")]


def test_suspending_removes_pods_without_counting_them_and_resuming_starts_anew() -> None:
    one, pods, _ = run(train(suspend=True), [worker("a")])
    assert types(one) == [("Suspended", "JobSuspended")]
    assert not pods
    assert "startTime" not in one["status"]
    assert "failed" not in one["status"]
    one["spec"]["suspend"] = False
    resumed, pods, fresh = run(one, pods)
    assert conditions_of(resumed["status"])["Suspended"]["status"] == "False"
    assert len(fresh) == 1
    assert resumed["status"]["startTime"] == TEXT


def test_a_work_queue_makes_no_more_pods_once_one_succeeded() -> None:
    one = train(parallelism=3)
    del one["spec"]["completions"]
    assert not made(job.decide(one, [worker("a", "Succeeded"), worker("b")], NOW))
    ended, _, _ = run(one, [worker("a", "Succeeded"), worker("b", "Succeeded")])
    assert types(ended)[-1] == ("Complete", "CompletionsReached")


def test_a_finished_job_is_deleted_when_its_time_is_over() -> None:
    one, _, _ = run(train(), [worker("a", "Succeeded")])
    one["spec"]["ttlSecondsAfterFinished"] = 30
    assert job.decide(one, [], NOW).requeue_after == timedelta(seconds=30)
    (step,) = job.decide(one, [], NOW + timedelta(seconds=30)).steps
    assert isinstance(step, Delete)
    assert step.propagation == "Foreground"


POLICY = {"rules": [
    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
]}  # fmt: skip


def test_the_failure_policy_fails_the_job_at_once_or_forgives() -> None:
    one, _, _ = run(train(podFailurePolicy=POLICY), [worker("a", "Failed", code=42)])
    assert types(one) == [("FailureTarget", "PodFailurePolicy"), ("Failed", "PodFailurePolicy")]
    assert conditions_of(one["status"])["Failed"]["message"] == (
        "Container main for pod default/a failed with exit code 42 matching FailJob rule at index 0"
    )
    disrupted = worker("b", "Failed")
    disrupted["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True"})
    assert judge(disrupted, POLICY).verdict == "Ignore"
    forgiven, _, _ = run(train(podFailurePolicy=POLICY, backoffLimit=0), [disrupted], NOW + timedelta(hours=1))
    assert "failed" not in forgiven["status"]


def test_doubled_and_finished_indexes_lose_their_extra_pods() -> None:
    one = train(completions=2, parallelism=2, completionMode="Indexed")
    pods: Sequence[Manifest] = [worker("a", index=0), worker("b", index=0, creationTimestamp=TEXT), worker("c", index=5)]
    assert set(removed(job.decide(one, pods, NOW))) == {"b", "c"}


def test_pods_of_a_job_that_is_gone_are_let_go() -> None:
    (step,) = job.release([worker("a"), worker("b", tracked=False)]).steps
    assert isinstance(step, Patch)
    assert step.patch == {"metadata": {"finalizers": None}}


def test_a_new_pod_does_not_share_the_template() -> None:
    one = train()
    new_pod(one, None)["spec"]["containers"][0]["image"] = "changed"
    assert "image" not in one["spec"]["template"]["spec"]["containers"][0]


class JobWorld:
    """A Job and its pods as dicts, changed by the decisions' steps, of which any may be the last before a kill."""

    def __init__(self, one: Manifest) -> None:
        self.job = copy.deepcopy(one)
        self.pods: dict[str, Manifest] = {}
        self.ends: dict[str, str] = {}
        self.made = 0
        self.now = NOW

    def turn(self, survive: int = 10**6) -> int:
        """Carry out the first `survive` steps of one decision; how many were writes."""
        self.now += timedelta(minutes=11)  # beyond every back-off
        decision = job.decide(copy.deepcopy(self.job), [copy.deepcopy(found) for found in self.pods.values()], self.now)
        writes = [step for step in decision.steps if not isinstance(step, Record)]
        for step in writes[:survive]:
            match step:
                case Patch(object=seen, patch=patch) if seen["metadata"]["uid"] == "j":
                    _merge(self.job, patch)
                case Patch(object=seen, patch=patch):
                    _merge(self.pods[seen["metadata"]["uid"]], patch)
                    self.sweep()
                case Delete(object=seen):
                    self.delete(seen["metadata"]["uid"])
                case Create(manifest=manifest):
                    self.made += 1
                    name = f"p{self.made}"
                    self.pods[name] = copy.deepcopy(manifest)
                    self.pods[name]["metadata"] |= {"name": name, "uid": name, "creationTimestamp": TEXT, "resourceVersion": "1"}
                    self.pods[name]["status"] = {"phase": "Running"}
        return len(writes)

    def sweep(self) -> None:
        gone = [
            uid
            for uid, found in self.pods.items()
            if found["metadata"].get("deletionTimestamp") and not found["metadata"].get("finalizers")
        ]
        for uid in gone:
            del self.pods[uid]

    def delete(self, uid: str) -> None:
        if uid in self.pods:
            self.pods[uid]["metadata"]["deletionTimestamp"] = TEXT
            self.sweep()

    def end(self, choice: int, phase: str) -> None:
        running = [
            uid
            for uid, found in self.pods.items()
            if found["status"]["phase"] == "Running" and not found["metadata"].get("deletionTimestamp")
        ]
        if running:
            uid = running[choice % len(running)]
            self.pods[uid]["status"]["phase"] = phase
            self.ends[uid] = phase

    def settle(self) -> None:
        for _ in range(200):
            if not self.turn():
                running = [uid for uid, found in self.pods.items() if found["status"]["phase"] == "Running"]
                if not running:
                    return
                self.end(0, "Succeeded")
        raise AssertionError("never settled")


EVENTS = st.lists(st.tuples(st.sampled_from(["turn", "turn", "Succeeded", "Failed", "delete"]), st.integers(0, 20)), max_size=40)


@settings(max_examples=150, deadline=None)
@given(indexed=st.booleans(), completions=st.integers(1, 6), parallelism=st.integers(1, 4), events=EVENTS)
def test_killed_after_any_write_a_job_counts_every_end_exactly_once(
    indexed: bool, completions: int, parallelism: int, events: list[tuple[str, int]]
) -> None:
    mode = "Indexed" if indexed else "NonIndexed"
    world = JobWorld(train(completions=completions, parallelism=parallelism, completionMode=mode, backoffLimit=1000, status={}))
    disturbed = 0
    for event, number in events:
        if event == "turn":
            world.turn(survive=number % 5)
        elif event == "delete":
            running = [
                uid
                for uid, found in world.pods.items()
                if found["status"]["phase"] == "Running" and not found["metadata"].get("deletionTimestamp")
            ]
            if running:
                world.delete(running[number % len(running)])
                disturbed += 1
        else:
            world.end(number, event)
    world.settle()
    status = world.job["status"]
    assert conditions_of(status)["Complete"]["status"] == "True"
    succeeded = sum(phase == "Succeeded" for phase in world.ends.values())
    failed = sum(phase == "Failed" for phase in world.ends.values())
    assert status["succeeded"] == (completions if indexed else succeeded)
    assert status.get("failed", 0) >= failed
    assert status.get("failed", 0) <= failed + disturbed + parallelism
    if indexed:
        assert parse_indexes(status["completedIndexes"]) == frozenset(range(completions))
    assert not status["uncountedTerminatedPods"]
    assert not any(found["metadata"].get("finalizers") for found in world.pods.values())
    assert world.turn() == 0
