"""Jobs in line with what clusters report: status, why one waits, registered outputs at the end, and removal from the cluster after a while."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from moorage.errors import Invalid
from moorage.server.engine.objects import TOPIC
from moorage.server.jobstate import course
from moorage.server.jobstate import state_of as state_of
from moorage.server.jobstate import with_state as with_state
from moorage.server.resources.assets import AssetType, put_version
from moorage.server.resources.data import DATA
from moorage.server.resources.models import MODELS
from moorage.specs.jobs import JobStatus
from moorage.specs.manifest import Manifest
from moorage.store import ClusterEvent, DesiredObject, Resource, ResourceKey, Transaction
from moorage.wire.gateway import FINISHED
from moorage.wire.jobs import JobOutput
from moorage.wire.runs import JobState, observe


def settle_job(tx: Transaction, object: DesiredObject) -> None:
    """Bring a job in line with everything reported of its TrainingJob; doing it again changes nothing."""
    job = tx.resources.find(object.owner.key)
    if job is None:
        return
    before = state_of(job)
    report = tx.reports.status(object.cluster, object.name)
    after = before
    if report is not None and not report.gone:
        after = observe(before, report.status, logs_complete=report.logs_complete, now=tx.now)
    elif report is not None and object.object is None:
        after = _removed(before, tx.now)
    if not after.is_terminal:
        after = after.model_copy(update={"event": _latest(tx.reports.events(object.cluster, object.name))})
    after = after.model_copy(update={"logs": sorted({*tx.reports.log_sizes(object.cluster, object.name), *before.logs})})
    if job.state.get("builtImage"):
        notices = _unused_image(job, tx.reports.events(object.cluster, object.name)) or before.notices
        after = after.model_copy(update={"notices": notices})
    if after == before:
        return
    if after.status is JobStatus.COMPLETED and not before.is_terminal and (failures := register_outputs(tx, job)):
        after = after.model_copy(update={"message": " ".join(failures)})
    tx.resources.update(job, state=with_state(job, after))
    if after.is_terminal:
        tx.touch(TOPIC)
        if not before.is_terminal and object.object is not None:
            tx.desired.apply(object.cluster, object.name, _finished(object.object), object.owner)


def _finished(manifest: Manifest) -> Manifest:
    """The desired object marked as done, so that an agent does not run it again after somebody deleted it in the cluster."""
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), FINISHED: "true"}}}


def _removed(state: JobState, now: datetime) -> JobState:
    """Its objects are no more although it had not ended: it was taken off the cluster (a forced detach)."""
    if state.is_terminal:
        return state
    message = state.message or "The job was removed from its cluster before it ended."
    return state.model_copy(update={"status": JobStatus.CANCELED, "reason": "Removed", "message": message, "end_time": now})


def end_as_removed(tx: Transaction, job: Resource, now: datetime) -> None:
    """Its compute is no more: whatever it was doing is over."""
    before = state_of(job)
    if (after := _removed(before, now)) != before:
        tx.resources.update(job, state=with_state(job, after))


def _latest(events: Sequence[ClusterEvent]) -> str:
    """The newest warning's words: what a scheduler or an image pull says while nothing runs."""
    warnings = [event for event in events if event.type == "Warning"]
    return warnings[-1].message if warnings else ""


def _unused_image(job: Resource, events: Sequence[ClusterEvent]) -> list[str]:
    """That the image was built, and is not what the job ran in: nodes of the embedded cluster pull none, and say so."""
    said = next((event.message for event in events if event.reason == "ImageNotPulled"), "")
    return [f"The image {job.state['builtImage']} was built for this job, which does not run in it. {said}"] if said else []


def register_outputs(tx: Transaction, job: Resource) -> list[str]:
    """Make the data and model assets that the job's outputs name; what could not be made, in words.

    An existing version of that very number is left as it is.
    """
    failures: list[str] = []
    for name, raw in (job.properties.get("outputs") or {}).items():
        output = JobOutput.model_validate(raw)
        if not output.asset_name:
            continue
        is_model = output.job_output_type.endswith("_model")
        asset = MODELS if is_model else DATA
        version = output.asset_version or _next_version(tx, job, asset, output.asset_name)
        key = ResourceKey(job.key.workspace, asset.versions, version, output.asset_name)
        if tx.resources.find(key) is not None:
            continue
        uri = f"azureml://jobs/{job.name}/outputs/{name}"
        where = {"modelType": output.job_output_type, "modelUri": uri} if is_model else {"dataType": output.job_output_type, "dataUri": uri}
        try:
            put_version(tx, asset, key, {"properties": {**where, "jobName": job.name, "properties": {"moorage.job": job.name}}})
        except Invalid as error:
            # The job has done its work; what it did not write cannot be registered, and whoever looks for it is told.
            failures.append(f"Output '{name}' was not registered as '{output.asset_name}': {error.message}")
    return failures


def _next_version(tx: Transaction, job: Resource, asset: AssetType, name: str) -> str:
    taken = tx.resources.names(job.key.workspace, asset.versions, parent=name)
    return str(max((int(version) for version in taken if version.isdecimal()), default=0) + 1)


def retire(tx: Transaction, kept: timedelta) -> datetime | None:
    """Take finished jobs off their clusters once they have been over for `kept`; when the next one will be due.

    Their resources, logs and outputs stay; only the TrainingJob and its pods go.
    """
    due: datetime | None = None
    for cluster in tx.clusters.list():
        wanted = tx.desired.owners(cluster.id, "jobs")
        states = tx.resources.states(owner.key for _, owner in wanted)
        for name, owner in wanted:
            state = states.get(owner.key)
            if state is None:
                tx.desired.remove(cluster.id, name)
                continue
            ended = course(state).end_time
            if ended is None:
                continue
            if ended + kept <= tx.now:
                tx.desired.remove(cluster.id, name)
            else:
                due = min(due or ended + kept, ended + kept)
    return due
