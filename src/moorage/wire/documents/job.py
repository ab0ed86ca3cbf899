"""The commandJob document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from moorage.ids import Workspace
from moorage.specs.durations import format_duration
from moorage.specs.manifest import Manifest
from moorage.wire.documents.assets import ENVIRONMENT, NAME, READ_ONLY, REFERENCE, TAGS
from moorage.wire.documents.references import Uri, parse_reference
from moorage.wire.documents.shapes import (
    Chosen,
    Either,
    Literal,
    MapOf,
    Number,
    Optional,
    Plain,
    Record,
    Shape,
    Text,
    choices,
    compute_problem,
)
from moorage.wire.documents.support import FIELDS
from moorage.wire.documents.uses import MODEL_TYPES, Resolved, Role, Use, asset_use, compute_id

INPUT_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")
INPUT_RULE = "letters, digits and '_', a letter or '_' first"
_ASSET_TYPES = choices("uri_file", "uri_folder", "mltable", *MODEL_TYPES)
INPUT_MODES = {
    "ro_mount": "ReadOnlyMount",
    "rw_mount": "ReadWriteMount",
    "download": "Download",
    "direct": "Direct",
    "eval_mount": "EvalMount",
    "eval_download": "EvalDownload",
}
OUTPUT_MODES = {"rw_mount": "ReadWriteMount", "mount": "ReadWriteMount", "upload": "Upload", "direct": "Direct"}
_SERVICES = {"jupyter_lab": "JupyterLab", "vs_code": "VSCode", "ssh": "SSH", "tensor_board": "TensorBoard"}
_POSITIVE = Number(1)
_PLACEHOLDER = re.compile(r"\$\{\{\s*(?P<what>inputs|outputs)\.(?P<name>[^}\s.]+)[^}]*\}\}")


def _code_problem(text: str) -> str | None:
    if text.startswith(("git+", "git://", "ssh://", "http://", "https://")):
        return "code in a git repository is not supported yet; clone it and name the folder."
    return None if REFERENCE.check is None else REFERENCE.check(text)


def _input_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "path" not in values and "value" not in values:
        return [("path", "is required, and is missing: a local path, azureml:NAME:VERSION, azureml://... or https://...")]
    if "path" in values and "value" in values:
        return [("value", "give either 'path' or 'value', not both.")]
    return []


def output_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with one output as a whole."""
    if "path" in values and not isinstance(parse_reference(values["path"]), Uri):
        return [("path", f"'{values['path']}' is a local path; an output goes to azureml://datastores/NAME/paths/..., or leave path out.")]
    if "version" in values and "name" not in values:
        return [("version", "an output with a version needs a name to be registered under.")]
    return []


_INPUT = Record(
    {"type": Text(_ASSET_TYPES), "path": REFERENCE, "mode": Text(choices(*INPUT_MODES)), "value": Literal(), "datastore": Text()},
    rule=_input_rule,
)
OUTPUT = Record(
    {"type": Text(_ASSET_TYPES), "path": REFERENCE, "mode": Text(choices(*OUTPUT_MODES)), "name": NAME, "version": NAME},
    rule=output_rule,
)
_TYPED: dict[str, Shape] = {"type": Text()}
_SERVICE: dict[str, Shape] = {**_TYPED, "port": Number(1, 65535), "nodes": Text(), "properties": MapOf(Text(empty=True))}


def placeholder_problems(command: str, values: Mapping[str, Any], at: str) -> list[tuple[str, str]]:
    """A placeholder that names nothing would reach the user's program as it stands; say so here."""
    problems = []
    for found in _PLACEHOLDER.finditer(command):
        what, name = found["what"], found["name"]
        known = values.get(what) or {}
        if name not in known and not (what == "outputs" and name == "default"):
            has = f"it has {', '.join(known)}" if known else "it has none"
            problems.append((at, f"'{found[0]}' names no field under {what}; {has}."))
    return problems


ABOUT: dict[str, Shape] = {
    "name": NAME,
    "display_name": Text(),
    "experiment_name": Text(),
    "description": Text(empty=True),
    "tags": TAGS,
    "properties": MapOf(Text(empty=True)),
}
CODE = Text(check=_code_problem)
VARIABLES = MapOf(Text(empty=True))
COMPUTE_FIELD = Text(check=compute_problem)
RESOURCES = Record(
    {
        "instance_count": _POSITIVE,
        "instance_type": Text(),
        "shm_size": Text(
            check=lambda text: None if re.match(r"^\d+[bkmg]?$", text, re.IGNORECASE) else f"'{text}' is no size such as 2g or 512m."
        ),
        "docker_args": Text(empty=True),
        "properties": MapOf(Plain()),
        "locations": Plain(),
        "max_instance_count": _POSITIVE,
    },
    remedies={"cpu": "unknown field. CPU, memory and GPU come from the instance type; name one in instance_type."},
)
DISTRIBUTION = Chosen(
    "type",
    {
        "pytorch": Record({**_TYPED, "process_count_per_instance": _POSITIVE}),
        "mpi": Record({**_TYPED, "process_count_per_instance": _POSITIVE}),
        "tensorflow": Record({**_TYPED, "parameter_server_count": Number(0), "worker_count": _POSITIVE}),
    },
)
INPUTS = MapOf(Either(Literal(), _INPUT), INPUT_NAME, INPUT_RULE)
OUTPUTS = MapOf(Optional(OUTPUT, dict), INPUT_NAME, INPUT_RULE)
IDENTITY = Chosen(
    "type",
    {
        "managed": (managed := Record({**_TYPED, "client_id": Text(), "object_id": Text(), "msi_resource_id": Text()})),
        "managed_identity": managed,
        "aml_token": Record(_TYPED),
        "user_identity": Record(_TYPED),
    },
)
SERVICES = MapOf(
    Chosen(
        "type",
        {
            "ssh": Record({**_SERVICE, "ssh_public_keys": Text()}),
            "tensor_board": Record({**_SERVICE, "log_dir": Text()}),
            "jupyter_lab": Record(_SERVICE),
            "vs_code": Record(_SERVICE),
        },
    )
)
QUEUE_SETTINGS = Record(
    {"job_tier": Text(choices("null", "spot", "basic", "standard", "premium")), "priority": Text(choices("low", "medium", "high"))}
)
# What a command has, as a job, a component's or a step's.
COMMAND: dict[str, Shape] = {
    "command": Text(),
    "code": CODE,
    "environment": Either(REFERENCE, ENVIRONMENT),
    "environment_variables": VARIABLES,
    "compute": COMPUTE_FIELD,
    "resources": RESOURCES,
    "limits": Record({"timeout": Number(1)}),
    "distribution": DISTRIBUTION,
    "identity": IDENTITY,
    "services": SERVICES,
    "queue_settings": QUEUE_SETTINGS,
}
REMEDIES = {
    **FIELDS["job"],
    "instance_type": "unknown field here. It stands under resources: `resources: {instance_type: NAME}`.",
    "instance_count": "unknown field here. It stands under resources: `resources: {instance_count: N}`.",
    "timeout": "unknown field here. It stands under limits: `limits: {timeout: SECONDS}`.",
}
# What `show` prints of a job besides.
IGNORED = (*READ_ONLY, "status", "parameters")
COMMAND_JOB = Record(
    {**ABOUT, **COMMAND, "type": Text(choices("command")), "inputs": INPUTS, "outputs": OUTPUTS},
    required=("command", "environment"),
    ignored=IGNORED,
    remedies=REMEDIES,
    rule=lambda values: placeholder_problems(str(values.get("command", "")), values, "command"),
)


def needs(values: Manifest) -> list[Use]:
    """Code, environment and inputs of a job."""
    found: list[Use] = []
    if "code" in values:
        found.append(Use("code", Role.CODE, parse_reference(values["code"])))
    found.extend(asset_use("environment", Role.ENVIRONMENT, values["environment"]))
    return [*found, *input_needs(values)]


def input_needs(values: Manifest, prefix: str = "") -> list[Use]:
    """The inputs that name something."""
    found: list[Use] = []
    for name, given in values.get("inputs", {}).items():
        if isinstance(given, dict) and "path" in given:
            kind = given.get("type", "uri_folder")
            role = Role.MODEL if kind in MODEL_TYPES else Role.DATA
            found.append(
                Use(f"{prefix}inputs.{name}.path", role, parse_reference(given["path"]), kind, datastore=given.get("datastore", ""))
            )
    return found


def body(values: Manifest, workspace: Workspace, resolved: Resolved) -> Manifest:
    """The ARM body of `PUT jobs/{name}`."""
    properties: Manifest = {
        "jobType": "Command",
        **about(values),
        "command": values["command"],
        "environmentId": resolved["environment"],
        "environmentVariables": values.get("environment_variables", {}),
        "inputs": inputs_body(values, resolved),
        "outputs": outputs_body(values),
    }
    if "code" in values:
        properties["codeId"] = resolved["code"]
    if "compute" in values:
        properties["computeId"] = compute_id(workspace, values["compute"])
    if "limits" in values and "timeout" in values["limits"]:
        properties["limits"] = {"jobLimitsType": "Command", "timeout": format_duration(timedelta(seconds=values["limits"]["timeout"]))}
    return {"properties": {**properties, **sections(values)}}


def about(values: Manifest) -> Manifest:
    """What every kind of job says about itself."""
    found: Manifest = {
        "displayName": values.get("display_name") or values.get("name"),
        "experimentName": values.get("experiment_name", "Default"),
        "tags": values.get("tags", {}),
        "properties": values.get("properties", {}),
        "isArchived": False,
    }
    if "description" in values:
        found["description"] = values["description"]
    return found


def inputs_body(values: Manifest, resolved: Resolved, prefix: str = "") -> Manifest:
    return {name: _input(f"{prefix}inputs.{name}.path", given, resolved) for name, given in values.get("inputs", {}).items()}


def outputs_body(values: Manifest) -> Manifest:
    return {name: _output(given) for name, given in values.get("outputs", {}).items()}


def sections(values: Manifest) -> Manifest:
    """Resources, distribution, identity, services and queue settings, of those that are there."""
    return {camel(field): convert(values[field]) for field, convert in _SECTIONS.items() if values.get(field)}


def _input(field: str, given: str | Manifest, resolved: Resolved) -> Manifest:
    if isinstance(given, str):
        return {"jobInputType": "literal", "value": given}
    if "value" in given:
        return {"jobInputType": "literal", "value": given["value"]}
    found = {"jobInputType": given.get("type", "uri_folder"), "uri": resolved[field]}
    if "mode" in given:
        found["mode"] = INPUT_MODES[given["mode"]]
    return found


def _output(given: Manifest) -> Manifest:
    found = {"jobOutputType": given.get("type", "uri_folder"), "mode": OUTPUT_MODES[given.get("mode", "rw_mount")]}
    for field, wire in (("path", "uri"), ("name", "assetName"), ("version", "assetVersion")):
        if field in given:
            found[wire] = given[field]
    return found


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _resources(given: Manifest) -> Manifest:
    return {camel(name): value for name, value in given.items()}


def _distribution(given: Manifest) -> Manifest:
    kind = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "mpi": "Mpi"}[given["type"]]
    # Said always, as the original's SDK does; without parameter servers there are none.
    servers = {"parameterServerCount": 0} if given["type"] == "tensorflow" else {}
    return {"distributionType": kind, **servers, **{camel(name): value for name, value in given.items() if name != "type"}}


def _identity(given: Manifest) -> Manifest:
    kind = {"aml_token": "AMLToken", "user_identity": "UserIdentity"}.get(given["type"], "Managed")
    names = {"client_id": "clientId", "object_id": "objectId", "msi_resource_id": "resourceId"}
    return {"identityType": kind, **{names[name]: value for name, value in given.items() if name != "type"}}


def _services(given: Manifest) -> Manifest:
    found: Manifest = {}
    for name, service in given.items():
        properties = dict(service.get("properties", {}))
        if "log_dir" in service:
            properties["logDir"] = service["log_dir"]
        if "ssh_public_keys" in service:
            properties["sshPublicKeys"] = service["ssh_public_keys"]
        found[name] = {"jobServiceType": _SERVICES[service["type"]]}
        if "port" in service:
            found[name]["port"] = service["port"]
        if "nodes" in service:
            found[name]["nodes"] = {"nodesValueType": "All"} if service["nodes"].lower() == "all" else {"nodesValueType": service["nodes"]}
        if properties:
            found[name]["properties"] = properties
    return found


def _queue(given: Manifest) -> Manifest:
    found: Manifest = {}
    if "job_tier" in given:
        found["jobTier"] = given["job_tier"].capitalize()
    if "priority" in given:
        found["priority"] = {"low": 1, "medium": 2, "high": 3}[given["priority"]]
    return found


_SECTIONS = {"resources": _resources, "distribution": _distribution, "identity": _identity, "services": _services, "queue_settings": _queue}
