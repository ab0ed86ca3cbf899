"""Whether an API server has a kind that it need not have, e.g. Volcano's PodGroup."""

from __future__ import annotations

import logging

from moorage.errors import Forbidden, NotFound
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import Kind

log = logging.getLogger(__name__)


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
