"""Attaching and detaching: a compute is ready once its cluster's agent was heard and fits, and gone once its cluster holds nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from moorage.clock import rfc3339
from moorage.errors import MoorageError
from moorage.server.engine.jobs import end_as_removed, state_of
from moorage.server.engine.objects import forget_gone, is_gone
from moorage.server.engine.serving import DEPLOYMENTS, ENDPOINTS, conclude
from moorage.server.images.builds import TOPIC as BUILDS
from moorage.server.images.builds import held_on
from moorage.specs.computes import Connectivity, check_version, connectivity
from moorage.specs.endpoints import ProvisioningState
from moorage.store import DesiredObject, Resource, ResourceKey, Transaction
from moorage.wire.computes import read_compute


def settle_compute(tx: Transaction, compute: Resource, silence: timedelta) -> None:
    """Move a compute on if its cluster lets it."""
    if compute.state.get("detaching"):
        finish_detach(tx, compute, silence)
        return
    if compute.state.get("provisioningState") not in (ProvisioningState.CREATING, ProvisioningState.UPDATING):
        return
    cluster = tx.clusters.get(compute.lookup)
    if connectivity(cluster.last_seen, tx.now, silence) is not Connectivity.CONNECTED or not cluster.inventory:
        return
    try:
        if not read_compute(compute.properties).any_version:
            check_version(str(cluster.inventory.get("kubernetesVersion") or ""), cluster=cluster.arm_id.rpartition("/")[2])
    except MoorageError as error:
        conclude(tx, compute, ProvisioningState.FAILED, error)
        return
    conclude(tx, compute, ProvisioningState.SUCCEEDED)


def expire_attach(tx: Transaction, compute: Resource, silence: timedelta) -> None:
    """The cluster was not heard in time: say when it last was, and what to look at."""
    cluster = tx.clusters.get(compute.lookup)
    name = cluster.arm_id.rpartition("/")[2]
    heard = f"was last heard {rfc3339(cluster.last_seen)}" if cluster.last_seen else "has never been heard"
    error = MoorageError(
        f"The agent of cluster '{name}' {heard}. Check that the extension is installed and its agent pod runs "
        "(kubectl -n azureml get pods), then attach again.",
        code="ClusterNotConnected",
    )
    conclude(tx, compute, ProvisioningState.FAILED, error)


def objects_of(tx: Transaction, compute: Resource) -> Sequence[DesiredObject]:
    """Everything wanted, or still to go, in the compute's cluster on its behalf."""
    held = [each for each in tx.desired.since(compute.lookup, 0) if each.owner.workspace.id.lower() == compute.key.workspace.id.lower()]
    return [each for each in held if _compute_of(tx, each) == compute.name]


def _compute_of(tx: Transaction, object: DesiredObject) -> str:
    """A tombstone has lost its spec: its resource still knows the compute."""
    if object.object is not None:
        return str(object.object["spec"].get("compute"))
    owner = tx.resources.find(object.owner.key)
    return str(owner.state.get("compute") or "") if owner else ""


def running_jobs(tx: Transaction, compute: Resource) -> list[str]:
    """Names of the compute's jobs that have not ended."""
    names = []
    for each in objects_of(tx, compute):
        job = tx.resources.find(each.owner.key) if each.owner.type == "jobs" else None
        if job is not None and not state_of(job).is_terminal:
            names.append(job.name)
    return names + [job.name for job in held_on(tx, compute)]


def endpoints_of(tx: Transaction, compute: Resource) -> list[str]:
    """Names of the endpoints served by the compute."""
    found = tx.resources.list(compute.key.workspace, ENDPOINTS)
    return [each.name for each in found if each.state.get("compute") == compute.name]


def begin_detach(tx: Transaction, compute: Resource, *, force: bool) -> Resource:
    """Want nothing on the compute any more. What is left ends when the cluster says that it is gone."""
    marked = tx.resources.update(
        compute,
        state={**compute.state, "detaching": True, "force": force, "provisioningState": ProvisioningState.DELETING.value, "deadline": None},
    )
    tx.operations.cancel(compute.id)
    for each in objects_of(tx, compute):
        tx.desired.remove(each.cluster, each.name)
    for job in held_on(tx, compute):
        end_as_removed(tx, job, tx.now)
        tx.touch(BUILDS)
    _orphan_endpoints(tx, compute)
    return marked


def _orphan_endpoints(tx: Transaction, compute: Resource) -> None:
    error = MoorageError(
        f"Compute '{compute.name}' was detached. Attach it again and update the endpoint, or delete it.", code="ComputeDetached"
    )
    for name in endpoints_of(tx, compute):
        endpoint = tx.resources.get(ResourceKey(compute.key.workspace, ENDPOINTS, name))
        for each in [*tx.resources.list(compute.key.workspace, DEPLOYMENTS, parent=name), endpoint]:
            if not each.state.get("deleting"):
                conclude(tx, each, ProvisioningState.FAILED, error)


def finish_detach(tx: Transaction, compute: Resource, silence: timedelta) -> bool:
    """Remove a compute that is being detached once its cluster is clean of it; whether that is so.

    A forced detach does not wait for a cluster that is away: the deletions stay wanted, and it obeys them when it comes back.
    """
    cluster = tx.clusters.get(compute.lookup)
    held = objects_of(tx, compute)
    unreachable = connectivity(cluster.last_seen, tx.now, silence) is not Connectivity.CONNECTED
    if not (compute.state.get("force") and unreachable) and not all(is_gone(tx, each) for each in held):
        return False
    for each in held:
        _end_job(tx, each, tx.now)
    forget_gone(tx, held)
    tx.resources.delete(compute.key)
    tx.operations.succeed(compute.id)
    return True


def _end_job(tx: Transaction, object: DesiredObject, now: datetime) -> None:
    """A job of a compute that is no more has ended, whatever its cluster still says."""
    if object.owner.type == "jobs":
        job = tx.resources.find(object.owner.key)
        if job is not None:
            end_as_removed(tx, job, now)
