"""A job's course as stored, and its second face: the run history that clients stream, download and edit through.

Both faces, the ARM resource and the run, are rendered from the same JobState, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from moorage.clock import rfc3339_micro
from moorage.specs.jobs import TERMINAL, JobStatus, advance
from moorage.specs.manifest import Manifest
from moorage.wire.bodies import Body

# Run history knows three types of output; models count as what they are on disk (contract 5.4).
_RUN_OUTPUT_TYPES = {"uri_file": "uri_file", "uri_folder": "uri_folder", "mltable": "mltable"}
_RUN_TYPES = {"Sweep": "azureml.hyperdrive", "Pipeline": "azureml.PipelineRun"}
_PASCAL = {"uri_file": "UriFile", "uri_folder": "UriFolder", "mltable": "MLTable"}


class JobState(Body):
    """What has become of a job so far."""

    status: JobStatus = JobStatus.NOT_STARTED
    reason: str = ""
    # For people: why it waits, runs or failed; for a failed job with the last lines of its log.
    message: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    exit_code: int | None = None
    # Logs stored so far, by name under the job's artifacts.
    logs: list[str] = []
    # The last Kubernetes event about its pods: what `message` lacks while nothing runs yet.
    event: str = ""
    pods: list[Manifest] = []
    # What whoever looks at the job should know of its environment, besides the notices of its pods.
    notices: list[str] = []

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def waiting(self) -> str:
        """Why a job that should run does not, in words; empty when it does not wait."""
        if self.status not in (JobStatus.NOT_STARTED, JobStatus.QUEUED, JobStatus.PREPARING, JobStatus.STARTING, JobStatus.PROVISIONING):
            return ""
        return self.message or self.event


def observe(state: JobState, status: Manifest, *, logs_complete: bool, now: datetime) -> JobState:
    """The state after a report of the TrainingJob's status. Repeating a report changes nothing; a terminal state is kept.

    Args:
        state: the state so far.
        status: the TrainingJob's whole status.
        logs_complete: every log chunk of the job is stored.
        now: stands in for an end time the cluster does not give.
    """
    if state.is_terminal:
        return state
    following = advance(state.status, str(status.get("phase") or ""), logs_complete=logs_complete)
    started = _moment(status.get("startTime")) or state.start_time
    ended = (_moment(status.get("completionTime")) or now) if following in TERMINAL else None
    exit_code = status.get("exitCode")
    return state.model_copy(
        update={
            "status": following,
            "reason": str(status.get("reason") or ""),
            "message": str(status.get("message") or ""),
            "start_time": started,
            "end_time": ended,
            "exit_code": exit_code if isinstance(exit_code, int) else state.exit_code,
            "pods": list(status.get("pods") or []),
            "event": "" if following in TERMINAL or following is JobStatus.RUNNING else state.event,
        }
    )


def _moment(text: object) -> datetime | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if isinstance(text, str) else None


def error(state: JobState) -> Manifest | None:
    """A failed job's error as run history nests it."""
    if state.status is not JobStatus.FAILED:
        return None
    message = state.message or "The job failed. Read its log: moorage job stream --name NAME."
    return {"error": {"code": "UserError", "message": message, "details": [{"code": state.reason or "JobFailed", "message": message}]}}


def _warnings(state: JobState) -> list[Manifest]:
    """Why it waits, what its pods say about the environment they got, and what of their outputs is not stored."""
    notices = dict.fromkeys([*state.notices, *(str(pod["notice"]) for pod in state.pods if pod.get("notice"))])
    waiting = [{"source": "compute", "message": state.waiting}] if state.waiting else []
    outputs = dict.fromkeys(str(pod["outputs"]) for pod in state.pods if pod.get("outputs"))
    told = [{"source": "environment", "message": each} for each in notices] + [{"source": "outputs", "message": each} for each in outputs]
    return [*waiting, *told]


def run_times(state: JobState) -> Manifest:
    return {
        "startTimeUtc": rfc3339_micro(state.start_time) if state.start_time else None,
        "endTimeUtc": rfc3339_micro(state.end_time) if state.end_time else None,
    }


def run_details(name: str, state: JobState, properties: Mapping[str, object], log_urls: Mapping[str, str]) -> Manifest:
    """`runs/{name}/details`, which clients poll while they stream.

    Args:
        name: the job's name.
        state: its course.
        properties: its ARM `properties.properties`.
        log_urls: a signed address by log name; an object even when empty.
    """
    waiting = state.waiting
    return {
        "runId": name,
        "target": None,
        "status": state.status.value,
        **run_times(state),
        "properties": dict(properties),
        "inputDatasets": [],
        "outputDatasets": [],
        "logFiles": dict(log_urls),
        "warnings": _warnings(state),
        "error": error(state),
        "moorage": {"waiting": waiting, "reason": state.reason, "message": state.message, "exitCode": state.exit_code, "pods": state.pods},
    }


def run(name: str, body: Mapping[str, object], state: JobState, *, created: str, created_by: str) -> Manifest:
    """`runs/{name}`: the run without its logs.

    Args:
        name: the job's name.
        body: its ARM `properties` as stored.
        state: its course.
        created: creation time, RFC 3339.
        created_by: who submitted it.
    """
    return {
        "runId": name,
        "rootRunId": name,
        "parentRunId": None,
        "runType": _RUN_TYPES.get(str(body.get("jobType")), "azureml.scriptrun"),
        "experimentName": body.get("experimentName"),
        "displayName": body.get("displayName"),
        "description": body.get("description"),
        "status": state.status.value,
        "createdUtc": created,
        **run_times(state),
        "createdBy": {"userName": created_by},
        "target": str(body.get("computeId") or "").rpartition("/")[2] or None,
        "tags": body.get("tags") or {},
        "properties": body.get("properties") or {},
        "hidden": bool(body.get("isArchived")),
        "error": error(state),
        "warnings": _warnings(state),
    }


def run_output_type(job_output_type: str, *, pascal: bool) -> str:
    """An output's type in run history: never a model type, and in PascalCase for SDKs before 1.27 (contract 8)."""
    plain = _RUN_OUTPUT_TYPES.get(job_output_type, "uri_folder")
    return _PASCAL[plain] if pascal else plain
