"""`moorage online-deployment`: serve; models behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from moorage.cli import entities
from moorage.cli.amendment import amended
from moorage.cli.candidates import endpoints
from moorage.cli.commands import (
    accepted_option,
    command,
    file_option,
    group,
    name_option,
    no_wait_option,
    refused_option,
    set_option,
    web_option,
    yes_option,
)
from moorage.cli.edits import edit_options
from moorage.cli.online_endpoint import local_option
from moorage.cli.session import Session
from moorage.errors import Conflict, Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind
from moorage.wire.documents.edits import Changes

deployments = group("online-deployment", "Serve: models behind an endpoint.")


def endpoint_option(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Name of the endpoint; `--endpoint` is how scripts shorten it."""
    return click.option(
        "--endpoint-name",
        "--endpoint",
        "-e",
        "endpoint_name",
        required=required,
        metavar="NAME",
        shell_complete=endpoints,
        help="Name of the endpoint.",
    )


def _original_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `create` and `update` of the original have besides: for deployments on the user's machine, and for managed endpoints."""
    for option in (
        refused_option("--local-enable-gpu", reason="there is no serving without a cluster; name an instance type with GPUs."),
        refused_option("--vscode-debug", reason="no debugger is attached; `moorage online-deployment get-logs` has the traceback."),
        refused_option(
            "--package-model", "--with-package", reason="no images are built here; model, code and environment travel separately."
        ),
        accepted_option("--skip-script-validation", meaning="scoring scripts are not run on this machine."),
        local_option(),
        web_option(),
    ):
        function = option(function)
    return function


@command(
    deployments,
    "create",
    table="deployments",
    examples=[
        "moorage online-deployment create --file blue.yml --all-traffic",
        "moorage online-deployment create -f blue.yml -e digits -n green --set model=azureml:digits:2",
    ],
)
@file_option("deployment")
@name_option("deployment; the document's by default", required=False)
@endpoint_option(required=False)
@click.option("--all-traffic", is_flag=True, help="Give it all of the endpoint's requests once it is ready.")
@set_option()
@no_wait_option()
@_original_options
def create(
    session: Session, file: str, all_traffic: bool, changes: tuple[str, ...], no_wait: bool, web: bool, **names: str | None
) -> Manifest:
    """Create a deployment from a YAML document and wait until it serves.

    Each phase is shown with its time; a failure names the phase and what the container said last.
    """
    if all_traffic and no_wait:
        raise Invalid("--all-traffic waits for the deployment to be ready; leave --no-wait out.", target="--no-wait")
    document = session.document(Kind.DEPLOYMENT, file, changes, **names)
    path = _path(session, document)
    endpoint_path = path.partition("/deployments/")[0]
    # Both before anything is uploaded.
    endpoint = session.client.get(endpoint_path)
    if session.client.find(path) is not None:
        chosen = document.values["name"]
        raise Conflict(f"the deployment {chosen} exists; change it with `moorage online-deployment update`.", target=chosen)
    _no_page(session, web, document)
    found = _apply(session, document, path, wait=not no_wait)
    if all_traffic:
        endpoint = session.client.get(endpoint_path)
        deployment = str(document.values["name"]).lower()
        made = {
            **{key: endpoint[key] for key in ("location", "identity", "tags", "kind", "sku") if endpoint.get(key) is not None},
            "properties": {**(endpoint.get("properties") or {}), "traffic": {deployment: 100}},
        }
        session.client.apply(endpoint_path, made, watch=session.watch("traffic"))
        session.say(f"endpoint {document.values['endpoint_name']}: all traffic goes to {deployment}")
    return found


@command(
    deployments,
    "update",
    table="deployments",
    examples=[
        "moorage online-deployment update --file blue.yml",
        "moorage online-deployment update -e digits -n blue --set instance_count=2",
    ],
)
@file_option("deployment", required=False)
@name_option("deployment", required=False)
@endpoint_option(required=False)
@edit_options
@no_wait_option()
@_original_options
def update(session: Session, file: str | None, changes: Changes, no_wait: bool, web: bool, **names: str | None) -> Manifest:
    """Change a deployment. It goes on serving; replicas are replaced one after another."""
    if file:
        document = session.document(Kind.DEPLOYMENT, file, changes, **names)
        session.client.get(_path(session, document))
    elif (name := names["name"]) and (endpoint := names["endpoint_name"]):
        path = session.client.path("onlineEndpoints", endpoint, "deployments", name)
        document = amended(Kind.DEPLOYMENT, entities.deployment(session.client.get(path)), changes)
    else:
        raise Invalid("give --file, or --name and --endpoint-name.", target="--name")
    _no_page(session, web, document)
    return _apply(session, document, _path(session, document), wait=not no_wait)


def _no_page(session: Session, web: bool, document: Document) -> None:
    session.no_page(web, f"moorage online-deployment show -n {document.values['name']} -e {document.values['endpoint_name']}")


def _path(session: Session, document: Document) -> str:
    return session.client.path("onlineEndpoints", document.values["endpoint_name"], "deployments", document.values["name"])


def _apply(session: Session, document: Document, path: str, *, wait: bool) -> Manifest:
    from moorage.client.assets import Assets

    name, endpoint = document.values["name"], document.values["endpoint_name"]
    made = Assets(session.client, document, upload=session.upload()).body()
    session.on_interrupt(
        f"The service goes on with deployment {name}; `moorage online-deployment show -n {name} -e {endpoint}` tells how it went."
    )
    with document.answering():
        found = session.client.apply(path, made, wait=wait, watch=session.watch(f"deployment {name}"))
    _tell_notices(session, name, found)
    return entities.deployment(found)


def _tell_notices(session: Session, name: str, deployment: Manifest) -> None:
    """Say what the cluster made of the deployment's environment; on standard error, so that scripts read what they read before."""
    for notice in ((deployment.get("properties") or {}).get("moorage") or {}).get("notices") or ():
        session.warn(f"deployment {name}: {notice}")


@command(deployments, "show", table="deployments", examples=["moorage online-deployment show -n blue -e digits"])
@name_option("deployment")
@endpoint_option()
@local_option()
def show(session: Session, name: str, endpoint_name: str) -> Manifest:
    """Show a deployment."""
    found = session.client.get(session.client.path("onlineEndpoints", endpoint_name, "deployments", name))
    _tell_notices(session, name, found)
    return entities.deployment(found)


@command(deployments, "list", table="deployments", examples=["moorage online-deployment list -e digits -o table"])
@endpoint_option()
@local_option()
def list_deployments(session: Session, endpoint_name: str) -> list[Manifest]:
    """List the deployments of an endpoint."""
    path = session.client.path("onlineEndpoints", endpoint_name, "deployments")
    return [entities.deployment(item) for item in session.client.list(path)]


@command(
    deployments,
    "get-logs",
    examples=[
        "moorage online-deployment get-logs -n blue -e digits --lines 200",
        "moorage online-deployment get-logs -n blue -e digits -c storage-initializer",
    ],
)
@name_option("deployment")
@endpoint_option()
@click.option("--lines", "-l", type=click.IntRange(1), default=5000, help="The last so many lines. Default: 5000.")
@click.option(
    "--container",
    "-c",
    type=click.Choice(["inference-server", "storage-initializer"]),
    default="inference-server",
    help="Which container. Default: inference-server.",
)
@local_option()
def get_logs(session: Session, name: str, endpoint_name: str, lines: int, container: str) -> None:
    """Print the log of a deployment's container."""
    path = session.client.path("onlineEndpoints", endpoint_name, "deployments", name)
    kind = {"inference-server": "InferenceServer", "storage-initializer": "StorageInitializer"}[container]
    found = session.client.post(f"{path}/getLogs", {"tail": lines, "containerType": kind})
    content = str(found.get("content") or "")
    click.echo(content, nl=bool(content) and not content.endswith("\n"))


@command(deployments, "delete", examples=["moorage online-deployment delete -n blue -e digits --yes"])
@name_option("deployment")
@endpoint_option()
@yes_option()
@no_wait_option()
@local_option()
def delete(session: Session, name: str, endpoint_name: str, yes: bool, no_wait: bool) -> None:
    """Delete a deployment. Refused while it has a share of the traffic."""
    session.confirm(f"Delete the deployment {name} of {endpoint_name}?", yes)
    path = session.client.path("onlineEndpoints", endpoint_name, "deployments", name)
    session.delete(path, f"deployment {name}", wait=not no_wait)
