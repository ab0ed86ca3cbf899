"""Gang scheduling by Volcano's API: a group's pods start whole or not at all, and the group says why it waits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from moorage.kube.cluster import Cluster
from moorage.kube.kinds import EVENT, NODE, POD, POD_GROUP
from moorage.kube.metadata import name_of
from moorage.specs.manifest import Manifest
from moorage.specs.quantities import parse_quantity
from moorage.testing.world import until, until_all

# Volcano looks every second; a loaded machine takes its time.
_PATIENCE = timedelta(seconds=90)
GROUP = "scheduling.k8s.io/group-name"


class GangConformance:
    """Needs, besides `cluster` and `namespace`, a scheduler that answers to `volcano`, and two or more idle nodes of the same size that run pods."""

    def ending(self, pod: Manifest) -> Manifest:
        """The pod changed so that it ends well as soon as it runs."""
        pod["spec"]["containers"][0]["command"] = ["true"]
        return pod

    async def test_a_gang_starts_no_member_while_only_some_would_fit(self, cluster: Cluster, namespace: str) -> None:
        nodes, large = await _nodes(cluster)
        await cluster.create(POD_GROUP, a_group("one", 1, namespace))
        await cluster.create(POD, a_member("one-0", "one", namespace, large))
        await _started(cluster, namespace, "one", 1)
        await cluster.create(POD_GROUP, a_group("two", nodes, namespace))
        for number in range(nodes):
            await cluster.create(POD, a_member(f"two-{number}", "two", namespace, large))
        group = await _waits(cluster, namespace, "two")
        assert group["status"]["phase"] == "Inqueue", group
        condition = _condition(group, "Unschedulable")
        assert condition["reason"] == "NotEnoughResources", group
        words = rf"\d+/{nodes} tasks in gang unschedulable: pod group is not ready, {nodes} Pending, {nodes} minAvailable; Pending: "
        assert re.match(words, condition["message"]), condition
        assert "Insufficient cpu" in condition["message"], condition
        pods = await until_all(cluster, POD, namespace, lambda pods: _refused(pods, "two") == nodes, labels="gang=two", within=_PATIENCE)
        assert not any(pod["spec"].get("nodeName") for pod in pods)
        said = [_condition(pod, "PodScheduled") for pod in pods]
        assert sorted(one["reason"] for one in said) == ["Schedulable"] * (nodes - 1) + ["Unschedulable"], said
        assert sum("can possibly be assigned to" in one["message"] for one in said) == nodes - 1, said
        await until_all(cluster, EVENT, namespace, lambda events: _told(events, "two-") == nodes, within=_PATIENCE)
        await cluster.delete(POD, "one-0", namespace)
        await _started(cluster, namespace, "two", nodes)

    async def test_of_two_gangs_that_do_not_both_fit_one_runs_whole_and_then_the_other(self, cluster: Cluster, namespace: str) -> None:
        nodes, large = await _nodes(cluster)
        for name in ("a", "b"):
            await cluster.create(POD_GROUP, a_group(name, nodes, namespace))
        for number in range(nodes):
            for name in ("a", "b"):
                await cluster.create(POD, a_member(f"{name}-{number}", name, namespace, large))
        groups = await until_all(cluster, POD_GROUP, namespace, lambda groups: _phases(groups) == {"Running", "Inqueue"}, within=_PATIENCE)
        first, second = sorted(groups, key=lambda group: group["status"]["phase"] != "Running")
        await _started(cluster, namespace, name_of(first), nodes)
        waiting = (await cluster.list(POD, namespace, labels=f"gang={name_of(second)}")).items
        assert [pod["spec"].get("nodeName") for pod in waiting] == [None] * nodes, waiting
        for number in range(nodes):
            await cluster.delete(POD, f"{name_of(first)}-{number}", namespace)
        await _started(cluster, namespace, name_of(second), nodes)

    async def test_a_gang_waits_until_it_has_members_enough(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(POD_GROUP, a_group("few", 3, namespace))
        for number in range(2):
            await cluster.create(POD, a_member(f"few-{number}", "few", namespace, "10m"))
        await until(cluster, POD_GROUP, "few", namespace, lambda group: "2 Pending, 3 minAvailable" in _message(group), within=_PATIENCE)
        pods = await until_all(cluster, POD, namespace, lambda pods: _refused(pods, "few") == 2, within=_PATIENCE)
        for pod in pods:
            said = _condition(pod, "PodScheduled")
            assert said["reason"] == "Unschedulable", said
            assert said["message"] == "pod group is not ready, 2 Pending, 3 minAvailable; Pending: 2 Unschedulable"
        await cluster.create(POD, a_member("few-2", "few", namespace, "10m"))
        await _started(cluster, namespace, "few", 3)

    async def test_members_beyond_the_least_start_as_there_is_room(self, cluster: Cluster, namespace: str) -> None:
        nodes, large = await _nodes(cluster)
        await cluster.create(POD_GROUP, a_group("more", 1, namespace))
        for number in range(nodes + 1):
            await cluster.create(POD, a_member(f"more-{number}", "more", namespace, large))
        await _started(cluster, namespace, "more", nodes)
        pods = await until_all(cluster, POD, namespace, lambda pods: _refused(pods, "more") == 1, within=_PATIENCE)
        (left,) = [pod for pod in pods if not pod["spec"].get("nodeName")]
        assert "Insufficient cpu" in _condition(left, "PodScheduled")["message"]

    async def test_a_gang_that_is_done_is_completed(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(POD_GROUP, a_group("done", 2, namespace))
        for number in range(2):
            await cluster.create(POD, self.ending(a_member(f"done-{number}", "done", namespace, "10m")))
        group = await until(cluster, POD_GROUP, "done", namespace, lambda group: _phases([group]) == {"Completed"}, within=_PATIENCE)
        assert group["status"]["succeeded"] == 2, group
        assert "running" not in group["status"], group

    async def test_a_gang_that_loses_a_member_says_so(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(POD_GROUP, a_group("torn", 2, namespace))
        for number in range(2):
            await cluster.create(POD, a_member(f"torn-{number}", "torn", namespace, "10m"))
        await _started(cluster, namespace, "torn", 2)
        await cluster.delete(POD, "torn-0", namespace)
        torn = "1/1 tasks in gang unschedulable: pod group is not ready, 1 Running, 2 minAvailable"
        group = await until(cluster, POD_GROUP, "torn", namespace, lambda group: _message(group) == torn, within=_PATIENCE)
        assert (group["status"]["phase"], group["status"]["running"]) == ("Unknown", 1), group
        assert _condition(group, "Scheduled")["status"] == "True", group
        await cluster.create(POD, a_member("torn-2", "torn", namespace, "10m"))
        await _started(cluster, namespace, "torn", 2)

    async def test_a_pod_of_a_group_that_is_not_there_waits_for_it_and_one_of_no_group_does_not(
        self, cluster: Cluster, namespace: str
    ) -> None:
        await cluster.create(POD, a_member("early", "late", namespace, "10m"))
        alone = a_member("alone", "", namespace, "10m")
        del alone["metadata"]["annotations"]
        await cluster.create(POD, alone)
        await until(cluster, POD, "alone", namespace, lambda pod: pod["status"].get("phase") == "Running", within=_PATIENCE)
        assert not (await cluster.get(POD, "early", namespace))["spec"].get("nodeName")
        await cluster.create(POD_GROUP, a_group("late", 1, namespace))
        await _started(cluster, namespace, "late", 1)


def a_group(name: str, least: int, namespace: str) -> Manifest:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": POD_GROUP.api_version, "kind": POD_GROUP.kind, "metadata": metadata, "spec": {"minMember": least}}


def a_member(name: str, group: str, namespace: str, cpu: str) -> Manifest:
    container = {"name": "main", "image": "python:3.11", "command": ["sleep", "100000"], "resources": {"requests": {"cpu": cpu}}}
    spec: dict[str, Any] = {
        "schedulerName": "volcano",
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
    }
    metadata = {"name": name, "namespace": namespace, "labels": {"gang": group}, "annotations": {GROUP: group}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


async def _nodes(cluster: Cluster) -> tuple[int, str]:
    """How many nodes there are, and a request for CPU of which each has room for one."""
    nodes = (await cluster.list(NODE)).items
    sizes = [parse_quantity(node["status"]["allocatable"]["cpu"], target="cpu") for node in nodes]
    assert len(nodes) >= 2 and len(set(sizes)) == 1, sizes
    return len(nodes), f"{int(sizes[0] * 600)}m"


async def _started(cluster: Cluster, namespace: str, name: str, count: int) -> None:
    """Wait until `count` of the group's pods run and it says so."""
    await until(
        cluster,
        POD_GROUP,
        name,
        namespace,
        lambda group: _phases([group]) == {"Running"} and group["status"].get("running") == count,
        within=_PATIENCE,
    )
    group = await cluster.get(POD_GROUP, name, namespace)
    assert _condition(group, "Scheduled")["reason"] == "tasks in gang are ready to be scheduled", group
    pods = (await cluster.list(POD, namespace, labels=f"gang={name}")).items
    assert sum(pod["status"].get("phase") == "Running" and bool(pod["spec"].get("nodeName")) for pod in pods) == count, pods


async def _waits(cluster: Cluster, namespace: str, name: str) -> Manifest:
    return await until(cluster, POD_GROUP, name, namespace, lambda group: "Insufficient cpu" in _message(group), within=_PATIENCE)


def _condition(one: Manifest, type: str) -> Manifest:
    found = [each for each in (one.get("status") or {}).get("conditions") or () if each["type"] == type]
    return dict(found[0]) if found else {}


def _message(group: Manifest) -> str:
    return str(_condition(group, "Unschedulable").get("message", ""))


def _phases(groups: Sequence[Manifest]) -> set[str | None]:
    return {(group.get("status") or {}).get("phase") for group in groups}


def _refused(pods: Sequence[Manifest], gang: str) -> int:
    of = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("gang") == gang]
    return sum(_condition(pod, "PodScheduled").get("status") == "False" for pod in of)


def _told(events: Sequence[Manifest], prefix: str) -> int:
    """How many pods of that name have an event about their not being scheduled."""
    return len(
        {
            event["involvedObject"]["name"]
            for event in events
            if event["reason"] == "FailedScheduling" and event["involvedObject"]["name"].startswith(prefix)
        }
    )
