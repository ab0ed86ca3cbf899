"""The four patch languages; server-side apply with its owners and conflicts."""

from __future__ import annotations

from moorage.errors import Conflict, Invalid
from moorage.kube.cluster import Cluster, PatchType
from moorage.kube.kinds import CONFIG_MAP, DEPLOYMENT
from moorage.testing.builders import a_config_map, a_container, a_deployment
from moorage.testing.world import refused


class PatchConformance:
    """PATCH in all its forms."""

    async def test_a_merge_patch_sets_and_removes(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(CONFIG_MAP, a_config_map("a", {"keep": "1", "drop": "2"}, namespace=namespace))
        changed = await cluster.patch(CONFIG_MAP, "a", namespace, {"data": {"drop": None, "new": "3"}})
        assert changed["data"] == {"keep": "1", "new": "3"}

    async def test_a_patch_that_changes_nothing_is_no_write(self, cluster: Cluster, namespace: str) -> None:
        made = await cluster.create(CONFIG_MAP, a_config_map("a", {"k": "1"}, namespace=namespace))
        same = await cluster.patch(CONFIG_MAP, "a", namespace, {"data": {"k": "1"}})
        assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]

    async def test_a_patch_may_name_the_version_it_is_meant_for(self, cluster: Cluster, namespace: str) -> None:
        made = await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        version = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}
        await cluster.patch(CONFIG_MAP, "a", namespace, {**version, "data": {"k": "1"}})
        with refused(Conflict):
            await cluster.patch(CONFIG_MAP, "a", namespace, {**version, "data": {"k": "2"}})

    async def test_a_json_patch_adds_replaces_tests_and_removes(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(CONFIG_MAP, a_config_map("a", {"x": "1", "y": "2"}, namespace=namespace))
        steps = [
            {"op": "test", "path": "/data/x", "value": "1"},
            {"op": "replace", "path": "/data/x", "value": "9"},
            {"op": "remove", "path": "/data/y"},
            {"op": "add", "path": "/metadata/annotations", "value": {}},
            {"op": "add", "path": "/metadata/annotations/example.com~1b", "value": "slash"},
        ]
        changed = await cluster.patch(CONFIG_MAP, "a", namespace, steps, type=PatchType.JSON)
        assert (changed["data"], changed["metadata"]["annotations"]) == ({"x": "9"}, {"example.com/b": "slash"})
        with refused(Invalid):
            await cluster.patch(CONFIG_MAP, "a", namespace, [{"op": "test", "path": "/data/x", "value": "1"}], type=PatchType.JSON)
        with refused(Invalid):
            await cluster.patch(CONFIG_MAP, "a", namespace, [{"op": "remove", "path": "/data/none"}], type=PatchType.JSON)

    async def test_a_strategic_patch_merges_lists_by_their_key(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(DEPLOYMENT, a_deployment("d", a_container("one"), a_container("two"), namespace=namespace))
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "example.com/other:2"}]}}}}
        changed = await cluster.patch(DEPLOYMENT, "d", namespace, patch, type=PatchType.STRATEGIC)
        images = {container["name"]: container["image"] for container in changed["spec"]["template"]["spec"]["containers"]}
        assert images == {"one": "example.com/image:1", "two": "example.com/other:2"}
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "two", "$patch": "delete"}]}}}}
        changed = await cluster.patch(DEPLOYMENT, "d", namespace, patch, type=PatchType.STRATEGIC)
        assert [container["name"] for container in changed["spec"]["template"]["spec"]["containers"]] == ["one"]

    async def test_apply_creates_then_changes_and_removes_what_it_no_longer_says(self, cluster: Cluster, namespace: str) -> None:
        made = await cluster.apply(CONFIG_MAP, a_config_map("a", {"x": "1", "y": "2"}, namespace=namespace), manager="one")
        assert made["data"] == {"x": "1", "y": "2"}
        changed = await cluster.apply(CONFIG_MAP, a_config_map("a", {"x": "3"}, namespace=namespace), manager="one")
        assert changed["data"] == {"x": "3"}
        assert changed["metadata"]["uid"] == made["metadata"]["uid"]

    async def test_the_same_apply_again_is_no_write(self, cluster: Cluster, namespace: str) -> None:
        manifest = a_deployment("d", namespace=namespace)
        made = await cluster.apply(DEPLOYMENT, manifest, manager="one")
        again = await cluster.apply(DEPLOYMENT, manifest, manager="one")
        assert again["metadata"]["generation"] == made["metadata"]["generation"]

    async def test_apply_leaves_other_managers_fields_alone(self, cluster: Cluster, namespace: str) -> None:
        await cluster.apply(CONFIG_MAP, a_config_map("a", {"x": "1"}, namespace=namespace), manager="one")
        await cluster.apply(CONFIG_MAP, a_config_map("a", {"y": "2"}, namespace=namespace), manager="two")
        changed = await cluster.apply(CONFIG_MAP, a_config_map("a", {"x": "3"}, namespace=namespace), manager="one")
        assert changed["data"] == {"x": "3", "y": "2"}
        changed = await cluster.apply(CONFIG_MAP, a_config_map("a", {}, namespace=namespace), manager="one")
        assert changed["data"] == {"y": "2"}

    async def test_apply_on_anothers_field_conflicts_and_names_it_unless_forced(self, cluster: Cluster, namespace: str) -> None:
        await cluster.apply(CONFIG_MAP, a_config_map("a", {"x": "1"}, namespace=namespace), manager="one")
        with refused(Conflict) as refusal:
            await cluster.apply(CONFIG_MAP, a_config_map("a", {"x": "2"}, namespace=namespace), manager="two", force=False)
        assert '"one"' in refusal.message and ".data.x" in refusal.message
        taken = await cluster.apply(CONFIG_MAP, a_config_map("a", {"x": "2"}, namespace=namespace), manager="two", force=True)
        assert taken["data"] == {"x": "2"}
        with refused(Conflict):
            await cluster.apply(CONFIG_MAP, a_config_map("a", {"x": "1"}, namespace=namespace), manager="one", force=False)

    async def test_apply_merges_keyed_lists_between_managers(self, cluster: Cluster, namespace: str) -> None:
        await cluster.apply(DEPLOYMENT, a_deployment("d", a_container("one"), namespace=namespace), manager="one")
        two = a_deployment("d", a_container("two"), namespace=namespace)
        changed = await cluster.apply(DEPLOYMENT, two, manager="two")
        assert {container["name"] for container in changed["spec"]["template"]["spec"]["containers"]} == {"one", "two"}
        changed = await cluster.apply(DEPLOYMENT, a_deployment("d", a_container("three"), namespace=namespace), manager="two")
        assert {container["name"] for container in changed["spec"]["template"]["spec"]["containers"]} == {"one", "three"}

    async def test_a_patch_cannot_change_who_the_object_is(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        with refused((Conflict, Invalid)):
            await cluster.patch(CONFIG_MAP, "a", namespace, {"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}})
        with refused(Invalid):
            await cluster.patch(CONFIG_MAP, "a", namespace, {"metadata": {"name": "b"}})
