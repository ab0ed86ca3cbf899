"""Whose signatures on endpoints' tokens count, told to the clusters before the service issues its first token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from moorage.server.engine.objects import resend
from moorage.server.engine.serving import ENDPOINTS
from moorage.server.services import Services
from moorage.store import Transaction


@asynccontextmanager
async def signers(services: Services) -> AsyncIterator[None]:
    """Done once on entry, and by every process: a key file is replaced only while they are stopped, and the same keys again are no change."""
    await services.store.write(lambda tx: publish_signers(tx, services.scoring.public_keys))
    yield


def publish_signers(tx: Transaction, public_keys: Sequence[str]) -> None:
    """Tell the clusters whose signatures on endpoints' tokens count; they differ after the service's key file was replaced."""
    for cluster in tx.clusters.list():
        for each in tx.desired.since(cluster.id, 0):
            auth = each.object["spec"].get("auth") if each.object is not None and each.owner.type == ENDPOINTS else None
            if each.object is None or auth is None or auth["publicKeys"] == list(public_keys):
                continue
            renewed = {**each.object, "spec": {**each.object["spec"], "auth": {**auth, "publicKeys": list(public_keys)}}}
            sent = resend(tx, each.cluster, renewed, each.owner.key)
            endpoint = tx.resources.find(each.owner.key)
            # Where nothing was reported yet, news are still what is newer than before the last change.
            if endpoint is not None and sent is not None and sent["uid"]:
                tx.resources.update(endpoint, state={**endpoint.state, "sent": sent})
