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
_JOBS = "jobs"


@dataclass(frozen=True, slots=True)
class Claim:
    """A build that is this process's to do."""

    key: ResourceKey
    build: ImageBuild
    lease: Lease


def build_of(row: Resource) -> ImageBuild:
    return ImageBuild.model_validate(row.state)


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
        put(tx, row, build.model_copy(update=again))
    return key


def put(tx: Transaction, row: Resource, build: ImageBuild) -> Resource:
    return tx.resources.update(row, state=_dumped(build), lookup=build.status.value)


def _dumped(build: ImageBuild) -> Manifest:
    return build.model_dump(mode="json", by_alias=True)


def active(tx: Transaction) -> Sequence[Resource]:
    """The rows of builds that are going on or asked for, in every workspace, those that go on first."""
    return [row for status in ACTIVE for row in tx.resources.all_with(TYPE, status.value)]


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
    if resource.key.type == _JOBS and job_state(resource).is_terminal:
        return None
    return found


def build_behind(tx: Transaction, resource: Resource) -> ImageBuild | None:
    """The build that a resource waits for."""
    found = held(resource)
    if found is None:
        return None
    row = tx.resources.find(ResourceKey(resource.key.workspace, TYPE, found["build"], found["environment"]))
    return build_of(row) if row else None


def waiters(tx: Transaction, row: Resource) -> list[Resource]:
    """The jobs and deployments that wait for a build now, jobs that are being cancelled among them."""
    found = []
    for each in build_of(row).waiting:
        resource = tx.resources.find(ResourceKey(row.key.workspace, each.type, each.name, each.parent))
        state = held(resource) if resource else None
        if resource and state and (state["build"], state["environment"]) == (row.key.name, row.key.parent):
            found.append(resource)
    return found


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
        wanted = is_wanted(tx, row)
        if row.key in busy or (wanted and len(claims) >= room):
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


def _begin(tx: Transaction, row: Resource) -> ImageBuild:
    build = build_of(row)
    if build.log:
        container, _, name = build.log.partition("/")
        tx.blobs.delete(container, name)
    attempt = build.attempt + 1
    log = f"{artifact_container(row.key.workspace)}/ImageBuilds/{build.environment}/{row.key.name}/{attempt}.txt"
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
    label = found["manifest"]["spec"]["environment"]["name"]
    raise Invalid(
        f"{target}: environment '{label}' has a build context, and this service has no image builder. Let its operator configure one "
        "(moorage up --image-builder COMMAND, or MOORAGE_IMAGE_BUILDER); or build and push the image yourself and use 'image', or use a conda file.",
        code="ImageBuilderNotConfigured",
        target=target,
    )


def why(job: Resource, settings: Settings) -> str:
    """What a job that waits for its image is waiting for; empty for any other."""
    if held(job) is None:
        return ""
    if not settings.image_builder:
        return (
            f"{job_state(job).message} This service has no image builder any more: the job waits until there is one (MOORAGE_IMAGE_BUILDER), "
            "or is cancelled."
        )
    return job_state(job).message
