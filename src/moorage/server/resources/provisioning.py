"""Telling a cluster what an endpoint or deployment is now, and the operation that lasts until the cluster has made it so."""

from __future__ import annotations

from datetime import timedelta

from moorage.clock import rfc3339
from moorage.server.engine.objects import TOPIC, resend
from moorage.server.engine.settle import settle
from moorage.server.resources.placement import Place
from moorage.specs.endpoints import ProvisioningState
from moorage.specs.manifest import Manifest
from moorage.store import Operation, Resource, Transaction


def provision(
    tx: Transaction, resource: Resource, place: Place, manifest: Manifest, *, within: timedelta, going_on: bool = False
) -> Operation:
    """Want the manifest for the resource; it has failed when the cluster does not confirm it `within` that time.

    A running operation is canceled, unless this is what it was started for (`going_on`).
    """
    sent = resend(tx, place.cluster.id, manifest, resource.key)
    running = tx.operations.running(resource.id) if going_on else ()
    if not running:
        tx.operations.cancel(resource.id)
    operation = running[-1] if running else tx.operations.start(resource.key.workspace, resource.id, "create")
    before = resource.state.get("provisioningState")
    if sent is None and before == ProvisioningState.SUCCEEDED:
        tx.operations.succeed(resource.id)
        return operation
    doing = ProvisioningState.CREATING if before == ProvisioningState.CREATING else ProvisioningState.UPDATING
    news: Manifest = {
        "provisioningState": doing.value,
        "error": None,
        "seen": {},
        "cluster": place.cluster.id,
        "compute": place.compute.name,
        "deadline": rfc3339(tx.now + within),
    }
    if sent is not None:
        news["sent"] = sent
    tx.resources.update(resource, state={**resource.state, **news})
    if sent is None:
        # The same was asked for again: what the cluster last said of it still holds.
        for each in tx.desired.of_owner(resource.key):
            settle(tx, each)
    tx.touch(TOPIC)
    return operation
