"""ARM resources as `az ml` shows them: snake_case, references as `azureml:NAME:VERSION`, the fields of the YAML document."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from moorage.cli import job_parts
from moorage.cli.naming import number, reference, seconds, snake, snaked, tidy, versioned
from moorage.specs.manifest import Manifest

_AUTH = {"key": "key", "amltoken": "aml_token", "aadtoken": "aad_token"}


def _group(id: str) -> str:
    found = re.search(r"/resourceGroups/([^/]+)", id, re.IGNORECASE)
    return found[1] if found else ""


def _base(resource: Manifest) -> Manifest:
    id = str(resource.get("id", ""))
    found: Manifest = {"id": id, "name": resource.get("name"), "resourceGroup": _group(id)}
    if resource.get("systemData"):
        found["creation_context"] = snaked(resource["systemData"])
    return found


def _story(told: Manifest) -> Manifest:
    shown = {
        "status_reason": "reason",
        "status_message": "message",
        "exit_code": "exitCode",
        "start_time": "startTime",
        "end_time": "endTime",
    }
    return {name: told[wire] for name, wire in shown.items() if told.get(wire) not in (None, "")}


def job(resource: Manifest) -> Manifest:
    """A job, in the words of its document (`moorage.cli.job_parts`)."""
    properties = resource.get("properties") or {}
    kind = str(properties.get("jobType", "")).lower()
    found = {
        **_base(resource),
        "type": kind,
        "status": properties.get("status"),
        # Ours: why it waits or failed, the exit code, and when it ran.
        **_story(properties.get("moorage") or {}),
        "display_name": properties.get("displayName"),
        "experiment_name": properties.get("experimentName"),
        "description": properties.get("description"),
        "tags": properties.get("tags") or {},
        "properties": properties.get("properties") or {},
        "compute": reference(properties.get("computeId")),
        "services": job_parts.services(properties.get("services")) or (None if kind in ("pipeline", "sweep") else {}),
        "inputs": job_parts.ports(properties.get("inputs"), "jobInputType"),
        "outputs": job_parts.ports(properties.get("outputs"), "jobOutputType"),
    }
    if kind == "command":
        found |= {
            "command": properties.get("command"),
            "code": reference(properties.get("codeId")),
            "environment": reference(properties.get("environmentId")),
            "environment_variables": properties.get("environmentVariables") or {},
            "resources": snaked(properties.get("resources")),
            "limits": job_parts.limits(properties.get("limits")),
            "distribution": job_parts.distribution(properties.get("distribution")),
            "identity": job_parts.identity(properties.get("identity")),
            "queue_settings": job_parts.queue(properties.get("queueSettings")),
        }
    elif kind == "pipeline":
        found |= {
            "jobs": job_parts.steps(properties.get("jobs")),
            "component": reference(properties.get("componentId")),
            "settings": job_parts.settings(properties.get("settings")),
            "identity": job_parts.identity(properties.get("identity")),
        }
    elif kind == "sweep":
        found |= job_parts.sweep(properties)
    return tidy(found)


def run(found: Manifest) -> Manifest:
    """A child of a job, of which the run history knows most."""
    return tidy(
        {
            "name": found.get("runId"),
            "type": str(found.get("runType") or "").removeprefix("azureml."),
            "status": found.get("status"),
            "display_name": found.get("displayName"),
            "experiment_name": found.get("experimentName"),
            "description": found.get("description"),
            "parent_job_name": found.get("parentRunId"),
            "compute": f"azureml:{found['target']}" if found.get("target") else None,
            "tags": found.get("tags") or {},
            "properties": found.get("properties") or {},
            "start_time": found.get("startTimeUtc"),
            "end_time": found.get("endTimeUtc"),
            "creation_context": {"created_at": found.get("createdUtc"), "created_by": (found.get("createdBy") or {}).get("userName")},
        }
    )


def _identity(section: Any) -> Manifest | None:
    """As a document writes it; the ids of user-assigned identities keep their case."""
    if not isinstance(section, Mapping):
        return None
    named = section.get("userAssignedIdentities") or {}
    return tidy(
        {
            "type": ",".join(snake(part.strip()) for part in str(section.get("type", "None")).split(",")),
            "principal_id": section.get("principalId"),
            "tenant_id": section.get("tenantId"),
            "user_assigned_identities": [{"resource_id": id, **tidy(snaked(rest or {}))} for id, rest in named.items()] or None,
        }
    )


def compute(resource: Manifest) -> Manifest:
    properties = resource.get("properties") or {}
    inner = properties.get("properties") or {}
    known = {
        "computeType",
        "resourceId",
        "computeLocation",
        "description",
        "properties",
        "provisioningState",
        "provisioningErrors",
        "createdOn",
    }
    return tidy(
        {
            **_base(resource),
            "type": str(properties.get("computeType", "")).lower(),
            "location": resource.get("location"),
            "description": properties.get("description"),
            "tags": resource.get("tags") or {},
            "resource_id": properties.get("resourceId"),
            "namespace": inner.get("namespace"),
            "identity": _identity(resource.get("identity")),
            "provisioning_state": properties.get("provisioningState"),
            "provisioning_errors": properties.get("provisioningErrors"),
            "created_on": properties.get("createdOn"),
            "properties": inner,
            **{snake(name): value for name, value in properties.items() if name not in known},
        }
    )


def asset(resource: Manifest) -> Manifest:
    """A version of a model, an environment or data, or the container of its versions."""
    id = str(resource.get("id", ""))
    found = versioned(id)
    properties = resource.get("properties") or {}
    names = {"modelType": "type", "dataType": "type", "modelUri": "path", "dataUri": "path"}
    entity = _base(resource)
    if found:
        entity |= {"name": found[0], "version": found[1]}
    for name, value in properties.items():
        if name in ("isAnonymous", "isArchived") and not value:
            continue
        key = names.get(name, snake(name))
        entity[key] = _ASSET_PARTS[name](value) if name in _ASSET_PARTS and value is not None else snaked(value)
    return tidy(entity)


def _flavors(given: Any) -> Any:
    return {name: each["data"] if isinstance(each, Mapping) and set(each) == {"data"} else each for name, each in given.items()}


def _conda(given: Any) -> Any:
    """The specification itself, as `az` shows it; what is no mapping stays text."""
    import yaml

    try:
        found = yaml.safe_load(given)
    except yaml.YAMLError:
        return given
    return found if isinstance(found, dict) else given


# Names in them are the user's, or not what a document calls them.
_ASSET_PARTS: Mapping[str, Callable[[Any], Any]] = {
    "tags": lambda given: given,
    "properties": lambda given: given,
    "componentSpec": lambda given: given,
    "flavors": _flavors,
    "condaFile": _conda,
    "osType": lambda given: str(given).lower(),
    "build": lambda given: {"path" if name == "context_uri" else name: value for name, value in snaked(given).items()},
}


def endpoint(resource: Manifest) -> Manifest:
    properties = resource.get("properties") or {}
    mode = str(properties.get("authMode", ""))
    return tidy(
        {
            **_base(resource),
            "auth_mode": _AUTH.get(mode.lower(), mode),
            "compute": reference(properties.get("compute")),
            "description": properties.get("description"),
            "kind": "Kubernetes" if properties.get("compute") else "Managed",
            "location": resource.get("location"),
            "tags": resource.get("tags") or {},
            "properties": properties.get("properties") or {},
            "identity": _identity(resource.get("identity")),
            "provisioning_state": properties.get("provisioningState"),
            "scoring_uri": properties.get("scoringUri"),
            "openapi_uri": properties.get("swaggerUri"),
            "traffic": properties.get("traffic") or {},
            "mirror_traffic": properties.get("mirrorTraffic") or {},
        }
    )


def deployment(resource: Manifest) -> Manifest:
    properties = resource.get("properties") or {}
    id = str(resource.get("id", ""))
    of = re.search(r"/onlineEndpoints/([^/]+)/deployments/", id, re.IGNORECASE)
    code = properties.get("codeConfiguration")
    requirements = properties.get("containerResourceRequirements") or {}
    scale = properties.get("scaleSettings") or {}
    known = {
        "endpointComputeType", "model", "environmentId", "codeConfiguration", "containerResourceRequirements", "scaleSettings",
        "properties", "environmentVariables", "requestSettings", "livenessProbe", "readinessProbe", "dataCollector", "provisioningTimeout",
    }  # fmt: skip
    return tidy(
        {
            **_base(resource),
            "endpoint_name": of[1] if of else None,
            "type": str(properties.get("endpointComputeType", "")).lower(),
            "tags": resource.get("tags") or {},
            "model": reference(properties.get("model")),
            "environment": reference(properties.get("environmentId")),
            "code_configuration": {"code": reference(code.get("codeId")), "scoring_script": code.get("scoringScript")} if code else None,
            "environment_variables": properties.get("environmentVariables") or {},
            "provisioning_timeout": seconds(properties.get("provisioningTimeout")),
            "instance_count": (resource.get("sku") or {}).get("capacity") if scale.get("scaleType") != "TargetUtilization" else None,
            "resources": _resources(requirements),
            "scale_settings": _scale(scale),
            "request_settings": _requests(properties.get("requestSettings")),
            "liveness_probe": _probe(properties.get("livenessProbe")),
            "readiness_probe": _probe(properties.get("readinessProbe")),
            "data_collector": _collector(properties.get("dataCollector")),
            "properties": properties.get("properties") or {},
            **{snake(name): snaked(value) for name, value in properties.items() if name not in known},
        }
    )


_DATASTORES = {"AzureBlob": "azure_blob", "AzureDataLakeGen2": "azure_data_lake_gen2", "AzureFile": "azure_file", "OneLake": "one_lake"}
_SECRETS = {"sasToken": "sas_token", "key": "account_key", "clientSecret": "client_secret", "certificate": "certificate"}


def datastore(resource: Manifest, secrets: Manifest | None = None) -> Manifest:
    """A datastore; with its secrets only when they are given (`listSecrets`)."""
    properties = resource.get("properties") or {}
    kind = str(properties.get("datastoreType", ""))
    held = properties.get("credentials") or {}
    credentials = {snake(name): value for name, value in held.items() if name not in ("credentialsType", "secrets")}
    credentials |= {field: secrets[wire] for wire, field in _SECRETS.items() if (secrets or {}).get(wire)} if secrets else {}
    plain = {
        "accountName": "account_name",
        "containerName": "container_name",
        "filesystem": "filesystem",
        "fileShareName": "file_share_name",
    }
    return tidy(
        {
            **_base(resource),
            "type": _DATASTORES.get(kind, snake(kind)),
            "description": properties.get("description"),
            "tags": properties.get("tags") or resource.get("tags") or {},
            **{field: properties.get(wire) for wire, field in plain.items()},
            "endpoint": properties.get("endpoint"),
            "protocol": properties.get("protocol"),
            "credentials": credentials,
            "is_default": bool(properties.get("isDefault")),
        }
    )


def batch_endpoint(resource: Manifest) -> Manifest:
    properties = resource.get("properties") or {}
    mode = str(properties.get("authMode", ""))
    default = (properties.get("defaults") or {}).get("deploymentName")
    return tidy(
        {
            **_base(resource),
            "auth_mode": _AUTH.get(mode.lower(), mode),
            "description": properties.get("description"),
            "defaults": {"deployment_name": default} if default else {},
            "location": resource.get("location"),
            "tags": resource.get("tags") or {},
            "properties": properties.get("properties") or {},
            "identity": _identity(resource.get("identity")),
            "provisioning_state": properties.get("provisioningState"),
            "scoring_uri": properties.get("scoringUri"),
            "openapi_uri": properties.get("swaggerUri"),
        }
    )


def batch_deployment(resource: Manifest) -> Manifest:
    properties = resource.get("properties") or {}
    of = re.search(r"/batchEndpoints/([^/]+)/deployments/", str(resource.get("id", "")), re.IGNORECASE)
    code, retry, action = properties.get("codeConfiguration"), properties.get("retrySettings"), properties.get("outputAction")
    plain = (
        "description", "miniBatchSize", "maxConcurrencyPerInstance", "outputFileName", "loggingLevel", "errorThreshold", "provisioningState",
    )  # fmt: skip
    return tidy(
        {
            **_base(resource),
            "endpoint_name": of[1] if of else None,
            "type": "model",
            "tags": resource.get("tags") or {},
            "model": reference((properties.get("model") or {}).get("assetId")),
            "environment": reference(properties.get("environmentId")),
            "code_configuration": {"code": reference(code.get("codeId")), "scoring_script": code.get("scoringScript")} if code else None,
            "compute": reference(properties.get("compute")),
            "resources": tidy(snaked(properties.get("resources") or {})) or None,
            "environment_variables": properties.get("environmentVariables") or {},
            "output_action": snake(action) if action else None,
            "retry_settings": tidy({"max_retries": retry.get("maxRetries"), "timeout": seconds(retry.get("timeout"))}) if retry else None,
            "properties": properties.get("properties") or {},
            **{snake(name): properties.get(name) for name in plain},
        }
    )


def schedule(resource: Manifest) -> Manifest:
    properties = resource.get("properties") or {}
    action, given = properties.get("action") or {}, properties.get("trigger") or {}
    definition = action.get("jobDefinition") or {}
    trigger = {snake(name): snaked(value) for name, value in given.items() if name != "triggerType" and value is not None}
    source = re.search(r"/jobs/([^/]+)$", str(definition.get("sourceJobId") or ""))
    return tidy(
        {
            **_base(resource),
            "display_name": properties.get("displayName"),
            "description": properties.get("description"),
            "tags": properties.get("tags") or {},
            "properties": properties.get("properties") or {},
            "trigger": {"type": snake(str(given.get("triggerType", ""))), **trigger},
            "create_job": f"azureml:{source[1]}" if source else job({"properties": definition}),
            "is_enabled": bool(properties.get("isEnabled")),
            "provisioning_state": properties.get("provisioningState"),
        }
    )


def _milliseconds(text: Any) -> Any:
    found = seconds(text)
    return number(found * 1000) if isinstance(found, int | float) else found


def _resources(given: Manifest) -> Manifest | None:
    found: Manifest = {}
    for name, wire in (("requests", "containerResourceRequests"), ("limits", "containerResourceLimits")):
        if given.get(wire):
            found[name] = {("nvidia.com/gpu" if key == "gpu" else key): value for key, value in given[wire].items() if value is not None}
    return found or None


def _scale(given: Manifest) -> Manifest | None:
    if not given:
        return None
    found = {snake(name): value for name, value in given.items() if name != "scaleType"} | {"type": snake(str(given.get("scaleType")))}
    if "polling_interval" in found:
        found["polling_interval"] = seconds(found["polling_interval"])
    return tidy(found)


def _requests(given: Any) -> Manifest | None:
    if not given:
        return None
    return tidy(
        {
            "request_timeout_ms": _milliseconds(given.get("requestTimeout")),
            "max_queue_wait_ms": _milliseconds(given.get("maxQueueWait")),
            "max_concurrent_requests_per_instance": given.get("maxConcurrentRequestsPerInstance"),
        }
    )


def _probe(given: Any) -> Manifest | None:
    if not given:
        return None
    spans = ("initialDelay", "period", "timeout")
    return tidy({snake(name): seconds(value) if name in spans else value for name, value in given.items()})


def _collector(given: Any) -> Manifest | None:
    if not given:
        return None
    collections = {
        name: tidy(
            {
                "enabled": str(item.get("dataCollectionMode", "")).lower() == "enabled",
                "sampling_rate": item.get("samplingRate"),
                "client_id": item.get("clientId"),
            }
        )
        for name, item in (given.get("collections") or {}).items()
    }
    logging = given.get("requestLogging")
    headers = {"capture_headers": logging.get("captureHeaders") or []} if logging else None
    return tidy({"collections": collections, "rolling_rate": str(given.get("rollingRate", "hour")).lower(), "request_logging": headers})


def cluster(resource: Manifest) -> Manifest:
    return tidy({**_base(resource), **snaked(resource.get("properties") or {})})


def workspace(resource: Manifest) -> Manifest:
    found = _base(resource)
    properties = resource.get("properties") or {}
    return tidy(
        {
            **found,
            "display_name": properties.get("friendlyName"),
            "resource_group": found["resourceGroup"],
            "location": resource.get("location"),
            "tags": resource.get("tags") or {},
            **{snake(name): snaked(value) for name, value in properties.items() if name != "friendlyName"},
        }
    )
