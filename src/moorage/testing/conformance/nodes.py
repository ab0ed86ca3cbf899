"""Nodes that fall silent or go away, and what becomes of their pods. Needs the controller manager, a scheduler, and puppet nodes; takes two minutes."""

from __future__ import annotations

from datetime import timedelta

from moorage.kube.cluster import Cluster
from moorage.kube.kinds import EVENT, NODE, POD
from moorage.kube.metadata import is_deleting
from moorage.specs.manifest import Manifest
from moorage.testing.conformance.preemption import asking, until_running
from moorage.testing.conformance.sets import PATIENCE, status_of
from moorage.testing.puppets import Puppets
from moorage.testing.world import until, until_all, until_gone

# The controller manager waits for 50 s before a node is lost, and for 40 s and its next round before a pod without a node is.
SLOW = timedelta(seconds=180)
_UNREACHABLE = "node.kubernetes.io/unreachable"


def _condition(one: Manifest, type: str) -> Manifest:
    return next((found for found in status_of(one).get("conditions") or () if found["type"] == type), {})


class NodeLossConformance:
    """Fixtures: `cluster`, `namespace`, and `puppets`, two nodes of this test's own."""

    async def test_a_silent_node_is_lost_and_its_pods_go_as_they_tolerate_it(
        self, cluster: Cluster, namespace: str, puppets: Puppets
    ) -> None:
        node = puppets.nodes[1]
        here = {**puppets.selector, "kubernetes.io/hostname": node}
        brief = [{"key": _UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]
        await cluster.create(POD, asking(puppets, namespace, "stays", "1", nodeSelector=here))
        await cluster.create(POD, asking(puppets, namespace, "leaves", "1", nodeSelector=here, tolerations=brief))
        await until_running(cluster, namespace, "stays", "leaves")
        puppets.silence(node)
        lost = await until(cluster, NODE, node, None, lambda one: _condition(one, "Ready").get("status") == "Unknown", within=SLOW)
        ready = _condition(lost, "Ready")
        assert (ready["reason"], ready["message"]) == ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        assert _condition(lost, "MemoryPressure")["reason"] == "NodeStatusNeverUpdated"

        def tainted(one: Manifest) -> bool:
            found = {taint["effect"] for taint in one["spec"].get("taints") or () if taint["key"] == _UNREACHABLE}
            return found == {"NoSchedule", "NoExecute"}

        await until(cluster, NODE, node, None, tainted, within=PATIENCE)
        await until(cluster, POD, "stays", namespace, lambda pod: _condition(pod, "Ready").get("status") == "False", within=PATIENCE)
        gone = await until(cluster, POD, "leaves", namespace, is_deleting, within=PATIENCE)
        target = _condition(gone, "DisruptionTarget")
        assert (target["reason"], target["message"]) == ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        assert not is_deleting(await cluster.get(POD, "stays", namespace))

        def told(events: list[Manifest]) -> bool:
            found = {(one["involvedObject"]["name"], one["reason"], one["message"]) for one in events}
            marked = ("leaves", "TaintManagerEviction", f"Marking for deletion Pod {namespace}/leaves")
            return {marked, ("stays", "NodeNotReady", "Node is not ready")} <= found

        await until_all(cluster, EVENT, namespace, told, within=PATIENCE)
        # Nobody on that node can confirm the end of the pod: it stays until somebody says that the node is down for certain.
        await cluster.patch(NODE, node, None, {"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}})
        await until_gone(cluster, POD, "leaves", namespace, within=SLOW)

    async def test_pods_of_a_node_that_is_deleted_are_given_up(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        node = puppets.nodes[0]
        here = {**puppets.selector, "kubernetes.io/hostname": node}
        made = asking(puppets, namespace, "orphan", "1", nodeSelector=here)
        made["metadata"]["finalizers"] = ["example.com/hold"]
        await cluster.create(POD, made)
        await until_running(cluster, namespace, "orphan")
        puppets.silence(node)
        await cluster.delete(NODE, node)
        gone = await until(cluster, POD, "orphan", namespace, is_deleting, within=SLOW)
        assert gone["status"]["phase"] == "Failed"
        target = _condition(gone, "DisruptionTarget")
        assert (target["reason"], target["message"]) == ("DeletionByPodGC", "PodGC: node no longer exists")
        await cluster.patch(POD, "orphan", namespace, {"metadata": {"finalizers": None}})
        await until_gone(cluster, POD, "orphan", namespace, within=PATIENCE)
