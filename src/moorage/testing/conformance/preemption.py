"""Priorities and preemption: who has to go, what it says, and who gets the room. Needs a scheduler, the controller manager, and puppet nodes."""

from __future__ import annotations

from typing import Any

from moorage.errors import Forbidden, Invalid
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import DISRUPTION_BUDGET, EVENT, POD, PRIORITY_CLASS
from moorage.kube.metadata import is_deleting, name_of, uid_of
from moorage.specs.manifest import Manifest
from moorage.testing.builders import a_container, a_pod, an_object
from moorage.testing.conformance.disruptions import a_budget
from moorage.testing.conformance.sets import PATIENCE, is_ready, status_of
from moorage.testing.puppets import LABEL, LINGERS, Puppets
from moorage.testing.world import refused, until, until_all, until_gone


async def a_class(cluster: Cluster, namespace: str, value: int, **body: Any) -> str:
    """A PriorityClass of the test's own; its name."""
    name = f"{namespace}-{value}-{str(body.get('preemptionPolicy', '')).lower() or 'preempts'}"
    await cluster.create(PRIORITY_CLASS, an_object(PRIORITY_CLASS, name, value=value, **body))
    return name


def asking(
    puppets: Puppets, namespace: str, name: str, cpu: str, *, priority: str | None = None, notes: Manifest | None = None, **spec: Any
) -> Manifest:
    """A pod for this test's nodes that asks for `cpu`, with annotations `notes`."""
    chosen = {"nodeSelector": puppets.selector, "terminationGracePeriodSeconds": 1, **spec}
    if priority:
        chosen["priorityClassName"] = priority
    pod = a_pod(name, a_container(requests={"cpu": cpu}), spec=chosen, namespace=namespace, labels={"app": name})
    pod["metadata"]["annotations"] = dict(notes or {})
    return pod


async def until_running(cluster: Cluster, namespace: str, *names: str) -> None:
    for name in names:
        await until(cluster, POD, name, namespace, is_ready, within=PATIENCE)


def refusal(pod: Manifest) -> str:
    """What the scheduler said last, without what the plugin for device claims of 1.35 and 1.36 puts in between."""
    found: str = next((one.get("message") or "" for one in status_of(pod).get("conditions") or () if one["type"] == "PodScheduled"), "")
    return found.replace("no new claims to deallocate, ", "")


class PreemptionConformance:
    """Fixtures: `cluster`, `namespace`, and `puppets`: two nodes of 8 CPUs of this test's own."""

    async def test_the_least_important_pod_makes_room(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        low, high = [await a_class(cluster, namespace, value) for value in (10, 1000)]
        on = [{**puppets.selector, "kubernetes.io/hostname": node} for node in puppets.nodes]
        for name, node, priority in (("a", 0, low), ("b", 0, None), ("c", 1, low), ("d", 1, low)):
            await cluster.create(POD, asking(puppets, namespace, name, "4", priority=priority, nodeSelector=on[node]))
        await until_running(cluster, namespace, "a", "b", "c", "d")
        await cluster.patch(POD, "b", namespace, {"metadata": {"annotations": {LINGERS: "yes"}}})
        await cluster.create(POD, asking(puppets, namespace, "urgent", "3", priority=high))
        waiting = await until(cluster, POD, "urgent", namespace, lambda pod: bool(status_of(pod).get("nominatedNodeName")), within=PATIENCE)
        assert waiting["status"]["nominatedNodeName"] == puppets.nodes[0]
        victim = await until(cluster, POD, "b", namespace, is_deleting, within=PATIENCE)
        (target,) = [one for one in victim["status"]["conditions"] if one["type"] == "DisruptionTarget"]
        assert (target["reason"], target["message"]) == (
            "PreemptionByScheduler",
            "default-scheduler: preempting to accommodate a higher priority pod",
        )
        assert not any(is_deleting(pod) for pod in (await cluster.list(POD, namespace)).items if name_of(pod) not in ("b", "urgent"))
        message = f"Preempted by pod {uid_of(waiting)} on node {puppets.nodes[0]}"

        def told(events: list[Manifest]) -> bool:
            return any((one["reason"], one["involvedObject"]["name"], one["message"]) == ("Preempted", "b", message) for one in events)

        await until_all(cluster, EVENT, namespace, told, within=PATIENCE)
        # What was made free is kept: a pod that comes later and is worth less does not get it.
        await cluster.create(POD, asking(puppets, namespace, "late", "4"))
        await until(cluster, POD, "late", namespace, lambda pod: "Insufficient cpu" in refusal(pod), within=PATIENCE)
        await cluster.patch(POD, "b", namespace, {"metadata": {"annotations": {LINGERS: None}}})
        placed = await until(cluster, POD, "urgent", namespace, is_ready, within=PATIENCE)
        assert placed["spec"]["nodeName"] == puppets.nodes[0]
        assert "nominatedNodeName" not in placed["status"]
        assert not (await cluster.get(POD, "late", namespace))["spec"].get("nodeName")

    async def test_budgets_are_broken_only_where_there_is_no_other_way(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        high = await a_class(cluster, namespace, 1000)
        on = [{**puppets.selector, "kubernetes.io/hostname": node} for node in puppets.nodes]
        for number, name in enumerate(("kept", "free")):
            await cluster.create(POD, asking(puppets, namespace, name, "8", nodeSelector=on[number]))
        await until_running(cluster, namespace, "kept", "free")
        await cluster.create(DISRUPTION_BUDGET, a_budget(namespace, app="kept", minAvailable=1))
        await until(cluster, DISRUPTION_BUDGET, "budget", namespace, lambda one: status_of(one).get("currentHealthy") == 1, within=PATIENCE)
        await cluster.create(POD, asking(puppets, namespace, "first", "8", priority=high))
        await until_running(cluster, namespace, "first")
        assert (await cluster.get(POD, "first", namespace))["spec"]["nodeName"] == puppets.nodes[1]
        await until_gone(cluster, POD, "free", namespace, within=PATIENCE)
        await cluster.create(POD, asking(puppets, namespace, "second", "8", priority=high))
        await until_running(cluster, namespace, "second")
        await until_gone(cluster, POD, "kept", namespace, within=PATIENCE)

    async def test_who_may_not_preempt_waits_and_says_so(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        polite = await a_class(cluster, namespace, 1000, preemptionPolicy="Never")
        for name in ("a", "b"):
            await cluster.create(POD, asking(puppets, namespace, name, "8"))
        await until_running(cluster, namespace, "a", "b")
        made = await cluster.create(POD, asking(puppets, namespace, "polite", "8", priority=polite))
        assert (made["spec"]["priority"], made["spec"]["preemptionPolicy"]) == (1000, "Never")
        wanted = ". preemption: not eligible due to preemptionPolicy=Never."

        def said(pod: Manifest) -> bool:
            # A cluster of several has other nodes, which the pod does not want.
            return "2 Insufficient cpu" in refusal(pod) and wanted.removeprefix(". ") in refusal(pod)

        await until(cluster, POD, "polite", namespace, said, within=PATIENCE)
        await cluster.create(POD, asking(puppets, namespace, "equal", "8"))
        await until(
            cluster, POD, "equal", namespace, lambda pod: "2 No preemption victims found for incoming pod" in refusal(pod), within=PATIENCE
        )
        await cluster.create(POD, asking(puppets, namespace, "huge", "100"))

        def helpless(pod: Manifest) -> bool:
            return refusal(pod).endswith("Preemption is not helpful for scheduling.")

        await until(cluster, POD, "huge", namespace, helpless, within=PATIENCE)
        assert not any(is_deleting(pod) for pod in (await cluster.list(POD, namespace)).items)

    async def test_priorities_come_from_their_classes(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        system = await cluster.get(PRIORITY_CLASS, "system-node-critical")
        assert system["value"] == 2_000_001_000
        with refused((Forbidden, Invalid)):
            await a_class(cluster, f"system-{namespace}", 5)
        with refused((Forbidden, Invalid)):
            await a_class(cluster, namespace, 1_000_000_001)
        with refused(Forbidden):
            await cluster.create(POD, asking(puppets, namespace, "p", "1", priority="no-such-class"))
        critical = await cluster.create(POD, asking(puppets, namespace, "p", "1", priority="system-cluster-critical"))
        assert (critical["spec"]["priority"], critical["spec"]["preemptionPolicy"]) == (2_000_000_000, "PreemptLowerPriority")
        assert LABEL in critical["spec"]["nodeSelector"]
