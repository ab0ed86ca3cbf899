"""Environments: an image, a conda specification in a YAML string, or a Docker build context."""

from __future__ import annotations

import yaml

from moorage.errors import Invalid
from moorage.server.images import builds
from moorage.server.resources.assets import Asset, AssetType, routes, text_field
from moorage.specs.manifest import Manifest
from moorage.store import Resource, Transaction


def _complete(_: Transaction, asset: Asset) -> Manifest:
    # What a GET said besides; a client that sends it back does not mean it.
    properties = {name: value for name, value in asset.properties.items() if name != "moorage"}
    image = text_field(properties, "image", needed=False)
    conda = properties.get("condaFile")
    build = properties.get("build")
    if conda is not None:
        check_conda(conda)
    if build is not None:
        if not isinstance(build, dict):
            raise Invalid("properties.build must be an object with contextUri.", target="properties.build")
        text_field(build, "contextUri")
        build = {**build, "dockerfilePath": build.get("dockerfilePath") or "Dockerfile"}
        properties = {**properties, "build": build}
    if not image and not build and conda is None:
        raise Invalid("An environment needs an image, a conda file or a build context.", target="properties.image")
    if image and build:
        raise Invalid("An environment has either an image or a build context, not both.", target="properties.build")
    kind = "UserCreated" if not asset.name.startswith("AzureML-") else "Curated"
    return {"osType": "Linux", "environmentType": kind, "description": None, "tags": {}, "properties": {}, **_present(properties)}


def check_conda(text: object) -> Manifest:
    """The parsed conda specification; Invalid says what is wrong, and where if the YAML does not parse."""
    target = "properties.condaFile"
    if not isinstance(text, str):
        raise Invalid("The conda file must be YAML in a string.", target=target)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            # A few lines of nested aliases stand for gigabytes.
            raise Invalid("The conda file must not use YAML aliases (*name). Write the values out.", target=target)
        conda = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}" if error.problem_mark else ""
        raise Invalid(f"The conda file is not YAML: {error.problem}{where}.", target=target) from error
    except yaml.YAMLError as error:
        raise Invalid(f"The conda file is not YAML: {error}.", target=target) from error
    if not isinstance(conda, dict):
        raise Invalid("The conda file must be a YAML mapping with 'dependencies'.", target=target)
    dependencies = conda.get("dependencies")
    if not isinstance(dependencies, list):
        raise Invalid("The conda file needs a list 'dependencies'.", target=f"{target}.dependencies")
    for number, entry in enumerate(dependencies):
        place = f"{target}.dependencies[{number}]"
        if isinstance(entry, dict):
            pip = entry.get("pip")
            if set(entry) != {"pip"} or not isinstance(pip, list) or not all(isinstance(each, str) for each in pip):
                raise Invalid(
                    f"Entry {number + 1} of the conda file's dependencies must be a text or 'pip:' with a list of texts.", target=place
                )
        elif not isinstance(entry, str):
            raise Invalid(f"Entry {number + 1} of the conda file's dependencies must be a text, not {type(entry).__name__}.", target=place)
    channels = conda.get("channels")
    if channels is not None and (not isinstance(channels, list) or not all(isinstance(each, str) for each in channels)):
        raise Invalid("The conda file's 'channels' must be a list of texts.", target=f"{target}.channels")
    return conda


def _content(properties: Manifest) -> object:
    conda = properties.get("condaFile")
    build = properties.get("build") or {}
    # The SDK writes the YAML anew on every send.
    parsed = yaml.safe_load(conda) if conda else None
    return properties.get("image"), parsed, build.get("contextUri"), build.get("dockerfilePath"), properties.get("inferenceConfig")


def _present(properties: Manifest) -> Manifest:
    return {name: value for name, value in properties.items() if value is not None}


def _shown(tx: Transaction, version: Resource) -> Manifest | None:
    if not version.properties.get("build"):
        return None
    build = builds.newest(tx, version.key.workspace, version.key.parent, version.name)
    return {"imageBuild": build.shown()} if build else None


ENVIRONMENTS = AssetType("environments", _complete, _content, shown=_shown)
ROUTES = routes(ENVIRONMENTS)
