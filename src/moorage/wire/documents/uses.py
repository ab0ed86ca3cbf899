"""What a document needs from outside before it has a body: code, conda files, models, data. The client finds each; the body takes the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from moorage.ids import Workspace
from moorage.specs.manifest import Manifest
from moorage.wire.documents.references import Named, Reference, ResourceId, Uri, compute_name, parse_reference

ANONYMOUS_ENVIRONMENT = "CliV2AnonymousEnvironment"
MODEL_TYPES = ("custom_model", "mlflow_model", "triton_model")
_CURATED = "azureml-"
# Field -> what the caller found for it: an asset's id, a URI, or a conda file's text.
Resolved = Mapping[str, str]


class Role(StrEnum):
    """What a use is for; the value is the collection of the workspace it belongs to, where there is one."""

    CODE = "codes"
    CONDA = "conda"
    BUILD = "build"
    ENVIRONMENT = "environments"
    MODEL = "models"
    DATA = "data"
    COMPONENT = "components"
    JOB = "jobs"


@dataclass(frozen=True, slots=True)
class Use:
    """One thing a document names.

    Attributes:
        field: dotted path of the field, the key of the answer in Resolved.
        role: what it is.
        reference: how it was named; for an inline one, its local path or URI (None: it has none).
        type: `uri_file`, `custom_model`, ...: what the thing at a local path must be.
        inline: the fields of an unnamed environment or model that is to be registered.
        datastore: where local files go, as the document names it; "" for the default one.
        includes: of code, paths of files and folders that travel beside it.
    """

    field: str
    role: Role
    reference: Reference | None
    type: str = ""
    inline: Manifest | None = None
    datastore: str = ""
    includes: tuple[str, ...] = ()


def asset_use(field: str, role: Role, given: str | Manifest) -> list[Use]:
    """The uses of an `environment:` or `model:` field, a reference or inline fields; an inline one's own files come first."""
    if isinstance(given, str):
        return [Use(field, role, parse_reference(given))]
    if role is Role.ENVIRONMENT:
        return [*environment_uses(given, f"{field}."), Use(field, role, None, inline=given)]
    return [Use(field, role, parse_reference(given["path"]), given.get("type", "custom_model"), given, given.get("datastore", ""))]


def environment_uses(values: Manifest, prefix: str = "") -> list[Use]:
    """The conda file and the build context of an environment's fields."""
    found = []
    if isinstance(values.get("conda_file"), str):
        found.append(Use(f"{prefix}conda_file", Role.CONDA, parse_reference(values["conda_file"])))
    if "build" in values:
        found.append(
            Use(f"{prefix}build.path", Role.BUILD, parse_reference(values["build"]["path"]), datastore=values.get("datastore", ""))
        )
    return found


def asset_id(workspace: Workspace, role: Role, reference: Reference) -> str | None:
    """What a reference is on the wire when nothing has to be looked up; None for labels and local paths."""
    match reference:
        case ResourceId(id):
            return id
        case Uri(text):
            return text
        case Named(name) if role is Role.ENVIRONMENT and name.lower().startswith(_CURATED):
            # Ready-made ones are the service's to find; the original's SDK passes their short form on, too.
            return str(reference)
        case Named(name, version, _) if version is not None:
            return workspace.child(role.value, name, "versions", version)
        case _:
            return None


def compute_id(workspace: Workspace, text: str) -> str:
    """`azureml:k8s` -> the compute's full id; ids pass through."""
    return text.removeprefix("azureml:") if "/subscriptions/" in text.lower() else workspace.child("computes", compute_name(text))
