"""Waiting for the cluster without polling: list, then watch, until a condition holds; an API that is away for a moment is ridden out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from moorage.errors import Expired, Unavailable
from moorage.kube.backoff import Backoff
from moorage.kube.cluster import Cluster, EventType
from moorage.kube.kinds import Kind
from moorage.kube.streams import closing
from moorage.specs.manifest import Manifest

T = TypeVar("T")
# An API server that restarts is back well within this; the first pause is short because a refused connection answers at once.
PATIENCE = timedelta(seconds=30)
_FIRST_PAUSE = timedelta(milliseconds=100)
_LONGEST_PAUSE = timedelta(seconds=2)


async def until(
    cluster: Cluster, kind: Kind, namespace: str | None, done: Callable[[Sequence[Manifest]], bool], *, fields: str | None = None
) -> None:
    """Return once `done(objects)` is true, asked at first and after each change. Bound it with `asyncio.timeout`."""
    pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    while True:
        try:
            listing = await cluster.list(kind, namespace, fields=fields)
            objects = {_key(each): each for each in listing.items}
            pauses.reset()
            if done(list(objects.values())):
                return
            async with closing(cluster.watch(kind, namespace, since=listing.resource_version, fields=fields)) as events:
                async for event in events:
                    if event.type is EventType.BOOKMARK:
                        continue
                    if event.type is EventType.DELETED:
                        objects.pop(_key(event.object), None)
                    else:
                        objects[_key(event.object)] = event.object
                    if done(list(objects.values())):
                        return
        except Expired:
            continue
        except Unavailable:
            await asyncio.sleep(pauses.next().total_seconds())


async def patiently(call: Callable[[], Awaitable[T]], patience: timedelta = PATIENCE) -> T:
    """The call's answer, tried again while the API cannot be reached, for `patience` at most; then the last Unavailable."""
    pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    deadline = asyncio.get_running_loop().time() + patience.total_seconds()
    while True:
        try:
            return await call()
        except Unavailable:
            pause = pauses.next().total_seconds()
            if asyncio.get_running_loop().time() + pause > deadline:
                raise
            await asyncio.sleep(pause)


def _key(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]
