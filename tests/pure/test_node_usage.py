"""What containers use: the arithmetic over /proc and cgroups, rates between two readings, and how the metrics API shows them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moorage.embedded import discovery, metrics, policy
from moorage.embedded.backend import Measured, Usage
from moorage.embedded.control.aggregation import aggregate
from moorage.embedded.control.steps import Patch
from moorage.embedded.kinds import Catalog
from moorage.embedded.node.meter import Sample, rates
from moorage.embedded.node.usage import Process, Reading, Running, of_cgroups, of_tree, parse_stat, snapshot

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def running(pod: str, name: str = "main", *, node: str = "n1", attempt: int = 0) -> Running:
    return Running(node, pod, name, Path(f"/{pod}/{name}/{attempt}"), 1)


def sample(steady: float, used: Mapping[Running, Reading | None]) -> Sample:
    readings = {container.attempt: reading for container, reading in used.items() if reading is not None}
    return Sample(MOMENT + timedelta(seconds=steady), steady, list(used), readings)


def test_a_line_of_proc_is_read_whatever_the_process_is_called() -> None:
    line = b"7 (a) S (1 2) R 5 7 7 0 -1 4194304 100 200 0 0 11 13 17 19 20 0 1 0 12345 999 42 184467 1 1\n"
    assert parse_stat(line) == Process(parent=5, own=24, ended=36, pages=42)


def test_processes_are_read_from_a_proc_that_has_other_things_too(tmp_path: Path) -> None:
    for name, parent in (("7", 5), ("8", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stat").write_text(f"{name} (sh) R {parent} 7 7 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 9 9 5 9\n")
    (tmp_path / "9").mkdir()  # ended since it was listed
    (tmp_path / "uptime").write_text("1 2")
    assert snapshot(tmp_path) == {7: Process(5, 3, 7, 5), 8: Process(7, 3, 7, 5)}


def test_a_container_is_all_that_descends_from_its_shim_and_not_the_shim() -> None:
    processes = {
        1: Process(0, 1000, 1000, 1000),
        10: Process(1, 500, 7, 300),  # the shim, which has reaped an orphan that took 7
        11: Process(10, 20, 3, 40),  # main, which has waited for a child that took 3
        12: Process(11, 5, 0, 2),
        13: Process(10, 1, 0, 1),  # an orphan of main's that lives
        20: Process(1, 900, 900, 900),  # another shim and its container
        21: Process(20, 80, 80, 80),
    }
    assert of_tree(processes, 11) == (7 + 20 + 3 + 5 + 1, 40 + 2 + 1)
    assert of_tree(processes, 21) == (900 + 160, 80)


def test_a_container_that_has_ended_has_no_figures() -> None:
    assert of_tree({1: Process(0, 1, 1, 1)}, 11) is None
    # The shim was killed and init has inherited its container: the rest of the machine is not the container's.
    assert of_tree({1: Process(0, 1, 1, 1), 11: Process(1, 1, 1, 1), 12: Process(1, 9, 9, 9)}, 11) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {
                "a/cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
                "a/memory.current": "9000\n",
                "a/memory.stat": "anon 1\ninactive_file 1000\n",
            },
            (1_500_000, 8000),
        ),
        (
            {
                "a/memory.usage_in_bytes": "9000\n",
                "a/memory.stat": "inactive_file 1\ntotal_inactive_file 2000\n",
                "b/cpuacct.usage": "77\n",
                "b/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
            },
            (77, 7000),
        ),
        # v1 with cpuacct mounted elsewhere: CPU has to come from the processes.
        ({"a/memory.usage_in_bytes": "9000\n", "b/cpu.stat": "nr_periods 0\n"}, (None, 9000)),
        # More cache than use, since the files are read one after the other.
        ({"a/memory.current": "10\n", "a/memory.stat": "inactive_file 20\n"}, (None, 0)),
        ({}, (None, None)),
    ],
)
def test_cgroups_tell_what_their_controllers_count(
    tmp_path: Path, files: Mapping[str, str], expected: tuple[int | None, int | None]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert of_cgroups([tmp_path / "a", tmp_path / "b"]) == expected


def test_a_rate_is_what_was_used_between_two_samples() -> None:
    one, two, other = running("p"), running("p", "side"), running("q", node="n2")
    before = sample(10, {one: Reading(1_000_000_000, 1), two: Reading(0, 1), other: Reading(5, 1)})
    after = sample(14, {one: Reading(3_000_000_000, 4096), two: Reading(400, 1024), other: Reading(5, 7)})
    found = rates(["n1", "n2", "n3"], before, after)
    assert found.pods == {"p": {"main": Usage(500_000_000, 4096), "side": Usage(100, 1024)}, "q": {"main": Usage(0, 7)}}
    assert found.nodes == {"n1": Usage(500_000_100, 5120), "n2": Usage(0, 7), "n3": Usage(0, 0)}
    assert (found.moment, found.window) == (after.moment, timedelta(seconds=4))


def test_a_pod_is_missing_while_one_of_its_running_containers_was_read_once_only() -> None:
    old, new, restarted = running("p"), running("p", "side"), running("q", attempt=1)
    before = sample(0, {old: Reading(0, 1), running("q"): Reading(900, 1)})
    after = sample(1, {old: Reading(10, 2), new: Reading(10, 2), restarted: Reading(10, 2)})
    found = rates(["n1"], before, after)
    assert found.pods == {}
    assert found.nodes == {"n1": Usage(10, 2)}


def test_a_container_that_ended_while_it_was_read_is_left_out() -> None:
    one, gone = running("p"), running("p", "init")
    used = sample(0, {one: Reading(0, 1), gone: Reading(0, 1)})
    assert rates(["n1"], used, sample(1, {one: Reading(9, 2), gone: None})).pods == {"p": {"main": Usage(9, 2)}}


def test_a_counter_that_goes_back_counts_as_nothing_used() -> None:
    one = running("p")
    assert rates([], sample(0, {one: Reading(9, 1)}), sample(1, {one: Reading(3, 1)})).pods == {"p": {"main": Usage(0, 1)}}


def test_figures_are_shown_as_metrics_server_shows_them() -> None:
    measured = Measured(
        MOMENT, timedelta(seconds=15.0214), {"n1": Usage(250_000_000, 3 * 2**20)}, {"u": {"b": Usage(1_234_567, 2047), "a": Usage(0, 0)}}
    )
    pod = {"metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "x"}, "annotations": {"n": "o"}}}
    head = {"apiVersion": "metrics.k8s.io/v1beta1", "timestamp": "2026-01-02T03:04:05Z", "window": "15.021s"}
    assert metrics.pod_metrics(pod, measured) == {
        **head,
        "kind": "PodMetrics",
        "metadata": {"name": "p", "namespace": "d", "labels": {"app": "x"}, "creationTimestamp": "2026-01-02T03:04:05Z"},
        "containers": [{"name": "a", "usage": {"cpu": "0", "memory": "0Ki"}}, {"name": "b", "usage": {"cpu": "1234567n", "memory": "1Ki"}}],
    }
    assert metrics.node_metrics({"metadata": {"name": "n1"}}, measured) == {
        **head,
        "kind": "NodeMetrics",
        "metadata": {"name": "n1", "creationTimestamp": "2026-01-02T03:04:05Z"},
        "usage": {"cpu": "250m", "memory": "3072Ki"},
    }
    assert metrics.pod_metrics({"metadata": {"name": "p", "namespace": "d", "uid": "another"}}, measured) is None
    assert metrics.node_metrics({"metadata": {"name": "n2"}}, measured) is None


def test_discovery_lists_the_group_last_so_that_pods_alone_stay_the_core_ones() -> None:
    catalog = Catalog()
    assert [each["name"] for each in discovery.groups(catalog)["groups"]][-1] == "metrics.k8s.io"
    found = discovery.resource_list(catalog, "metrics.k8s.io", "v1beta1")
    assert found is not None
    assert [(each["name"], each["kind"], each["namespaced"], each["verbs"]) for each in found["resources"]] == [
        ("nodes", "NodeMetrics", False, ["get", "list"]),
        ("pods", "PodMetrics", True, ["get", "list"]),
    ]
    assert discovery.resource_list(catalog, "metrics.k8s.io", "v1") is None
    assert discovery.aggregated(catalog, core=False)["items"][-1]["metadata"]["name"] == "metrics.k8s.io"


@pytest.mark.parametrize("name", ["view", "edit", "admin"])
def test_whoever_may_view_may_read_figures(name: str) -> None:
    roles = [role for role in policy.defaults() if role["kind"] == "ClusterRole"]
    decided = aggregate(next(role for role in roles if role["metadata"]["name"] == name), roles)
    (patch,) = decided.steps
    assert isinstance(patch, Patch)
    wanted = {"apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}
    assert wanted in patch.patch["rules"]
