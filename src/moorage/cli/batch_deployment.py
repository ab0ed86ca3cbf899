"""`moorage batch-deployment`: models behind a batch endpoint, kept until batch scoring is there."""

from __future__ import annotations

import click

from moorage.cli import entities
from moorage.cli.amendment import amended
from moorage.cli.commands import accepted_option, command, file_option, group, name_option, no_wait_option, set_option, yes_option
from moorage.cli.edits import edit_options
from moorage.cli.online_deployment import endpoint_option
from moorage.cli.session import Session
from moorage.errors import Conflict, Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind
from moorage.wire.documents.edits import Changes

deployments = group("batch-deployment", "Keep models behind a batch endpoint; scoring comes later.")


@command(
    deployments,
    "create",
    table="batch deployments",
    examples=[
        "moorage batch-deployment create --file first.yml --set-default",
        "moorage batch-deployment create -f first.yml -e nightly -n second --set model=azureml:digits:2",
    ],
)
@file_option("deployment")
@name_option("deployment; the document's by default", required=False)
@endpoint_option(required=False)
@click.option("--set-default", is_flag=True, help="Make it the endpoint's default deployment.")
@accepted_option("--skip-script-validation", meaning="scoring scripts are not run here.")
@set_option()
@no_wait_option()
def create(session: Session, file: str, set_default: bool, changes: tuple[str, ...], no_wait: bool, **names: str | None) -> Manifest:
    """Create a batch deployment from a YAML document. Code, environment and model travel with it."""
    document = session.document(Kind.BATCH_DEPLOYMENT, file, changes, **names)
    path = _path(session, document)
    endpoint_path = path.partition("/deployments/")[0]
    # Both before anything is uploaded.
    session.client.get(endpoint_path)
    if session.client.find(path) is not None:
        chosen = document.values["name"]
        raise Conflict(f"the batch deployment {chosen} exists; change it with `moorage batch-deployment update`.", target=chosen)
    found = _put(session, document, path, wait=not no_wait)
    if set_default:
        endpoint = session.client.get(endpoint_path)
        properties = {**(endpoint.get("properties") or {}), "defaults": {"deploymentName": document.values["name"]}}
        kept = {key: endpoint[key] for key in ("location", "identity", "tags") if endpoint.get(key) is not None}
        session.client.apply(endpoint_path, {**kept, "properties": properties})
        session.say(f"batch endpoint {document.values['endpoint_name']}: {document.values['name']} is the default")
    return found


@command(
    deployments,
    "update",
    table="batch deployments",
    examples=[
        "moorage batch-deployment update --file first.yml",
        "moorage batch-deployment update -e nightly -n first --set mini_batch_size=20",
    ],
)
@file_option("deployment", required=False)
@name_option("deployment", required=False)
@endpoint_option(required=False)
@accepted_option("--skip-script-validation", meaning="scoring scripts are not run here.")
@edit_options
@no_wait_option()
def update(session: Session, file: str | None, name: str | None, endpoint_name: str | None, changes: Changes, no_wait: bool) -> Manifest:
    """Change a batch deployment."""
    if file:
        document = session.document(Kind.BATCH_DEPLOYMENT, file, changes, name=name, endpoint_name=endpoint_name)
        session.client.get(_path(session, document))
    elif name and endpoint_name:
        path = session.client.path("batchEndpoints", endpoint_name, "deployments", name)
        document = amended(Kind.BATCH_DEPLOYMENT, entities.batch_deployment(session.client.get(path)), changes)
    else:
        raise Invalid("give --file, or --name and --endpoint-name.", target="--name")
    return _put(session, document, _path(session, document), wait=not no_wait)


def _path(session: Session, document: Document) -> str:
    return session.client.path("batchEndpoints", document.values["endpoint_name"], "deployments", document.values["name"])


def _put(session: Session, document: Document, path: str, *, wait: bool) -> Manifest:
    from moorage.client.assets import Assets

    made = Assets(session.client, document, upload=session.upload()).body()
    watch = session.watch(f"batch deployment {document.values['name']}")
    with document.answering():
        return entities.batch_deployment(session.client.apply(path, made, wait=wait, watch=watch))


@command(deployments, "show", table="batch deployments", examples=["moorage batch-deployment show -n first -e nightly"])
@name_option("deployment")
@endpoint_option()
def show(session: Session, name: str, endpoint_name: str) -> Manifest:
    """Show a batch deployment."""
    return entities.batch_deployment(session.client.get(session.client.path("batchEndpoints", endpoint_name, "deployments", name)))


@command(deployments, "list", table="batch deployments", examples=["moorage batch-deployment list -e nightly"])
@endpoint_option()
def list_deployments(session: Session, endpoint_name: str) -> list[Manifest]:
    """List the deployments of a batch endpoint."""
    path = session.client.path("batchEndpoints", endpoint_name, "deployments")
    return [entities.batch_deployment(item) for item in session.client.list(path)]


@command(deployments, "list-jobs", table="jobs", examples=["moorage batch-deployment list-jobs -n first -e nightly"])
@name_option("deployment")
@endpoint_option()
def list_jobs(session: Session, name: str, endpoint_name: str) -> list[Manifest]:
    """List the scoring jobs of a batch deployment."""
    path = f"/mferp/managementfrontend{session.client.path('batchEndpoints', endpoint_name, 'deployments', name)}/jobs"
    return [entities.job(item) for item in session.client.list(path)]


@command(deployments, "delete", examples=["moorage batch-deployment delete -n first -e nightly --yes"])
@name_option("deployment")
@endpoint_option()
@yes_option()
@no_wait_option()
def delete(session: Session, name: str, endpoint_name: str, yes: bool, no_wait: bool) -> None:
    """Delete a batch deployment. Refused while it is the endpoint's default."""
    session.confirm(f"Delete the batch deployment {name} of {endpoint_name}?", yes)
    path = session.client.path("batchEndpoints", endpoint_name, "deployments", name)
    session.delete(path, f"batch deployment {name}", wait=not no_wait)
