"""Preemption decided on snapshots: which node, which victims, and what is said where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.embedded.control.scheduling.decide import Unschedulable, choose, refusal_of
from moorage.embedded.control.scheduling.plan import plan
from moorage.embedded.control.scheduling.preemption import NoPreemption, Preemption, preempt
from moorage.embedded.control.scheduling.snapshot import Snapshot

Manifest = dict[str, Any]


def node(name: str, cpu: str = "4") -> Manifest:
    return {"metadata": {"name": name, "uid": name, "labels": {}}, "status": {"allocatable": {"cpu": cpu, "pods": "110"}}}


def pod(name: str, cpu: str, priority: int = 0, on: str | None = None, *, since: str = "2026-01-01T00:00:00Z", **more: Any) -> Manifest:
    spec: Manifest = {
        "containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}],
        "priority": priority,
        **more.pop("spec", {}),
    }
    if on is not None:
        spec["nodeName"] = on
    status = {"phase": "Running", "startTime": since} if on is not None else {"phase": "Pending"}
    metadata = {"name": name, "namespace": "default", "uid": name, "labels": {"app": name}, **more.pop("metadata", {})}
    return {"metadata": metadata, "spec": spec, "status": status | more.pop("status", {})}


def budget(app: str, allowed: int) -> Manifest:
    spec = {"selector": {"matchLabels": {"app": app}}}
    return {"metadata": {"name": app, "namespace": "default", "uid": f"b-{app}"}, "spec": spec, "status": {"disruptionsAllowed": allowed}}


def outcome(
    asking: Manifest, nodes: Sequence[Manifest], pods: Sequence[Manifest], budgets: Sequence[Manifest] = ()
) -> Preemption | NoPreemption:
    snapshot = Snapshot(nodes, pods)
    why = choose(asking, snapshot)
    assert isinstance(why, Unschedulable)
    return preempt(asking, why, snapshot, budgets)


def names(found: Preemption | NoPreemption) -> tuple[str, list[str]]:
    assert isinstance(found, Preemption), found
    return found.node, [one["metadata"]["name"] for one in found.victims]


@pytest.mark.parametrize(
    ("pods", "budgets", "node_and_victims"),
    [
        pytest.param(
            [pod("a", "4", 5, "n1"), pod("b", "2", 1, "n2"), pod("c", "2", 1, "n2")], [], ("n2", ["b", "c"]), id="lowest top priority"
        ),
        pytest.param([pod("a", "2", 1, "n1"), pod("b", "2", 1, "n1"), pod("c", "4", 1, "n2")], [], ("n2", ["c"]), id="fewest in sum"),
        pytest.param(
            [pod("a", "4", 1, "n1"), pod("b", "4", 5, "n2")], [budget("a", 0)], ("n2", ["b"]), id="a budget counts more than priority"
        ),
        pytest.param([pod("a", "4", 5, "n1"), pod("b", "4", 1, "n2")], [budget("b", 1)], ("n2", ["b"]), id="a budget that allows it"),
        pytest.param(
            [pod("a", "4", 1, "n1"), pod("b", "4", 1, "n2", since="2026-01-02T00:00:00Z")], [], ("n2", ["b"]), id="the younger of equals"
        ),
    ],
)
def test_the_node_is_the_one_where_it_costs_least(
    pods: list[Manifest], budgets: list[Manifest], node_and_victims: tuple[str, list[str]]
) -> None:
    assert names(outcome(pod("new", "4", 10), [node("n1"), node("n2")], pods, budgets)) == node_and_victims


def test_no_more_go_than_have_to_and_the_long_running_stay() -> None:
    pods = [pod("old", "2", 1, "n1"), pod("young", "2", 1, "n1", since="2026-01-02T00:00:00Z"), pod("high", "0", 20, "n1")]
    assert names(outcome(pod("new", "2", 10), [node("n1")], pods)) == ("n1", ["young"])


def test_of_two_the_one_whose_budget_would_break_stays() -> None:
    pods = [pod("guarded", "2", 1, "n1", since="2026-01-02T00:00:00Z"), pod("free", "2", 1, "n1")]
    assert names(outcome(pod("new", "2", 10), [node("n1")], pods, [budget("guarded", 0)])) == ("n1", ["free"])


@pytest.mark.parametrize(
    ("asking", "pods", "ends"),
    [
        (pod("new", "4", 10, spec={"preemptionPolicy": "Never"}), [pod("a", "4", 1, "n1")], "not eligible due to preemptionPolicy=Never."),
        (pod("new", "4", 1), [pod("a", "4", 1, "n1")], "0/1 nodes are available: 1 No preemption victims found for incoming pod."),
        (pod("new", "9", 10), [pod("a", "4", 1, "n1")], "0/1 nodes are available: 1 Preemption is not helpful for scheduling."),
        (pod("new", "4", 10), [pod("a", "2", 1, "n1"), pod("b", "2", 20, "n1")], "0/1 nodes are available: 1 Insufficient cpu."),
    ],
)
def test_where_nobody_can_go_it_says_why(asking: Manifest, pods: list[Manifest], ends: str) -> None:
    found = outcome(asking, [node("n1")], pods)
    assert found == NoPreemption(f"0/1 nodes are available: 1 Insufficient cpu. preemption: {ends}")


def test_while_its_victims_are_leaving_a_pod_takes_no_others() -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    leaving = pod("a", "4", 1, "n1", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}, status={"conditions": [target]})
    asking = pod("new", "4", 10, status={"nominatedNodeName": "n1"})
    found = outcome(asking, [node("n1"), node("n2")], [leaving, pod("b", "4", 1, "n2")])
    assert isinstance(found, NoPreemption)
    assert found.waits
    assert found.message.endswith("preemption: not eligible due to a terminating pod on the nominated node.")


def test_what_is_made_free_for_one_is_not_given_to_the_next() -> None:
    pods = [pod("a", "4", 1, "n1"), pod("b", "4", 1, "n2"), pod("first", "4", 10), pod("second", "4", 10), pod("third", "4", 10)]
    found = plan(pods, Snapshot([node("n1"), node("n2")], pods))
    assert {one.pod["metadata"]["name"]: one.node for one in found.preemptions} == {"first": "n1", "second": "n2"}
    assert found.refused["third"].endswith("preemption: 0/2 nodes are available: 2 Insufficient cpu.")


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 20)), max_size=8),
    st.integers(1, 4),
    st.integers(0, 20),
)
def test_victims_are_worth_less_and_without_them_the_pod_fits(others: list[tuple[int, int]], cpu: int, priority: int) -> None:
    pods = [pod(f"p{index}", str(size), worth, f"n{index % 2}") for index, (size, worth) in enumerate(others)]
    nodes = [node("n0", "6"), node("n1", "6")]
    asking = pod("new", str(cpu), priority)
    snapshot = Snapshot(nodes, pods)
    why = choose(asking, snapshot)
    if not isinstance(why, Unschedulable):
        return
    before = {name: dict(room.used) for name, room in snapshot.rooms.items()}
    found = preempt(asking, why, snapshot)
    assert {name: dict(room.used) for name, room in snapshot.rooms.items()} == before
    if isinstance(found, Preemption):
        assert found.victims
        assert all(victim["spec"]["priority"] < priority for victim in found.victims)
        gone = {victim["metadata"]["uid"] for victim in found.victims}
        after = Snapshot(nodes, [one for one in pods if one["metadata"]["uid"] not in gone])
        assert refusal_of(asking, after.rooms[found.node], after) is None
