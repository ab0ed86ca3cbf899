"""Waiting for the world to be as a test says, by watching it; never by sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from moorage.errors import Expired, MoorageError, NotFound
from moorage.kube.cluster import Cluster, EventType
from moorage.kube.kinds import Kind
from moorage.kube.streams import closing
from moorage.specs.manifest import Manifest

E = TypeVar("E", bound=MoorageError)

# What is waited for comes in moments, unless the machine has ten other things to do.
_PATIENCE = timedelta(seconds=90)


async def until(
    cluster: Cluster,
    kind: Kind,
    name: str,
    namespace: str | None,
    holds: Callable[[Manifest], bool],
    *,
    within: timedelta = _PATIENCE,
) -> Manifest:
    """The object as soon as it exists and `holds` of it; AssertionError with its last state when that takes longer than `within`."""
    last: list[Manifest] = []
    try:
        async with asyncio.timeout(within.total_seconds()):
            async for found in _states(cluster, kind, name, namespace):
                if found is not None:
                    last = [found]
                    if holds(found):
                        return found
    except TimeoutError:
        pass
    raise AssertionError(f"{kind} {name}: not within {within.total_seconds():g} s; last seen: {last[0] if last else 'never'}")


async def until_gone(cluster: Cluster, kind: Kind, name: str, namespace: str | None, *, within: timedelta = _PATIENCE) -> None:
    """Wait until the object does not exist."""
    try:
        async with asyncio.timeout(within.total_seconds()):
            async for found in _states(cluster, kind, name, namespace):
                if found is None:
                    return
    except TimeoutError:
        pass
    raise AssertionError(f"{kind} {name}: still there after {within.total_seconds():g} s")


async def until_all(
    cluster: Cluster,
    kind: Kind,
    namespace: str | None,
    hold: Callable[[list[Manifest]], bool],
    *,
    labels: str | None = None,
    within: timedelta = _PATIENCE,
) -> list[Manifest]:
    """The objects of a kind as soon as `hold` of all of them together."""
    items: list[Manifest] = []
    try:
        async with asyncio.timeout(within.total_seconds()):
            while True:
                listing = await cluster.list(kind, namespace, labels=labels)
                items = list(listing.items)
                if hold(items):
                    return items
                await _change(cluster, kind, namespace, listing.resource_version, labels)
    except TimeoutError:
        pass
    raise AssertionError(f"{kind}: not within {within.total_seconds():g} s; last seen: {items}")


async def _change(cluster: Cluster, kind: Kind, namespace: str | None, since: str, labels: str | None) -> None:
    """Return at the next change after `since`."""
    try:
        async with closing(cluster.watch(kind, namespace, since=since, labels=labels)) as events:
            async for event in events:
                if event.type is not EventType.BOOKMARK:
                    return
    except Expired:
        return


async def _states(cluster: Cluster, kind: Kind, name: str, namespace: str | None) -> AsyncIterator[Manifest | None]:
    """The object's states as they come, None while it does not exist."""
    fields = f"metadata.name={name}"
    while True:
        listing = await cluster.list(kind, namespace, fields=fields)
        yield next(iter(listing.items), None)
        since = listing.resource_version
        try:
            async with closing(cluster.watch(kind, namespace, since=since, fields=fields)) as events:
                async for event in events:
                    if event.type is not EventType.BOOKMARK:
                        yield None if event.type is EventType.DELETED else event.object
        except Expired:
            continue


@dataclass(slots=True)
class Refusal(Generic[E]):
    """What was refused, once it was."""

    error: E | None = None

    @property
    def message(self) -> str:
        assert self.error is not None
        return self.error.message


@contextmanager
def refused(error: type[E] | tuple[type[E], ...]) -> Iterator[Refusal[E]]:
    """The block must end in that error, or one of those."""
    refusal: Refusal[E] = Refusal()
    try:
        yield refusal
    except error as caught:
        refusal.error = caught
        return
    raise AssertionError(f"{error} was expected, and nothing was refused")


async def exists(cluster: Cluster, kind: Kind, name: str, namespace: str | None = None) -> bool:
    try:
        await cluster.get(kind, name, namespace)
    except NotFound:
        return False
    return True
