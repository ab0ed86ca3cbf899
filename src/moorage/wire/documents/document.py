"""Loading a document of a known kind: parse, `--set`, check. The kinds and what belongs to each stand in one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from moorage.errors import Invalid
from moorage.ids import Workspace
from moorage.specs.manifest import Manifest
from moorage.wire.documents import assets, compute, endpoint, job, settings
from moorage.wire.documents.shapes import Reading, Record
from moorage.wire.documents.source import Finding, Node, read, refuse
from moorage.wire.documents.uses import Resolved, Role, Use


class Kind(StrEnum):
    """The documents of CLI v2 that this project reads; the value is the noun of its command."""

    JOB = "job"
    ENVIRONMENT = "environment"
    MODEL = "model"
    DATA = "data"
    ENDPOINT = "online-endpoint"
    DEPLOYMENT = "online-deployment"
    COMPUTE = "compute"


_SHAPES: Mapping[Kind, Record] = {
    Kind.JOB: job.COMMAND_JOB,
    Kind.ENVIRONMENT: assets.ENVIRONMENT,
    Kind.MODEL: assets.MODEL,
    Kind.DATA: assets.DATA,
    Kind.ENDPOINT: endpoint.ENDPOINT,
    Kind.DEPLOYMENT: endpoint.DEPLOYMENT,
    Kind.COMPUTE: compute.COMPUTE,
}
# `$schema` ends in one of these; used only to say that a document was given to the wrong command.
_SCHEMAS = {
    "commandJob": "job",
    "pipelineJob": "job",
    "sweepJob": "job",
    "environment": "environment",
    "model": "model",
    "data": "data",
    "kubernetesOnlineEndpoint": "online-endpoint",
    "managedOnlineEndpoint": "online-endpoint",
    "kubernetesOnlineDeployment": "online-deployment",
    "managedOnlineDeployment": "online-deployment",
    "kubernetesCompute": "compute",
}
_OTHER_JOBS = ("pipeline", "sweep", "automl", "spark", "parallel", "import", "data_transfer", "finetuning", "distillation", "component")


@dataclass(frozen=True, slots=True)
class Document:
    """A checked document.

    Attributes:
        values: the fields under their CLI v2 names, in their checked types.
        name: the path as the user typed it; "" for a document made of options only.
        folder: what relative paths in it start from.
        where: each field's position, for messages found later.
    """

    kind: Kind
    values: Manifest
    name: str = ""
    folder: Path = Path()
    where: Mapping[str, str] = field(default_factory=dict)

    def refusal(self, at: str, problem: str) -> Invalid:
        """An error about one field, worded like those of the check itself."""
        return refuse([Finding(self.where.get(at, self.name), at, problem)])


def load(
    kind: Kind, text: str | None, *, name: str, folder: Path, changes: Sequence[str] = (), options: Manifest | None = None
) -> Document:
    """Read and check a document.

    Args:
        kind: what it must be.
        text: the YAML, None when the options say everything.
        name: how messages call it.
        folder: what its relative paths start from.
        changes: `--set` values, applied before the check.
        options: fields that other options set (`--name`); they win over the document and `--set`.

    Raises:
        Invalid: every problem found, one line each, in `details` too.
    """
    root = read(text, name) if text is not None else Node({}, "", "")
    settings.apply(root, changes)
    for option, value in (options or {}).items():
        if isinstance(root.value, dict) and value is not None:
            root.value[option] = Node(value, str(value), f"--{option.replace('_', '-')}", quoted=True)
    _refuse_other_kinds(kind, root)
    reading = Reading()
    values = _SHAPES[kind].read(root, (), reading)
    if reading.findings or values is None:
        raise refuse(reading.findings)
    return Document(kind, values, name, folder, reading.where)


def fields(kind: Kind) -> frozenset[str]:
    """The top-level fields that a document of this kind may have."""
    return frozenset(_SHAPES[kind].fields)


def _refuse_other_kinds(kind: Kind, root: Node) -> None:
    fields = root.value if isinstance(root.value, dict) else {}
    given = fields.get("type")
    if kind is Kind.JOB and given is not None and given.text.lower() in _OTHER_JOBS:
        problem = f"jobs of type '{given.text}' are not supported yet; only 'command' is."
        raise refuse([Finding(given.where, "type", problem)])
    schema = fields.get("$schema")
    found = re.search(r"([A-Za-z]+)\.schema\.json$", schema.text) if schema else None
    noun = _SCHEMAS.get(found[1]) if found else None
    if schema and found and noun and noun != kind.value:
        problem = f"this is a document of the kind {found[1]}, not of a {kind.value}; did you mean `moorage {noun} create`?"
        raise refuse([Finding(schema.where, "$schema", problem)])
    if schema and found and found[1] in ("pipelineJob", "sweepJob"):
        raise refuse([Finding(schema.where, "$schema", f"{found[1]} documents are not supported yet; only commandJob is.")])
    if kind is Kind.JOB and ("jobs" in fields or "trial" in fields):
        what = "pipeline" if "jobs" in fields else "sweep"
        raise refuse([Finding(root.where, "", f"this looks like a {what} job, which is not supported yet; only command jobs are.")])
    if (
        kind in (Kind.ENDPOINT, Kind.DEPLOYMENT)
        and found
        and found[1].startswith("managed")
        and "compute" not in fields
        and kind is Kind.ENDPOINT
    ):
        problem = "managed endpoints run in the original's own cloud; add `compute: azureml:NAME` to serve on a cluster."
        raise refuse([Finding(schema.where if schema else "", "compute", problem)])


def uses(document: Document) -> list[Use]:
    """What has to be found or uploaded before the document has a body; an inline asset's own files come before it."""
    match document.kind:
        case Kind.JOB:
            return job.needs(document.values)
        case Kind.DEPLOYMENT:
            return endpoint.deployment_needs(document.values)
        case Kind.ENVIRONMENT:
            return assets.environment_needs(document.values)
        case Kind.MODEL:
            return assets.path_needs(Role.MODEL, document.values)
        case Kind.DATA:
            return assets.path_needs(Role.DATA, document.values)
        case Kind.ENDPOINT | Kind.COMPUTE:
            return []


def body(document: Document, workspace: Workspace, resolved: Resolved) -> Manifest:
    """The document as the ARM API takes it; `resolved` answers every one of `uses`."""
    values = document.values
    match document.kind:
        case Kind.JOB:
            return job.body(values, workspace, resolved)
        case Kind.DEPLOYMENT:
            return endpoint.deployment_body(values, resolved)
        case Kind.ENDPOINT:
            return endpoint.endpoint_body(values, workspace)
        case Kind.ENVIRONMENT:
            return assets.environment_body(values, resolved)
        case Kind.MODEL:
            return assets.model_body(values, resolved.get("path", values["path"]))
        case Kind.DATA:
            return assets.data_body(values, resolved.get("path", values["path"]))
        case Kind.COMPUTE:
            return compute.compute_body(values)
