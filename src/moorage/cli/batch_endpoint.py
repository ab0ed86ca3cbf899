"""`moorage batch-endpoint`: kept for batch scoring, which the service does not do yet."""

from __future__ import annotations

import click

from moorage.cli import entities
from moorage.cli.amendment import amended
from moorage.cli.candidates import deployments, files
from moorage.cli.commands import (
    command,
    file_option,
    group,
    name_option,
    no_wait_option,
    set_option,
    tag_changes,
    tags_option,
    yes_option,
)
from moorage.cli.edits import edit_options
from moorage.cli.session import Session
from moorage.errors import Conflict, Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind, body
from moorage.wire.documents.edits import Changes

endpoints = group("batch-endpoint", "Keep batch endpoints; scoring with them comes later.")


@command(
    endpoints,
    "create",
    table="batch endpoints",
    examples=["moorage batch-endpoint create --file endpoint.yml", "moorage batch-endpoint create -n nightly"],
)
@file_option("endpoint", required=False)
@name_option("endpoint", required=False)
@click.option("--auth-mode", type=click.Choice(["aad_token"]), help="How callers identify themselves; there is one way.")
@tags_option()
@set_option()
@no_wait_option()
def create(
    session: Session, file: str | None, tags: tuple[str, ...], changes: tuple[str, ...], no_wait: bool, **options: str | None
) -> Manifest:
    """Create a batch endpoint from a YAML document or options."""
    document = session.document(Kind.BATCH_ENDPOINT, file, (*tag_changes(tags), *changes), **options)
    name = _name(document)
    if session.client.find(session.client.path("batchEndpoints", name)) is not None:
        raise Conflict(f"the batch endpoint {name} exists; change it with `moorage batch-endpoint update`.", target=name)
    with document.answering():
        return _put(session, name, body(document, session.client.workspace, {}), wait=not no_wait)


@command(
    endpoints,
    "update",
    table="batch endpoints",
    examples=[
        "moorage batch-endpoint update -n nightly --defaults deployment_name=second",
        "moorage batch-endpoint update -n nightly --set tags.team=vision",
    ],
)
@file_option("endpoint", required=False)
@name_option("endpoint", required=False)
@click.option("--defaults", multiple=True, metavar="deployment_name=NAME", help="The deployment that requests without a name go to.")
@edit_options
@no_wait_option()
def update(session: Session, file: str | None, name: str | None, defaults: tuple[str, ...], changes: Changes, no_wait: bool) -> Manifest:
    """Change a batch endpoint: its default deployment, or any field of its document."""
    changes = (*(f"defaults.{default}" for default in defaults), *changes)
    document = session.document(Kind.BATCH_ENDPOINT, file, changes, name=name) if file else None
    chosen = _name(document) if document else name
    if not chosen:
        raise Invalid("give --name or --file.", target="--name")
    current = session.client.get(session.client.path("batchEndpoints", chosen))
    if document is None:
        document = amended(Kind.BATCH_ENDPOINT, entities.batch_endpoint(current), changes)
    made = body(document, session.client.workspace, {})
    if file and "defaults" not in document.values:
        # A document that does not speak of the default leaves it as it is.
        made["properties"]["defaults"] = (current.get("properties") or {}).get("defaults")
    with document.answering():
        return _put(session, chosen, made, wait=not no_wait)


def _name(document: Document) -> str:
    if not document.values.get("name"):
        raise document.refusal("name", "is required, and is missing; give it in the document or with --name.")
    return str(document.values["name"])


def _put(session: Session, name: str, made: Manifest, *, wait: bool) -> Manifest:
    path = session.client.path("batchEndpoints", name)
    return entities.batch_endpoint(session.client.apply(path, made, wait=wait, watch=session.watch(f"batch endpoint {name}")))


@command(endpoints, "show", table="batch endpoints", examples=["moorage batch-endpoint show -n nightly"])
@name_option("endpoint")
def show(session: Session, name: str) -> Manifest:
    """Show a batch endpoint."""
    return entities.batch_endpoint(session.client.get(session.client.path("batchEndpoints", name)))


@command(endpoints, "list", table="batch endpoints", examples=["moorage batch-endpoint list -o table"])
def list_endpoints(session: Session) -> list[Manifest]:
    """List batch endpoints."""
    return [entities.batch_endpoint(item) for item in session.client.list(session.client.path("batchEndpoints"))]


@command(endpoints, "list-jobs", table="jobs", examples=["moorage batch-endpoint list-jobs -n nightly"])
@name_option("endpoint")
def list_jobs(session: Session, name: str) -> list[Manifest]:
    """List the scoring jobs of a batch endpoint."""
    path = f"/mferp/managementfrontend{session.client.path('batchEndpoints', name)}/jobs"
    return [entities.job(item) for item in session.client.list(path)]


@command(
    endpoints,
    "invoke",
    table="jobs",
    examples=[
        "moorage batch-endpoint invoke -n nightly --input azureml:pictures:1",
        "moorage batch-endpoint invoke -n nightly -f inputs.yml --job-name again --mini-batch-size 20",
    ],
)
@name_option("endpoint")
@click.option(
    "--deployment-name", "-d", metavar="NAME", shell_complete=deployments, help="The deployment; the endpoint's default one when left out."
)
@click.option("--file", "-f", metavar="FILE", shell_complete=files, help="A YAML document with inputs and outputs; '-' reads stdin.")
@click.option("--input", metavar="DATA", help="What to score: azureml:NAME:VERSION, azureml://..., https://... or a local path.")
@click.option("--input-type", metavar="TYPE", help="uri_folder, the default, or uri_file.")
@click.option("--output-path", metavar="URI", help="Where results go: azureml://datastores/NAME/paths/...")
@click.option("--job-name", "-j", metavar="NAME", help="Name of the job; made up when left out.")
@click.option("--experiment-name", metavar="NAME", help="The experiment that the job belongs to.")
@click.option("--instance-count", "-c", metavar="N", help="How many nodes.")
@click.option("--mini-batch-size", "-m", metavar="N", help="How many files go into one mini-batch.")
@set_option()
def invoke(
    session: Session, name: str, deployment_name: str | None, file: str | None, changes: tuple[str, ...], **options: str | None
) -> Manifest:
    """Ask for a scoring job. What is given is checked, and the service refuses for now, with what to do meanwhile."""
    from moorage.client.assets import invocation

    made = invocation(session.client, session.invocation(file, changes, **options))
    if deployment_name:
        session.client.get(session.client.path("batchEndpoints", name, "deployments", deployment_name))
    return entities.job(session.client.action(f"{session.client.path('batchEndpoints', name)}/jobs", made))


@command(endpoints, "delete", examples=["moorage batch-endpoint delete -n nightly --yes"])
@name_option("endpoint")
@yes_option()
@no_wait_option()
def delete(session: Session, name: str, yes: bool, no_wait: bool) -> None:
    """Delete a batch endpoint and its deployments."""
    session.confirm(f"Delete the batch endpoint {name} and its deployments?", yes)
    session.delete(session.client.path("batchEndpoints", name), f"batch endpoint {name}", wait=not no_wait)
