"""Watches: order, selectors, resuming, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from moorage.errors import Expired
from moorage.kube.cluster import Cluster, EventType, WatchEvent
from moorage.kube.kinds import CONFIG_MAP
from moorage.kube.metadata import name_of
from moorage.kube.streams import closing
from moorage.testing.builders import a_config_map
from moorage.testing.world import refused

_PATIENCE_SECONDS = 20.0


class WatchConformance:
    """What a watch tells, and from where."""

    async def test_a_watch_tells_every_change_in_order(self, cluster: Cluster, namespace: str) -> None:
        since = (await cluster.list(CONFIG_MAP, namespace)).resource_version
        await cluster.create(CONFIG_MAP, a_config_map("a", {"v": "1"}, namespace=namespace))
        await cluster.patch(CONFIG_MAP, "a", namespace, {"data": {"v": "2"}})
        await cluster.delete(CONFIG_MAP, "a", namespace)
        events = await told(cluster, namespace, since, lambda event: event.type is EventType.DELETED)
        assert [(event.type.value, event.object["data"]["v"]) for event in events] == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")]
        versions = [int(event.object["metadata"]["resourceVersion"]) for event in events]
        assert versions == sorted(versions) and len(set(versions)) == 3
        assert all(event.object["kind"] == "ConfigMap" for event in events)

    async def test_a_watch_taken_up_from_an_event_tells_what_came_after_it(self, cluster: Cluster, namespace: str) -> None:
        since = (await cluster.list(CONFIG_MAP, namespace)).resource_version
        first = await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        await cluster.create(CONFIG_MAP, a_config_map("b", namespace=namespace))
        both = await told(cluster, namespace, since, lambda event: name_of(event.object) == "b")
        assert [name_of(event.object) for event in both] == ["a", "b"]
        rest = await told(cluster, namespace, first["metadata"]["resourceVersion"], lambda event: True)
        assert [name_of(event.object) for event in rest] == ["b"]

    async def test_an_open_watch_tells_changes_as_they_happen(self, cluster: Cluster, namespace: str) -> None:
        since = (await cluster.list(CONFIG_MAP, namespace)).resource_version
        watching = asyncio.create_task(told(cluster, namespace, since, lambda event: name_of(event.object) == "b"))
        await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        await cluster.create(CONFIG_MAP, a_config_map("b", namespace=namespace))
        assert [name_of(event.object) for event in await watching] == ["a", "b"]

    async def test_an_object_enters_and_leaves_a_watch_with_its_labels(self, cluster: Cluster, namespace: str) -> None:
        since = (await cluster.list(CONFIG_MAP, namespace, labels="in=yes")).resource_version
        await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        await cluster.patch(CONFIG_MAP, "a", namespace, {"metadata": {"labels": {"in": "yes"}}})
        await cluster.patch(CONFIG_MAP, "a", namespace, {"data": {"v": "1"}})
        await cluster.patch(CONFIG_MAP, "a", namespace, {"metadata": {"labels": {"in": "no"}}})
        events = await told(cluster, namespace, since, lambda event: event.type is EventType.DELETED, labels="in=yes")
        assert [event.type.value for event in events] == ["ADDED", "MODIFIED", "DELETED"]

    async def test_a_field_selector_narrows_a_watch_to_one_object(self, cluster: Cluster, namespace: str) -> None:
        since = (await cluster.list(CONFIG_MAP, namespace)).resource_version
        for name in ("a", "b", "c"):
            await cluster.create(CONFIG_MAP, a_config_map(name, namespace=namespace))
        events = await told(cluster, namespace, since, lambda event: True, fields="metadata.name=b")
        assert [name_of(event.object) for event in events] == ["b"]

    async def test_a_watch_of_one_namespace_is_silent_about_others(self, cluster: Cluster, namespace: str) -> None:
        since = (await cluster.list(CONFIG_MAP, namespace)).resource_version
        await cluster.create(CONFIG_MAP, a_config_map(f"{namespace}-elsewhere", namespace="default"))
        try:
            await cluster.create(CONFIG_MAP, a_config_map("here", namespace=namespace))
            events = await told(cluster, namespace, since, lambda event: True)
            assert [name_of(event.object) for event in events] == ["here"]
        finally:
            await cluster.delete(CONFIG_MAP, f"{namespace}-elsewhere", "default")

    async def test_a_watch_from_a_forgotten_version_has_expired(self, cluster: Cluster, namespace: str) -> None:
        since = (await cluster.list(CONFIG_MAP, namespace)).resource_version
        await cluster.create(CONFIG_MAP, a_config_map("a", namespace=namespace))
        if not await self.compact(cluster):
            return
        with refused(Expired):
            await told(cluster, namespace, since, lambda event: True)

    async def compact(self, cluster: Cluster) -> bool:
        """Make the cluster forget the past of ConfigMaps; False where a test has no means to."""
        return False


async def told(
    cluster: Cluster,
    namespace: str,
    since: str,
    last: Callable[[WatchEvent], bool],
    *,
    labels: str | None = None,
    fields: str | None = None,
) -> list[WatchEvent]:
    """The events after `since` up to the first that is `last`, bookmarks left out."""
    events: list[WatchEvent] = []
    async with (
        asyncio.timeout(_PATIENCE_SECONDS),
        closing(cluster.watch(CONFIG_MAP, namespace, since=since, labels=labels, fields=fields)) as stream,
    ):
        async for event in stream:
            if event.type is not EventType.BOOKMARK:
                events.append(event)
                if last(event):
                    return events
    raise AssertionError(f"the watch ended after {[(event.type, name_of(event.object)) for event in events]}")
