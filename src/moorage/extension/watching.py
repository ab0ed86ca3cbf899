"""Waiting for the cluster without polling: list, then watch, until a condition holds; an API that is away for a moment is ridden out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from moorage.errors import Expired, Unavailable
from moorage.kube.cluster import Cluster, EventType
from moorage.kube.kinds import Kind
from moorage.specs.manifest import Manifest

T = TypeVar("T")
# An API server that restarts is back well within this; the first pause is short because a refused connection answers at once.
PATIENCE = timedelta(seconds=30)
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


async def until(
    cluster: Cluster, kind: Kind, namespace: str | None, done: Callable[[Sequence[Manifest]], bool], *, fields: str | None = None
) -> None:
    """Return once `done(objects)` is true, asked at first and after each change. Bound it with `asyncio.timeout`."""
    pause = _FIRST_PAUSE
    while True:
        try:
            listing = await cluster.list(kind, namespace, fields=fields)
            objects = {_key(each): each for each in listing.items}
            pause = _FIRST_PAUSE
            if done(list(objects.values())):
                return
            async for event in cluster.watch(kind, namespace, since=listing.resource_version, fields=fields):
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
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def patiently(call: Callable[[], Awaitable[T]], patience: timedelta = PATIENCE) -> T:
    """The call's answer, tried again while the API cannot be reached, for `patience` at most; then the last Unavailable."""
    pause = _FIRST_PAUSE
    deadline = asyncio.get_running_loop().time() + patience.total_seconds()
    while True:
        try:
            return await call()
        except Unavailable:
            if asyncio.get_running_loop().time() + pause > deadline:
                raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _key(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]
