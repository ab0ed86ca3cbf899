"""The batchEndpoint and modelBatchDeployment documents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from moorage.ids import Workspace
from moorage.specs.durations import format_duration
from moorage.specs.manifest import Manifest
from moorage.wire.documents import job
from moorage.wire.documents.assets import ENVIRONMENT, MODEL, NAME, READ_ONLY, REFERENCE, TAGS
from moorage.wire.documents.endpoint import ENDPOINT_NAME, IDENTITY, deployment_needs, identity_body
from moorage.wire.documents.references import Uri, parse_reference
from moorage.wire.documents.shapes import Either, MapOf, Number, Plain, Record, Shape, Text, choices
from moorage.wire.documents.support import FIELDS
from moorage.wire.documents.uses import MODEL_TYPES, Resolved, Role, Use, compute_id

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
_RETRY = Record({"max_retries": Number(0), "timeout": Number(1)})
_ACTIONS = {"append_row": "AppendRow", "summary_only": "SummaryOnly"}
_SETTINGS: dict[str, Shape] = {
    "mini_batch_size": Number(1),
    "max_concurrency_per_instance": Number(1),
    "output_action": Text(choices(*_ACTIONS)),
    "output_file_name": Text(),
    "retry_settings": _RETRY,
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
    settings = {**values, **values.get("settings", {})}
    if settings.get("output_action") == "summary_only" and "output_file_name" in settings:
        return [("output_file_name", "with output_action summary_only no file is written; leave one of them out.")]
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


_DATA = {"uri_file": "UriFile", "uri_folder": "UriFolder", "mltable": "MLTable"} | dict(
    zip(MODEL_TYPES, ("CustomModel", "MLFlowModel", "TritonModel"), strict=True)
)


def _invocation_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "input" in values and values.get("inputs"):
        return [("input", "give either --input or `inputs` in the file, not both.")]
    if "input_type" in values and "input" not in values:
        return [("input_type", "says what --input is, which is missing.")]
    if "output_path" in values and not isinstance(parse_reference(values["output_path"]), Uri):
        return [("output_path", f"'{values['output_path']}' is no place in a datastore; write azureml://datastores/NAME/paths/...")]
    return []


# What `invoke` says, by options and in a file.
INVOCATION = Record(
    {
        "input": REFERENCE,
        "input_type": Text(choices("uri_folder", "uri_file")),
        "inputs": job.INPUTS,
        "outputs": job.OUTPUTS,
        "output_path": REFERENCE,
        "output_file_name": Text(),
        "job_name": NAME,
        "experiment_name": Text(),
        "instance_count": Number(1),
        "mini_batch_size": Number(1),
        "error_threshold": Number(-1),
        "retry_settings": _RETRY,
        "properties": MapOf(Plain()),
    },
    ignored=("$schema",),
    rule=_invocation_rule,
)


def invocation_needs(values: Manifest) -> list[Use]:
    """The inputs that name something."""
    if "input" in values:
        return [Use("input", Role.DATA, parse_reference(values["input"]), values.get("input_type", "uri_folder"))]
    return job.input_needs(values)


def invocation_body(values: Manifest, resolved: Resolved) -> Manifest:
    """The body of `POST {scoringUri}`, as the original's SDK has it."""
    properties: Manifest = {}
    if "input" in values:
        kind = _DATA[values.get("input_type", "uri_folder")]
        properties["inputData"] = {kind: {"jobInputType": kind, "uri": resolved["input"]}}
    elif values.get("inputs"):
        properties["inputData"] = {name: _input(given, resolved.get(f"inputs.{name}.path")) for name, given in values["inputs"].items()}
    if values.get("outputs"):
        properties["outputData"] = {name: _output(given) for name, given in values["outputs"].items()}
    if "output_path" in values:
        properties["outputDataset"] = {"path": values["output_path"]}
    if "retry_settings" in values:
        properties["retrySettings"] = _retry(values["retry_settings"])
    if "instance_count" in values:
        properties["compute"] = {"instanceCount": values["instance_count"]}
    for name, wire in _PLAIN.items():
        if name in values:
            properties[wire] = values[name]
    if values.get("properties") or "experiment_name" in values:
        named = {"experimentName": values["experiment_name"]} if "experiment_name" in values else {}
        properties["properties"] = {**values.get("properties", {}), **named}
    return {"properties": properties}


_PLAIN = {"output_file_name": "outputFileName", "mini_batch_size": "miniBatchSize", "error_threshold": "errorThreshold", "job_name": "name"}


def _input(given: str | Manifest, uri: str | None) -> Manifest:
    if uri is None:
        return {"jobInputType": "Literal", "value": given if isinstance(given, str) else given["value"]}
    assert isinstance(given, dict)
    return {"jobInputType": _DATA[given.get("type", "uri_folder")], "uri": uri}


def _output(given: Manifest) -> Manifest:
    mode = {"mode": job.OUTPUT_MODES[given["mode"]]} if "mode" in given else {}
    return {"jobOutputType": _DATA[given.get("type", "uri_folder")], **mode, **({"uri": given["path"]} if "path" in given else {})}


def _retry(given: Manifest) -> Manifest:
    retry = {"maxRetries": given["max_retries"]} if "max_retries" in given else {}
    return {**retry, **({"timeout": format_duration(timedelta(seconds=given["timeout"]))} if "timeout" in given else {})}


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
        properties["retrySettings"] = _retry(settings["retry_settings"])
    for name in ("mini_batch_size", "max_concurrency_per_instance", "output_file_name", "logging_level", "error_threshold"):
        if name in settings:
            properties[job.camel(name)] = settings[name]
    resources = dict(values.get("resources") or {})
    if "instance_count" in settings:
        resources.setdefault("instance_count", settings["instance_count"])
    properties |= job.sections({"resources": resources})
    return {"tags": values.get("tags", {}), "properties": properties}
