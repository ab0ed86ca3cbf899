"""After a report: whoever owns the object is brought in line with it, in the report's own transaction."""

from __future__ import annotations

from datetime import timedelta

from moorage.server.engine.computes import settle_compute
from moorage.server.engine.jobs import settle_job
from moorage.server.engine.objects import forget_gone
from moorage.server.engine.serving import DEPLOYMENTS, ENDPOINTS, settle_deployment, settle_endpoint
from moorage.store import DesiredObject, Transaction


def settle(tx: Transaction, object: DesiredObject) -> None:
    """Bring the owner of an object in line with what was reported of it. Level-triggered: repeating it changes nothing."""
    match object.owner.type:
        case "jobs":
            settle_job(tx, object)
        case kind if kind == ENDPOINTS:
            settle_endpoint(tx, object)
        case kind if kind == DEPLOYMENTS:
            settle_deployment(tx, object)
    # Its resource, if there still is one, knows all that matters: the job's course, the endpoint's state.
    forget_gone(tx, [object])


def settle_cluster(tx: Transaction, cluster: str, silence: timedelta) -> None:
    """After the cluster's inventory came, or something of it went: computes that waited for that."""
    for compute in tx.resources.all_with("computes", cluster):
        settle_compute(tx, compute, silence)
