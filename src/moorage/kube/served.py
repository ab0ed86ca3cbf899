"""Whether an API server has a kind that it need not have, e.g. Volcano's PodGroup."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from moorage.errors import Forbidden, MoorageError, NotFound
from moorage.kube.cluster import Cluster
from moorage.kube.informer import Informer
from moorage.kube.kinds import CRD, Kind
from moorage.specs.condition import find
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

_PAUSE = timedelta(milliseconds=500)


async def served(cluster: Cluster, kind: Kind) -> bool:
    """Whether objects of the kind can be listed; Unavailable when the API cannot be reached."""
    try:
        await cluster.list(kind)
    except NotFound:
        return False
    except Forbidden as error:
        # An extension of before this right was granted: it goes on as it did.
        log.warning("whether there are %s: %s", kind, error)
        return False
    return True


async def until_served(cluster: Cluster, kind: Kind, *, pause: timedelta = _PAUSE) -> None:
    """Return once a kind is served that was not: its definition is watched. Without the right to do so it never returns, and says so once.

    Args:
        pause: between attempts while an API server has the definition and does not serve its objects yet.
    """
    named = f"metadata.name={kind}"
    defined = asyncio.Event()

    def changed(_: Manifest | None, definition: Manifest | None) -> None:
        if definition is not None and _established(definition, kind.version):
            defined.set()
        else:
            defined.clear()

    try:
        await cluster.list(CRD, fields=named)
    except Forbidden as error:
        # An extension of before this right was granted, as above.
        log.warning("whether %s will come is not noticed: %s", kind, error)
        await asyncio.get_running_loop().create_future()
    except MoorageError as error:
        log.info("the definition of %s: %s", kind, error)  # the informer tries again
    informer = Informer(cluster, CRD, fields=named)
    informer.subscribe(changed)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(informer.run(), name=f"definition of {kind}")
        while True:
            await defined.wait()
            if await _can_be_listed(cluster, kind):
                break
            await asyncio.sleep(pause.total_seconds())
        watching.cancel()


async def _can_be_listed(cluster: Cluster, kind: Kind) -> bool:
    try:
        return await served(cluster, kind)
    except MoorageError as error:
        log.info("whether there are %s: %s", kind, error)
        return False


def _established(definition: Manifest, version: str) -> bool:
    condition = find((definition.get("status") or {}).get("conditions"), "Established")
    versions = definition["spec"]["versions"]
    return bool(condition and condition.get("status") == "True") and any(each["name"] == version and each["served"] for each in versions)
