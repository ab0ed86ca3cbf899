"""The body of a command job. What becomes of the other types stands in `wire.later`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from moorage.errors import Invalid
from moorage.specs import command, distribution
from moorage.specs.durations import parse_duration
from moorage.specs.jobs import references
from moorage.wire.bodies import Body, Passable, passable, read

_ASSET_TYPES = Literal["uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model"]


class JobInput(Body):
    job_input_type: Literal["literal", "uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model"]
    value: Passable | None = None
    uri: str | None = None
    mode: Literal["ReadOnlyMount", "ReadWriteMount", "Download", "Direct", "EvalMount", "EvalDownload"] | None = None

    @model_validator(mode="after")
    def _has_its_value(self) -> JobInput:
        if self.job_input_type == "literal":
            if self.value is None:
                raise ValueError("a literal input needs 'value'. Write it as a string.")
        elif not self.uri:
            raise ValueError(f"a {self.job_input_type} input needs 'uri'. Give a path or an asset.")
        return self


class JobOutput(Body):
    job_output_type: _ASSET_TYPES = "uri_folder"
    uri: str | None = None
    mode: Literal["ReadWriteMount", "Upload", "Direct"] | None = None
    asset_name: str | None = None
    asset_version: str | None = None


class JobResources(Body):
    instance_type: str | None = None
    instance_count: Annotated[int, Field(ge=1, le=1000)] = 1
    max_instance_count: Annotated[int, Field(ge=1)] | None = None
    shm_size: Annotated[str, StringConstraints(pattern=r"^\d+[bkmgBKMG]$")] | None = None


class Distribution(Body):
    distribution_type: Literal["PyTorch", "TensorFlow", "Mpi"]
    process_count_per_instance: Annotated[int, Field(ge=1)] | None = None
    worker_count: Annotated[int, Field(ge=1)] | None = None
    parameter_server_count: Annotated[int, Field(ge=0)] | None = None


class JobLimits(Body):
    timeout: str | None = None

    @property
    def longest(self) -> timedelta | None:
        return parse_duration(self.timeout, target="properties.limits.timeout") if self.timeout else None


class QueueSettings(Body):
    priority: Annotated[int, Field(ge=1, le=3)] | None = None


class Identity(Body):
    identity_type: Literal["Managed", "AMLToken", "UserIdentity"]


_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=255)]
_EnvironmentVariable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_.-][A-Za-z0-9_.-]*$")]


class CommandJob(Body):
    """`properties` of a command job, as far as this service acts on it."""

    job_type: Literal["Command"]
    command: Annotated[str, StringConstraints(min_length=1), AfterValidator(passable)]
    environment_id: Annotated[str, StringConstraints(min_length=1)]
    compute_id: str = ""
    code_id: str | None = None
    display_name: str | None = None
    experiment_name: str | None = None
    description: str | None = None
    environment_variables: dict[_EnvironmentVariable, Passable] | None = None
    inputs: dict[_Name, JobInput] | None = None
    outputs: dict[_Name, JobOutput] | None = None
    resources: JobResources | None = None
    distribution: Distribution | None = None
    limits: JobLimits | None = None
    queue_settings: QueueSettings | None = None
    identity: Identity | None = None
    services: dict[str, dict[str, object] | None] | None = None
    tags: dict[str, str | None] | None = None
    properties: dict[str, str | None] | None = None
    is_archived: bool = False


def read_command_job(raw: object) -> CommandJob:
    """Read and check what can be checked without looking anything up.

    Raises:
        Invalid: another job type, or wrong fields; all of them named.
    """
    job = read(CommandJob, raw)
    _check_references(job)
    _check_counts(job)
    longest = (job.limits or JobLimits()).longest
    if longest is not None and longest < timedelta(seconds=1):
        raise Invalid("properties.limits.timeout must be at least one second (PT1S).", target="properties.limits.timeout")
    for name, output in (job.outputs or {}).items():
        for path in references(output.uri or ""):
            if path != "name":
                target = f"properties.outputs.{name}.uri"
                raise Invalid(
                    f"{target}: ${{{{{path}}}}} is unknown here; only ${{{{name}}}} (the job's name) can stand in an output's address.",
                    target=target,
                )
    return job


def _check_counts(job: CommandJob) -> None:
    """Refuse instance counts that contradict each other."""
    wanted = job.resources or JobResources()
    most = wanted.max_instance_count
    if most is not None and wanted.instance_count > most:
        raise Invalid(
            f"properties.resources.instanceCount is {wanted.instance_count}, above maxInstanceCount {most}. Lower it, or raise max_instance_count.",
            target="properties.resources.instanceCount",
        )
    if (spread := job.distribution) is not None:
        distribution.check(spread.distribution_type, wanted.instance_count, spread.worker_count, spread.parameter_server_count)


def _check_references(job: CommandJob) -> None:
    """Refuse a command that names an input or output the job does not have, before a pod finds out."""
    given, made = (dict.fromkeys(names or {}, "") for names in (job.inputs, job.outputs))
    try:
        command.resolve(job.command, given, made)
    except Invalid as error:
        raise Invalid(f"properties.command: {error.message}", code=error.code, target="properties.command") from error
