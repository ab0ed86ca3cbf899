"""What a document may name: an asset of the workspace, a resource id, a URI, or a path beside the document."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The original's rule for asset names; versions follow it too.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._\-]{0,254}"
_NAMED = re.compile(rf"^azureml:(?P<name>{_NAME})(?::(?P<version>{_NAME})|@(?P<label>{_NAME}))?$")
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.\-]+://")
# An MLflow run's artifacts: the one form with a single slash.
_RUN = re.compile(r"^runs:/+[^/]")
_IS_ID = re.compile(r"^(azureml:)?/subscriptions/", re.IGNORECASE)
ASSET_NAME = re.compile(rf"^{_NAME}$")


@dataclass(frozen=True, slots=True)
class Named:
    """`azureml:NAME`, `azureml:NAME:VERSION` or `azureml:NAME@LABEL`."""

    name: str
    version: str | None = None
    label: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"azureml:{self.name}:{self.version}"
        return f"azureml:{self.name}@{self.label}" if self.label is not None else f"azureml:{self.name}"


@dataclass(frozen=True, slots=True)
class ResourceId:
    """`/subscriptions/...`, with or without `azureml:` in front."""

    id: str


@dataclass(frozen=True, slots=True)
class Uri:
    """`azureml://...`, `https://...`, `wasbs://...`, `runs:/JOB/...`, as it was written."""

    text: str


@dataclass(frozen=True, slots=True)
class Local:
    """A path as it was written, relative to the folder of the document that names it."""

    path: str


Reference = Named | ResourceId | Uri | Local


def parse_reference(text: str) -> Reference:
    """Read any of the four forms; ValueError, saying what is wrong, for a malformed `azureml:` one."""
    text = text.strip()
    if _IS_ID.match(text):
        return ResourceId(text.removeprefix("azureml:"))
    if text.startswith("file:"):
        return Local(re.sub(r"^file:(//)?", "", text))
    if _SCHEME.match(text) or _RUN.match(text):
        return Uri(text)
    if text.startswith("azureml:"):
        found = _NAMED.match(text)
        if not found:
            raise ValueError(
                f"'{text}' is no asset reference; write azureml:NAME:VERSION or azureml:NAME@latest "
                "(letters, digits, '.', '_' and '-', at most 255)."
            )
        return Named(found["name"], found["version"], found["label"])
    if not text:
        raise ValueError("the reference is empty.")
    return Local(text)


def compute_name(text: str) -> str:
    """The name in `azureml:NAME`, `NAME` or a compute's resource id; ValueError when it is none of them."""
    bare = text.strip()
    if _IS_ID.match(bare):
        found = re.search(r"/computes/([^/]+)/?$", bare)
        if not found:
            raise ValueError(f"'{text}' is not the id of a compute target.")
        return found[1]
    bare = bare.removeprefix("azureml:")
    if not ASSET_NAME.match(bare):
        raise ValueError(f"'{text}' is not the name of a compute target; write azureml:NAME.")
    return bare
