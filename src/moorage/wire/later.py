"""What this version stores and answers but does not run yet. One table makes the errors, the states and the page that lists them.

Nothing is accepted silently: a job of these kinds ends at once as Failed with the reason, a schedule is kept disabled, and whatever would start work is
refused. Bodies are checked as far as the SDK's own readers need them: one body that they cannot read would break every list it stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.bodies import Body, read

CODE = "NotYetImplemented"


@dataclass(frozen=True, slots=True)
class Later:
    """A kind of resource that comes with an issue of its own.

    Attributes:
        what: its name in a sentence, plural.
        becomes: what happens when it is created now.
        instead: what to do meanwhile.
    """

    what: str
    becomes: str
    instead: str

    @property
    def message(self) -> str:
        return f"This version does not run {self.what} yet. {self.instead}"


_ENDS = "stored and answered as sent; ends at once as `Failed`, with this code and the reason in its status, stream and run history"
# Job types by `jobType`. Their `becomes` is what a PUT does.
STORED_JOBS: Mapping[str, Later] = {
    "Sweep": Later("sweep jobs", _ENDS, "Submit a command job for each setting."),
    "Pipeline": Later("pipeline jobs", _ENDS, "Submit its steps as command jobs; one's output can be another's input."),
}
_REFUSED = "refused, nothing stored"
REFUSED_JOBS: Mapping[str, Later] = {
    "AutoML": Later("AutoML jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "Spark": Later("Spark jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "Labeling": Later("labeling jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "FineTuning": Later("fine-tuning jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "Distillation": Later("distillation jobs", _REFUSED, "Submit a command job (jobType: Command)."),
    "Base": Later("jobs without a type", _REFUSED, "Submit a command job (jobType: Command)."),
}
BATCH_ENDPOINT = Later("batch endpoints", "stored and answered as sent", "Score the data in a command job, or serve the model online.")
BATCH_DEPLOYMENT = Later("batch deployments", "stored and answered as sent", BATCH_ENDPOINT.instead)
BATCH_INVOKE = Later("batch endpoints (invoke)", "refused", BATCH_ENDPOINT.instead)
SCHEDULE = Later("schedules", "stored, always disabled", "Submit the job from a scheduler of your own (cron, CI).")
SCHEDULE_RUN = Later("schedules (enable, trigger)", "refused", SCHEDULE.instead)

JOB_SERVICES = Later(
    "services inside jobs (SSH, JupyterLab, VS Code, TensorBoard)",
    "stored and answered as sent; none is started, `show_services` says so",
    "Write to ./outputs, and download it while the job runs.",
)

# In the order of the page.
ALL: Mapping[str, Later] = {
    **{f"job type `{kind}`": later for kind, later in {**STORED_JOBS, **REFUSED_JOBS}.items()},
    "`services` of a job": JOB_SERVICES,
    "batch endpoint": BATCH_ENDPOINT,
    "batch deployment": BATCH_DEPLOYMENT,
    "batch endpoint, invoke": BATCH_INVOKE,
    "schedule": SCHEDULE,
    "schedule, enable or trigger": SCHEDULE_RUN,
}


def refusal(later: Later, *, target: str) -> Invalid:
    """The error of what is not even stored, or would start work."""
    return Invalid(f"{target}: {later.message}", code=CODE, target=target)


_Text = Annotated[str, StringConstraints(min_length=1)]


class _Output(Body):
    job_output_type: _Text


class _Input(Body):
    job_input_type: _Text
    value: str | None = None
    uri: str | None = None


class _StoredJob(Body):
    compute_id: str | None = None
    display_name: str | None = None
    experiment_name: str | None = None
    description: str | None = None
    inputs: dict[str, _Input] | None = None
    outputs: dict[str, _Output] | None = None
    services: dict[str, dict[str, object] | None] | None = None
    tags: dict[str, str | None] | None = None
    properties: dict[str, object] | None = None
    is_archived: bool = False


class _Trial(Body):
    command: _Text
    environment_id: _Text


class _Sampling(Body):
    sampling_algorithm_type: Literal["Random", "Grid", "Bayesian"]


class _Objective(Body):
    goal: Literal["minimize", "maximize", "Minimize", "Maximize"]
    primary_metric: _Text


class _Sweep(_StoredJob):
    trial: _Trial
    search_space: Annotated[dict[str, list[object]], Field(min_length=1)]
    sampling_algorithm: _Sampling
    objective: _Objective


class _Pipeline(_StoredJob):
    jobs: dict[str, dict[str, object]] | None = None
    source_job_id: str | None = None


def read_stored_job(raw: Manifest) -> None:
    """Check a job of `STORED_JOBS` as far as those need it who read it back; Invalid names every wrong field."""
    if raw["jobType"] == "Sweep":
        read(_Sweep, raw)
        return
    pipeline = read(_Pipeline, raw)
    if not pipeline.jobs and not pipeline.source_job_id:
        raise Invalid("properties.jobs is required: a pipeline has at least one step.", target="properties.jobs")
    for name, node in (pipeline.jobs or {}).items():
        target = f"properties.jobs.{name}"
        if not isinstance(node.get("type"), str):
            raise Invalid(f"{target}.type is required, e.g. 'command'.", target=f"{target}.type")
        for port in _ports(node, "inputs", target):
            if not isinstance(port[1].get("job_input_type"), str):
                raise Invalid(f"{port[0]}.job_input_type is required, e.g. 'literal'.", target=f"{port[0]}.job_input_type")
        for port in _ports(node, "outputs", target):
            if not any(port[1].get(field) for field in ("value", "type", "job_output_type")):
                raise Invalid(f"{port[0]} needs 'value' or 'type'.", target=port[0])


def _ports(node: Mapping[str, object], kind: str, target: str) -> list[tuple[str, Mapping[str, object]]]:
    found = node.get(kind) or {}
    if not isinstance(found, Mapping):
        raise Invalid(f"{target}.{kind} must be an object.", target=f"{target}.{kind}")
    for name, port in found.items():
        if not isinstance(port, Mapping):
            raise Invalid(f"{target}.{kind}.{name} must be an object.", target=f"{target}.{kind}.{name}")
    return [(f"{target}.{kind}.{name}", port) for name, port in found.items()]


class BatchDefaults(Body):
    deployment_name: str | None = None


class BatchEndpointProperties(Body):
    auth_mode: str = "AADToken"
    description: str | None = None
    defaults: BatchDefaults | None = None
    properties: dict[str, object] | None = None


class _BatchModel(Body):
    reference_type: Literal["Id", "DataPath", "OutputPath"]


class _BatchCode(Body):
    scoring_script: _Text
    code_id: str | None = None


class BatchDeploymentProperties(Body):
    model: _BatchModel | None = None
    compute: str | None = None
    environment_id: str | None = None
    code_configuration: _BatchCode | None = None
    mini_batch_size: Annotated[int, Field(ge=1)] | None = None
    max_concurrency_per_instance: Annotated[int, Field(ge=1)] | None = None
    error_threshold: int | None = None
    output_action: str | None = None
    output_file_name: str | None = None
    environment_variables: dict[str, str] | None = None
    properties: dict[str, object] | None = None


class _JobDefinition(Body):
    job_type: _Text


class _Action(Body):
    action_type: _Text
    job_definition: _JobDefinition | None = None


class _Trigger(Body):
    trigger_type: Literal["Recurrence", "Cron"]
    expression: str | None = None
    frequency: str | None = None
    interval: Annotated[int, Field(ge=1)] | None = None


class ScheduleProperties(Body):
    action: _Action
    trigger: _Trigger
    is_enabled: bool | None = None


def read_schedule(raw: object) -> ScheduleProperties:
    """Check `properties` of a schedule; Invalid names every wrong field."""
    schedule = read(ScheduleProperties, raw)
    if schedule.action.action_type == "CreateJob" and schedule.action.job_definition is None:
        raise Invalid("properties.action.jobDefinition is required: the job to submit.", target="properties.action.jobDefinition")
    if schedule.trigger.trigger_type == "Cron" and not schedule.trigger.expression:
        raise Invalid("properties.trigger.expression is required, e.g. '0 8 * * 1'.", target="properties.trigger.expression")
    return schedule
