"""References to data and assets in every form the API accepts, parsed into one of a few shapes; resolving them is the server's part.

A blob's own address is `CONTAINER/PATH` in the workspace service's store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from moorage.errors import Invalid
from moorage.ids import Workspace
from moorage.specs.url_map import SCHEMES

ASSET_TYPES = ("codes", "components", "data", "environments", "models")
BLOB_DATASTORE = "workspaceblobstore"
ARTIFACT_DATASTORE = "workspaceartifactstore"
# Where the original keeps its ready-made environments.
CURATED_REGISTRY = "azureml"

_ARM = re.compile(
    r"^/?subscriptions/(?P<sub>[^/]+)/resource[gG]roups/(?P<rg>[^/]+)(?:/providers/Microsoft\.MachineLearningServices)?/workspaces/(?P<ws>[^/]+)/(?P<rest>.+)$",
    re.IGNORECASE,
)
_NAME_VERSION = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?::(?P<version>[A-Za-z0-9][A-Za-z0-9._-]*)|@(?P<label>[A-Za-z0-9._-]+))?$"
)
FORMS = (
    "azureml:NAME:VERSION, azureml:NAME@latest, an asset's full resource id, azureml://datastores/DATASTORE/paths/PATH, "
    "azureml://jobs/JOB/outputs/NAME or https://..."
)


@dataclass(frozen=True, slots=True)
class AssetReference:
    """A version of a named asset. Neither version nor label: the latest."""

    name: str
    version: str | None = None
    label: str | None = None
    # As in the URL: `models`. None where the form does not say (`azureml:NAME:VERSION`).
    type: str | None = None
    workspace: Workspace | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" if self.version else f"{self.name}@{self.label or 'latest'}"


@dataclass(frozen=True, slots=True)
class DatastorePath:
    """A path under a datastore; the workspace is the caller's own when None."""

    datastore: str
    path: str
    workspace: Workspace | None = None

    @property
    def uri(self) -> str:
        """The short form, `azureml://datastores/D/paths/P`."""
        return f"azureml://datastores/{self.datastore}/paths/{self.path}"

    def long_uri(self, workspace: Workspace) -> str:
        """The form that names the workspace; with lower-case `resourcegroups`, as the SDK writes and matches it."""
        own = self.workspace or workspace
        return (
            f"azureml://subscriptions/{own.subscription}/resourcegroups/{own.resource_group}/workspaces/{own.name}"
            f"/datastores/{self.datastore}/paths/{self.path}"
        )


@dataclass(frozen=True, slots=True)
class JobOutput:
    """What a job wrote under an output's name, or its artifacts (`artifacts`, `default`, `runs:/JOB/...`)."""

    job: str
    output: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class WebAddress:
    url: str


@dataclass(frozen=True, slots=True)
class RegistryReference:
    """Something of a registry, or a curated environment (`AzureML-...`), which lives in one. Neither version nor label: the latest."""

    text: str
    registry: str = CURATED_REGISTRY
    # As in the URL: `environments`.
    type: str = "environments"
    name: str = ""
    version: str | None = None
    label: str | None = None


Reference = AssetReference | DatastorePath | JobOutput | WebAddress | RegistryReference


def parse_reference(text: str, *, target: str) -> Reference:
    """Tell which form a reference has.

    Args:
        text: as it stands in the body.
        target: the field it stands in, for the message.

    Raises:
        Invalid: none of the accepted forms; the message lists them.
    """
    plain = text.strip()
    scheme = plain.split(":", 1)[0].lower() if ":" in plain else ""
    if scheme in SCHEMES and "://" in plain:
        try:
            urlsplit(plain)
        except ValueError as error:
            raise Invalid(f"{target}: '{text}' is no web address: {error}.", target=target) from error
        return WebAddress(plain)
    if scheme == "runs":
        job, _, path = plain.removeprefix("runs:").lstrip("/").partition("/")
        if job:
            return JobOutput(job, "artifacts", path)
    elif plain.lower().startswith("azureml://"):
        found = _parse_azureml_uri(plain[len("azureml://") :])
        if found is not None:
            return found
    elif plain.startswith(("/", "subscriptions/", "azureml:/")):
        found = _parse_arm(plain.removeprefix("azureml:"))
        if found is not None:
            return found
    else:
        named = _NAME_VERSION.match(plain.removeprefix("azureml:"))
        if named:
            if _is_curated(named["name"]):
                return RegistryReference(plain, name=named["name"], version=named["version"], label=named["label"])
            return AssetReference(named["name"], named["version"], named["label"])
    raise Invalid(f"{target}: '{text}' is not a reference this service understands. Use {FORMS}.", target=target)


def _parse_azureml_uri(rest: str) -> Reference | None:
    parts = rest.split("/")
    match parts[0].lower():
        case "datastores" if len(parts) >= 3 and parts[1] and parts[2] == "paths":
            return DatastorePath(parts[1], _clean("/".join(parts[3:])))
        case "jobs" if len(parts) >= 4 and parts[2] == "outputs" and parts[1] and parts[3]:
            tail = parts[4:]
            return JobOutput(parts[1], parts[3], _clean("/".join(tail[1:] if tail[:1] == ["paths"] else tail)))
        case "registries" if len(parts) >= 4:
            return _parse_registry(f"azureml://{rest}", parts[1], parts[2], parts[3:])
        case "subscriptions":
            return _parse_arm(rest)
        case _:
            return None


def _parse_registry(text: str, registry: str, type_: str, rest: list[str]) -> RegistryReference | None:
    match rest:
        case [name] if name:
            return RegistryReference(text, registry, type_, name)
        case [name, "versions", version] if name and version:
            return RegistryReference(text, registry, type_, name, version=version)
        case [name, "labels", label] if name and label:
            return RegistryReference(text, registry, type_, name, label=label)
        case _:
            return None


def _parse_arm(text: str) -> Reference | None:
    found = _ARM.match(text)
    if not found:
        return None
    workspace = Workspace(found["sub"], found["rg"], found["ws"])
    parts = found["rest"].split("/")
    if len(parts) > 1:
        parts[1] = bare_name(parts[1])
    match parts:
        case [type_, name, "versions", version] if type_ in ASSET_TYPES and name and version:
            if type_ == "environments" and _is_curated(name):
                return RegistryReference(text, name=name, version=version)
            return AssetReference(name, version, type=type_, workspace=workspace)
        case [type_, name, "labels", label] if type_ in ASSET_TYPES and name and label:
            if type_ == "environments" and _is_curated(name):
                return RegistryReference(text, name=name, label=label)
            return AssetReference(name, label=label, type=type_, workspace=workspace)
        case [type_, name] if type_ in ASSET_TYPES and name:
            return AssetReference(name, type=type_, workspace=workspace)
        case ["datastores", datastore, "paths", *path] if datastore:
            return DatastorePath(datastore, _clean("/".join(path)), workspace)
        case ["jobs", job, "outputs", output, *path] if job and output:
            return JobOutput(job, output, _clean("/".join(path[1:] if path[:1] == ["paths"] else path)))
        case _:
            return None


def bare_name(name: str) -> str:
    """The name in an id or address that the SDK made of `azureml:NAME@LABEL` in Python code, where it leaves the prefix; no name has a colon."""
    return name.removeprefix("azureml:")


def _is_curated(name: str) -> bool:
    """Whether it is one of the registry's ready-made environments, whose names the original reserves."""
    return name.startswith("AzureML-")


def _clean(path: str) -> str:
    """A blob path without `.`, `..` and doubled slashes; a trailing slash stays, since it says "folder"."""
    kept = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in kept:
        raise Invalid(f"The path '{path}' leaves its datastore. Write it without '..'.", target="uri")
    return "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def join(container: str, path: str) -> str:
    """`CONTAINER/PATH`, without doubled or trailing slashes."""
    return "/".join(part for part in (container.strip("/"), path.strip("/")) if part)


def facade_path(url: str, base: str) -> str | None:
    """The `CONTAINER/PATH` an address under our own blob facade stands for; None for any other address.

    Hosts are not compared: one service may be reached by several names, and the path alone names the blob.

    Args:
        url: e.g. `https://127.0.0.1:8450/blobstore/C/P`.
        base: the facade's base path, `/blobstore`.
    """
    if not url.lower().startswith(("http:", "https:")):
        return None
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:  # brackets in the host that hold no address
        return None
    prefix = base.rstrip("/") + "/"
    return path[len(prefix) :].strip("/") or None if path.startswith(prefix) else None


def default_output(job: str, name: str) -> DatastorePath:
    """Where an output goes that names no place. The SDK probes this very path."""
    return DatastorePath(BLOB_DATASTORE, f"azureml/{job}/{name}/")


def job_artifacts(job: str) -> DatastorePath:
    """Where a job's logs and `./outputs` go. Path and datastore are hard-coded in the SDK."""
    return DatastorePath(ARTIFACT_DATASTORE, f"ExperimentRun/dcid.{job}/")


def fill_name(uri: str, job: str) -> str:
    """`${{name}}` in an output's address is the job's name."""
    return re.sub(r"\$\{\{\s*name\s*\}\}", lambda _: job, uri)
