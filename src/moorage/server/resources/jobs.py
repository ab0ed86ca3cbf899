"""Jobs: submitted, listed, cancelled, deleted. What becomes of them is settled from the cluster's reports; their second face is `history`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urlencode

from moorage.clock import rfc3339, rfc3339_micro
from moorage.errors import Conflict
from moorage.ids import Workspace
from moorage.server import webfiles
from moorage.server.arm import Answer, Call, Route, W, check_preconditions, envelope
from moorage.server.engine.jobs import state_of, with_state
from moorage.server.engine.objects import TOPIC, lingering, name_of, unwant, want
from moorage.server.images import builds
from moorage.server.images.release import start_job
from moorage.server.paging import Page, next_link, page_of
from moorage.server.resources.placement import SERVERLESS, Place, compute_name, find_place
from moorage.server.resources.references import Resolver
from moorage.specs.computes import Connectivity, choose_instance_type, connectivity
from moorage.specs.jobs import JobStatus, check_job_name
from moorage.specs.manifest import Manifest
from moorage.specs.uris import default_output, job_artifacts, join
from moorage.store import Cluster, Resource, ResourceKey, Transaction, member, text
from moorage.wire import kept, later
from moorage.wire.assets import JobAssets
from moorage.wire.jobs import CommandJob, JobResources, read_command_job
from moorage.wire.later import Later
from moorage.wire.manifests import cancelled, training_job
from moorage.wire.runs import JobState

TYPE = "jobs"
DEFAULT_EXPERIMENT = "Default"
_COLLECTION = W + "/jobs"
_ONE = _COLLECTION + "/{name}"
# How many are read at once to find those that match.
_BATCH = 1000
# What a second PUT of a job may change; the rest of it is history.
_EDITABLE = ("displayName", "description", "tags", "properties", "isArchived")


async def _put(call: Call) -> Answer:
    name = call.names["name"]
    check_job_name(name)
    raw = _with_compute(call.properties(), call.workspace)
    submit = _submission(raw)
    await webfiles.import_inputs(call.services, call.workspace, raw)

    def write(tx: Transaction) -> tuple[Seen, bool]:
        key = call.key(TYPE)
        current = tx.resources.find(key)
        check_preconditions(call, current)
        stored = submit(tx, key) if current is None else _edit(tx, current, raw)
        if current is None:
            builds.require_builder(call.services.settings, stored, target="properties.environmentId")
        return look(tx, stored, call), current is None

    seen, created = await call.services.store.write(write, actor=call.user.name)
    return Answer(render(call, seen), 201 if created else 200, {"ETag": seen.job.etag})


def _submission(raw: Manifest) -> Callable[[Transaction, ResourceKey], Resource]:
    """What submitting the job means, by its type, once its body has been checked."""
    given = str(raw.get("jobType") or "")
    kinds = {kind.lower(): kind for kind in (*later.STORED_JOBS, *later.REFUSED_JOBS)}
    kind = kinds.get(given.lower(), given)
    if kind in later.REFUSED_JOBS:
        raise later.refusal(later.REFUSED_JOBS[kind], target="properties.jobType")
    if kind in later.STORED_JOBS:
        stored = {**raw, "jobType": kind}
        kept.read_stored_job(stored)
        return lambda tx, key: _keep(tx, key, stored, later.STORED_JOBS[kind])
    job = read_command_job(raw)
    return lambda tx, key: _submit(tx, key, raw, job)


def _keep(tx: Transaction, key: ResourceKey, raw: Manifest, kind: Later) -> Resource:
    """Store a job that cannot run yet. It has ended before it began, and says why wherever somebody looks."""
    experiment = str(raw.get("experimentName") or DEFAULT_EXPERIMENT)
    if compute := str(raw.get("computeId") or ""):
        find_place(tx, key.workspace, compute, target="properties.computeId")
    ended = JobState(status=JobStatus.FAILED, reason=later.CODE, message=kind.message, end_time=tx.now)
    state: Manifest = {"run": ended.model_dump(mode="json", by_alias=True), "compute": compute_name(compute), "experiment": experiment}
    body: Manifest = {"properties": {**raw, "experimentName": experiment, "displayName": raw.get("displayName") or key.name}}
    return tx.resources.create(key, body, state=state, archived=bool(raw.get("isArchived")))


def _with_compute(raw: Manifest, workspace: Workspace) -> Manifest:
    """The job with the compute it means: the SDK keeps the name `local` to itself and sends a mark in the resources in place of its id."""
    resources = raw.get("resources")
    marks = resources.get("properties") if isinstance(resources, dict) else None
    if raw.get("computeId") or not isinstance(marks, dict) or not marks.get("IsLocal"):
        return raw
    return {**raw, "computeId": f"{workspace.id}/computes/local"}


def _submit(tx: Transaction, key: ResourceKey, raw: Manifest, job: CommandJob) -> Resource:
    """Check everything that can be checked, store the job, and want its TrainingJob: all of it or nothing."""
    if lingering(tx, key):
        # A second TrainingJob under the name would be the first one to the cluster, with the first one's end.
        raise Conflict(
            f"A job '{key.name}' was deleted and its cluster has not confirmed yet that it is gone. Try again shortly, or take another name.",
            code="JobBeingDeleted",
            target=key.name,
        )
    place = find_place(tx, key.workspace, job.compute_id, target="properties.computeId")
    wanted = (job.resources or JobResources()).instance_type
    chosen = choose_instance_type(wanted or _default_type(place), place.types, target="properties.resources.instanceType")
    assets = resolve(tx, key, job)
    experiment = job.experiment_name or DEFAULT_EXPERIMENT
    compute = {} if _names_compute(job.compute_id) else {"computeId": key.workspace.child("computes", place.compute.name)}
    body: Manifest = {"properties": {**raw, **compute, "experimentName": experiment, "displayName": job.display_name or key.name}}
    manifest = training_job(
        place.placement, key.name, job.model_copy(update={"experiment_name": experiment}), assets, instance_type=chosen.name
    )
    object_name = name_of(manifest)
    state: Manifest = {
        "run": JobState().model_dump(mode="json", by_alias=True),
        "cluster": place.cluster.id,
        "compute": place.compute.name,
        "object": {"kind": object_name.kind, "namespace": object_name.namespace, "name": object_name.name},
        "instanceType": chosen.name,
        "environment": assets.environment.name,
        "outputs": assets.outputs,
        "artifacts": assets.artifacts,
        "experiment": experiment,
    }
    stored = tx.resources.create(key, body, state=state, archived=job.is_archived)
    return start_job(tx, stored, place.cluster.id, manifest, assets.environment)


def _names_compute(text: str) -> bool:
    return compute_name(text) not in ("", SERVERLESS)


def _default_type(place: Place) -> str | None:
    inner = place.compute.properties.get("properties") or {}
    return inner.get("defaultInstanceType")


def resolve(tx: Transaction, key: ResourceKey, job: CommandJob) -> JobAssets:
    """The addresses and specs behind a job's references; Invalid names the field whose reference is wrong."""
    resolver = Resolver(tx, key.workspace)
    inputs = {
        name: resolver.input(item.uri or "", item.job_input_type, target=f"properties.inputs.{name}.uri")
        for name, item in (job.inputs or {}).items()
        if item.job_input_type != "literal"
    }
    outputs = {
        name: resolver.output(item.uri, key.name, target=f"properties.outputs.{name}.uri")
        if item.uri
        else resolver.datastore_address(default_output(key.name, name), target=f"properties.outputs.{name}")
        for name, item in (job.outputs or {}).items()
    }
    return JobAssets(
        environment=resolver.environment(job.environment_id, target="properties.environmentId"),
        artifacts=resolver.datastore_address(job_artifacts(key.name), target="name"),
        code=resolver.code(job.code_id, target="properties.codeId") if job.code_id else None,
        inputs=inputs,
        outputs=outputs,
    )


def _edit(tx: Transaction, current: Resource, raw: Manifest) -> Resource:
    """A second PUT of the same job: new words about it are taken, a new definition is refused."""
    before = current.properties
    # It was chosen when the job was submitted.
    left = {*raw, *before} if _names_compute(str(raw.get("computeId") or "")) else {*raw, *before} - {"computeId"}
    changed = sorted(field for field in left - set(_EDITABLE) - _ANSWERED if not _same(field, raw.get(field), before.get(field)))
    if changed:
        raise Conflict(
            f"Job '{current.name}' exists already with another {', '.join(changed)}. Submit it under a new name.",
            code="JobExists",
            target=current.id,
        )
    return edit(tx, current, {field: raw[field] for field in _EDITABLE if field in raw})


# Fields that only answers have; a client that sends back what it got must not be told that it changed them.
_ANSWERED = frozenset({"status", "services", "moorage", "experimentName", "parentJobName", "startTime", "endTime"})


def _same(field: str, sent: object, stored: object) -> bool:
    return sent == stored or (not sent and not stored)


def edit(tx: Transaction, job: Resource, fields: Manifest) -> Resource:
    """Replace words about a job (`displayName`, `description`, `tags`, `properties`, `isArchived`); its definition stays."""
    fields = {name: value for name, value in fields.items() if value is not None}
    archived = bool(fields.get("isArchived", job.archived))
    properties = {**job.properties, **fields, "isArchived": archived}
    return tx.resources.update(job, body={**job.body, "properties": properties}, archived=archived)


async def _get(call: Call) -> Answer:
    seen = await call.services.store.read(lambda tx: look(tx, tx.resources.get(call.key(TYPE)), call))
    return Answer(render(call, seen), 200, {"ETag": seen.job.etag})


async def _list(call: Call) -> Answer:
    page = page_of(call, newest_first=True)

    def read(tx: Transaction) -> tuple[list[Seen], bool]:
        jobs, more = _filtered(tx, call, page)
        clusters = {each.id: each for each in tx.clusters.list()}
        return [_seen(each, state_of(each), clusters.get(str(each.state.get("cluster"))), call) for each in jobs], more

    jobs, more = await call.services.store.read(read)
    link = next_link(call, jobs[-1].job.sequence) if more and jobs else None
    return Answer({"value": [render(call, each) for each in jobs], "nextLink": link})


def _filtered(tx: Transaction, call: Call, page: Page) -> tuple[list[Resource], bool]:
    """A full page of jobs that match `jobType`, `tag`, `status`, `experimentName` and `computeName`, however many do not."""
    if call.query.get("status") and _status(call.query) is None:
        return [], False
    if call.query.get("scheduled", "").lower() == "true" or call.query.get("scheduleid"):
        # Schedules start no jobs yet.
        return [], False
    found: list[Resource] = []
    after, size = page.after, page.limit + 1
    body_has, state_has = _sieves(call.query)
    while True:
        batch: Sequence[Resource] = tx.resources.list(
            call.workspace,
            TYPE,
            archived=page.archived,
            body_has=body_has,
            state_has=state_has,
            after=after,
            limit=size,
            newest_first=page.newest_first,
        )
        found += [each for each in batch if _matches(each, call)]
        if len(found) > page.limit:
            return found[: page.limit], True
        if len(batch) < size:
            return found, False
        # Those that match are few and far between.
        after, size = batch[-1].sequence, max(size, _BATCH)


def _sieves(wanted: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What body and state of every job that matches have in them, and of most others one does not."""
    body, state = [], []
    if experiment := wanted.get("experimentname"):
        body.append(member("experimentName", experiment))
    name, _, value = wanted.get("tag", "").partition("=")
    if name:
        body.append(member(name))
    # Others than texts may be compared as Python writes them, which is not how they are stored.
    if value and value not in ("True", "False", "None") and value[0] not in "[{":
        body.append(text(value))
    if compute := wanted.get("computename"):
        state.append(member("compute", compute))
    if kind := next((each for each in later.STORED_JOBS if each.lower() == wanted.get("jobtype", "").lower()), ""):
        body.append(member("jobType", kind))
    status = _status(wanted)
    if status is not None and status is not JobState().status:
        state.append(member("status", status))
    return body, state


def _status(wanted: Mapping[str, str]) -> JobStatus | None:
    return next((each for each in JobStatus if each.lower() == wanted.get("status", "").lower()), None)


def _matches(job: Resource, call: Call) -> bool:
    wanted, properties = call.query, job.properties
    if (kind := wanted.get("jobtype")) and kind.lower() != str(properties.get("jobType", "")).lower():
        return False
    if tag := wanted.get("tag"):
        name, separator, value = tag.partition("=")
        tags = properties.get("tags") or {}
        if name not in tags or (separator and str(tags[name]) != value):
            return False
    if (status := _status(wanted)) and status is not state_of(job).status:
        return False
    if (experiment := wanted.get("experimentname")) and experiment != properties.get("experimentName"):
        return False
    compute = wanted.get("computename")
    return not compute or compute == job.state.get("compute")


async def _cancel(call: Call) -> Answer:
    def write(tx: Transaction) -> None:
        cancel(tx, tx.resources.get(call.key(TYPE)))

    await call.services.store.write(write, actor=call.user.name)
    return Answer(None, 200)


def cancel(tx: Transaction, job: Resource) -> None:
    """Ask the cluster to stop a job; one that has ended, or is being cancelled, stays as it is."""
    state = state_of(job)
    if state.is_terminal or state.status is JobStatus.CANCEL_REQUESTED:
        return
    held = [each for each in tx.desired.of_owner(job.key) if each.object is not None]
    for each in held:
        assert each.object is not None
        want(tx, each.cluster, cancelled(each.object), job.key)
    following: Manifest = {"status": JobStatus.CANCEL_REQUESTED}
    if builds.held(job) is not None:
        tx.touch(builds.TOPIC)
    elif not held:
        following = {"status": JobStatus.CANCELED, "end_time": tx.now}
    tx.resources.update(job, state=with_state(job, state.model_copy(update=following)))


async def _delete(call: Call) -> Answer:
    def write(tx: Transaction) -> bool:
        job = tx.resources.find(call.key(TYPE))
        if job is None:
            return False
        state = state_of(job)
        if not state.is_terminal:
            raise Conflict(
                f"Job '{job.name}' is {state.status.value}; only a job that has ended can be deleted. Cancel it first (moorage job cancel).",
                code="JobNotEnded",
                target=job.id,
            )
        unwant(tx, job.key)
        delete_logs(tx, job, state.logs)
        tx.resources.delete(job.key)
        tx.touch(TOPIC)
        return True

    deleted = await call.services.store.write(write, actor=call.user.name)
    return Answer(None, 200 if deleted else 204)


def delete_logs(tx: Transaction, job: Resource, logs: Sequence[str]) -> None:
    """Logs go with their job, or a later one of its name would go on writing them. Outputs stay: models and data were registered from them."""
    container, _, folder = str(job.state.get("artifacts") or "").partition("/")
    for each in logs:
        tx.blobs.delete(container, join(folder, each))


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as one look at the store saw it.

    Attributes:
        job: as stored.
        state: its course.
        why: why it is not running yet, empty when it does not wait.
    """

    job: Resource
    state: JobState
    why: str


def look(tx: Transaction, job: Resource, call: Call) -> Seen:
    """The job with its course; whether its cluster is there counts for one that has not ended."""
    state = state_of(job)
    return _seen(job, state, None if state.is_terminal else tx.clusters.known(str(job.state.get("cluster"))), call)


def _seen(job: Resource, state: JobState, cluster: Cluster | None, call: Call) -> Seen:
    """Its cluster may be away, or its scheduler may say why the job waits; None: the cluster is not registered (any more)."""
    if state.is_terminal:
        return Seen(job, state, "")
    away = _away(cluster, call) if cluster is not None else ""
    return Seen(job, state, builds.why(job, call.services.settings) or away or state.waiting)


def _away(cluster: Cluster, call: Call) -> str:
    status = connectivity(cluster.last_seen, call.services.now(), call.services.settings.agent_timeout)
    name = cluster.arm_id.rpartition("/")[2]
    if status is Connectivity.CONNECTED:
        return ""
    if cluster.last_seen is None:
        return f"Cluster '{name}' has not connected yet."
    return f"Cluster '{name}' is offline, last heard {rfc3339(cluster.last_seen)}; what it last reported is shown."


@lru_cache(maxsize=64)
def _studio_query(workspace: str) -> str:
    """What follows a job's name in the address of its page, which is the same for all jobs of a workspace."""
    return urlencode({"wsid": workspace})


def render(call: Call, seen: Seen) -> Manifest:
    """The ARM resource of a job; `call` is for addresses."""
    job, state = seen.job, seen.state
    raw, workspace, base_url = job.properties, job.key.workspace.id, call.base_url
    lineage = {
        "_azureml.ComputeTargetType": "kubernetes",
        "moorage.environment": str(job.state.get("environment") or ""),
        "moorage.instanceType": str(job.state.get("instanceType") or ""),
        "ContentSnapshotId": str(raw.get("codeId") or ""),
    }
    asked = {name: service for name, service in (raw.get("services") or {}).items() if service}
    properties = {
        **raw,
        "status": state.status.value,
        "tags": raw.get("tags") or {},
        "properties": {**lineage, **(raw.get("properties") or {})},
        "inputs": raw.get("inputs") or {},
        "outputs": raw.get("outputs") or {},
        "isArchived": job.archived,
        "services": {
            "Tracking": {"jobServiceType": "Tracking", "endpoint": f"{base_url}/mlflow/v1.0{workspace}?"},
            "Studio": {"jobServiceType": "Studio", "endpoint": f"{base_url}/runs/{quote(job.name)}?{_studio_query(workspace)}"},
            **asked,
        },
        "moorage": {
            "waiting": seen.why,
            "reason": state.reason,
            "message": state.message,
            "exitCode": state.exit_code,
            "startTime": rfc3339_micro(state.start_time) if state.start_time else None,
            "endTime": rfc3339_micro(state.end_time) if state.end_time else None,
            "environment": job.state.get("environment"),
            "instanceType": job.state.get("instanceType"),
            "pods": state.pods,
        },
    }
    return envelope(job, properties)


ROUTES = (
    Route("PUT", _ONE, _put),
    Route("GET", _ONE, _get),
    Route("GET", _COLLECTION, _list),
    Route("DELETE", _ONE, _delete),
    Route("POST", _ONE + "/cancel", _cancel),
)
