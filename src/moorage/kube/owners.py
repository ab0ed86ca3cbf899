"""Waiting until an API server lets objects belong to custom resources.

The admission plugin OwnerReferencesPermissionEnforcement (on by default on OpenShift) learns of new kinds up to half a minute late (measured: 27 s) and
refuses until then what a new kind's objects own. Only a writer without the right to all finalizers meets it, so it is the agent that has to ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

from moorage.errors import Forbidden, MoorageError, NotFound
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import CONFIG_MAP, Kind
from moorage.kube.metadata import name_of
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

_PAUSE = timedelta(milliseconds=500)
_UNKNOWN_KIND = "RESTMapping"
# An owner that has never been: what says it belongs to it is garbage, whoever of us and the collector is first.
_NOBODY = "00000000-0000-0000-0000-000000000000"


async def accepted_as_owners(cluster: Cluster, namespace: str, kinds: Sequence[Kind], *, pause: timedelta = _PAUSE) -> None:
    """Return once objects of `namespace` may have owners of `kinds` that wait for them at deletion."""
    probe: Manifest = {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.kind,
        "metadata": {
            "generateName": "moorage-owner-",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "moorage"},
            "ownerReferences": [
                {"apiVersion": kind.api_version, "kind": kind.kind, "name": "nobody", "uid": _NOBODY, "blockOwnerDeletion": True}
                for kind in kinds
            ],
        },
    }
    while True:
        try:
            made = await cluster.create(CONFIG_MAP, probe)
            break
        except Forbidden as error:
            if _UNKNOWN_KIND not in error.message:
                # Not a matter of time: whoever makes the objects will say it of them.
                log.warning("whether %s may own objects: %s", ", ".join(map(str, kinds)), error)
                return
            log.info("waiting for the cluster to know its new kinds: %s", error)
        except MoorageError as error:
            log.warning("whether %s may own objects: %s", ", ".join(map(str, kinds)), error)
        await asyncio.sleep(pause.total_seconds())
    try:
        await cluster.delete(CONFIG_MAP, name_of(made), namespace)
    except NotFound:
        return
