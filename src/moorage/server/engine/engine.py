"""The timekeeper of workloads: what no report will ever trigger. One process at a time does the work, under a lease.

Everything that a report brings about is settled in the report's own transaction; here are deadlines, retirement of finished jobs, and, at the start,
one look at everything, so that nothing depends on the past. It sleeps until the next moment that matters, or until a commit rings.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import uuid4

from moorage.clock import parse_rfc3339, rfc3339
from moorage.errors import MoorageError, Unavailable
from moorage.server.asks import forget_old
from moorage.server.background import background
from moorage.server.engine.computes import expire_attach, settle_compute
from moorage.server.engine.jobs import retire
from moorage.server.engine.objects import TOPIC
from moorage.server.engine.serving import DEPLOYMENTS, ENDPOINTS, conclude, finish_deletion, last_words
from moorage.server.engine.settle import settle
from moorage.server.services import Services
from moorage.specs.computes import Connectivity, connectivity
from moorage.specs.endpoints import ProvisioningState
from moorage.store import DesiredObject, Resource, Transaction
from moorage.wire.gateway import NOT_APPLIED_YET

# How long a finished job's objects stay in the cluster, for whoever looks with kubectl.
FINISHED_KEPT = timedelta(hours=1)
# How long agents may take to be heard by a service that has just started: they dial every half a minute, or are being started themselves.
HEARD_AGAIN = timedelta(minutes=2)
_LEASE = timedelta(seconds=60)
_ASLEEP_AT_MOST = timedelta(seconds=30)
_PROVISIONED = ("computes", ENDPOINTS, DEPLOYMENTS)
_log = logging.getLogger(__name__)


@asynccontextmanager
async def workload_engine(services: Services) -> AsyncIterator[None]:
    """Runs the engine for as long as the context lasts."""
    async with background(_run(services), name="workload-engine"):
        yield


async def _run(services: Services) -> None:
    owner, store = uuid4().hex, services.store
    silence = services.settings.agent_timeout
    fresh = True
    with store.changes.subscribe(TOPIC) as bell:
        while True:
            wait = _ASLEEP_AT_MOST
            try:
                lease = await store.write(lambda tx: tx.leases.acquire(TOPIC, owner, _LEASE))
                if lease is not None:
                    if fresh:
                        await store.write(lambda tx: resume(tx, silence))
                        fresh = False
                    due = await store.write(lambda tx: advance(tx, silence))
                    if due is not None:
                        wait = min(wait, max(timedelta(0), due - services.now()))
            except Unavailable as error:
                # The database is away; everything is found again once it answers.
                _log.warning("workload engine waits: %s", error.message)
            await bell.wait(wait)


def resume(tx: Transaction, silence: timedelta) -> None:
    """What a process does first: nobody was heard while there was none, so that what ended meanwhile is not late yet."""
    settle_everything(tx, silence)
    least = tx.now + HEARD_AGAIN
    for each in (each for type_ in _PROVISIONED for each in tx.resources.all_of(type_)):
        deadline = each.state.get("deadline")
        if deadline and parse_rfc3339(deadline) < least:
            tx.resources.update(each, state={**each.state, "deadline": rfc3339(least)})


def settle_everything(tx: Transaction, silence: timedelta) -> None:
    """Bring every resource in line with what is stored; after a crash or an upgrade nothing else may be needed."""
    for cluster in tx.clusters.list():
        for each in tx.desired.since(cluster.id, 0):
            settle(tx, each)
    for compute in tx.resources.all_of("computes"):
        settle_compute(tx, compute, silence)
    for resource in [*tx.resources.all_of(DEPLOYMENTS), *tx.resources.all_of(ENDPOINTS)]:
        if resource.state.get("deleting") and tx.resources.find(resource.key) is not None:
            finish_deletion(tx, resource)


def advance(tx: Transaction, silence: timedelta) -> datetime | None:
    """Do what has become due; when the next thing will be."""
    dues: list[datetime] = []
    for type_ in _PROVISIONED:
        for each in tx.resources.all_of(type_):
            deadline = each.state.get("deadline")
            if deadline and parse_rfc3339(deadline) <= tx.now:
                _expire(tx, each, silence)
            elif deadline:
                dues.append(parse_rfc3339(deadline))
            elif type_ == "computes" and each.state.get("detaching"):
                settle_compute(tx, each, silence)
            elif each.state.get("deleting") and tx.resources.find(each.key) is not None:
                # Its cluster has been away for so long that nobody remembers what it should confirm (upkeep).
                finish_deletion(tx, each)
    if (due := retire(tx, FINISHED_KEPT)) is not None:
        dues.append(due)
    forget_old(tx)
    return min(dues, default=None)


def _expire(tx: Transaction, resource: Resource, silence: timedelta) -> None:
    if resource.key.type == "computes":
        expire_attach(tx, resource, silence)
        return
    held = tx.desired.of_owner(resource.key)
    if any(_is_well(tx, each) for each in held):
        # What was sent was no change to the cluster, so that nothing new was to be reported.
        conclude(tx, resource, ProvisioningState.SUCCEEDED)
        return
    cluster = tx.clusters.get(held[0].cluster) if held else None
    if cluster is not None and connectivity(cluster.last_seen, tx.now, silence) is not Connectivity.CONNECTED:
        name = cluster.arm_id.rpartition("/")[2]
        heard = f"last heard {rfc3339(cluster.last_seen)}" if cluster.last_seen else "never heard"
        error = MoorageError(f"Cluster '{name}' does not answer ({heard}). It carries this out when it comes back.", code="ClusterOffline")
    else:
        seen = (resource.state.get("seen") or {}).get("message") or next(
            filter(None, (last_words(tx, each, NOT_APPLIED_YET) for each in held)), ""
        )
        last = f" It last said: {seen}" if seen else ""
        error = MoorageError(f"The cluster did not finish in time.{last}", code="ProvisioningTimedOut")
    conclude(tx, resource, ProvisioningState.FAILED, error)


def _is_well(tx: Transaction, object: DesiredObject) -> bool:
    report = tx.reports.status(object.cluster, object.name)
    if report is None or report.gone or not report.uid:
        return False
    return object.owner.type == ENDPOINTS or report.status.get("phase") == "Succeeded"
