"""Run history and the data plane: how clients stream logs, find outputs, and edit or archive a job."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

from moorage.clock import rfc3339_micro
from moorage.errors import Invalid, NotFound
from moorage.identity.links import READ
from moorage.identity.roles import Action
from moorage.server.arm import Answer, Call, Route, W
from moorage.server.bloboperations import LINES, WHOLE_LINES
from moorage.server.engine.jobs import state_of
from moorage.server.images import builds
from moorage.server.resources.jobs import TYPE, Seen, edit, look
from moorage.server.resources.references import FACADE
from moorage.server.sdk import is_old
from moorage.specs.image_build import BUILD_LOG
from moorage.specs.manifest import Manifest
from moorage.specs.uris import DatastorePath, default_output, fill_name, parse_reference
from moorage.store import Resource, ResourceKey, Transaction
from moorage.wire import idle, later
from moorage.wire.runs import run, run_details, run_output_type, run_times
from moorage.wire.warning import SOURCE

# A stream of a week-long job asks for new links at every poll, so the life of one is what a slow download needs.
_LOG_LINK_LIFE = timedelta(hours=24)
_HISTORY = "/history/v1.0" + W
_RUN = _HISTORY + "/runs/{name}"
_EDITED_RUN = _HISTORY + "/experiments/{experiment}/runs/{name}"
_ASSET_ID = re.compile(r"^azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)$")


async def _details(call: Call) -> Answer:
    def read(tx: Transaction) -> tuple[Seen, str, list[str]]:
        job = tx.resources.get(call.key(TYPE))
        return look(tx, job, call), _build_log(tx, job), _own_logs(tx, job)

    seen, building, own = await call.services.store.read(read)
    job, state, why = seen.job, seen.state, seen.why
    links = _log_links(call, job, sorted({*state.logs, *own})) | ({BUILD_LOG: _link(call, building)} if building else {})
    answer = run_details(job.name, state, job.properties.get("properties") or {}, links)
    if why:
        others = [each for each in answer["warnings"] if each["source"] != "compute"]
        answer["warnings"] = [{"source": "compute", "message": why}, *others]
        answer["moorage"]["waiting"] = why
    answer["warnings"] += _unheeded(job)
    return Answer(answer)


def _unheeded(job: Resource) -> list[Manifest]:
    """What the job asks for that nothing acts on; after why it waits, since clients show the first."""
    return [{"source": SOURCE, "message": message} for message in idle.warnings(TYPE, {"properties": job.properties})]


def _log_links(call: Call, job: Resource, logs: list[str]) -> dict[str, str]:
    # What ends it, ends its last line too.
    growing = "" if state_of(job).is_terminal else f"&{LINES}={WHOLE_LINES}"
    return {name: _link(call, f"{job.state.get('artifacts') or ''}/{name}") + growing for name in logs}


def _link(call: Call, address: str) -> str:
    container, _, path = address.partition("/")
    return f"{call.absolute(f'{FACADE}/{address}')}?{call.services.links.blob(container, path, READ, _LOG_LINK_LIFE)}"


def _own_logs(tx: Transaction, job: Resource) -> list[str]:
    """Logs that the pods of a job with several processes each have stored themselves."""
    if job.properties.get("jobType") in later.STORED_JOBS:
        # It has no pods, and nobody has checked what it says of them.
        return []
    distribution = job.properties.get("distribution") or {}
    if int(distribution.get("processCountPerInstance") or 1) <= 1:
        return []
    container, _, folder = str(job.state.get("artifacts") or "").partition("/")
    return [blob.name.removeprefix(f"{folder}/") for blob in tx.blobs.list(container, prefix=f"{folder}/user_logs/")]


def _build_log(tx: Transaction, job: Resource) -> str:
    """Where the log grows of the image that a job waits for; empty when there is none (yet)."""
    build = builds.build_behind(tx, job)
    container, _, name = build.log.partition("/") if build else ("", "", "")
    return f"{container}/{name}" if name and tx.blobs.find(container, name) else ""


async def _run(call: Call) -> Answer:
    job = await call.services.store.read(lambda tx: tx.resources.get(call.key(TYPE)))
    return Answer(_rendered(job))


def _rendered(job: Resource) -> Manifest:
    found = run(job.name, job.properties, state_of(job), created=rfc3339_micro(job.created_at), created_by=job.created_by)
    return {**found, "warnings": [*found["warnings"], *_unheeded(job)]}


async def _children(call: Call) -> Answer:
    # Command jobs have none; sweeps and pipelines will.
    await call.services.store.read(lambda tx: tx.resources.get(call.key(TYPE)))
    return Answer({"value": [], "continuationToken": None, "nextLink": None})


async def _services(call: Call) -> Answer:
    job = await call.services.store.read(lambda tx: tx.resources.get(call.key(TYPE)))
    asked = {name: service for name, service in (job.properties.get("services") or {}).items() if service}
    return Answer({"instances": {name: _not_started(service) for name, service in asked.items()}})


def _not_started(service: Manifest) -> Manifest:
    refused = {"code": later.CODE, "message": later.JOB_SERVICES.message}
    kind, port = service.get("jobServiceType"), service.get("port")
    return {"type": kind, "port": port, "status": "Failed", "error": {"error": refused}, "endpoint": None, "properties": {}}


async def _patch(call: Call) -> Answer:
    def write(tx: Transaction) -> Resource:
        job = tx.resources.get(call.key(TYPE))
        return edit(tx, job, _edited(job, call.body))

    job = await call.services.store.write(write, actor=call.user.name)
    return Answer(_rendered(job))


def _edited(job: Resource, sent: Manifest) -> Manifest:
    """The fields of the job that a PATCH of the run changes: maps are merged, `hidden` means archived."""
    fields: Manifest = {}
    for name in ("displayName", "description"):
        if sent.get(name) is not None:
            fields[name] = str(sent[name])
    for name in ("tags", "properties"):
        given = sent.get(name)
        if given is not None:
            if not isinstance(given, dict):
                raise Invalid(f"{name} must be an object.", target=name)
            merged = {**(job.properties.get(name) or {}), **given}
            fields[name] = {key: value for key, value in merged.items() if value is not None}
    if sent.get("hidden") is not None:
        if not isinstance(sent["hidden"], bool):
            raise Invalid("hidden must be true or false.", target="hidden")
        fields["isArchived"] = sent["hidden"]
    return fields


async def _rundata(call: Call) -> Answer:
    name = call.body.get("runId")
    if not isinstance(name, str) or not name:
        raise Invalid("runId is required.", target="runId")
    job = await call.services.store.read(lambda tx: tx.resources.get(ResourceKey(call.workspace, TYPE, name)))
    state = state_of(job)
    # The old SDK wants `UriFolder` where later ones want `uri_folder`; of what it cannot read it downloads nothing.
    pascal = is_old(call)
    outputs = {
        key: {
            "assetId": f"azureml://jobs/{job.name}/outputs/{key}",
            "type": run_output_type(str((output or {}).get("jobOutputType", "uri_folder")), pascal=pascal),
        }
        for key, output in (job.properties.get("outputs") or {}).items()
    }
    metadata = {**_rendered(job), **run_times(state), "outputs": outputs, "inputs": {}}
    return Answer({"runMetadata": metadata, "runDefinition": None, "jobSpecification": None})


async def _resolve(call: Call) -> Answer:
    values = call.body.get("values")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise Invalid("values must be a list of asset ids.", target="values")
    pascal = is_old(call)

    def read(tx: Transaction) -> Manifest:
        return {value: _resolved(tx, call, value, pascal) for value in values}

    return Answer({"values": await call.services.store.read(read)})


def _resolved(tx: Transaction, call: Call, asset_id: str, pascal: bool) -> Manifest:
    named = _ASSET_ID.match(asset_id)
    if not named:
        raise NotFound(f"'{asset_id}' is not an output of a job of this service.", target=asset_id)
    job = tx.resources.get(ResourceKey(call.workspace, TYPE, named["job"]))
    output = (job.properties.get("outputs") or {}).get(named["output"])
    if output is None:
        raise NotFound(f"Job '{job.name}' has no output '{named['output']}'.", target=asset_id)
    place = (
        parse_reference(fill_name(output["uri"], job.name), target="uri")
        if output.get("uri")
        else default_output(job.name, named["output"])
    )
    kind = run_output_type(str(output.get("jobOutputType", "uri_folder")), pascal=pascal)
    uri = _place(place, kind).long_uri(call.workspace) if isinstance(place, DatastorePath) else str(output.get("uri"))
    return {"uri": uri, "type": kind}


def _place(place: DatastorePath, kind: str) -> DatastorePath:
    """The path as the SDK lists it, by prefix: with a slash a file is not found, and without one the siblings of a folder are as well."""
    path = place.path.rstrip("/")
    return replace(place, path=path if not path or kind.lower() in ("uri_file", "urifile") else f"{path}/")


ROUTES = (
    Route("GET", _RUN + "/details", _details),
    Route("GET", _RUN, _run),
    Route("GET", _RUN + "/children", _children),
    Route("GET", _RUN + "/serviceinstances/{node}", _services),
    Route("PATCH", _RUN, _patch),
    Route("PATCH", _EDITED_RUN, _patch),
    Route("GET", _EDITED_RUN, _run),
    Route("GET", _EDITED_RUN + "/details", _details),
    Route("POST", _HISTORY + "/rundata", _rundata, action=Action.READ),
    Route("POST", "/data/v1.0" + W + "/dataversion/batchGetResolvedUris", _resolve, action=Action.READ),
)
