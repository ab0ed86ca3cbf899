"""`moorage workspace`: make, show and remove workspaces. None has to be set in the profile for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from moorage.cli import entities
from moorage.cli.amendment import amended
from moorage.cli.candidates import workspaces as workspaces_there
from moorage.cli.commands import (
    accepted_option,
    command,
    file_option,
    group,
    name_option,
    no_wait_option,
    refused_command,
    refused_option,
    set_option,
    tag_changes,
    tags_option,
    yes_option,
)
from moorage.cli.edits import edit_options
from moorage.cli.session import Session
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind, body
from moorage.wire.documents.edits import Changes

workspaces = group("workspace", "Make, show and remove workspaces.")
# What the service adds to a workspace's properties when it answers.
_ANSWERED = ("workspaceId", "discoveryUrl", "provisioningState", "publicNetworkAccess", "hbiWorkspace")


def _fields(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `create` and `update` have in common."""
    for option in (
        refused_option("--public-network-access", reason="set network policies in the cluster.", is_flag=False),
        refused_option("--managed-network", "-m", reason="set network policies in the cluster.", is_flag=False),
        refused_option("--container-registry", "-c", reason="images are pulled by the cluster, with its own secrets.", is_flag=False),
        refused_option("--application-insights", "-a", reason="it is part of the original's own cloud.", is_flag=False),
        refused_option("--key-vault", "-k", reason="it is part of the original's own cloud.", is_flag=False),
        refused_option("--storage-account", "-s", reason="the service keeps files itself; see its settings.", is_flag=False),
        no_wait_option(),
        tags_option(),
        click.option("--description", "-d", metavar="TEXT", help="What it is for."),
        click.option("--display-name", metavar="TEXT", help="Its name for people."),
    ):
        function = option(function)
    return function


@command(
    workspaces,
    "create",
    table="workspaces",
    examples=["moorage workspace create -n research", "moorage workspace create --file workspace.yml -g team"],
)
@file_option("workspace", required=False)
@name_option("workspace", required=False)
@set_option()
@click.option("--location", "-l", metavar="PLACE", help="A word of your own; workspaces have no place here.")
@_fields
def create(
    session: Session, file: str | None, changes: tuple[str, ...], tags: tuple[str, ...], no_wait: bool, **options: str | None
) -> Manifest:
    """Make a workspace; one that exists is changed. Needs the role Owner on all of the service, or on its place."""
    given = {**options, "name": options["name"] or (None if file else session.given.get("workspace_name"))}
    document = session.document(Kind.WORKSPACE, file, (*tag_changes(tags), *changes), **given)
    _aim(session, document.values["name"], document)
    return _put(session, document, {}, wait=not no_wait)


@command(
    workspaces,
    "update",
    table="workspaces",
    examples=[
        "moorage workspace update -n research --display-name Research --tags team=vision",
        "moorage workspace update -f workspace.yml",
    ],
)
@file_option("workspace", required=False)
@click.option("--name", "-n", metavar="NAME", shell_complete=workspaces_there, help="Name of the workspace; the profile's by default.")
@edit_options
@_fields
def update(
    session: Session,
    file: str | None,
    name: str | None,
    changes: Changes,
    tags: tuple[str, ...],
    no_wait: bool,
    **words: str | None,
) -> Manifest:
    """Change what describes a workspace."""
    changes = (*(f"{field}={value}" for field, value in words.items() if value is not None), *tag_changes(tags), *changes)
    document = session.document(Kind.WORKSPACE, file, changes, name=name) if file else None
    _aim(session, str(document.values["name"]) if document else name, document)
    current = session.client.get(session.client.path())
    if document is None:
        document = amended(Kind.WORKSPACE, entities.workspace(current), changes)
    return _put(session, document, current, wait=not no_wait)


def _aim(session: Session, name: str | None, document: Document | None = None) -> None:
    """Let the client speak of this workspace, whichever the profile has."""
    group = (document.values if document else {}).get("resource_group")
    options = {"workspace_name": name, "resource_group": session.given.get("resource_group") or group}
    session.reconsider(**{option: value for option, value in options.items() if value})


def _put(session: Session, document: Document, current: Manifest, *, wait: bool) -> Manifest:
    made = body(document, session.client.workspace, {})
    kept = {name: value for name, value in (current.get("properties") or {}).items() if name not in _ANSWERED}
    made["properties"] = {**kept, **made["properties"]}
    name = session.client.workspace.name
    with document.answering():
        return entities.workspace(session.client.apply(session.client.path(), made, wait=wait, watch=session.watch(f"workspace {name}")))


@command(workspaces, "show", table="workspaces", examples=["moorage workspace show", "moorage workspace show -n research"])
@click.option("--name", "-n", metavar="NAME", shell_complete=workspaces_there, help="Name of the workspace; the profile's by default.")
def show(session: Session, name: str | None) -> Manifest:
    """Show a workspace."""
    _aim(session, name)
    return entities.workspace(session.client.get(session.client.path()))


@command(workspaces, "list", table="workspaces", examples=["moorage workspace list -o table"])
def list_workspaces(session: Session) -> list[Manifest]:
    """List the workspaces of the resource group."""
    if not session.profile.workspace:
        # Which one does not matter: only the part of its address before it is asked for.
        session.reconsider(workspace_name="any")
    return [entities.workspace(item) for item in session.client.list(session.client.workspace.id.rpartition("/")[0])]


@command(
    workspaces,
    "delete",
    examples=["moorage workspace delete -n research --yes", "moorage workspace delete -n research --all-resources --yes"],
)
@name_option("workspace")
@yes_option()
@click.option("--all-resources", is_flag=True, help="Its files, too: code, data, models, logs and outputs. Without it they stay.")
@accepted_option("--permanently-delete", "-p", meaning="a workspace that is deleted is gone.")
@no_wait_option()
def delete(session: Session, name: str, yes: bool, all_resources: bool, no_wait: bool) -> None:
    """Delete a workspace and all it knows. Refused while compute targets are attached to it."""
    what = "all it knows, and its files" if all_resources else "all it knows; its files stay"
    session.confirm(f"Delete the workspace {name}: {what}?", yes)
    _aim(session, name)
    params = {"deleteFiles": "true"} if all_resources else None
    session.delete(session.client.path(), f"workspace {name}", params=params, wait=not no_wait)


for _verb in ("list-keys", "sync-keys"):
    refused_command(workspaces, _verb, "a workspace has no keys; `moorage datastore show --include-secrets` gives access to its files.")
refused_command(workspaces, "diagnose", "the service says itself what is wrong: `moorage status`, `moorage compute show`.")
refused_command(workspaces, "provision-network", "set network policies in the cluster.")
