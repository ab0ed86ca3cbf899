"""Bodies of kinds that are stored and do not run yet (`wire.later`), checked as far as the SDK's own readers need them: one body that they cannot
read would break every list it stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.bodies import Body, read

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
    """Check a job of `later.STORED_JOBS` as far as those need it who read it back; Invalid names every wrong field."""
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


class _BatchInput(Body):
    job_input_type: _Text
    uri: str | None = None
    value: object = None


class _BatchOutput(Body):
    job_output_type: _Text
    uri: str | None = None


class BatchJobProperties(Body):
    """What invoking a batch endpoint sends."""

    name: str | None = None
    input_data: dict[str, _BatchInput] | None = None
    output_data: dict[str, _BatchOutput] | None = None
    mini_batch_size: Annotated[int, Field(ge=1)] | None = None
    error_threshold: int | None = None
    output_file_name: str | None = None
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
