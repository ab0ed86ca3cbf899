"""The rows of image builds, and who waits for them. A build is known by environment, version and digest of its context, so that it happens once.

A job or deployment that waits keeps its manifest, complete but for the image, in its own state (`imageBuild`); `release` sends it to the cluster.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from moorage.errors import Invalid
from moorage.ids import Workspace
from moorage.server.containers import artifact_container
from moorage.server.jobstate import state_of as job_state
from moorage.server.jobstate import with_state
from moorage.server.settings import Settings
from moorage.specs.image_build import ACTIVE, BuildStatus
from moorage.specs.jobs import JobStatus
from moorage.specs.manifest import Manifest
from moorage.store import Lease, Resource, ResourceKey, Transaction
from moorage.wire.assets import BuildContext
from moorage.wire.image_builds import ImageBuild, Waiter

# Rows of their own; no resource of the API.
TYPE = "imageBuilds/versions"
# Rung when a build is asked for, or somebody waits no longer.
TOPIC = "image-builds"
# What a resource's state has while it waits.
HELD = "imageBuild"
# How long a build belongs to a process that gives no sign of life. Longer than a builder's grace (builder.py).
LEASE = timedelta(seconds=30)
# Why a build failed whose row cannot be read.
UNREADABLE = "ImageBuildUnreadable"
_JOBS = "jobs"
_DEPLOYMENTS = "onlineEndpoints/deployments"


@dataclass(frozen=True, slots=True)
class Claim:
    """A build that is this process's to do."""

    key: ResourceKey
    build: ImageBuild
    lease: Lease


def build_of(row: Resource) -> ImageBuild:
    """What a row says; one that cannot be read is a build that failed (`UNREADABLE`), so that it holds up no other and is asked for anew."""
    try:
        return ImageBuild.model_validate(row.state)
    except ValueError:
        version, _, digest = row.key.name.rpartition("-")
        log = row.state.get("log")
        own = isinstance(log, str) and log.startswith(_logs_of(row.key))
        failure = Invalid(
            f"The image of environment {row.key.parent}:{version} could not be built: what the service had noted of its build cannot be read "
            "(another version of Moorage may have written it). Submit again.",
            code="ImageBuildUnreadable",
        )
        return ImageBuild(
            environment=row.key.parent,
            version=version,
            # Known again when it is asked for again.
            address="",
            dockerfile="",
            digest=digest,
            status=BuildStatus.FAILED,
            code=failure.code,
            message=failure.message,
            log=log if own else "",
            # Every attempt changes the row, so that no earlier one had a higher number, and the next has a log of its own.
            attempt=row.version,
        )


def key_of(workspace: Workspace, context: BuildContext) -> ResourceKey:
    return ResourceKey(workspace, TYPE, f"{context.version}-{context.digest}", context.environment)


def ask(tx: Transaction, waiter: ResourceKey, context: BuildContext) -> ResourceKey | str:
    """The image, if it is built; else it is asked for on behalf of the waiter, and the key of the build is returned.

    One that failed, or that was given up because nobody waited any more, is tried again.
    """
    key = key_of(waiter.workspace, context)
    row = tx.resources.find(key)
    build = build_of(row) if row else None
    if build is not None and build.status is BuildStatus.SUCCEEDED:
        return build.image
    tx.touch(TOPIC)
    entry = Waiter(type=waiter.type, name=waiter.name, parent=waiter.parent)
    if row is None or build is None:
        fresh = ImageBuild(
            environment=context.environment,
            version=context.version,
            address=context.address,
            dockerfile=context.dockerfile,
            digest=context.digest,
            waiting=[entry],
        )
        tx.resources.create(key, {"properties": {}}, state=_dumped(fresh), lookup=fresh.status.value)
    elif build.status in ACTIVE:
        put(tx, row, build.model_copy(update={"waiting": [*(each for each in build.waiting if each != entry), entry]}))
    else:
        again = {"status": BuildStatus.WAITING, "code": "", "message": "", "started": None, "ended": None, "waiting": [entry]}
        where = {"address": context.address, "dockerfile": context.dockerfile}
        put(tx, row, build.model_copy(update={**again, **where}))
    return key


def put(tx: Transaction, row: Resource, build: ImageBuild) -> Resource:
    return tx.resources.update(row, state=_dumped(build), lookup=build.status.value)


def _dumped(build: ImageBuild) -> Manifest:
    return build.model_dump(mode="json", by_alias=True)


def active(tx: Transaction) -> Sequence[Resource]:
    """The rows of builds that are going on or asked for, in every workspace, those that go on first."""
    return [row for status in ACTIVE for row in tx.resources.all_with(TYPE, status.value)]


def unreadable(tx: Transaction) -> Sequence[Resource]:
    """Rows that count as active and cannot be read."""
    return [row for row in active(tx) if build_of(row).code == UNREADABLE]


def newest(tx: Transaction, workspace: Workspace, environment: str, version: str) -> ImageBuild | None:
    """What became of the version's image; None when nobody has asked for it."""
    rows = tx.resources.list(workspace, TYPE, parent=environment, newest_first=True)
    return next((build for row in rows if (build := build_of(row)).version == version), None)


def hold(key: ResourceKey, cluster: str, manifest: Manifest, *, within: timedelta | None = None) -> Manifest:
    """What the state of a resource gets that waits for a build.

    Args:
        key: the build's.
        cluster: the registration that the manifest is for.
        manifest: complete but for the image.
        within: how long a deployment may take once it is sent.
    """
    seconds = within.total_seconds() if within else None
    return {HELD: {"build": key.name, "environment": key.parent, "cluster": cluster, "manifest": manifest, "withinSeconds": seconds}}


def held(resource: Resource) -> Manifest | None:
    """What a resource holds back until its image is built; None when it does not wait (any more)."""
    found: Manifest | None = resource.state.get(HELD)
    if found is None or resource.state.get("deleting"):
        return None
    return None if resource.key.type == _JOBS and _has_ended(resource) else found


def _has_ended(job: Resource) -> bool:
    try:
        return job_state(job).is_terminal
    except ValueError:
        # Nothing can be made of it any more, and it must not hold up the builds of others.
        return True


def build_behind(tx: Transaction, resource: Resource) -> ImageBuild | None:
    """The build that a resource waits for."""
    found = held(resource)
    if found is None:
        return None
    row = tx.resources.find(ResourceKey(resource.key.workspace, TYPE, found["build"], found["environment"]))
    return build_of(row) if row else None


def waiters(tx: Transaction, row: Resource) -> list[Resource]:
    """The jobs and deployments that wait for a build now, jobs that are being cancelled among them."""
    return [
        each
        for each in _named(tx, row)
        if (state := held(each)) and (state["build"], state["environment"]) == (row.key.name, row.key.parent)
    ]


def _named(tx: Transaction, row: Resource) -> list[Resource]:
    """Who a build's row says is waiting; anybody who may be, when that cannot be read."""
    workspace, build = row.key.workspace, build_of(row)
    if build.code == UNREADABLE:
        return [each for type_ in (_JOBS, _DEPLOYMENTS) for each in tx.resources.list(workspace, type_)]
    found = (tx.resources.find(ResourceKey(workspace, each.type, each.name, each.parent)) for each in build.waiting)
    return [each for each in found if each is not None]


def leaving(resource: Resource) -> bool:
    """Whether it is a job that waits only for its own end."""
    return resource.key.type == _JOBS and job_state(resource).status is JobStatus.CANCEL_REQUESTED


def is_wanted(tx: Transaction, row: Resource) -> bool:
    return any(not leaving(each) for each in waiters(tx, row))


def held_on(tx: Transaction, compute: Resource) -> list[Resource]:
    """The jobs that wait for an image before they go to a compute."""
    own = [row for row in active(tx) if row.key.workspace.id.lower() == compute.key.workspace.id.lower()]
    return [each for row in own for each in waiters(tx, row) if each.key.type == _JOBS and each.state.get("compute") == compute.name]


def claim(tx: Transaction, owner: str, room: int, busy: Collection[ResourceKey]) -> list[Claim]:
    """Take up to `room` builds that no live process works on; those that nobody waits for are given up.

    Args:
        tx: to write.
        owner: this process.
        room: how many more it may work on.
        busy: those it works on.
    """
    claims: list[Claim] = []
    for row in active(tx):
        if build_of(row).code == UNREADABLE:
            # `unreadable`'s.
            continue
        wanted = is_wanted(tx, row)
        if row.key in busy or (wanted and len(claims) >= room):
            continue
        if not wanted and waiters(tx, row):
            # Cancelled since the engine last let such jobs go: without this row it would not find them.
            continue
        lease = tx.leases.acquire(lease_name(row.key), owner, LEASE)
        if lease is None:
            continue
        if wanted:
            claims.append(Claim(row.key, _begin(tx, row), lease))
        else:
            give_up(tx, row, lease)
    return claims


def lease_name(key: ResourceKey) -> str:
    return f"{TOPIC}{key.workspace.id.lower()}/{key.parent}/{key.name}"


def _logs_of(key: ResourceKey) -> str:
    return f"{artifact_container(key.workspace)}/ImageBuilds/{key.parent}/{key.name}/"


def _begin(tx: Transaction, row: Resource) -> ImageBuild:
    build = build_of(row)
    if build.log:
        container, _, name = build.log.partition("/")
        tx.blobs.delete(container, name)
    attempt = build.attempt + 1
    log = f"{_logs_of(row.key)}{attempt}.txt"
    begun = build.model_copy(update={"status": BuildStatus.BUILDING, "attempt": attempt, "log": log, "started": tx.now})
    put(tx, row, begun)
    for each in waiters(tx, row):
        tell(tx, each, words(begun))
    return begun


def words(build: ImageBuild) -> str:
    """What those who wait for a build are waiting for."""
    if build.status is BuildStatus.WAITING:
        return f"Waiting until the image of environment {build.label} can be built."
    return f"Building the image of environment {build.label}."


def tell(tx: Transaction, resource: Resource, message: str) -> None:
    """Why a job or deployment has not begun."""
    if resource.key.type == _JOBS:
        changed = job_state(resource).model_copy(update={"message": message})
        tx.resources.update(resource, state=with_state(resource, changed))
    else:
        tx.resources.update(resource, state={**resource.state, "seen": {"message": message}})


def give_up(tx: Transaction, row: Resource, lease: Lease) -> None:
    """Nobody waits for it any more."""
    put(tx, row, build_of(row).model_copy(update={"status": BuildStatus.CANCELED, "ended": tx.now, "waiting": []}))
    tx.leases.release(lease)


def require_builder(settings: Settings, resource: Resource, *, target: str) -> None:
    """Invalid when a resource waits for an image and this service has nothing to build it with."""
    found = resource.state.get(HELD)
    if found is None or settings.image_builder:
        return
    raise Invalid(
        f"{target}: environment '{_label(found)}' has a build context, and this service has no image builder. Let its operator configure one "
        "(moorage up --image-builder COMMAND, or MOORAGE_IMAGE_BUILDER); or build and push the image yourself and use 'image', or use a conda file.",
        code="ImageBuilderNotConfigured",
        target=target,
    )


def _label(found: Manifest) -> str:
    return str(found["manifest"]["spec"]["environment"]["name"])


def why(waiter: Resource, settings: Settings) -> str:
    """What a job or deployment that waits for its image is waiting for; empty for any other."""
    found = held(waiter)
    if found is None:
        return ""
    is_job = waiter.key.type == _JOBS
    if settings.image_builder:
        return job_state(waiter).message if is_job else str((waiter.state.get("seen") or {}).get("message") or "")
    what, otherwise = ("job", "cancelled") if is_job else ("deployment", "deleted")
    return (
        f"The image of environment {_label(found)} is not built: this service has no image builder any more. The {what} waits until its operator "
        f"configures one (moorage up --image-builder COMMAND, or MOORAGE_IMAGE_BUILDER), or until it is {otherwise}."
    )
