"""Deletion: finalizers, grace, preconditions; and with controllers, what goes away together."""

from __future__ import annotations

from datetime import timedelta

from moorage.errors import Conflict, Forbidden, Invalid, NotFound
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import CONFIG_MAP, NAMESPACE, POD, SECRET
from moorage.kube.metadata import uid_of
from moorage.testing.builders import a_config_map, a_namespace, a_pod, a_secret
from moorage.testing.world import exists, refused, until, until_gone

FINALIZER = "conformance.example.com/hold"


class DeletionConformance:
    """What an API server does by itself."""

    async def test_an_object_without_finalizers_is_gone_at_once(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        await cluster.delete(CONFIG_MAP, "a", namespace)
        assert not await exists(cluster, CONFIG_MAP, "a", namespace)

    async def test_a_finalizer_holds_the_object_until_it_is_taken_away(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace, finalizers=[FINALIZER]))
        await cluster.delete(CONFIG_MAP, "a", namespace)
        held = await cluster.get(CONFIG_MAP, "a", namespace)
        assert held["metadata"]["deletionTimestamp"]
        with refused((Forbidden, Invalid)):  # no finalizer can be added any more
            await cluster.patch(CONFIG_MAP, "a", namespace, {"metadata": {"finalizers": [FINALIZER, "conformance.example.com/more"]}})
        await cluster.patch(CONFIG_MAP, "a", namespace, {"metadata": {"finalizers": None}})
        assert not await exists(cluster, CONFIG_MAP, "a", namespace)

    async def test_a_deletion_meant_for_another_uid_conflicts(self, cluster: Cluster, namespace: str) -> None:
        made = await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        with refused(Conflict):
            await cluster.delete(CONFIG_MAP, "a", namespace, uid="00000000-0000-0000-0000-000000000000")
        await cluster.delete(CONFIG_MAP, "a", namespace, uid=uid_of(made))
        assert not await exists(cluster, CONFIG_MAP, "a", namespace)

    async def test_a_pod_without_a_node_is_gone_at_once(self, cluster: Cluster, namespace: str) -> None:
        stuck = {"nodeSelector": {"no-such": "node"}, "terminationGracePeriodSeconds": 30}
        await cluster.create(POD, a_pod("p", spec=stuck, namespace=namespace))
        await cluster.delete(POD, "p", namespace)
        assert not await exists(cluster, POD, "p", namespace)

    async def test_grace_of_a_pod_on_a_node_is_noted_and_may_be_shortened(self, cluster: Cluster, namespace: str) -> None:
        lost = {"nodeName": "no-such-node", "terminationGracePeriodSeconds": 600}
        await cluster.create(POD, a_pod("p", spec=lost, namespace=namespace, finalizers=[FINALIZER]))
        await cluster.delete(POD, "p", namespace)
        first = await cluster.get(POD, "p", namespace)
        assert first["metadata"]["deletionGracePeriodSeconds"] == 600
        await cluster.delete(POD, "p", namespace, grace=timedelta(seconds=5))
        assert (await cluster.get(POD, "p", namespace))["metadata"]["deletionGracePeriodSeconds"] == 5
        await cluster.delete(POD, "p", namespace, grace=timedelta(0))
        await cluster.patch(POD, "p", namespace, {"metadata": {"finalizers": None}})
        await until_gone(cluster, POD, "p", namespace)

    async def test_a_foreground_or_orphaning_deletion_waits_behind_its_finalizer_or_goes_through(
        self, cluster: Cluster, namespace: str
    ) -> None:
        for name, propagation in (("f", "Foreground"), ("o", "Orphan")):
            await cluster.create(CONFIG_MAP, a_config_map(name, namespace=namespace))
            await cluster.delete(CONFIG_MAP, name, namespace, propagation=propagation)
            try:
                metadata = (await cluster.get(CONFIG_MAP, name, namespace))["metadata"]
            except NotFound:
                continue  # where a garbage collector runs, it may have been faster
            assert metadata["finalizers"] == ["foregroundDeletion" if propagation == "Foreground" else "orphan"]


class ControllerConformance:
    """Needs the garbage collector and the namespace controller."""

    async def test_children_go_after_their_owner_in_the_background(self, cluster: Cluster, namespace: str) -> None:
        owner = await cluster.create(SECRET, a_secret("owner", namespace=namespace))
        child = await cluster.create(CONFIG_MAP, a_config_map("child", namespace=namespace, owner=owner))
        await cluster.create(CONFIG_MAP, a_config_map("grandchild", namespace=namespace, owner=child))
        await cluster.delete(SECRET, "owner", namespace)
        assert not await exists(cluster, SECRET, "owner", namespace)
        await until_gone(cluster, CONFIG_MAP, "child", namespace)
        await until_gone(cluster, CONFIG_MAP, "grandchild", namespace)

    async def test_in_the_foreground_the_owner_goes_last(self, cluster: Cluster, namespace: str) -> None:
        owner = await cluster.create(SECRET, a_secret("owner", namespace=namespace))
        await cluster.create(CONFIG_MAP, a_config_map("child", namespace=namespace, owner=owner, finalizers=[FINALIZER]))
        await cluster.delete(SECRET, "owner", namespace, propagation="Foreground")
        await until(cluster, CONFIG_MAP, "child", namespace, lambda child: bool(child["metadata"].get("deletionTimestamp")))
        assert (await cluster.get(SECRET, "owner", namespace))["metadata"]["finalizers"] == ["foregroundDeletion"]
        await cluster.patch(CONFIG_MAP, "child", namespace, {"metadata": {"finalizers": None}})
        await until_gone(cluster, SECRET, "owner", namespace)

    async def test_orphans_stay_and_lose_their_owner(self, cluster: Cluster, namespace: str) -> None:
        owner = await cluster.create(SECRET, a_secret("owner", namespace=namespace))
        await cluster.create(CONFIG_MAP, a_config_map("child", namespace=namespace, owner=owner))
        await cluster.delete(SECRET, "owner", namespace, propagation="Orphan")
        await until_gone(cluster, SECRET, "owner", namespace)
        child = await until(cluster, CONFIG_MAP, "child", namespace, lambda child: not child["metadata"].get("ownerReferences"))
        assert not child["metadata"].get("deletionTimestamp")

    async def test_a_child_of_an_owner_that_never_was_is_collected(self, cluster: Cluster, namespace: str) -> None:
        ghost = a_secret("ghost", namespace=namespace)
        ghost["metadata"]["uid"] = "00000000-0000-0000-0000-000000000001"
        await cluster.create(CONFIG_MAP, a_config_map("child", namespace=namespace, owner=ghost))
        await until_gone(cluster, CONFIG_MAP, "child", namespace)

    async def test_a_namespace_goes_with_everything_in_it_and_takes_nothing_new(self, cluster: Cluster, namespace: str) -> None:
        doomed = f"{namespace}-doomed"[:63]
        await cluster.create(NAMESPACE, a_namespace(doomed))
        await cluster.create(CONFIG_MAP, a_config_map("held", namespace=doomed, finalizers=[FINALIZER]))
        await cluster.create(CONFIG_MAP, a_config_map("free", namespace=doomed))
        await cluster.delete(NAMESPACE, doomed)
        await until_gone(cluster, CONFIG_MAP, "free", doomed)
        assert (await cluster.get(NAMESPACE, doomed))["status"]["phase"] == "Terminating"
        with refused(Forbidden):
            await cluster.create(CONFIG_MAP, a_config_map("late", namespace=doomed))
        await cluster.patch(CONFIG_MAP, "held", doomed, {"metadata": {"finalizers": None}})
        await until_gone(cluster, NAMESPACE, doomed, None)
