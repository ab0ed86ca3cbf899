"""How ARM's words become those of a document: names in snake_case, references as `azureml:NAME:VERSION`, durations in seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from moorage.errors import Invalid
from moorage.specs.durations import parse_duration
from moorage.specs.manifest import Manifest

_VERSIONED = re.compile(r"/(?:codes|environments|models|data|components)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)$")
_PLAIN = re.compile(r"/(?:computes|datastores)/(?P<name>[^/]+)$")


def snake(name: str) -> str:
    """`createdByType` -> `created_by_type`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def snaked(value: Any) -> Any:
    """Names of ours in snake_case, all the way down."""
    if isinstance(value, Mapping):
        return {snake(str(key)): snaked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [snaked(item) for item in value]
    return value


def versioned(id: str) -> tuple[str, str] | None:
    """Name and version of an asset's id."""
    found = _VERSIONED.search(id)
    return (found["name"], found["version"]) if found else None


def reference(id: Any) -> Any:
    """A resource id as a document would write it."""
    if not isinstance(id, str):
        return id
    if named := versioned(id):
        return f"azureml:{named[0]}:{named[1]}"
    if id.startswith("/") and (found := _PLAIN.search(id)):
        return f"azureml:{found['name']}"
    return id


def tidy(entity: Manifest) -> Manifest:
    """Without what is not there."""
    return {name: value for name, value in entity.items() if value is not None}


def number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def seconds(text: Any) -> Any:
    """`PT20M` -> 1200; what is no duration stays as it is."""
    try:
        return number(parse_duration(str(text), target="duration").total_seconds()) if text else None
    except Invalid:
        return text
