"""What waits for an image goes to its cluster once the image is there, and ends with the build's error when it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from moorage.errors import Conflict, Invalid, MoorageError
from moorage.server.engine.objects import want
from moorage.server.engine.serving import ENDPOINTS, conclude
from moorage.server.images import builds
from moorage.server.jobstate import state_of as job_state
from moorage.server.jobstate import with_state
from moorage.server.resources.placement import Place, find_place
from moorage.server.resources.provisioning import provision
from moorage.specs.endpoints import ProvisioningState
from moorage.specs.image_build import BUILD_LOG, BuildStatus
from moorage.specs.jobs import JobStatus
from moorage.specs.manifest import Manifest
from moorage.store import Operation, Resource, ResourceKey, Transaction
from moorage.wire.assets import Environment

# In the state of a deployment whose last request failed before its cluster was told: what the cluster reports is about an earlier one.
_UNSENT = "unsent"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a build ended: with an image, with an error, or with neither because nobody waited any more."""

    image: str = ""
    error: MoorageError | None = None


def start_job(tx: Transaction, job: Resource, cluster: str, manifest: Manifest, environment: Environment) -> Resource:
    """Want a job's TrainingJob, at once or when its image is built; the job as it then stands.

    Args:
        tx: the submission's own transaction.
        job: as created.
        cluster: the registration that it goes to.
        manifest: its TrainingJob.
        environment: what it runs in.
    """
    answer = builds.ask(tx, job.key, environment.build) if environment.build else ""
    if isinstance(answer, str):
        want(tx, cluster, _with_image(manifest, answer), job.key)
        return tx.resources.update(job, state={**job.state, "builtImage": answer}) if answer else job
    waiting = job_state(job).model_copy(update={"status": JobStatus.PREPARING, "message": _words(tx, answer)})
    return tx.resources.update(job, state={**with_state(job, waiting), **builds.hold(answer, cluster, manifest)})


def start_deployment(
    tx: Transaction, deployment: Resource, place: Place, manifest: Manifest, environment: Environment, *, within: timedelta
) -> Operation:
    """`provision`, at once or when the deployment's image is built; what runs of it goes on meanwhile."""
    if builds.HELD in deployment.state or _UNSENT in deployment.state:
        # An earlier request that never reached the cluster.
        deployment = tx.resources.update(deployment, state=_without_hold(deployment))
    answer = builds.ask(tx, deployment.key, environment.build) if environment.build else ""
    if isinstance(answer, str):
        return provision(tx, deployment, place, _with_image(manifest, answer), within=within)
    tx.operations.cancel(deployment.id)
    operation = tx.operations.start(deployment.key.workspace, deployment.id, "create")
    creating = deployment.state.get("provisioningState") == ProvisioningState.CREATING
    news: Manifest = {
        "provisioningState": (ProvisioningState.CREATING if creating else ProvisioningState.UPDATING).value,
        "error": None,
        "seen": {"message": _words(tx, answer)},
        "cluster": place.cluster.id,
        "compute": place.compute.name,
        "deadline": None,
        **builds.hold(answer, place.cluster.id, manifest, within=within),
    }
    tx.resources.update(deployment, state={**deployment.state, **news})
    return operation


def end_unreadable(tx: Transaction, key: ResourceKey, owner: str) -> bool:
    """Let a build fail whose row cannot be read, with what waits for it, unless another process is at it; whether it did."""
    row = tx.resources.find(key)
    if row is None or row.key not in [each.key for each in builds.unreadable(tx)]:
        return False
    lease = tx.leases.acquire(builds.lease_name(key), owner, builds.LEASE)
    if lease is None:
        # It can read it: two versions of the service share the database for a while.
        return False
    failed = builds.build_of(row)
    waiting = builds.waiters(tx, row)
    builds.put(tx, row, failed.model_copy(update={"ended": tx.now}))
    for each in waiting:
        _settle(tx, each, Outcome(error=Invalid(failed.message, code=failed.code)), with_log=False)
    tx.leases.release(lease)
    return True


def end(tx: Transaction, claimed: builds.Claim, outcome: Outcome, logs: Mapping[ResourceKey, bool]) -> list[Resource]:
    """Keep how a build ended, with all consequences. Jobs whose copy of the log is missing are returned in place of that: they end only after it.

    Args:
        tx: to write.
        claimed: the build; Conflict when it passed to another process.
        outcome: how it ended.
        logs: whether a job has the log among its own, of those that were asked.
    """
    tx.leases.renew(claimed.lease, builds.LEASE)
    row = tx.resources.find(claimed.key)
    if row is None:
        # Its workspace was deleted.
        return []
    waiting = builds.waiters(tx, row)
    if missing := [each for each in waiting if each.key.type == "jobs" and each.key not in logs]:
        return missing
    if not outcome.image and outcome.error is None:
        if any(not builds.leaving(each) for each in waiting):
            # Somebody came while it was given up: it is built anew.
            builds.put(tx, row, builds.build_of(row).model_copy(update={"status": BuildStatus.WAITING}))
            tx.leases.release(claimed.lease)
            tx.touch(builds.TOPIC)
            return []
        for each in waiting:
            leave(tx, each, with_log=logs.get(each.key, False))
        builds.give_up(tx, row, claimed.lease)
        return []
    failure = outcome.error
    ended = {
        "status": BuildStatus.FAILED if failure else BuildStatus.SUCCEEDED,
        "image": outcome.image,
        "code": failure.code if failure else "",
        "message": failure.message if failure else "",
        "ended": tx.now,
        "waiting": [],
    }
    builds.put(tx, row, builds.build_of(row).model_copy(update=ended))
    for each in waiting:
        _settle(tx, each, outcome, with_log=logs.get(each.key, False))
    tx.leases.release(claimed.lease)
    return []


def _settle(tx: Transaction, waiter: Resource, outcome: Outcome, *, with_log: bool) -> None:
    if builds.leaving(waiter):
        leave(tx, waiter, with_log=with_log)
        return
    try:
        if outcome.error:
            raise outcome.error
        if waiter.key.type == "jobs":
            _send_job(tx, waiter, outcome.image, with_log=with_log)
        else:
            _send_deployment(tx, waiter, outcome.image)
    except MoorageError as error:
        if waiter.key.type == "jobs":
            failed = {"status": JobStatus.FAILED, "reason": error.code, "message": error.message, "end_time": tx.now}
            _end_waiting(tx, waiter, failed, with_log=with_log)
        else:
            conclude(tx, waiter, ProvisioningState.FAILED, error)
            ended = tx.resources.get(waiter.key)
            tx.resources.update(ended, state={**ended.state, _UNSENT: True})


def leave(tx: Transaction, job: Resource, *, with_log: bool) -> None:
    """A job that was cancelled while it waited has ended."""
    _end_waiting(tx, job, {"status": JobStatus.CANCELED, "message": "", "end_time": tx.now}, with_log=with_log)


def _end_waiting(tx: Transaction, job: Resource, change: Manifest, *, with_log: bool, **more: Manifest | str) -> None:
    logs = [BUILD_LOG] if with_log else []
    state = job_state(job).model_copy(update={**change, "logs": logs})
    without = {key: value for key, value in with_state(job, state).items() if key != builds.HELD}
    tx.resources.update(job, state={**without, **more})


def _send_job(tx: Transaction, job: Resource, image: str, *, with_log: bool) -> None:
    held = job.state[builds.HELD]
    _place(tx, job, str(job.state.get("compute")), held["cluster"])
    want(tx, held["cluster"], _with_image(held["manifest"], image), job.key)
    _end_waiting(tx, job, {"message": ""}, with_log=with_log, builtImage=image)


def _send_deployment(tx: Transaction, deployment: Resource, image: str) -> None:
    held = deployment.state[builds.HELD]
    endpoint = tx.resources.get(ResourceKey(deployment.key.workspace, ENDPOINTS, deployment.key.parent))
    place = _place(tx, deployment, str(endpoint.properties.get("compute")), held["cluster"])
    freed = tx.resources.update(deployment, state=_without_hold(deployment))
    manifest = _with_image(held["manifest"], image)
    provision(tx, freed, place, manifest, within=timedelta(seconds=held["withinSeconds"]), going_on=True)


def _place(tx: Transaction, waiter: Resource, compute: str, cluster: str) -> Place:
    place = find_place(tx, waiter.key.workspace, compute, target="compute")
    if place.cluster.id != cluster:
        raise Conflict(
            f"Compute '{place.compute.name}' was attached to another cluster while the image was built. Submit it again.",
            code="ComputeDetached",
        )
    return place


def _with_image(manifest: Manifest, image: str) -> Manifest:
    if not image:
        return manifest
    spec = manifest["spec"]
    return {**manifest, "spec": {**spec, "environment": {**spec["environment"], "image": image}}}


def _without_hold(resource: Resource) -> Manifest:
    return {key: value for key, value in resource.state.items() if key not in (builds.HELD, _UNSENT)}


def _words(tx: Transaction, key: ResourceKey) -> str:
    return builds.words(builds.build_of(tx.resources.get(key)))
