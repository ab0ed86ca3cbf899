"""Custom resources: installing a definition, validation, defaults, pruning, status."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from moorage.errors import Invalid, MoorageError, NotFound, Throttled
from moorage.kube.cluster import Cluster, EventType
from moorage.kube.kinds import CRD, Kind
from moorage.kube.streams import closing
from moorage.specs.manifest import Manifest
from moorage.testing.world import refused, until

_SCHEMA: Manifest = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 10},
                "colour": {"type": "string", "enum": ["red", "green"], "default": "green"},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
                "nested": {"type": "object", "default": {}, "properties": {"deep": {"type": "boolean", "default": True}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "either": {"x-kubernetes-int-or-string": True},
                "items": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
                    },
                },
            },
        },
        "status": {"type": "object", "properties": {"phase": {"type": "string"}, "count": {"type": "integer"}}},
    },
}


@asynccontextmanager
async def a_definition(cluster: Cluster) -> AsyncIterator[Kind]:
    """A custom resource of a group of its own, gone at the end."""
    group = f"x{secrets.token_hex(4)}.example.com"
    kind = Kind(group, "v1", "Widget", "widgets")
    names = {"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"}
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": _SCHEMA}}
    definition = {
        "apiVersion": CRD.api_version,
        "kind": CRD.kind,
        "metadata": {"name": f"widgets.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }
    await cluster.create(CRD, definition)
    try:
        await until(cluster, CRD, f"widgets.{group}", None, _established)
        await _served(cluster, kind)
        yield kind
    finally:
        await cluster.delete(CRD, f"widgets.{group}")


def _established(definition: Manifest) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


async def _served(cluster: Cluster, kind: Kind) -> None:
    """Established is said a moment before the API serves the kind, on real Kubernetes."""
    async with asyncio.timeout(20):
        while True:
            try:
                await cluster.list(kind, "default")
                return
            except (NotFound, Throttled):
                await asyncio.sleep(0.05)


def a_widget(kind: Kind, name: str, namespace: str, /, **spec: Any) -> Manifest:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


class CustomResourceConformance:
    """Custom resources behave like built-in ones."""

    async def test_a_custom_resource_is_defaulted_pruned_and_kept(self, cluster: Cluster, namespace: str) -> None:
        async with a_definition(cluster) as kind:
            made = await cluster.create(kind, a_widget(kind, "w", namespace, size=1, unknown="dropped", free={"any": [1, {"thing": None}]}))
            assert made["spec"]["colour"] == "green"
            assert made["spec"]["nested"] == {"deep": True}
            assert "unknown" not in made["spec"]
            assert made["spec"]["free"]["any"][0] == 1
            assert made["metadata"]["generation"] == 1
            assert await cluster.get(kind, "w", namespace) == made

    async def test_what_the_schema_forbids_is_invalid_and_names_the_field(self, cluster: Cluster, namespace: str) -> None:
        async with a_definition(cluster) as kind:
            cases: list[tuple[str, Manifest]] = [
                ("spec.size", {}),
                ("spec.size", {"size": 0}),
                ("spec.size", {"size": 11}),
                ("spec.size", {"size": "one"}),
                ("spec.colour", {"size": 1, "colour": "blue"}),
                ("spec.name", {"size": 1, "name": "UPPER"}),
                ("spec.name", {"size": 1, "name": "toolong"}),
                ("spec.either", {"size": 1, "either": True}),
                ("spec.items", {"size": 1, "items": [{"name": "a"}, {"name": "a"}]}),
                ("spec.items[0].name", {"size": 1, "items": [{"value": "x"}]}),
            ]
            for field, spec in cases:
                with refused(Invalid) as refusal:
                    await cluster.create(kind, a_widget(kind, "w", namespace, **spec))
                assert field in refusal.message, (field, refusal.message)
            await cluster.create(kind, a_widget(kind, "w", namespace, size=1, either="5Gi"))
            with refused(Invalid):
                await cluster.patch(kind, "w", namespace, {"spec": {"size": 99}})

    async def test_status_and_generation_follow_the_subresource(self, cluster: Cluster, namespace: str) -> None:
        async with a_definition(cluster) as kind:
            made = await cluster.create(kind, {**a_widget(kind, "w", namespace, size=1), "status": {"phase": "Ignored"}})
            assert "status" not in made
            changed = await cluster.patch(kind, "w", namespace, {"spec": {"size": 9}, "status": {"phase": "Ready"}}, subresource="status")
            assert (changed["spec"]["size"], changed["status"], changed["metadata"]["generation"]) == (1, {"phase": "Ready"}, 1)
            changed = await cluster.patch(kind, "w", namespace, {"spec": {"size": 2}, "status": {"phase": "Ignored"}})
            assert (changed["spec"]["size"], changed["status"], changed["metadata"]["generation"]) == (2, {"phase": "Ready"}, 2)
            with refused(Invalid):
                await cluster.patch(kind, "w", namespace, {"status": {"count": "many"}}, subresource="status")

    async def test_apply_merges_lists_by_the_schemas_key(self, cluster: Cluster, namespace: str) -> None:
        async with a_definition(cluster) as kind:
            one = a_widget(kind, "w", namespace, size=1, items=[{"name": "a", "value": "1"}])
            two = a_widget(kind, "w", namespace, items=[{"name": "b", "value": "2"}])
            await cluster.apply(kind, one, manager="one")
            changed = await cluster.apply(kind, two, manager="two")
            assert sorted(item["name"] for item in changed["spec"]["items"]) == ["a", "b"]
            changed = await cluster.apply(kind, a_widget(kind, "w", namespace, size=1), manager="one")
            assert [item["name"] for item in changed["spec"]["items"]] == ["b"]

    async def test_custom_resources_are_watched_like_others(self, cluster: Cluster, namespace: str) -> None:
        async with a_definition(cluster) as kind:
            since = (await cluster.list(kind, namespace)).resource_version
            await cluster.create(kind, a_widget(kind, "w", namespace, size=1))
            async with asyncio.timeout(20), closing(cluster.watch(kind, namespace, since=since)) as events:
                async for event in events:
                    if event.type is not EventType.BOOKMARK:
                        assert (event.type, event.object["metadata"]["name"]) == (EventType.ADDED, "w")
                        break

    async def test_without_its_definition_the_kind_is_gone(self, cluster: Cluster, namespace: str) -> None:
        async with a_definition(cluster) as kind:
            await cluster.create(kind, a_widget(kind, "w", namespace, size=1))
        async with asyncio.timeout(20):
            while True:
                try:
                    await cluster.list(kind, namespace)
                except NotFound:
                    return
                except MoorageError:
                    pass  # being taken down
                await asyncio.sleep(0.05)
