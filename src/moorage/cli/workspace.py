"""`moorage workspace`: show workspaces."""

from __future__ import annotations

import click

from moorage.cli import entities
from moorage.cli.commands import command, group
from moorage.cli.session import Session
from moorage.specs.manifest import Manifest

workspaces = group("workspace", "Show workspaces.")


@command(workspaces, "show", table="workspaces", examples=["moorage workspace show", "moorage workspace show -n research"])
@click.option("--name", "-n", metavar="NAME", help="Name of the workspace; the profile's by default.")
def show(session: Session, name: str | None) -> Manifest:
    """Show a workspace."""
    if name:
        session.given["workspace_name"] = name
    return entities.workspace(session.client.get(session.client.path()))


@command(workspaces, "list", table="workspaces", examples=["moorage workspace list -o table"])
def list_workspaces(session: Session) -> list[Manifest]:
    """List the workspaces of the resource group."""
    return [entities.workspace(item) for item in session.client.list(session.client.workspace.id.rpartition("/")[0])]
