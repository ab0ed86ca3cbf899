"""The embedded scheduler's decisions, in tables."""

from __future__ import annotations

from typing import Any

import pytest

from moorage.embedded.control.scheduling.decide import Unschedulable, decide
from moorage.embedded.control.scheduling.plan import GROUP, Volumes, plan
from moorage.embedded.control.scheduling.requests import requests_of
from moorage.embedded.control.scheduling.snapshot import Snapshot

Manifest = dict[str, Any]
GI = 1024**3 * 1000


def node(name: str, cpu: str = "4", *, labels: dict[str, str] | None = None, taints: list[Manifest] | None = None, **more: Any) -> Manifest:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": {"taints": taints or [], **more.pop("spec", {})},
        "status": {"allocatable": {"cpu": cpu, "memory": "16Gi", "pods": "10", **more}},
    }


def pod(
    name: str, cpu: str = "1", *, on: str | None = None, owner: str = "", annotations: dict[str, str] | None = None, **spec: Any
) -> Manifest:
    references = [{"kind": "ReplicaSet", "name": owner, "uid": owner, "controller": True}] if owner else []
    container = {"name": "main", "resources": {"requests": {"cpu": cpu, **spec.pop("requests", {})}}, **spec.pop("container", {})}
    return {
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "ownerReferences": references, "annotations": annotations or {},
            "labels": spec.pop("labels", {}), "creationTimestamp": spec.pop("created", "2026-01-01T00:00:00Z"),
        },
        "spec": {"containers": [container], **({"nodeName": on} if on else {}), **spec},
        "status": {"phase": "Running" if on else "Pending"},
    }  # fmt: skip


def container(cpu: str, *, always: bool = False) -> Manifest:
    return {"resources": {"requests": {"cpu": cpu}}, **({"restartPolicy": "Always"} if always else {})}


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({"containers": [container("1"), container("500m")]}, 1500),
        ({"containers": [container("1")], "initContainers": [container("3")]}, 3000),
        ({"containers": [container("1")], "initContainers": [container("500m", always=True)]}, 1500),
        ({"containers": [container("1")], "initContainers": [container("500m", always=True), container("2")]}, 2500),
        ({"containers": [container("1")], "initContainers": [container("2"), container("500m", always=True)]}, 2000),
        ({"containers": [{"resources": {"limits": {"cpu": "2"}}}]}, 2000),
        ({"containers": [{"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}}]}, 1000),
        ({"containers": [container("1")], "overhead": {"cpu": "250m"}}, 1250),
        ({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}}, 3000),
        ({"containers": [{}]}, 0),
    ],
)
def test_a_pod_asks_for_its_largest_need_at_any_moment(spec: Manifest, cpu: int) -> None:
    assert requests_of({"metadata": {}, "spec": spec}).get("cpu", 0) == cpu


NOT_HELPFUL = "preemption: 0/{0} nodes are available: {0} Preemption is not helpful for scheduling."


@pytest.mark.parametrize(
    ("asking", "nodes", "pods", "message"),
    [
        (pod("p"), [], [], "no nodes available to schedule pods"),
        (
            pod("p", "3"),
            [node("a"), node("b", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])],
            [pod("x", "2", on="a")],
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). preemption: 0/2 nodes are available: "
            "1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
        ),
        (
            pod("p", requests={"nvidia.com/gpu": "1", "memory": "20Gi"}),
            [node("a")],
            [],
            "0/1 nodes are available: 1 Insufficient memory, 1 Insufficient nvidia.com/gpu. " + NOT_HELPFUL.format(1),
        ),
        (
            pod("p", nodeSelector={"zone": "x"}),
            [node("a"), node("b", labels={"zone": "y"})],
            [],
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. " + NOT_HELPFUL.format(2),
        ),
        (
            pod("p"),
            [node("a", spec={"unschedulable": True})],
            [],
            "0/1 nodes are available: 1 node(s) were unschedulable. " + NOT_HELPFUL.format(1),
        ),
        (
            pod("p", "100m"),
            [node("a", pods="1")],
            [pod("x", "100m", on="a")],
            "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (
            pod("p", container={"ports": [{"containerPort": 80, "hostPort": 80}]}),
            [node("a")],
            [pod("x", on="a", container={"ports": [{"containerPort": 80, "hostPort": 80}]})],
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. "
            "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
    ],
)
def test_no_place_is_explained_in_the_words_of_kubernetes(
    asking: Manifest, nodes: list[Manifest], pods: list[Manifest], message: str
) -> None:
    assert decide(asking, nodes, pods) == Unschedulable(message)


ZONES = [node("a", labels={"zone": "x", "gpus": "2"}), node("b", labels={"zone": "y", "gpus": "8"})]


def affine(*expressions: Manifest, preferred: bool = False) -> Manifest:
    if preferred:
        term: Manifest = {"weight": 100, "preference": {"matchExpressions": list(expressions)}}
        return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}
    terms = [{"matchExpressions": list(expressions)}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


@pytest.mark.parametrize(
    ("affinity", "chosen"),
    [
        (affine({"key": "zone", "operator": "In", "values": ["y"]}), "b"),
        (affine({"key": "zone", "operator": "NotIn", "values": ["y"]}), "a"),
        (affine({"key": "gpus", "operator": "Gt", "values": ["4"]}), "b"),
        (affine({"key": "gpus", "operator": "Lt", "values": ["4"]}), "a"),
        (affine({"key": "zone", "operator": "Exists"}, {"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}), "b"),
        (affine({"key": "zone", "operator": "In", "values": ["y"]}, preferred=True), "b"),
    ],
)
def test_node_affinity_chooses_the_node(affinity: Manifest, chosen: str) -> None:
    assert decide(pod("p", affinity=affinity), ZONES, []) == chosen


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "other"}, False),
        ({"key": "k", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_a_toleration_opens_a_tainted_node(toleration: Manifest, fits: bool) -> None:
    tainted = [node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])]
    assert (decide(pod("p", tolerations=[toleration]), tainted, []) == "a") is fits


def test_the_emptier_node_is_taken_and_pods_of_one_owner_are_spread() -> None:
    nodes = [node("a"), node("b")]
    assert decide(pod("p"), nodes, [pod("x", "2", on="a")]) == "b"
    assert decide(pod("p", owner="rs"), nodes, [pod("x", "1", on="b", owner="other"), pod("y", "500m", on="a", owner="rs")]) == "b"


def test_finished_pods_take_no_room() -> None:
    done = pod("x", "4", on="a")
    done["status"]["phase"] = "Succeeded"
    assert decide(pod("p", "4"), [node("a")], [done]) == "a"


def test_required_anti_affinity_keeps_replicas_apart_also_seen_from_the_pod_that_is_there() -> None:
    term = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    there = pod("x", on="a", labels={"app": "web"}, affinity=apart)
    assert decide(pod("p", labels={"app": "web"}, affinity=apart), [node("a"), node("b")], [there]) == "b"
    found = decide(pod("p", labels={"app": "web"}), [node("a")], [there])
    assert isinstance(found, Unschedulable)
    assert "1 node(s) didn't satisfy existing pods anti-affinity rules" in found.message


@pytest.mark.parametrize("term", [{"key": "a", "operator": "Bad"}, {"operator": "Exists"}], ids=["operator", "key"])
def test_a_selector_that_cannot_be_read_holds_up_nobody_else(term: Manifest) -> None:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    wrong = {"labelSelector": {"matchExpressions": [term]}, "topologyKey": "kubernetes.io/hostname"}
    there = pod("x", on="a", labels={"app": "web"}, affinity={"podAntiAffinity": {required: [wrong]}})
    assert decide(pod("p", labels={"app": "web"}), [node("a")], [there]) == "a"
    for affinity in ({"podAffinity": {required: [wrong]}}, affine({"operator": "In", "values": ["y"]})):
        assert isinstance(decide(pod("p", affinity=affinity), [node("a")], [there]), Unschedulable)


def test_topology_spread_counts_the_skew() -> None:
    constraint = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}
    there = [pod("x", "2", on="b", labels={"app": "db"}), pod("y", "100m", on="a", labels={"app": "web"})]
    assert decide(pod("p", labels={"app": "web"}, topologySpreadConstraints=[constraint]), [node("a"), node("b")], there) == "b"


def gang(names: str, cpu: str = "2", group: str = "g", **more: Any) -> list[Manifest]:
    return [pod(name, cpu, annotations={GROUP: group}, schedulerName="volcano", **more) for name in names]


GROUPS: dict[tuple[str, str], Manifest] = {("default", "g"): {"metadata": {"name": "g"}, "spec": {"minMember": 3}}}


def test_a_gang_is_placed_whole() -> None:
    found = plan(gang("abc"), Snapshot([node("n1"), node("n2")], []), groups=GROUPS)
    assert sorted(found.places) == ["a", "b", "c"]
    assert not found.refused


def test_a_gang_without_room_for_all_takes_no_room_from_others() -> None:
    pods = [*gang("abc", "3"), pod("small", "3", created="2026-01-02T00:00:00Z"), pod("late", "3", created="2026-01-03T00:00:00Z")]
    found = plan(pods, Snapshot([node("n1"), node("n2")], []), groups=GROUPS)
    assert set(found.places) == {"small", "late"}
    assert found.gangs["default", "g"].startswith(
        "1/3 tasks in gang unschedulable: pod group is not ready, 3 Pending, 3 minAvailable; Pending: 1 Unschedulable, 2 Schedulable. "
        "Origin reason is c: 0/2 nodes are available: 2 Insufficient cpu."
    )
    assert found.possible == {"a", "b"}
    assert found.refused["a"] == "Pod default/a can possibly be assigned to n1, once minAvailable is satisfied"
    assert found.refused["c"].startswith("0/2 nodes are available: 2 Insufficient cpu.")


def test_a_gang_waits_for_its_members_and_its_group() -> None:
    snapshot = Snapshot([node("n1"), node("n2")], [])
    found = plan(gang("ab"), snapshot, groups=GROUPS)
    assert found.refused["a"] == "pod group is not ready, 2 Pending, 3 minAvailable; Pending: 2 Unschedulable"
    assert found.gangs["default", "g"] == f"3/2 tasks in gang unschedulable: {found.refused['a']}"
    assert plan(gang("a", group="absent"), snapshot, groups=GROUPS).refused["a"] == 'PodGroup "absent" not found'


def test_a_replaced_member_joins_the_gang_that_runs() -> None:
    running = gang("ab", on="n1")
    found = plan([*running, *gang("c")], Snapshot([node("n1"), node("n2")], running), groups=GROUPS)
    assert found.places == {"c": "n2"}


def test_higher_priority_goes_first_then_the_older() -> None:
    pods = [
        pod("old", "3"),
        pod("young", "3", created="2026-02-01T00:00:00Z"),
        pod("urgent", "3", created="2026-03-01T00:00:00Z", priority=10),
    ]
    found = plan(pods, Snapshot([node("n1"), node("n2")], []))
    assert set(found.places) == {"urgent", "old"}


def test_pods_of_others_gated_deleted_and_bound_ones_are_left_alone() -> None:
    going = pod("going")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pods = [pod("other", schedulerName="mine"), pod("gated", schedulingGates=[{"name": "g"}]), going, pod("bound", on="n1")]
    found = plan(pods, Snapshot([node("n1")], []))
    assert not found.places
    assert not found.refused


def test_an_unbound_claim_holds_the_pod_back() -> None:
    found = plan(
        [pod("p")], Snapshot([node("n1")], []), volumes=lambda pod, rooms: Volumes("pod has unbound immediate PersistentVolumeClaims")
    )
    assert found.refused["p"] == "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. " + NOT_HELPFUL.format(1)


def test_a_thousand_pods_that_fit_nowhere_are_refused_alike() -> None:
    pods = [pod(f"p{number}", "8", owner="rs") for number in range(1000)]
    found = plan(pods, Snapshot([node(f"n{number}") for number in range(20)], []))
    assert len(found.refused) == 1000
    assert len(set(found.refused.values())) == 1
