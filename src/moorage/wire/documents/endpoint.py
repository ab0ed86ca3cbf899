"""The kubernetesOnlineEndpoint and kubernetesOnlineDeployment documents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from moorage.ids import Workspace
from moorage.specs.durations import format_duration
from moorage.specs.manifest import Manifest
from moorage.wire.documents.assets import ENVIRONMENT, MODEL, READ_ONLY, REFERENCE, TAGS
from moorage.wire.documents.references import Local, Named, parse_reference
from moorage.wire.documents.shapes import Chosen, Either, Flag, ListOf, MapOf, Number, Plain, Record, Shape, Text, choices, compute_problem
from moorage.wire.documents.support import FIELDS
from moorage.wire.documents.uses import Resolved, Role, Use, asset_use, compute_id

_ENDPOINT_NAME = re.compile(r"^[A-Za-z](?:[A-Za-z0-9-]{1,30})[A-Za-z0-9]$")
_QUANTITY = re.compile(r"^\d+(?:\.\d+)?(?:m|[kKMGTPE]i?)?$")
_AUTH = {"key": "Key", "aml_token": "AMLToken", "aad_token": "AADToken"}
_SECONDS = Number(0, whole=False)

ENDPOINT_NAME = Text(
    check=lambda text: (
        None
        if _ENDPOINT_NAME.match(text)
        else f"'{text}' is not a valid name: 3 to 32 letters, digits and '-', a letter first, a letter or digit last."
    )
)
_IDENTITY_TYPE = Text(
    choices(
        "system_assigned",
        "user_assigned",
        "none",
        systemassigned="system_assigned",
        userassigned="user_assigned",
        **{"system_assigned,user_assigned": "system_assigned,user_assigned"},
    )
)
_ABOUT_IDENTITY: dict[str, Shape] = {"client_id": Text(), "principal_id": Text()}
_IDENTITIES = ListOf(Either(Text(), Record({"resource_id": Text(), **_ABOUT_IDENTITY}, required=("resource_id",))))
_KNOWN_TO_THE_SERVICE = ("principal_id", "tenant_id")
IDENTITY = Record({"type": _IDENTITY_TYPE, "user_assigned_identities": _IDENTITIES}, required=("type",), ignored=_KNOWN_TO_THE_SERVICE)
# A workspace's identities are the names of a mapping in the original's documents, where computes and endpoints have a list.
WORKSPACE_IDENTITY = Record(
    {"type": _IDENTITY_TYPE, "user_assigned_identities": Either(_IDENTITIES, MapOf(Record(_ABOUT_IDENTITY)))},
    required=("type",),
    ignored=_KNOWN_TO_THE_SERVICE,
)


def _traffic_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    traffic = values.get("traffic") or {}
    if (total := sum(traffic.values())) > 100:
        return [("traffic", f"the shares add up to {total}; they must not exceed 100.")]
    mirror = values.get("mirror_traffic") or {}
    if len(mirror) > 1:
        return [("mirror_traffic", "only one deployment can receive mirrored requests.")]
    if any(share > 50 for share in mirror.values()):
        return [("mirror_traffic", "at most 50 per cent of the requests can be mirrored.")]
    return []


ENDPOINT = Record(
    {
        "name": ENDPOINT_NAME,
        "description": Text(empty=True),
        "tags": TAGS,
        "properties": MapOf(Plain()),
        "auth_mode": Text(choices(*_AUTH, aadtoken="aad_token", amltoken="aml_token")),
        "compute": Text(check=compute_problem),
        "identity": IDENTITY,
        "traffic": MapOf(Number(0, 100)),
        "mirror_traffic": MapOf(Number(0, 100)),
    },
    required=("compute",),
    ignored=(*READ_ONLY, "scoring_uri", "openapi_uri", "kind", "location", "type"),
    remedies=FIELDS["online-endpoint"],
    rule=_traffic_rule,
)

_AMOUNT = Text(check=lambda text: None if _QUANTITY.match(text) else f"'{text}' is no Kubernetes quantity such as 500m, 2 or 1.5Gi.")
_RESOURCES = Record(dict.fromkeys(("cpu", "memory", "nvidia.com/gpu", "gpu"), _AMOUNT))
_PROBE = Record(
    {
        "initial_delay": _SECONDS,
        "period": _SECONDS,
        "timeout": _SECONDS,
        "success_threshold": Number(1),
        "failure_threshold": Number(1),
        "scheme": Text(),
        "method": Text(),
        "path": Text(),
        "port": Number(1, 65535),
    }
)


def _scale_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    low, high = values.get("min_instances"), values.get("max_instances")
    if low is not None and high is not None and low > high:
        return [("max_instances", f"{high} is less than min_instances ({low}).")]
    return []


def _deployment_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    scales = values.get("scale_settings", {}).get("type") == "target_utilization"
    if scales and "instance_count" in values:
        return [
            (
                "instance_count",
                "with scale_settings of type target_utilization the count follows min_instances and max_instances; remove it.",
            )
        ]
    code = values.get("code_configuration")
    if code and ("environment" not in values):
        return [("environment", "is required, and is missing: a scoring script needs the environment it runs in.")]
    if not code and "model" not in values:
        return [("model", "is required, and is missing: give a model, a code_configuration, or both.")]
    model = values.get("model")
    if isinstance(model, str) and isinstance(reference := parse_reference(model), Named) and not (reference.version or reference.label):
        return [("model", f"'{model}' names no version; write {model}:VERSION or {model}@latest.")]
    return []


DEPLOYMENT = Record(
    {
        "name": ENDPOINT_NAME,
        "endpoint_name": ENDPOINT_NAME,
        "type": Text(choices("kubernetes")),
        "description": Text(empty=True),
        "tags": TAGS,
        "properties": MapOf(Plain()),
        "model": Either(REFERENCE, MODEL),
        "model_mount_path": Text(),
        "code_configuration": Record({"code": REFERENCE, "scoring_script": Text()}, required=("code", "scoring_script")),
        "environment": Either(REFERENCE, ENVIRONMENT),
        "environment_variables": MapOf(Text(empty=True)),
        "instance_type": Text(),
        "instance_count": Number(0),
        "provisioning_timeout": Number(1),
        "app_insights_enabled": Flag(),
        "scale_settings": Chosen(
            "type",
            {
                "default": Record({"type": Text()}),
                "target_utilization": Record(
                    {
                        "type": Text(),
                        "min_instances": Number(0),
                        "max_instances": Number(1),
                        "polling_interval": Number(1),
                        "target_utilization_percentage": Number(1, 100),
                    },
                    rule=_scale_rule,
                ),
            },
        ),
        "request_settings": Record(
            {"request_timeout_ms": Number(1), "max_concurrent_requests_per_instance": Number(1), "max_queue_wait_ms": Number(0)}
        ),
        "liveness_probe": _PROBE,
        "readiness_probe": _PROBE,
        "resources": Record({"requests": _RESOURCES, "limits": _RESOURCES}),
        "data_collector": Record(
            {
                "collections": MapOf(
                    Record({"enabled": Flag(), "sampling_rate": Number(0, 1, whole=False), "client_id": Text(), "data": REFERENCE})
                ),
                "rolling_rate": Text(choices("minute", "hour", "day", "month", "year")),
                "sampling_rate": Number(0, 1, whole=False),
                "request_logging": Record({"capture_headers": ListOf(Text())}),
            }
        ),
    },
    required=("name", "endpoint_name"),
    ignored=READ_ONLY,
    remedies=FIELDS["online-deployment"],
    rule=_deployment_rule,
)


def deployment_needs(values: Manifest) -> list[Use]:
    """Code, environment and model of a deployment. A bare local path as `model:` is an unnamed model."""
    found: list[Use] = []
    if "code_configuration" in values:
        found.append(Use("code_configuration.code", Role.CODE, parse_reference(values["code_configuration"]["code"])))
    if "environment" in values:
        found.extend(asset_use("environment", Role.ENVIRONMENT, values["environment"]))
    if "model" in values:
        given = values["model"]
        if isinstance(given, str) and isinstance(parse_reference(given), Local):
            given = {"path": given}
        found.extend(asset_use("model", Role.MODEL, given))
    return found


def identity_body(values: Manifest) -> Manifest:
    """An `identity:` section as ARM has it."""
    kind = ",".join(
        {"system_assigned": "SystemAssigned", "user_assigned": "UserAssigned", "none": "None"}[part] for part in values["type"].split(",")
    )
    found: Manifest = {"type": kind}
    if values.get("user_assigned_identities"):
        ids = [item if isinstance(item, str) else item["resource_id"] for item in values["user_assigned_identities"]]
        found["userAssignedIdentities"] = {id: {} for id in ids}
    return found


def endpoint_body(values: Manifest, workspace: Workspace) -> Manifest:
    """The ARM body of `PUT onlineEndpoints/{name}`. Traffic names are lower-cased and zero shares left out, as the original's SDK does."""
    properties: Manifest = {
        "authMode": _AUTH[values.get("auth_mode", "key")],
        "compute": compute_id(workspace, values["compute"]),
        "traffic": _shares(values.get("traffic")),
        "mirrorTraffic": _shares(values.get("mirror_traffic")),
        "properties": values.get("properties", {}),
    }
    if "description" in values:
        properties["description"] = values["description"]
    return {
        "tags": values.get("tags", {}),
        "identity": identity_body(values.get("identity", {"type": "system_assigned"})),
        "properties": properties,
    }


def _shares(given: Mapping[str, int] | None) -> dict[str, int]:
    return {name.lower(): share for name, share in (given or {}).items() if share}


def deployment_body(values: Manifest, resolved: Resolved) -> Manifest:
    """The ARM body of `PUT onlineEndpoints/{e}/deployments/{d}`."""
    properties: Manifest = {
        "endpointComputeType": "Kubernetes",
        "environmentVariables": values.get("environment_variables", {}),
        "appInsightsEnabled": values.get("app_insights_enabled", False),
        "properties": values.get("properties", {}),
        "scaleSettings": _scale(values.get("scale_settings", {"type": "default"})),
        "containerResourceRequirements": _resources(values.get("resources", {})),
    }
    for name, wire in (("description", "description"), ("instance_type", "instanceType"), ("model_mount_path", "modelMountPath")):
        if name in values:
            properties[wire] = values[name]
    if "provisioning_timeout" in values:
        # Ours: the original fails every deployment that is not up within 20 minutes.
        properties["provisioningTimeout"] = format_duration(timedelta(seconds=values["provisioning_timeout"]))
    if "model" in values:
        properties["model"] = resolved["model"]
    if "environment" in values:
        properties["environmentId"] = resolved["environment"]
    if "code_configuration" in values:
        script = values["code_configuration"]["scoring_script"]
        properties["codeConfiguration"] = {"codeId": resolved["code_configuration.code"], "scoringScript": script}
    if "request_settings" in values:
        properties["requestSettings"] = _requests(values["request_settings"])
    for name, wire in (("liveness_probe", "livenessProbe"), ("readiness_probe", "readinessProbe")):
        if name in values:
            properties[wire] = _probe(values[name])
    if "data_collector" in values:
        properties["dataCollector"] = _collector(values["data_collector"])
    return {
        "tags": values.get("tags", {}),
        "sku": {"name": "Default", "capacity": values.get("instance_count", values.get("scale_settings", {}).get("min_instances", 1))},
        "properties": properties,
    }


def _requests(given: Manifest) -> Manifest:
    found: Manifest = {}
    for name, wire in (("request_timeout_ms", "requestTimeout"), ("max_queue_wait_ms", "maxQueueWait")):
        if name in given:
            found[wire] = format_duration(timedelta(milliseconds=given[name]))
    if "max_concurrent_requests_per_instance" in given:
        found["maxConcurrentRequestsPerInstance"] = given["max_concurrent_requests_per_instance"]
    return found


def _scale(given: Manifest) -> Manifest:
    if given["type"] == "default":
        return {"scaleType": "Default"}
    found: Manifest = {"scaleType": "TargetUtilization"}
    for name, wire in (
        ("min_instances", "minInstances"),
        ("max_instances", "maxInstances"),
        ("target_utilization_percentage", "targetUtilizationPercentage"),
    ):
        if name in given:
            found[wire] = given[name]
    if "polling_interval" in given:
        found["pollingInterval"] = format_duration(timedelta(seconds=given["polling_interval"]))
    return found


def _probe(given: Manifest) -> Manifest:
    found: Manifest = {}
    for name, wire in (("initial_delay", "initialDelay"), ("period", "period"), ("timeout", "timeout")):
        if name in given:
            found[wire] = format_duration(timedelta(seconds=given[name]))
    for name, wire in (("success_threshold", "successThreshold"), ("failure_threshold", "failureThreshold")):
        if name in given:
            found[wire] = given[name]
    for name in ("scheme", "method", "path", "port"):
        if name in given:
            found[name] = given[name]
    return found


def _resources(given: Manifest) -> Manifest:
    found: Manifest = {}
    for name, wire in (("requests", "containerResourceRequests"), ("limits", "containerResourceLimits")):
        if name in given:
            found[wire] = {("gpu" if resource == "nvidia.com/gpu" else resource): amount for resource, amount in given[name].items()}
    return found


def _collector(given: Manifest) -> Manifest:
    collections: Manifest = {}
    for name, collection in given.get("collections", {}).items():
        mode = "enabled" if collection.get("enabled", True) else "disabled"
        collections[name] = {"dataCollectionMode": mode, "samplingRate": collection.get("sampling_rate", given.get("sampling_rate", 1.0))}
        if "client_id" in collection:
            collections[name]["clientId"] = collection["client_id"]
    found: Manifest = {"collections": collections, "rollingRate": given.get("rolling_rate", "hour")}
    if "request_logging" in given:
        found["requestLogging"] = {"captureHeaders": given["request_logging"].get("capture_headers", [])}
    return found
