"""Component documents: command, parallel and pipeline. Their specification goes over the wire in the document's own words (snake_case)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from moorage.ids import digest
from moorage.specs.manifest import Manifest
from moorage.wire.documents import job
from moorage.wire.documents.assets import ENVIRONMENT, NAME, READ_ONLY, REFERENCE, TAGS
from moorage.wire.documents.references import Local, parse_reference
from moorage.wire.documents.shapes import Chosen, Either, Flag, ListOf, Literal, MapOf, Number, Plain, Record, Shape, Text, choices
from moorage.wire.documents.support import FIELDS
from moorage.wire.documents.uses import Resolved, Role, Use, asset_use

ANONYMOUS_COMPONENT = "azureml_anonymous"
PRIMITIVES = ("string", "integer", "number", "boolean")
_PORTS = ("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model", "path")
_SIZE = re.compile(r"^(?P<number>\d+)\s*(?P<unit>kb|mb|gb)?$", re.IGNORECASE)
_UNITS = {"": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3}
_REMOTE = re.compile(r"^(?:azureml:|[A-Za-z][A-Za-z0-9+.\-]+://)")
_BINDING = re.compile(r"^\s*\$\{\{.*\}\}\s*$")

_INPUT = Record(
    {
        "type": Text(choices(*PRIMITIVES, *_PORTS)),
        "description": Text(empty=True),
        "optional": Flag(),
        "default": Literal(),
        "mode": Text(choices(*job.INPUT_MODES)),
        "min": Literal(),
        "max": Literal(),
        "enum": ListOf(Literal()),
    },
    required=("type",),
)
_OUTPUT = Record(
    {
        "type": Text(choices(*_PORTS, *PRIMITIVES)),
        "description": Text(empty=True),
        "mode": Text(choices(*job.OUTPUT_MODES)),
    },
    required=("type",),
)


def size_problem(text: str) -> str | None:
    if _BINDING.match(text) or _SIZE.match(text):
        return None
    return f"'{text}' is no size of a mini-batch: a number of files, or bytes such as 10kb or 1mb."


def bytes_of(text: str) -> str:
    """`10kb` -> `10240`; a number of files stays as it is."""
    found = _SIZE.match(text)
    return text if found is None else str(int(found["number"]) * _UNITS[(found["unit"] or "").lower()])


def _include_problem(text: str) -> str | None:
    if _REMOTE.match(text):
        return f"'{text}' is no local path; only files and folders beside the document can be included."
    return None


def _command_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    if values.get("additional_includes") and "code" in values and not isinstance(parse_reference(values["code"]), Local):
        return [("additional_includes", f"files are put beside local code, and '{values['code']}' is none; leave one of them out.")]
    return job.placeholder_problems(str(values["command"]), values, "command")


TASK = Record(
    {
        "type": Text(choices("run_function", "model", "function")),
        "code": job.CODE,
        "entry_script": Text(),
        "program_arguments": Text(empty=True),
        "model": REFERENCE,
        "append_row_to": Text(),
        "environment": Either(REFERENCE, ENVIRONMENT),
    },
    required=("type", "environment"),
)
# What mini-batches need, in a component and in a step.
BATCHES: dict[str, Shape] = {
    "task": TASK,
    "mini_batch_size": Text(check=size_problem),
    "partition_keys": ListOf(Text()),
    "input_data": Text(),
    "logging_level": Text(choices("debug", "info", "warn", "warning")),
    "retry_settings": Record({"timeout": Number(1), "max_retries": Number(0)}),
    "max_concurrency_per_instance": Number(1),
    "error_threshold": Number(-1),
    "mini_batch_error_threshold": Number(-1),
    "resources": job.RESOURCES,
}
_ABOUT: dict[str, Shape] = {
    "type": Text(choices("command", "parallel", "pipeline")),
    "name": NAME,
    "version": NAME,
    "display_name": Text(),
    "description": Text(empty=True),
    "tags": TAGS,
    "properties": MapOf(Plain()),
    "is_deterministic": Flag(),
    "inputs": MapOf(_INPUT, job.INPUT_NAME, job.INPUT_RULE),
    "outputs": MapOf(_OUTPUT, job.INPUT_NAME, job.INPUT_RULE),
}
_IGNORED = (*READ_ONLY, "creation_context")
_COMMAND = Record(
    {
        **_ABOUT,
        **{name: job.COMMAND[name] for name in ("command", "code", "environment", "resources", "distribution")},
        "additional_includes": ListOf(Text(check=_include_problem)),
    },
    required=("command", "environment"),
    ignored=_IGNORED,
    remedies={
        **job.REMEDIES,
        **FIELDS["component"],
        "compute": "a component has none; name it in the step or in the pipeline.",
    },
    rule=_command_rule,
)
_PARALLEL = Record({**_ABOUT, **BATCHES}, required=("task",), ignored=_IGNORED, remedies=FIELDS["component"])


def component(pipeline_steps: Shape, settings: Shape) -> Chosen:
    """The shape of a component; the steps of a pipeline component have one that is made of it."""
    pipeline = Record(
        {**_ABOUT, "jobs": pipeline_steps, "settings": settings}, required=("jobs",), ignored=_IGNORED, remedies=FIELDS["component"]
    )
    return Chosen("type", {"command": _COMMAND, "parallel": _PARALLEL, "pipeline": pipeline}, default="command")


def needs(values: Manifest, prefix: str = "") -> list[Use]:
    """Code, environment and, of a parallel one, the task's."""
    if values["type"] == "parallel":
        return task_needs(values["task"], f"{prefix}task.")
    includes = tuple(values.get("additional_includes", ()))
    code = parse_reference(values["code"]) if "code" in values else None
    found = [Use(f"{prefix}code", Role.CODE, code, includes=includes)] if code or includes else []
    return [*found, *asset_use(f"{prefix}environment", Role.ENVIRONMENT, values["environment"])]


def task_needs(task: Manifest, prefix: str) -> list[Use]:
    found = [Use(f"{prefix}code", Role.CODE, parse_reference(task["code"]))] if "code" in task else []
    found += asset_use(f"{prefix}environment", Role.ENVIRONMENT, task["environment"])
    if "model" in task:
        found.append(Use(f"{prefix}model", Role.MODEL, parse_reference(task["model"]), "custom_model"))
    return found


def spec(values: Manifest, resolved: Resolved) -> Manifest:
    """`componentSpec`, without what a pipeline's steps become."""
    left = ("properties", "code", "environment", "task", "inputs", "outputs", "jobs", "mini_batch_size")
    found: Manifest = {name: value for name, value in values.items() if name not in left}
    found |= {"is_deterministic": values.get("is_deterministic", True), "_source": "YAML.COMPONENT"}
    found["inputs"] = {name: _port(port) for name, port in values.get("inputs", {}).items()}
    found["outputs"] = {name: dict(port) for name, port in values.get("outputs", {}).items()}
    if "code" in resolved:
        found["code"] = _prefixed(resolved["code"])
    if "environment" in values:
        found["environment"] = _prefixed(resolved["environment"])
    if "task" in values:
        found["task"] = task_body(values["task"], resolved, "task.")
    if "mini_batch_size" in values:
        found["mini_batch_size"] = bytes_of(values["mini_batch_size"])
    if "partition_keys" in values:
        found["partition_keys"] = json.dumps(values["partition_keys"])
    if "logging_level" in values:
        found["logging_level"] = values["logging_level"].upper()
    return found


def _port(port: Manifest) -> Manifest:
    """An input as it goes over the wire: a number's bounds are decimal fractions, as the original's SDK writes them."""
    if port["type"] != "number":
        return dict(port)
    return {name: str(float(value)) if name in ("default", "min", "max") else value for name, value in port.items()}


def task_body(task: Manifest, resolved: Resolved, prefix: str) -> Manifest:
    """A parallel task with what its references stand for."""
    return {name: _prefixed(resolved[f"{prefix}{name}"]) if f"{prefix}{name}" in resolved else value for name, value in task.items()}


def _prefixed(id: str) -> str:
    """Inside a specification ids carry `azureml:`, so that they cannot be taken for paths."""
    return f"azureml:{id}" if id.startswith("/") else id


def component_body(values: Manifest, specification: Manifest, *, anonymous: bool = False) -> Manifest:
    """The ARM body of `PUT components/{name}/versions/{v}`."""
    properties: Manifest = {
        "componentSpec": specification,
        "isAnonymous": anonymous,
        "isArchived": False,
        "properties": values.get("properties", {}),
        "tags": values.get("tags", {}),
    }
    if "description" in values:
        properties["description"] = values["description"]
    return {"properties": properties}


def content_version(body: Manifest) -> str:
    """The version of an unnamed component: the same content is the same version."""
    specification = {name: value for name, value in body["properties"]["componentSpec"].items() if name not in ("name", "version")}
    return digest(json.dumps(specification, sort_keys=True), length=32)
