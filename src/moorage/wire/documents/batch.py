"""The batchEndpoint and modelBatchDeployment documents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from moorage.ids import Workspace
from moorage.specs.durations import format_duration
from moorage.specs.manifest import Manifest
from moorage.wire.documents import job
from moorage.wire.documents.assets import ENVIRONMENT, MODEL, READ_ONLY, REFERENCE, TAGS
from moorage.wire.documents.endpoint import ENDPOINT_NAME, IDENTITY, deployment_needs, identity_body
from moorage.wire.documents.shapes import Either, MapOf, Number, Plain, Record, Shape, Text, choices
from moorage.wire.documents.support import FIELDS
from moorage.wire.documents.uses import Resolved, Use, compute_id

ENDPOINT = Record(
    {
        "name": ENDPOINT_NAME,
        "description": Text(empty=True),
        "tags": TAGS,
        "properties": MapOf(Plain()),
        "auth_mode": Text(choices("aad_token", aadtoken="aad_token")),
        "identity": IDENTITY,
        "defaults": Record({"deployment_name": Text()}),
    },
    ignored=(*READ_ONLY, "scoring_uri", "openapi_uri", "kind", "location", "type"),
    remedies=FIELDS["batch-endpoint"],
)
_ACTIONS = {"append_row": "AppendRow", "summary_only": "SummaryOnly"}
_SETTINGS: dict[str, Shape] = {
    "mini_batch_size": Number(1),
    "max_concurrency_per_instance": Number(1),
    "output_action": Text(choices(*_ACTIONS)),
    "output_file_name": Text(),
    "retry_settings": Record({"max_retries": Number(0), "timeout": Number(1)}),
    "logging_level": Text(choices("debug", "info", "warning")),
    "error_threshold": Number(-1),
    "environment_variables": job.VARIABLES,
}


def _deployment_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    twice = sorted(set(_SETTINGS) & set(values) & set(values.get("settings", {})))
    if twice:
        return [(twice[0], "is given here and under settings; keep one.")]
    if "code_configuration" in values and "environment" not in values:
        return [("environment", "is required, and is missing: a scoring script needs the environment it runs in.")]
    return []


DEPLOYMENT = Record(
    {
        "name": ENDPOINT_NAME,
        "endpoint_name": ENDPOINT_NAME,
        "type": Text(choices("model")),
        "description": Text(empty=True),
        "tags": TAGS,
        "properties": MapOf(Plain()),
        "model": Either(REFERENCE, MODEL),
        "code_configuration": Record({"code": REFERENCE, "scoring_script": Text()}, required=("code", "scoring_script")),
        "environment": Either(REFERENCE, ENVIRONMENT),
        "compute": job.COMPUTE_FIELD,
        "resources": job.RESOURCES,
        "settings": Record({**_SETTINGS, "instance_count": Number(1)}),
        **_SETTINGS,
    },
    required=("name", "endpoint_name", "model", "compute"),
    ignored=(*READ_ONLY, "creation_context"),
    remedies=FIELDS["batch-deployment"],
    rule=_deployment_rule,
)


def endpoint_body(values: Manifest) -> Manifest:
    """The ARM body of `PUT batchEndpoints/{name}`."""
    properties: Manifest = {"authMode": "aadToken", "properties": values.get("properties", {})}
    if "description" in values:
        properties["description"] = values["description"]
    if "deployment_name" in values.get("defaults", {}):
        properties["defaults"] = {"deploymentName": values["defaults"]["deployment_name"]}
    found: Manifest = {"tags": values.get("tags", {}), "properties": properties}
    if "identity" in values:
        found["identity"] = identity_body(values["identity"])
    return found


def needs(values: Manifest) -> list[Use]:
    return deployment_needs(values)


def deployment_body(values: Manifest, workspace: Workspace, resolved: Resolved) -> Manifest:
    """The ARM body of `PUT batchEndpoints/{e}/deployments/{d}`."""
    settings = {**{name: values[name] for name in _SETTINGS if name in values}, **values.get("settings", {})}
    properties: Manifest = {
        "compute": compute_id(workspace, values["compute"]),
        "model": {"referenceType": "Id", "assetId": resolved["model"]},
        "environmentVariables": settings.get("environment_variables", {}),
        "properties": values.get("properties", {}),
    }
    if "description" in values:
        properties["description"] = values["description"]
    if "environment" in values:
        properties["environmentId"] = resolved["environment"]
    if "code_configuration" in values:
        script = values["code_configuration"]["scoring_script"]
        properties["codeConfiguration"] = {"codeId": resolved["code_configuration.code"], "scoringScript": script}
    if "output_action" in settings:
        properties["outputAction"] = _ACTIONS[settings["output_action"]]
    if "retry_settings" in settings:
        given = settings["retry_settings"]
        retry = {"maxRetries": given["max_retries"]} if "max_retries" in given else {}
        timeout = {"timeout": format_duration(timedelta(seconds=given["timeout"]))} if "timeout" in given else {}
        properties["retrySettings"] = {**retry, **timeout}
    for name in ("mini_batch_size", "max_concurrency_per_instance", "output_file_name", "logging_level", "error_threshold"):
        if name in settings:
            properties[job.camel(name)] = settings[name]
    resources = dict(values.get("resources") or {})
    if "instance_count" in settings:
        resources.setdefault("instance_count", settings["instance_count"])
    properties |= job.sections({"resources": resources})
    return {"tags": values.get("tags", {}), "properties": properties}
