"""Create, get, list, replace; names, selectors, sub-resources, logs, events."""

from __future__ import annotations

import asyncio

from moorage.errors import Conflict, Invalid, NotFound
from moorage.kube.cluster import Cluster, LogOptions
from moorage.kube.events import EventRecorder
from moorage.kube.kinds import CONFIG_MAP, DEPLOYMENT, EVENT, NAMESPACE, POD, SECRET, Kind
from moorage.kube.metadata import name_of
from moorage.kube.streams import closing
from moorage.testing.builders import a_config_map, a_container, a_deployment, a_pod, a_secret
from moorage.testing.world import refused


class ObjectConformance:
    """Objects and lists of them."""

    async def test_a_created_object_gets_its_metadata_and_is_read_back_whole(self, cluster: Cluster, namespace: str) -> None:
        made = await cluster.create(CONFIG_MAP, a_config_map("a", {"k": "v"}, namespace=namespace, labels={"l": "1"}))
        meta = made["metadata"]
        assert meta["uid"] and meta["resourceVersion"] and meta["creationTimestamp"].endswith("Z")
        assert (made["apiVersion"], made["kind"], made["data"]) == ("v1", "ConfigMap", {"k": "v"})
        assert await cluster.get(CONFIG_MAP, "a", namespace) == made

    async def test_a_name_can_be_taken_once(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        with refused(Conflict) as refusal:
            await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        assert 'configmaps "a" already exists' in refusal.message

    async def test_what_does_not_exist_is_not_found_by_every_verb(self, cluster: Cluster, namespace: str) -> None:
        with refused(NotFound) as refusal:
            await cluster.get(CONFIG_MAP, "none", namespace)
        assert 'configmaps "none" not found' in refusal.message
        with refused(NotFound):
            await cluster.patch(CONFIG_MAP, "none", namespace, {"data": {}})
        with refused(NotFound):
            await cluster.delete(CONFIG_MAP, "none", namespace)
        gone = a_config_map("none", namespace=namespace)
        gone["metadata"]["resourceVersion"] = "1"
        with refused((Conflict, NotFound)):
            await cluster.replace(CONFIG_MAP, gone)

    async def test_a_kind_that_is_not_served_is_not_found(self, cluster: Cluster, namespace: str) -> None:
        with refused(NotFound):
            await cluster.list(Kind("nobody.example.com", "v1", "Nothing", "nothings"), namespace)

    async def test_a_generated_name_starts_as_asked_and_differs_each_time(self, cluster: Cluster, namespace: str) -> None:
        names = set()
        for _ in range(3):
            manifest = a_config_map("x", namespace=namespace)
            manifest["metadata"] = {"generateName": "many-", "namespace": namespace}
            names.add(name_of(await cluster.create(CONFIG_MAP, manifest)))
        assert len(names) == 3 and all(name.startswith("many-") and len(name) == 10 for name in names)

    async def test_bad_names_and_bodies_are_invalid(self, cluster: Cluster, namespace: str) -> None:
        with refused(Invalid):
            await cluster.create(CONFIG_MAP, a_config_map("Not_A_Name", namespace=namespace))
        with refused(Invalid):
            await cluster.create(CONFIG_MAP, a_config_map("typed", {"number": 1}, namespace=namespace))  # type: ignore[dict-item]
        with refused(Invalid) as refusal:
            await cluster.create(POD, a_pod("p", spec={"restartPolicy": "Sometimes"}, namespace=namespace))
        assert "restartPolicy" in refusal.message

    async def test_content_has_keys_that_can_be_file_names_and_fits_into_a_mebibyte(self, cluster: Cluster, namespace: str) -> None:
        for key in ("a/b", "..", "..hidden", "sp ace", "k" * 254):
            for kind, manifest in (
                (CONFIG_MAP, a_config_map("a", {key: "v"}, namespace=namespace)),
                (SECRET, a_secret("a", {key: "v"}, namespace=namespace)),
            ):
                with refused(Invalid) as refusal:
                    await cluster.create(kind, manifest)
                assert f"data[{key}]" in refusal.message
        await cluster.create(CONFIG_MAP, a_config_map("full", {"k": "x" * 2**20}, namespace=namespace))
        await cluster.create(SECRET, a_secret("full", {"k": "x" * 2**20}, namespace=namespace))
        for kind, manifest in (
            (CONFIG_MAP, a_config_map("more", {"k": "x" * (2**20 + 1)}, namespace=namespace)),
            (SECRET, a_secret("more", {"k": "x" * (2**20 + 1)}, namespace=namespace)),
        ):
            with refused(Invalid) as refusal:
                await cluster.create(kind, manifest)
            assert "Too long: may not be more than 1048576 bytes" in refusal.message

    async def test_an_object_in_a_namespace_that_does_not_exist_is_refused(self, cluster: Cluster) -> None:
        with refused(NotFound):
            await cluster.create(CONFIG_MAP, a_config_map("a", namespace="no-such-namespace"))

    async def test_a_replace_with_a_stale_version_conflicts_and_changes_nothing(self, cluster: Cluster, namespace: str) -> None:
        first = await cluster.create(CONFIG_MAP, a_config_map("a", {"v": "1"}, namespace=namespace))
        second = await cluster.replace(CONFIG_MAP, {**first, "data": {"v": "2"}})
        assert second["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
        with refused(Conflict):
            await cluster.replace(CONFIG_MAP, {**first, "data": {"v": "3"}})
        assert (await cluster.get(CONFIG_MAP, "a", namespace))["data"] == {"v": "2"}

    async def test_a_replace_that_changes_nothing_is_no_write(self, cluster: Cluster, namespace: str) -> None:
        first = await cluster.create(CONFIG_MAP, a_config_map("a", {"v": "1"}, namespace=namespace))
        again = await cluster.replace(CONFIG_MAP, first)
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    async def test_lists_carry_kinds_and_a_version_and_span_namespaces(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        await cluster.create(CONFIG_MAP, a_config_map("b", namespace=namespace))
        listing = await cluster.list(CONFIG_MAP, namespace, fields="metadata.name!=kube-root-ca.crt")
        assert [(item["apiVersion"], item["kind"], name_of(item)) for item in listing.items] == [
            ("v1", "ConfigMap", "a"),
            ("v1", "ConfigMap", "b"),
        ]
        assert listing.resource_version
        everywhere = await cluster.list(CONFIG_MAP, fields=f"metadata.namespace={namespace},metadata.name=a")
        assert [name_of(item) for item in everywhere.items] == ["a"]

    async def test_label_selectors_select(self, cluster: Cluster, namespace: str) -> None:
        for name, labels in {"a": {"app": "x", "tier": "1"}, "b": {"app": "y"}, "c": {"other": "z"}}.items():
            await cluster.create(SECRET, a_secret(name, namespace=namespace, labels=labels))
        cases = {
            "app=x": "a",
            "app!=x": "bc",
            "app": "ab",
            "!app": "c",
            "app in (x,y)": "ab",
            "app notin (x)": "bc",
            "app=x,tier=1": "a",
            "app=x,tier=2": "",
        }
        for selector, expected in cases.items():
            found = (await cluster.list(SECRET, namespace, labels=selector)).items
            assert "".join(sorted(name_of(item) for item in found)) == expected, selector

    async def test_more_objects_than_a_page_are_listed_once_each(self, cluster: Cluster, namespace: str) -> None:
        names = [f"m{number:04}" for number in range(520)]
        for first in range(0, len(names), 20):
            manifests = [a_config_map(name, namespace=namespace, labels={"many": "yes"}) for name in names[first : first + 20]]
            await asyncio.gather(*(cluster.create(CONFIG_MAP, manifest) for manifest in manifests))
        found = (await cluster.list(CONFIG_MAP, namespace, labels="many=yes")).items
        assert [name_of(item) for item in found] == names

    async def test_status_is_written_through_its_subresource_only(self, cluster: Cluster, namespace: str) -> None:
        made = await cluster.create(DEPLOYMENT, a_deployment("d", namespace=namespace, status={"replicas": 7}))
        assert not (made.get("status") or {}).get("replicas")
        patch = {"spec": {"replicas": 5}, "status": {"replicas": 3}}
        changed = await cluster.patch(DEPLOYMENT, "d", namespace, patch, subresource="status")
        assert (changed["spec"]["replicas"], changed["status"]["replicas"]) == (1, 3)
        assert changed["metadata"]["generation"] == made["metadata"]["generation"]
        changed = await cluster.patch(DEPLOYMENT, "d", namespace, {"spec": {"replicas": 0}, "status": {"replicas": 9}})
        assert changed["spec"]["replicas"] == 0 and (changed.get("status") or {}).get("replicas") != 9
        assert changed["metadata"]["generation"] > made["metadata"]["generation"]

    async def test_built_in_kinds_are_defaulted(self, cluster: Cluster, namespace: str) -> None:
        spec = (await cluster.create(POD, a_pod("p", namespace=namespace)))["spec"]
        assert spec["dnsPolicy"] == "ClusterFirst"
        assert spec["containers"][0]["terminationMessagePath"] == "/dev/termination-log"

    async def test_secret_text_is_stored_encoded(self, cluster: Cluster, namespace: str) -> None:
        made = await cluster.create(SECRET, a_secret("s", {"k": "value"}, namespace=namespace))
        assert made["data"] == {"k": "dmFsdWU="} and "stringData" not in made

    async def test_logs_of_a_pod_that_has_not_started_say_why_not(self, cluster: Cluster, namespace: str) -> None:
        stuck = {"nodeSelector": {"no-such": "node"}}
        await cluster.create(POD, a_pod("p", a_container("one"), a_container("two"), spec=stuck, namespace=namespace))
        for pod, options, error in (
            ("none", LogOptions(), NotFound),
            ("p", LogOptions(), Invalid),  # which container?
            ("p", LogOptions(container="three"), Invalid),
            ("p", LogOptions(container="one"), Invalid),
        ):
            with refused(error):
                async with closing(cluster.logs(namespace, pod, options)) as chunks:
                    async for chunk in chunks:
                        # Kubernetes answers an empty log for a pod without a node.
                        raise Invalid(f"unexpected output {chunk!r}")
                    raise Invalid("an empty log")

    async def test_events_about_an_object_are_found_and_counted(self, cluster: Cluster, namespace: str) -> None:
        made = await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        recorder = EventRecorder(cluster, "conformance")
        for _ in range(3):
            await recorder.record(made, "Warning", "Tested", "it was tested")
        found = (await cluster.list(EVENT, namespace, fields="involvedObject.name=a")).items
        assert [(event["reason"], event["count"], event["type"]) for event in found] == [("Tested", 3, "Warning")]

    async def test_cluster_scoped_objects_have_no_namespace(self, cluster: Cluster, namespace: str) -> None:
        found = await cluster.get(NAMESPACE, namespace)
        assert "namespace" not in found["metadata"]
        assert found["status"]["phase"] == "Active"

    async def test_the_version_is_told(self, cluster: Cluster) -> None:
        assert (await cluster.version()).startswith("v1.")
