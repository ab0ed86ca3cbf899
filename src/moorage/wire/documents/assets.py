"""Environment, model and data documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from moorage.ids import digest
from moorage.specs.manifest import Manifest
from moorage.wire.documents.references import ASSET_NAME, Local, parse_reference
from moorage.wire.documents.shapes import Either, MapOf, Number, Plain, Record, Shape, Text, choices, reference_problem
from moorage.wire.documents.source import Finding, refuse
from moorage.wire.documents.support import FIELDS
from moorage.wire.documents.uses import Resolved, Role, Use, environment_uses

NAME = Text(
    check=lambda text: (
        None
        if ASSET_NAME.match(text)
        else f"'{text}' is not a valid name: letters, digits, '.', '_' and '-', at most 255, a letter or digit first."
    )
)
REFERENCE = Text(check=reference_problem)
TAGS = MapOf(Text(empty=True))
# What `show` prints and a user may send back; only the service sets them.
READ_ONLY = ("$schema", "id", "creation_context", "resourceGroup", "latest_version", "provisioning_state", "utc_time_created")
_COMMON: dict[str, Shape] = {"name": NAME, "version": NAME, "description": Text(empty=True), "tags": TAGS, "properties": MapOf(Plain())}


def _environment_rule(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "image" in values and "build" in values:
        return [("build", "give either 'image' or 'build', not both.")]
    if "image" not in values and "build" not in values:
        return [("image", "is required, and is missing: an environment is an image, with or without a conda_file, or a build context.")]
    if "conda_file" in values and "build" in values:
        return [("conda_file", "a build context brings its own packages; leave conda_file out, or give an image instead of 'build'.")]
    if isinstance(values.get("conda_file"), dict) and (problem := conda_problem(values["conda_file"])):
        return [("conda_file", problem)]
    return []


_CONDA_REMEDY = "belongs into the conda file, not the environment; put it under 'conda_file:' or into the file that names."
_ROUTE = Record({"port": Number(1, 65535), "path": Text()}, required=("port", "path"))
ENVIRONMENT = Record(
    {
        **_COMMON,
        "image": Text(),
        "conda_file": Either(Text(), Plain()),
        "build": Record({"path": REFERENCE, "dockerfile_path": Text()}, required=("path",)),
        "os_type": Text(choices("linux", "windows")),
        "inference_config": Record({"liveness_route": _ROUTE, "readiness_route": _ROUTE, "scoring_route": _ROUTE}),
        "datastore": Text(),
    },
    ignored=(*READ_ONLY, "type"),
    remedies={
        **FIELDS["environment"],
        "channels": _CONDA_REMEDY,
        "dependencies": _CONDA_REMEDY,
        "pip_requirements": "unknown field. List pip packages in the conda file: dependencies: [python=3.11, pip, {pip: [...]}].",
        "requirements": "unknown field. List pip packages in the conda file: dependencies: [python=3.11, pip, {pip: [...]}].",
        "docker": "unknown field. Give the image itself: `image: NAME:TAG`.",
    },
    rule=_environment_rule,
)
MODEL = Record(
    {
        **_COMMON,
        "path": REFERENCE,
        "type": Text(choices("custom_model", "mlflow_model", "triton_model")),
        "flavors": MapOf(MapOf(Plain())),
        "stage": Text(),
        "datastore": Text(),
    },
    required=("path",),
    ignored=(*READ_ONLY, "job_name"),
    remedies=FIELDS["model"],
)
DATA = Record(
    {**_COMMON, "path": REFERENCE, "type": Text(choices("uri_file", "uri_folder", "mltable")), "datastore": Text()},
    required=("path",),
    ignored=(*READ_ONLY, "skip_validation"),
    remedies=FIELDS["data"],
)


def conda_problem(conda: Any) -> str | None:
    """What is wrong with a conda specification, or None. Its packages are not looked up; that is known where they are installed."""
    if not isinstance(conda, dict):
        return "a conda file is a mapping with 'dependencies'."
    unknown = set(conda) - {"name", "channels", "dependencies", "prefix", "variables", "platforms"}
    if unknown:
        return f"a conda file has no '{sorted(unknown)[0]}'; it has name, channels and dependencies."
    if not isinstance(conda.get("dependencies"), list):
        return "a conda file needs 'dependencies', a list of packages."
    for item in conda["dependencies"]:
        if isinstance(item, str):
            continue
        if not isinstance(item, dict) or set(item) != {"pip"} or not isinstance(item["pip"], list):
            return f"'{item}' under dependencies is neither a package nor `pip:` with a list of packages."
        for line in item["pip"]:
            if not isinstance(line, str):
                return f"'{line}' under pip is no requirement; put it in quotes."
            if line.strip().startswith(("-r", "--requirement", "-c", "--constraint", "-e", "--editable")):
                return f"'{line}' under pip names a file that does not travel with the environment; list its packages here."
    return None


def conda_text(text: str, name: str) -> str:
    """A conda file's content as it goes over the wire; Invalid, with its name, when it is none."""
    try:
        conda = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise refuse([Finding(where, "", f"this is not valid YAML: {getattr(error, 'problem', None) or error}.")]) from error
    if problem := conda_problem(conda):
        raise refuse([Finding(name, "", problem)])
    return _dump(conda)


def _dump(conda: Manifest) -> str:
    return yaml.safe_dump(conda, sort_keys=False, allow_unicode=True, default_flow_style=False)


def environment_body(values: Manifest, resolved: Resolved, *, prefix: str = "", anonymous: bool = False) -> Manifest:
    """The environment version's ARM body; `resolved` has the conda file's text and the build context's URI."""
    properties: Manifest = {"isAnonymous": anonymous, "isArchived": False, "osType": (values.get("os_type") or "linux").capitalize()}
    if "image" in values:
        properties["image"] = values["image"]
    if "conda_file" in values:
        given = values["conda_file"]
        properties["condaFile"] = resolved[f"{prefix}conda_file"] if isinstance(given, str) else _dump(given)
    if "build" in values:
        build = values["build"]
        properties["build"] = {"contextUri": resolved[f"{prefix}build.path"], "dockerfilePath": build.get("dockerfile_path", "Dockerfile")}
    if "inference_config" in values:
        routes = {"liveness_route": "livenessRoute", "readiness_route": "readinessRoute", "scoring_route": "scoringRoute"}
        properties["inferenceConfig"] = {routes[name]: route for name, route in values["inference_config"].items()}
    return {"properties": {**properties, **_described(values)}}


def content_version(body: Manifest) -> str:
    """The version of an unnamed environment: the same content is the same version, so that a second submit changes nothing."""
    what = {name: body["properties"].get(name) for name in ("image", "condaFile", "build", "osType", "inferenceConfig")}
    return digest(json.dumps(what, sort_keys=True), length=32)


def model_body(values: Manifest, uri: str, *, anonymous: bool = False) -> Manifest:
    """The model version's ARM body; `uri` is where its files are."""
    properties: Manifest = {"modelType": values.get("type", "custom_model"), "modelUri": uri, "isAnonymous": anonymous, "isArchived": False}
    if "flavors" in values:
        properties["flavors"] = {name: {"data": data} for name, data in values["flavors"].items()}
    if "stage" in values:
        properties["stage"] = values["stage"]
    return {"properties": {**properties, **_described(values)}}


def data_body(values: Manifest, uri: str) -> Manifest:
    """The data version's ARM body."""
    properties = {"dataType": values.get("type", "uri_folder"), "dataUri": uri, "isAnonymous": False, "isArchived": False}
    return {"properties": {**properties, **_described(values)}}


def _described(values: Manifest) -> Manifest:
    found: Manifest = {"tags": values.get("tags", {}), "properties": values.get("properties", {})}
    if "description" in values:
        found["description"] = values["description"]
    return found


def environment_needs(values: Manifest) -> list[Use]:
    return environment_uses(values)


def path_needs(role: Role, values: Manifest) -> list[Use]:
    """The one thing a model or data document names: what lies at `path`."""
    reference = parse_reference(values["path"])
    kind = values.get("type", "custom_model" if role is Role.MODEL else "uri_folder")
    return [Use("path", role, reference, kind, datastore=values.get("datastore", ""))] if isinstance(reference, Local) else []
