"""The body of an online deployment on a Kubernetes compute, with the defaults that an answer must always show."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from moorage.errors import Invalid
from moorage.specs.durations import format_duration, parse_duration
from moorage.specs.endpoints import CONCURRENT_REQUESTS, QUEUE_WAIT, REQUEST_TIMEOUT
from moorage.specs.manifest import Manifest
from moorage.wire.bodies import Body, Passable, read

_Amount = str | int | float


class CodeConfiguration(Body):
    code_id: Annotated[str, StringConstraints(min_length=1)]
    scoring_script: Annotated[str, StringConstraints(min_length=1)]


class ScaleSettings(Body):
    scale_type: Literal["Default", "TargetUtilization"] = "Default"
    min_instances: Annotated[int, Field(ge=0)] | None = None
    max_instances: Annotated[int, Field(ge=1)] | None = None
    polling_interval: str | None = None
    target_utilization_percentage: Annotated[int, Field(ge=1, le=100)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ScaleSettings:
        if self.min_instances is not None and self.max_instances is not None and self.min_instances > self.max_instances:
            raise ValueError(f"minInstances {self.min_instances} is more than maxInstances {self.max_instances}. Swap or change them.")
        return self


class RequestSettings(Body):
    request_timeout: str | None = None
    max_concurrent_requests_per_instance: Annotated[int, Field(ge=1)] | None = None
    max_queue_wait: str | None = None


class ProbeSettings(Body):
    failure_threshold: Annotated[int, Field(ge=1)] | None = None
    success_threshold: Annotated[int, Field(ge=1)] | None = None
    timeout: str | None = None
    period: str | None = None
    initial_delay: str | None = None


class ResourceRequirements(Body):
    container_resource_requests: dict[str, _Amount | None] | None = None
    container_resource_limits: dict[str, _Amount | None] | None = None


class DeploymentProperties(Body):
    endpoint_compute_type: Literal["Kubernetes"] = "Kubernetes"
    environment_id: Annotated[str, StringConstraints(min_length=1)]
    model: str | None = None
    code_configuration: CodeConfiguration | None = None
    instance_type: str | None = None
    environment_variables: dict[str, Passable] | None = None
    description: str | None = None
    container_resource_requirements: ResourceRequirements | None = None
    scale_settings: ScaleSettings | None = None
    request_settings: RequestSettings | None = None
    liveness_probe: ProbeSettings | None = None
    readiness_probe: ProbeSettings | None = None
    provisioning_timeout: str | None = None
    properties: dict[str, object] | None = None


class Sku(Body):
    name: str = "Default"
    capacity: Annotated[int, Field(ge=0)] = 1


def read_deployment(raw: object) -> DeploymentProperties:
    """Read `properties` of an online deployment; Invalid names every wrong field, durations included."""
    kind = str(raw.get("endpointComputeType") or "Kubernetes") if isinstance(raw, dict) else "Kubernetes"
    if kind != "Kubernetes":
        raise Invalid(
            f"properties.endpointComputeType: '{kind}' deployments do not exist here. Use kind kubernetesOnlineDeployment.",
            target="properties.endpointComputeType",
        )
    deployment = read(DeploymentProperties, raw)
    for target, text in _durations(deployment):
        if parse_duration(text, target=target) < timedelta(0):
            raise Invalid(f"{target}: a duration cannot be negative.", target=target)
    return deployment


def _durations(deployment: DeploymentProperties) -> list[tuple[str, str]]:
    requests = deployment.request_settings or RequestSettings()
    scale = deployment.scale_settings or ScaleSettings()
    found = [
        ("properties.requestSettings.requestTimeout", requests.request_timeout),
        ("properties.requestSettings.maxQueueWait", requests.max_queue_wait),
        ("properties.scaleSettings.pollingInterval", scale.polling_interval),
        ("properties.provisioningTimeout", deployment.provisioning_timeout),
    ]
    for field, probe in (("livenessProbe", deployment.liveness_probe), ("readinessProbe", deployment.readiness_probe)):
        if probe:
            found += [(f"properties.{field}.{name}", getattr(probe, name)) for name in ("timeout", "period")]
            found += [(f"properties.{field}.initialDelay", probe.initial_delay)]
    return [(target, text) for target, text in found if text is not None]


def answered(raw: Manifest) -> Manifest:
    """The properties with what an answer must always contain (contract 7): compute type, scale type, resources, request settings."""
    requests = {
        "requestTimeout": format_duration(REQUEST_TIMEOUT),
        "maxQueueWait": format_duration(QUEUE_WAIT),
        "maxConcurrentRequestsPerInstance": CONCURRENT_REQUESTS,
        **_given(raw.get("requestSettings")),
    }
    return {
        **raw,
        "endpointComputeType": "Kubernetes",
        "scaleSettings": {"scaleType": "Default", **_given(raw.get("scaleSettings"))},
        "containerResourceRequirements": raw.get("containerResourceRequirements") or {},
        "environmentVariables": raw.get("environmentVariables") or {},
        "requestSettings": requests,
        "properties": raw.get("properties") or {},
    }


def _given(part: object) -> Manifest:
    return {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}


def resources(requirements: ResourceRequirements | None) -> dict[str, dict[str, str]]:
    """`requests` and `limits` in Kubernetes' words: `gpu` means `nvidia.com/gpu`, amounts are strings."""
    if requirements is None:
        return {}
    parts = {"requests": requirements.container_resource_requests, "limits": requirements.container_resource_limits}
    return {
        part: {("nvidia.com/gpu" if name == "gpu" else name): str(amount) for name, amount in amounts.items() if amount not in (None, "")}
        for part, amounts in parts.items()
        if amounts
    }
