"""Loading a document of a known kind: parse, `--set`, check. The kinds and what belongs to each stand in one table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from moorage.errors import Conflict, Invalid, MoorageError, NotFound
from moorage.ids import Workspace
from moorage.specs.manifest import Manifest
from moorage.wire.documents import assets, batch, component, compute, datastore, endpoint, job, pipeline, schedule, settings, sweep
from moorage.wire.documents import workspace as workspaces
from moorage.wire.documents.edits import Change
from moorage.wire.documents.shapes import Chosen, Reading, Record, Shape, nearest
from moorage.wire.documents.source import Finding, Node, read, refuse
from moorage.wire.documents.support import unsupported_kind
from moorage.wire.documents.uses import Resolved, Role, Use


class Kind(StrEnum):
    """The documents of CLI v2 that this project reads; the value is the noun of its command."""

    JOB = "job"
    COMPONENT = "component"
    ENVIRONMENT = "environment"
    MODEL = "model"
    DATA = "data"
    DATASTORE = "datastore"
    ENDPOINT = "online-endpoint"
    DEPLOYMENT = "online-deployment"
    BATCH_ENDPOINT = "batch-endpoint"
    BATCH_DEPLOYMENT = "batch-deployment"
    SCHEDULE = "schedule"
    COMPUTE = "compute"
    WORKSPACE = "workspace"


JOBS: Mapping[str, Record] = {"command": job.COMMAND_JOB, "sweep": sweep.SWEEP_JOB, "pipeline": pipeline.PIPELINE_JOB}
SHAPES: Mapping[Kind, Shape] = {
    Kind.COMPONENT: pipeline.COMPONENT,
    Kind.ENVIRONMENT: assets.ENVIRONMENT,
    Kind.MODEL: assets.MODEL,
    Kind.DATA: assets.DATA,
    Kind.DATASTORE: datastore.DATASTORE,
    Kind.ENDPOINT: endpoint.ENDPOINT,
    Kind.DEPLOYMENT: endpoint.DEPLOYMENT,
    Kind.BATCH_ENDPOINT: batch.ENDPOINT,
    Kind.BATCH_DEPLOYMENT: batch.DEPLOYMENT,
    Kind.SCHEDULE: schedule.SCHEDULE,
    Kind.COMPUTE: compute.COMPUTE,
    Kind.WORKSPACE: workspaces.WORKSPACE,
}
# `$schema` ends in one of these; it says what a document without a type is, and that it was given to the wrong command.
SCHEMAS: Mapping[str, Kind] = {
    "commandJob": Kind.JOB,
    "pipelineJob": Kind.JOB,
    "sweepJob": Kind.JOB,
    "commandComponent": Kind.COMPONENT,
    "parallelComponent": Kind.COMPONENT,
    "pipelineComponent": Kind.COMPONENT,
    "environment": Kind.ENVIRONMENT,
    "model": Kind.MODEL,
    "data": Kind.DATA,
    "azureBlob": Kind.DATASTORE,
    "azureDataLakeGen2": Kind.DATASTORE,
    "kubernetesOnlineEndpoint": Kind.ENDPOINT,
    "managedOnlineEndpoint": Kind.ENDPOINT,
    "kubernetesOnlineDeployment": Kind.DEPLOYMENT,
    "managedOnlineDeployment": Kind.DEPLOYMENT,
    "batchEndpoint": Kind.BATCH_ENDPOINT,
    "batchDeployment": Kind.BATCH_DEPLOYMENT,
    "modelBatchDeployment": Kind.BATCH_DEPLOYMENT,
    "schedule": Kind.SCHEDULE,
    "kubernetesCompute": Kind.COMPUTE,
    "workspace": Kind.WORKSPACE,
}


# Fields that the API calls otherwise than the documents do, beyond camelCase.
_OF_THE_API = {
    "computeId": "compute",
    "environmentId": "environment",
    "codeId": "code",
    "action": "create_job",
    **dict.fromkeys(("uri", "dataUri", "modelUri"), "path"),
}


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

    @contextmanager
    def answering(self) -> Iterator[None]:
        """What the service refuses about a field of the API is refused as the document's field, with its line, where the document has it.

        Raises:
            Invalid, Conflict, NotFound: as the service answered it, with its code.
        """
        try:
            yield
        except (Invalid, Conflict, NotFound) as error:
            said = error.details if any(self._field(each.target or "") for each in error.details) else (error,)
            findings = [self._finding(each) for each in said]
            if not any(each.field for each in findings):
                raise
            found = refuse(findings)
            raise type(error)(found.message, code=error.code, target=found.target, details=found.details) from error

    def _finding(self, error: MoorageError) -> Finding:
        """An error of the service in the words of the document; as it is where that has no such field."""
        at = self._field(error.target or "")
        return (
            Finding(self.where.get(at, self.name), at, error.message.removeprefix(f"{error.target}: "))
            if at
            else Finding("", "", error.message)
        )

    def _field(self, target: str) -> str:
        """The document's field that a field of the API was made of; "" when there is none."""
        at = ""
        # What belongs to the kind of a compute target lies one deeper, and in the document beside the rest.
        path = target.removeprefix("properties.").removeprefix("" if "properties" in self.where else "properties.")
        for part in path.split(".") if target.startswith("properties.") else ():
            # Names of inputs and outputs are the user's, and stay as they are.
            spellings = (part, _OF_THE_API.get(part, part), re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part).lower())
            at = next((each for each in (f"{at}.{name}".lstrip(".") for name in spellings) if each in self.where), "")
            if not at:
                return ""
        return at


def load(
    kind: Kind, text: str | None, *, name: str, folder: Path, changes: Sequence[Change] = (), options: Manifest | None = None
) -> Document:
    """Read and check a document.

    Args:
        kind: what it must be.
        text: the YAML, None when the options say everything.
        name: how messages call it.
        folder: what its relative paths start from.
        changes: of the command line, applied before the check.
        options: fields that other options set (`--name`); they win over the document and `--set`.

    Raises:
        Invalid: every problem found, one line each, in `details` too.
    """
    root = _changed(text, name, changes, options or {})
    _refuse_other_kinds(kind, root)
    return _checked(_shape(kind, root), root, Document(kind, {}, name, folder))


def load_invocation(
    text: str | None, *, name: str, folder: Path, changes: Sequence[Change] = (), options: Manifest | None = None
) -> Document:
    """What `invoke` of a batch endpoint is given, in a file and by options; as `load`."""
    return _checked(batch.INVOCATION, _changed(text, name, changes, options or {}), Document(Kind.BATCH_ENDPOINT, {}, name, folder))


def _changed(text: str | None, name: str, changes: Sequence[Change], options: Manifest) -> Node:
    root = read(text, name) if text is not None else Node({}, "", "")
    settings.apply(root, changes)
    for option, value in options.items():
        if isinstance(root.value, dict) and value is not None:
            root.value[option] = Node(value, str(value), f"--{option.replace('_', '-')}", quoted=True)
    return root


def _checked(shape: Shape, root: Node, document: Document) -> Document:
    reading = Reading()
    values = shape.read(root, (), reading)
    if reading.findings or values is None:
        raise refuse(reading.findings)
    return replace(document, values=values, where=reading.where)


def fields(kind: Kind) -> frozenset[str]:
    """The top-level fields that a document of this kind may have; of a job, those that every type has or may be changed by an option."""
    shape = SHAPES.get(kind, job.COMMAND_JOB)
    return frozenset(shape.fields if isinstance(shape, Record) else ())


def known(kind: Kind) -> frozenset[str]:
    """Every top-level field that some document of this kind may have, those included that are accepted and left to the service."""
    shapes: Sequence[Shape] = list(JOBS.values()) if kind is Kind.JOB else [SHAPES[kind]]
    records = [record for shape in shapes for record in (shape.records.values() if isinstance(shape, Chosen) else [shape])]
    return frozenset(field for record in records if isinstance(record, Record) for field in (*record.fields, *record.ignored))


def job_type(root: Node) -> str:
    """`command`, `sweep` or `pipeline`, as the document says, or as its schema or its fields tell."""
    given = root.value if isinstance(root.value, dict) else {}
    if "type" in given:
        return given["type"].text.strip().lower()
    schema = re.match(r"(command|sweep|pipeline)Job$", _schema(given))
    if schema:
        return schema[1]
    return "pipeline" if "jobs" in given else "sweep" if "trial" in given else "command"


def _shape(kind: Kind, root: Node) -> Shape:
    if kind is Kind.JOB:
        return JOBS.get(job_type(root), job.COMMAND_JOB)
    if kind is Kind.COMPONENT and isinstance(root.value, dict) and "type" not in root.value:
        # The original reads the type off the schema.
        found = re.match(r"(parallel|pipeline)Component$", _schema(root.value))
        if found or "jobs" in root.value:
            root.value["type"] = Node(found[1] if found else "pipeline", found[1] if found else "pipeline", root.where, quoted=True)
    return SHAPES[kind]


def _schema(given: Mapping[str, Node]) -> str:
    found = re.search(r"([A-Za-z0-9]+)\.schema\.json$", given["$schema"].text) if "$schema" in given else None
    return found[1] if found else ""


def _refuse_other_kinds(kind: Kind, root: Node) -> None:
    given = root.value if isinstance(root.value, dict) else {}
    typed, schema = given.get("type"), given.get("$schema")
    if typed is not None and (reason := unsupported_kind(kind.value, typed.text)):
        raise refuse([Finding(typed.where, "type", f"'{typed.text}': {reason}")])
    named = _schema(given)
    if schema is not None and named:
        noun = SCHEMAS.get(named)
        if noun is not None and noun is not kind:
            problem = f"this is a document of the kind {named}, not of the kind {kind.value}; did you mean `moorage {noun.value} create`?"
            raise refuse([Finding(schema.where, "$schema", problem)])
        if reason := unsupported_kind(kind.value, named):
            raise refuse([Finding(schema.where, "$schema", f"'{named}': {reason}")])
    if kind is Kind.JOB and job_type(root) not in JOBS:
        at = typed or root
        raise refuse([Finding(at.where, "type", f"'{at.text}' is not one of {', '.join(JOBS)}.{nearest(at.text, JOBS)}")])
    if kind is Kind.ENDPOINT and named.startswith("managed") and "compute" not in given:
        problem = "managed endpoints run in the original's own cloud; add `compute: azureml:NAME` to serve on a cluster."
        raise refuse([Finding(schema.where if schema else "", "compute", problem)])


def uses(document: Document) -> list[Use]:
    """What has to be found or uploaded before the document has a body; an inline asset's own files come before it."""
    values = document.values
    match document.kind:
        case Kind.JOB:
            return _JOB_NEEDS[_type_of(values)](values)
        case Kind.COMPONENT:
            return pipeline.component_needs(values)
        case Kind.DEPLOYMENT | Kind.BATCH_DEPLOYMENT:
            return endpoint.deployment_needs(values)
        case Kind.ENVIRONMENT:
            return assets.environment_needs(values)
        case Kind.MODEL:
            return assets.path_needs(Role.MODEL, values)
        case Kind.DATA:
            return assets.path_needs(Role.DATA, values)
        case Kind.SCHEDULE:
            return schedule.needs(values)
        case Kind.ENDPOINT | Kind.BATCH_ENDPOINT | Kind.COMPUTE | Kind.WORKSPACE | Kind.DATASTORE:
            return []


_JOB_NEEDS = {"command": job.needs, "sweep": sweep.needs, "pipeline": pipeline.needs}
_JOB_BODIES = {"command": job.body, "sweep": sweep.body, "pipeline": pipeline.body}


def _type_of(values: Manifest) -> str:
    """A checked job's type; its fields tell where it says none."""
    return str(values.get("type") or ("sweep" if "trial" in values else "command" if "command" in values else "pipeline"))


def body(document: Document, workspace: Workspace, resolved: Resolved) -> Manifest:
    """The document as the ARM API takes it; `resolved` answers every one of `uses`."""
    values = document.values
    match document.kind:
        case Kind.JOB:
            return _JOB_BODIES[_type_of(values)](values, workspace, resolved)
        case Kind.COMPONENT:
            return component.component_body(values, pipeline.component_spec(values, workspace, resolved))
        case Kind.DEPLOYMENT:
            return endpoint.deployment_body(values, resolved)
        case Kind.BATCH_DEPLOYMENT:
            return batch.deployment_body(values, workspace, resolved)
        case _:
            return _simple_body(document, workspace, resolved)


def _simple_body(document: Document, workspace: Workspace, resolved: Resolved) -> Manifest:
    values = document.values
    match document.kind:
        case Kind.ENDPOINT:
            return endpoint.endpoint_body(values, workspace)
        case Kind.BATCH_ENDPOINT:
            return batch.endpoint_body(values)
        case Kind.SCHEDULE:
            return schedule.body(values, workspace, resolved)
        case Kind.ENVIRONMENT:
            return assets.environment_body(values, resolved)
        case Kind.MODEL:
            return assets.model_body(values, resolved.get("path", values["path"]))
        case Kind.DATA:
            return assets.data_body(values, resolved.get("path", values["path"]))
        case Kind.DATASTORE:
            return datastore.datastore_body(values)
        case Kind.COMPUTE:
            return compute.compute_body(values)
        case Kind.WORKSPACE:
            return workspaces.workspace_body(values)
        case _:
            raise ValueError(f"{document.kind} has a body of its own kind")
