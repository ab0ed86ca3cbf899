"""StatefulSets and DaemonSets, as far as a cluster's own controllers show it: needs the controller manager, a scheduler, and puppet nodes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from moorage.errors import Invalid
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import CONTROLLER_REVISION, DAEMON_SET, EVENT, NODE, POD, PV, PVC, STATEFUL_SET
from moorage.kube.metadata import is_deleting, labels_of, name_of, uid_of
from moorage.specs.manifest import Manifest
from moorage.testing.builders import an_object
from moorage.testing.puppets import LINGERS, UNREADY, Puppets
from moorage.testing.world import refused, until, until_all, until_gone

PATIENCE = timedelta(seconds=60)


def a_template(puppets: Puppets, app: str, *, image: str = "example.com/image:1", notes: Manifest | None = None, **spec: Any) -> Manifest:
    """A pod template for puppet nodes."""
    metadata: Manifest = {"labels": {"app": app}}
    if notes:
        metadata["annotations"] = notes
    container = {"name": "main", "image": image, "resources": spec.pop("resources", {})}
    return {
        "metadata": metadata,
        "spec": {"nodeSelector": puppets.selector, "terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }


def a_stateful_set(puppets: Puppets, namespace: str, replicas: int = 2, *, template: Manifest | None = None, **spec: Any) -> Manifest:
    chosen = {"matchLabels": {"app": "web"}}
    whole = {"serviceName": "web", "replicas": replicas, "selector": chosen, "template": template or a_template(puppets, "web"), **spec}
    return an_object(STATEFUL_SET, "web", namespace=namespace, spec=whole)


def a_daemon_set(puppets: Puppets, namespace: str, *, template: Manifest | None = None, **spec: Any) -> Manifest:
    chosen = {"matchLabels": {"app": "daemon"}}
    return an_object(
        DAEMON_SET, "daemon", namespace=namespace, spec={"selector": chosen, "template": template or a_template(puppets, "daemon"), **spec}
    )


def image_of(pod: Manifest) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def status_of(one: Manifest) -> Manifest:
    found: Manifest = one.get("status") or {}
    return found


def is_ready(pod: Manifest) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status_of(pod).get("conditions") or ())


def running(count: int, image: str | None = None) -> Any:
    """Whether that many pods are ready, all of the image, and no other is there."""

    def hold(pods: list[Manifest]) -> bool:
        return len(pods) == count and all(is_ready(pod) and not is_deleting(pod) and image in (None, image_of(pod)) for pod in pods)

    return hold


async def until_settled(cluster: Cluster, namespace: str, image: str | None = None, replicas: int = 2) -> Manifest:
    """The set `web` once all its pods are ready and of one revision."""
    await until_all(cluster, POD, namespace, running(replicas, image), within=PATIENCE)

    def complete(one: Manifest) -> bool:
        status = status_of(one)
        counted = status.get("readyReplicas") == status.get("updatedReplicas") == status.get("currentReplicas") == replicas
        return counted and status.get("observedGeneration") == one["metadata"]["generation"]

    return await until(cluster, STATEFUL_SET, "web", namespace, complete, within=PATIENCE)


async def a_volume_for_each(cluster: Cluster, namespace: str, count: int) -> str:
    """Volumes of a class of the test's own; the class's name."""
    for number in range(count):
        spec = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": namespace,
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"/var/tmp/{namespace}-{number}"},
        }
        await cluster.create(PV, an_object(PV, f"{namespace}-{number}", spec=spec))
    return namespace


def a_claim_template(storage_class: str) -> Manifest:
    request = {"resources": {"requests": {"storage": "1Gi"}}}
    return {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": storage_class, **request}}


class StatefulSetConformance:
    """Fixtures: `cluster`, `namespace`, and `puppets`, two nodes of this test's own."""

    async def test_pods_come_one_after_the_other_under_names_that_stay(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        template = a_template(puppets, "web", notes={UNREADY: "yes"})
        await cluster.create(STATEFUL_SET, a_stateful_set(puppets, namespace, template=template))
        first = await until(cluster, POD, "web-0", namespace, lambda pod: status_of(pod).get("phase") == "Running", within=PATIENCE)
        seen = await until(cluster, STATEFUL_SET, "web", namespace, lambda one: status_of(one).get("replicas") == 1, within=PATIENCE)
        assert status_of(seen).get("readyReplicas", 0) == 0
        assert [name_of(pod) for pod in (await cluster.list(POD, namespace)).items] == ["web-0"]
        assert (first["spec"]["hostname"], first["spec"]["subdomain"]) == ("web-0", "web")
        labels = labels_of(first)
        assert (labels["statefulset.kubernetes.io/pod-name"], labels["apps.kubernetes.io/pod-index"]) == ("web-0", "0")
        assert labels["controller-revision-hash"] == seen["status"]["updateRevision"]
        for name in ("web-0", "web-1"):
            await until(cluster, POD, name, namespace, lambda pod: True, within=PATIENCE)
            await cluster.patch(POD, name, namespace, {"metadata": {"annotations": {UNREADY: None}}})
        done = await until_settled(cluster, namespace)
        assert done["status"] == {
            "observedGeneration": 1,
            "replicas": 2,
            "readyReplicas": 2,
            "availableReplicas": 2,
            "currentReplicas": 2,
            "updatedReplicas": 2,
            "collisionCount": 0,
            "currentRevision": done["status"]["updateRevision"],
            "updateRevision": done["status"]["updateRevision"],
        }
        await cluster.delete(POD, "web-1", namespace)
        await until(cluster, POD, "web-1", namespace, lambda pod: not is_deleting(pod) and uid_of(pod) != uid_of(first), within=PATIENCE)

        def told(events: list[Manifest]) -> bool:
            words = {one["message"] for one in events if one["involvedObject"]["name"] == "web"}
            return {f"create Pod web-{index} in StatefulSet web successful" for index in (0, 1)} <= {
                word[0].lower() + word[1:] for word in words
            }

        await until_all(cluster, EVENT, namespace, told, within=PATIENCE)

    async def test_in_parallel_nobody_waits_for_anybody(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        template = a_template(puppets, "web", notes={UNREADY: "yes"})
        spec = {"podManagementPolicy": "Parallel", "ordinals": {"start": 3}}
        await cluster.create(STATEFUL_SET, a_stateful_set(puppets, namespace, 3, template=template, **spec))
        pods = await until_all(cluster, POD, namespace, lambda pods: len(pods) == 3, within=PATIENCE)
        assert sorted(name_of(pod) for pod in pods) == ["web-3", "web-4", "web-5"]
        await cluster.patch(STATEFUL_SET, "web", namespace, {"spec": {"replicas": 1}})
        await until_all(cluster, POD, namespace, lambda pods: [name_of(pod) for pod in pods] == ["web-3"], within=PATIENCE)

    async def test_pods_go_in_reverse_order_one_at_a_time(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        await cluster.create(STATEFUL_SET, a_stateful_set(puppets, namespace, 3))
        await until_settled(cluster, namespace, replicas=3)
        await cluster.patch(POD, "web-2", namespace, {"metadata": {"annotations": {LINGERS: "yes"}}})
        await cluster.patch(STATEFUL_SET, "web", namespace, {"spec": {"replicas": 1}})
        await until(cluster, POD, "web-2", namespace, is_deleting, within=PATIENCE)
        await until(cluster, STATEFUL_SET, "web", namespace, lambda one: status_of(one).get("observedGeneration") == 2, within=PATIENCE)
        assert not is_deleting(await cluster.get(POD, "web-1", namespace))
        await cluster.patch(POD, "web-2", namespace, {"metadata": {"annotations": {LINGERS: None}}})
        await until_all(cluster, POD, namespace, lambda pods: [name_of(pod) for pod in pods] == ["web-0"], within=PATIENCE)

    async def test_a_new_template_rolls_from_the_top_down_to_the_partition(
        self, cluster: Cluster, namespace: str, puppets: Puppets
    ) -> None:
        before = await cluster.create(STATEFUL_SET, a_stateful_set(puppets, namespace, 3))
        before = await until_settled(cluster, namespace, replicas=3)
        change = {
            "template": a_template(puppets, "web", image="example.com/image:2"),
            "updateStrategy": {"rollingUpdate": {"partition": 1}},
        }
        await cluster.patch(STATEFUL_SET, "web", namespace, {"spec": change})

        def rolled(pods: list[Manifest]) -> bool:
            images = {name_of(pod): image_of(pod)[-1] for pod in pods if is_ready(pod)}
            return images == {"web-0": "1", "web-1": "2", "web-2": "2"}

        await until_all(cluster, POD, namespace, rolled, within=PATIENCE)
        seen = await until(
            cluster, STATEFUL_SET, "web", namespace, lambda one: status_of(one).get("updatedReplicas") == 2 and status_of(one).get("readyReplicas") == 3, within=PATIENCE
        )  # fmt: skip
        assert seen["status"]["currentRevision"] == before["status"]["updateRevision"] != seen["status"]["updateRevision"]
        await cluster.delete(POD, "web-0", namespace)
        gone = await until(cluster, POD, "web-0", namespace, lambda pod: is_ready(pod) and not is_deleting(pod), within=PATIENCE)
        assert image_of(gone)[-1] == "1"  # below the partition a pod comes back as it was
        await cluster.patch(STATEFUL_SET, "web", namespace, {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})
        done = await until_settled(cluster, namespace, "example.com/image:2", replicas=3)
        assert done["status"]["currentRevision"] == seen["status"]["updateRevision"]

    async def test_going_back_makes_the_old_revision_the_newest(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        await cluster.create(STATEFUL_SET, a_stateful_set(puppets, namespace, 1))
        first = (await until_settled(cluster, namespace, replicas=1))["status"]["updateRevision"]
        for image in ("example.com/image:2", "example.com/image:1"):
            await cluster.patch(STATEFUL_SET, "web", namespace, {"spec": {"template": a_template(puppets, "web", image=image)}})
            await until_settled(cluster, namespace, image, replicas=1)
        revisions = {name_of(one): one["revision"] for one in (await cluster.list(CONTROLLER_REVISION, namespace)).items}
        assert (revisions[first], sorted(revisions.values())) == (3, [2, 3])
        (kept,) = [one for one in (await cluster.list(CONTROLLER_REVISION, namespace)).items if name_of(one) == first]
        assert kept["data"]["spec"]["template"]["$patch"] == "replace"
        assert kept["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet"
        with refused(Invalid):
            await cluster.patch(CONTROLLER_REVISION, first, namespace, {"data": {"spec": None}})

    async def test_on_delete_only_deleted_pods_get_the_new_template(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        await cluster.create(STATEFUL_SET, a_stateful_set(puppets, namespace, updateStrategy={"type": "OnDelete"}))
        await until_settled(cluster, namespace)
        changed = {"template": a_template(puppets, "web", image="example.com/image:2")}
        await cluster.patch(STATEFUL_SET, "web", namespace, {"spec": changed})
        await until(
            cluster, STATEFUL_SET, "web", namespace, lambda one: status_of(one).get("currentRevision") != status_of(one).get("updateRevision"), within=PATIENCE
        )  # fmt: skip
        await cluster.delete(POD, "web-0", namespace)

        def mixed(pods: list[Manifest]) -> bool:
            return {name_of(pod): image_of(pod)[-1] for pod in pods if is_ready(pod)} == {"web-0": "2", "web-1": "1"}

        await until_all(cluster, POD, namespace, mixed, within=PATIENCE)

    async def test_every_pod_has_claims_that_stay_when_it_goes(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        storage_class = await a_volume_for_each(cluster, namespace, 2)
        await cluster.create(STATEFUL_SET, a_stateful_set(puppets, namespace, volumeClaimTemplates=[a_claim_template(storage_class)]))
        await until_settled(cluster, namespace)
        claims = {name_of(one): one for one in (await cluster.list(PVC, namespace)).items}
        assert sorted(claims) == ["data-web-0", "data-web-1"]
        assert labels_of(claims["data-web-0"]) == {"app": "web"}
        assert "ownerReferences" not in claims["data-web-0"]["metadata"]
        pod = await cluster.get(POD, "web-1", namespace)
        assert {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-1"}} in pod["spec"]["volumes"]
        await cluster.patch(STATEFUL_SET, "web", namespace, {"spec": {"replicas": 1}})
        await until_gone(cluster, POD, "web-1", namespace, within=PATIENCE)
        assert uid_of(await cluster.get(PVC, "data-web-1", namespace)) == uid_of(claims["data-web-1"])
        with refused(Invalid):
            await cluster.patch(STATEFUL_SET, "web", namespace, {"spec": {"serviceName": "other"}})
        for number in (0, 1):
            await cluster.delete(PV, f"{namespace}-{number}")

    async def test_claims_go_with_their_pods_where_the_policy_says_so(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        storage_class = await a_volume_for_each(cluster, namespace, 2)
        policy = {"whenScaled": "Delete", "whenDeleted": "Delete"}
        spec: Manifest = {"volumeClaimTemplates": [a_claim_template(storage_class)], "persistentVolumeClaimRetentionPolicy": policy}
        await cluster.create(STATEFUL_SET, a_stateful_set(puppets, namespace, **spec))
        await until_settled(cluster, namespace)

        def owned(claim: Manifest) -> bool:
            return [one["kind"] for one in claim["metadata"].get("ownerReferences") or ()] == ["StatefulSet"]

        await until(cluster, PVC, "data-web-0", namespace, owned, within=PATIENCE)
        await cluster.patch(STATEFUL_SET, "web", namespace, {"spec": {"replicas": 1}})
        await until_gone(cluster, PVC, "data-web-1", namespace, within=PATIENCE)
        await cluster.delete(STATEFUL_SET, "web", namespace)
        await until_gone(cluster, PVC, "data-web-0", namespace, within=PATIENCE)
        for number in (0, 1):
            await cluster.delete(PV, f"{namespace}-{number}")


class DaemonSetConformance:
    """Fixtures as those of `StatefulSetConformance`."""

    async def test_every_node_that_takes_it_has_one_pod(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        await puppets.add(taints=[{"key": "example.com/own", "effect": "NoSchedule"}])
        await cluster.patch(NODE, puppets.nodes[1], None, {"spec": {"unschedulable": True}})
        made = await cluster.create(DAEMON_SET, a_daemon_set(puppets, namespace))
        assert made["metadata"]["annotations"]["deprecated.daemonset.template.generation"] == "1"
        pods = await until_all(cluster, POD, namespace, running(2), within=PATIENCE)
        assert {pod["spec"]["nodeName"] for pod in pods} == set(puppets.nodes[:2])  # a cordoned node is one of them
        tolerated = {(one["key"], one["effect"]) for one in pods[0]["spec"]["tolerations"] if not one.get("tolerationSeconds")}
        assert {("node.kubernetes.io/unschedulable", "NoSchedule"), ("node.kubernetes.io/unreachable", "NoExecute")} <= tolerated
        seen = await until(
            cluster, DAEMON_SET, "daemon", namespace, lambda one: status_of(one).get("numberAvailable") == 2, within=PATIENCE
        )
        assert seen["status"] == {
            "currentNumberScheduled": 2,
            "desiredNumberScheduled": 2,
            "numberMisscheduled": 0,
            "numberReady": 2,
            "updatedNumberScheduled": 2,
            "numberAvailable": 2,
            "observedGeneration": 1,
        }
        await puppets.add()
        await until_all(cluster, POD, namespace, running(3), within=PATIENCE)
        taint = {"key": "example.com/out", "effect": "NoExecute"}
        await cluster.patch(NODE, puppets.nodes[0], None, {"spec": {"taints": [taint]}})
        left = await until_all(cluster, POD, namespace, running(2), within=PATIENCE)
        assert {pod["spec"]["nodeName"] for pod in left} == {puppets.nodes[1], puppets.nodes[3]}

    async def test_a_new_template_takes_one_node_after_the_other(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        await cluster.create(DAEMON_SET, a_daemon_set(puppets, namespace))
        await until_all(cluster, POD, namespace, running(2), within=PATIENCE)
        stuck = a_template(puppets, "daemon", image="example.com/image:2", notes={UNREADY: "yes"})
        await cluster.patch(DAEMON_SET, "daemon", namespace, {"spec": {"template": stuck}})

        def half(pods: list[Manifest]) -> bool:
            return sorted(image_of(pod)[-1] for pod in pods) == ["1", "2"] and not any(is_deleting(pod) for pod in pods)

        await until_all(cluster, POD, namespace, half, within=PATIENCE)

        def waiting(one: Manifest) -> bool:
            return (status_of(one).get("numberUnavailable"), status_of(one).get("updatedNumberScheduled")) == (1, 1)

        await until(cluster, DAEMON_SET, "daemon", namespace, waiting, within=PATIENCE)
        assert half(list((await cluster.list(POD, namespace)).items))  # the second waits for the first
        good = a_template(puppets, "daemon", image="example.com/image:3")
        good["metadata"]["annotations"] = {UNREADY: None}
        await cluster.patch(DAEMON_SET, "daemon", namespace, {"spec": {"template": good}})
        await until_all(cluster, POD, namespace, running(2, "example.com/image:3"), within=PATIENCE)
        found = (await cluster.list(CONTROLLER_REVISION, namespace)).items
        assert sorted(one["revision"] for one in found) == [1, 2, 3]
        await until(
            cluster, DAEMON_SET, "daemon", namespace, lambda one: status_of(one).get("updatedNumberScheduled") == 2 and status_of(one).get("numberAvailable") == 2, within=PATIENCE
        )  # fmt: skip

    async def test_with_surge_the_new_pod_is_there_before_the_old_one_goes(
        self, cluster: Cluster, namespace: str, puppets: Puppets
    ) -> None:
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        await cluster.create(DAEMON_SET, a_daemon_set(puppets, namespace, updateStrategy=strategy))
        await until_all(cluster, POD, namespace, running(2), within=PATIENCE)
        slow = a_template(puppets, "daemon", image="example.com/image:2", notes={UNREADY: "yes"})
        await cluster.patch(DAEMON_SET, "daemon", namespace, {"spec": {"template": slow}})

        def beside(pods: list[Manifest]) -> bool:
            return sorted(image_of(pod)[-1] for pod in pods) == ["1", "1", "2"] and all(pod["spec"].get("nodeName") for pod in pods)

        pods = await until_all(cluster, POD, namespace, beside, within=PATIENCE)
        assert not any(is_deleting(pod) for pod in pods)
        for _ in range(2):
            pods = await until_all(
                cluster, POD, namespace, lambda found: any(UNREADY in (pod["metadata"].get("annotations") or {}) for pod in found), within=PATIENCE
            )  # fmt: skip
            (new,) = [pod for pod in pods if UNREADY in (pod["metadata"].get("annotations") or {})]
            await cluster.patch(POD, name_of(new), namespace, {"metadata": {"annotations": {UNREADY: None}}})
            await until(cluster, POD, name_of(new), namespace, is_ready, within=PATIENCE)
        await until_all(cluster, POD, namespace, running(2, "example.com/image:2"), within=PATIENCE)

    async def test_on_delete_only_deleted_daemons_get_the_new_template(self, cluster: Cluster, namespace: str, puppets: Puppets) -> None:
        await cluster.create(DAEMON_SET, a_daemon_set(puppets, namespace, updateStrategy={"type": "OnDelete"}))
        pods = await until_all(cluster, POD, namespace, running(2), within=PATIENCE)
        changed = {"template": a_template(puppets, "daemon", image="example.com/image:2")}
        await cluster.patch(DAEMON_SET, "daemon", namespace, {"spec": changed})
        await until(cluster, DAEMON_SET, "daemon", namespace, lambda one: status_of(one).get("observedGeneration") == 2, within=PATIENCE)
        await cluster.delete(POD, name_of(pods[0]), namespace)

        def mixed(found: list[Manifest]) -> bool:
            return running(2)(found) and sorted(image_of(pod)[-1] for pod in found) == ["1", "2"]

        await until_all(cluster, POD, namespace, mixed, within=PATIENCE)
        assert (await cluster.get(POD, name_of(pods[1]), namespace))["metadata"]["uid"] == uid_of(pods[1])

    async def test_a_set_that_can_neither_surge_nor_be_unavailable_is_refused(
        self, cluster: Cluster, namespace: str, puppets: Puppets
    ) -> None:
        for rolling in (
            {"maxSurge": 0, "maxUnavailable": 0},
            {"maxSurge": 1, "maxUnavailable": 1},
            {"maxSurge": "200%", "maxUnavailable": 0},
        ):
            with refused(Invalid):
                await cluster.create(DAEMON_SET, a_daemon_set(puppets, namespace, updateStrategy={"rollingUpdate": rolling}))
