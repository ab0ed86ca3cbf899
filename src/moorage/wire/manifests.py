"""From API bodies to the custom resources a cluster runs. Pure: equal bodies and assets render equal manifests, so a repeat writes nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from moorage.ids import Workspace, kube_name, label_value
from moorage.specs.durations import parse_duration
from moorage.specs.endpoints import CONCURRENT_REQUESTS, QUEUE_WAIT, REQUEST_TIMEOUT
from moorage.specs.manifest import Manifest
from moorage.specs.routing import TokenTerms
from moorage.wire.assets import DeploymentAssets, JobAssets
from moorage.wire.bodies import without_nulls
from moorage.wire.deployments import DeploymentProperties, ProbeSettings, RequestSettings, ScaleSettings, resources
from moorage.wire.endpoints import EndpointProperties
from moorage.wire.jobs import CommandJob, JobInput, JobLimits, JobOutput, JobResources

# The original's fixed limit.
PROVISIONED_WITHIN_SECONDS = 1200
API_VERSION = "moorage.dev/v1alpha1"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a workload goes: a workspace's compute target and its namespace in the cluster."""

    workspace: Workspace
    compute: str
    namespace: str

    def spec(self) -> Manifest:
        own = self.workspace
        return {"subscription": own.subscription, "resourceGroup": own.resource_group, "workspace": own.name, "compute": self.compute}

    def metadata(self, name: str, labels: Mapping[str, str]) -> Manifest:
        own = {
            "moorage.dev/desired": "true",
            "app.kubernetes.io/managed-by": "moorage",
            "ml.azure.com/workspace": label_value(self.workspace.name),
            "ml.azure.com/resource-group": label_value(self.workspace.resource_group),
            "ml.azure.com/compute": label_value(self.compute),
        }
        return {"name": name, "namespace": self.namespace, "labels": {**own, **labels}}


def training_job(place: Placement, name: str, job: CommandJob, assets: JobAssets, *, instance_type: str) -> Manifest:
    """The TrainingJob of a command job.

    Args:
        place: its compute.
        name: the job's name.
        job: its body.
        assets: what the body's references stand for.
        instance_type: as chosen, the default's name included.
    """
    kube = kube_name(place.workspace, name)
    wanted = job.resources or JobResources()
    longest = (job.limits or JobLimits()).longest
    spec = {
        **place.spec(),
        "job": name,
        "experiment": job.experiment_name,
        "command": job.command,
        "environmentVariables": dict(job.environment_variables or {}),
        "environment": assets.environment.rendered(),
        "code": {"uri": assets.code} if assets.code else None,
        "inputs": {key: _input(item, assets.inputs.get(key)) for key, item in (job.inputs or {}).items()},
        "outputs": {key: _output(item, assets.outputs[key]) for key, item in (job.outputs or {}).items()},
        "artifactsUri": assets.artifacts,
        "resources": without_nulls(
            {"instanceType": instance_type, "instanceCount": wanted.instance_count, "shmSize": _kubernetes_size(wanted.shm_size)}
        ),
        "distribution": _distribution(job),
        "limits": {"timeoutSeconds": math.ceil(longest.total_seconds())} if longest else None,
        "priority": job.queue_settings.priority if job.queue_settings else None,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainingJob",
        "metadata": place.metadata(kube, {"moorage.dev/job": label_value(kube)}),
        "spec": without_nulls(spec),
    }


def cancelled(manifest: Manifest) -> Manifest:
    """The TrainingJob with the wish that it stops."""
    return {**manifest, "spec": {**manifest["spec"], "cancelRequested": True}}


def _input(item: JobInput, address: str | None) -> Manifest:
    if item.job_input_type == "literal":
        return {"type": "literal", "value": item.value}
    return without_nulls({"type": item.job_input_type, "uri": address, "mode": item.mode})


def _output(item: JobOutput, address: str) -> Manifest:
    return without_nulls({"type": item.job_output_type, "uri": address, "mode": item.mode})


def _distribution(job: CommandJob) -> Manifest | None:
    if job.distribution is None:
        return None
    return without_nulls(
        {
            "type": job.distribution.distribution_type,
            "processCountPerInstance": job.distribution.process_count_per_instance,
            "workerCount": job.distribution.worker_count,
            "parameterServerCount": job.distribution.parameter_server_count,
        }
    )


def _kubernetes_size(docker: str | None) -> str | None:
    """Docker's `3g` is Kubernetes' `3Gi`."""
    if docker is None:
        return None
    return docker[:-1] + {"b": "", "k": "Ki", "m": "Mi", "g": "Gi"}[docker[-1].lower()]


def online_endpoint(
    place: Placement,
    name: str,
    endpoint: EndpointProperties,
    *,
    deployments: Collection[str],
    key_digests: Sequence[str] = (),
    tokens: TokenTerms | None = None,
) -> Manifest:
    """The OnlineEndpoint of an endpoint.

    Args:
        place: its compute.
        name: the endpoint's name.
        endpoint: its body.
        deployments: names as created; clients lower the names in `traffic`, the cluster compares them exactly.
        key_digests: SHA-256 of each accepted key.
        tokens: which tokens are accepted.
    """
    spec = {
        **place.spec(),
        "endpoint": name,
        "authMode": endpoint.auth.value,
        "keySha256": list(key_digests) or None,
        "auth": token_terms(tokens) if tokens else None,
        "traffic": _split(endpoint.traffic, deployments),
        "mirrorTraffic": _split(endpoint.mirror_traffic, deployments),
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "OnlineEndpoint",
        "metadata": place.metadata(kube_name(place.workspace, name), {"moorage.dev/endpoint": label_value(name)}),
        # `traffic: {}` is kept: it is the wish that nobody gets any.
        "spec": without_nulls(spec) | {"traffic": spec["traffic"]},
    }


def token_terms(terms: TokenTerms) -> Manifest:
    """`spec.auth` of an OnlineEndpoint."""
    return {"audience": terms.audience, "generation": terms.generation, "publicKeys": list(terms.public_keys)}


def _split(shares: Mapping[str, int] | None, deployments: Collection[str]) -> dict[str, int]:
    names = {name.lower(): name for name in deployments}
    return {names[name.lower()]: share for name, share in sorted((shares or {}).items()) if share and name.lower() in names}


def online_deployment(
    place: Placement, endpoint: str, name: str, deployment: DeploymentProperties, assets: DeploymentAssets, *, replicas: int
) -> Manifest:
    """The OnlineDeployment of a deployment.

    Args:
        place: its endpoint's compute.
        endpoint: the endpoint's name.
        name: the deployment's.
        deployment: its body.
        assets: what the body's references stand for.
        replicas: `sku.capacity`.
    """
    code = deployment.code_configuration
    spec = {
        **place.spec(),
        "endpoint": endpoint,
        "deployment": name,
        "model": assets.model.rendered() if assets.model else None,
        "code": {"uri": assets.code, "scoringScript": code.scoring_script} if code and assets.code else None,
        "environment": assets.environment.rendered(),
        "environmentVariables": dict(deployment.environment_variables or {}),
        "instanceType": deployment.instance_type,
        "resources": resources(deployment.container_resource_requirements),
        "replicas": replicas,
        "scale": _scale(deployment.scale_settings),
        "requests": _requests(deployment.request_settings or RequestSettings()),
        "livenessProbe": _probe(deployment.liveness_probe, "livenessProbe"),
        "readinessProbe": _probe(deployment.readiness_probe, "readinessProbe"),
        "progressDeadlineSeconds": _seconds(deployment.provisioning_timeout, "properties.provisioningTimeout")
        or PROVISIONED_WITHIN_SECONDS,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "OnlineDeployment",
        "metadata": place.metadata(
            kube_name(place.workspace, endpoint, name),
            {"moorage.dev/endpoint": label_value(endpoint), "moorage.dev/deployment": label_value(name)},
        ),
        "spec": without_nulls(spec),
    }


def _scale(scale: ScaleSettings | None) -> Manifest | None:
    if scale is None or scale.scale_type == "Default":
        return None
    return without_nulls(
        {
            "type": scale.scale_type,
            "minInstances": scale.min_instances if scale.min_instances is not None else 1,
            "maxInstances": scale.max_instances if scale.max_instances is not None else 1,
            "targetUtilizationPercentage": scale.target_utilization_percentage,
            "pollingIntervalSeconds": _seconds(scale.polling_interval, "properties.scaleSettings.pollingInterval"),
        }
    )


def _requests(settings: RequestSettings) -> Manifest:
    # Never left to the cluster's defaults: a client that sends the defaults back explicitly must not seem to change anything.
    timeout, wait = settings.request_timeout, settings.max_queue_wait
    return {
        "timeoutMilliseconds": _milliseconds(timeout, REQUEST_TIMEOUT, "properties.requestSettings.requestTimeout", least=1),
        "queueWaitMilliseconds": _milliseconds(wait, QUEUE_WAIT, "properties.requestSettings.maxQueueWait", least=0),
        "concurrencyPerInstance": settings.max_concurrent_requests_per_instance or CONCURRENT_REQUESTS,
    }


def _probe(probe: ProbeSettings | None, field: str) -> Manifest | None:
    if probe is None:
        return None
    target = f"properties.{field}"
    return without_nulls(
        {
            "initialDelaySeconds": _seconds(probe.initial_delay, f"{target}.initialDelay", least=0),
            "periodSeconds": _seconds(probe.period, f"{target}.period"),
            "timeoutSeconds": _seconds(probe.timeout, f"{target}.timeout"),
            "successThreshold": probe.success_threshold,
            "failureThreshold": probe.failure_threshold,
        }
    )


def _seconds(text: str | None, target: str, *, least: int = 1) -> int | None:
    return None if text is None else max(least, math.ceil(parse_duration(text, target=target).total_seconds()))


def _milliseconds(text: str | None, default: timedelta, target: str, *, least: int) -> int:
    span = default if text is None else parse_duration(text, target=target)
    return max(least, math.ceil(span.total_seconds() * 1000))
