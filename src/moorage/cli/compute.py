"""`moorage compute`: attach clusters to the workspace."""

from __future__ import annotations

import click

from moorage.cli import entities
from moorage.cli.commands import command, file_option, group, name_option, no_wait_option, set_option, yes_option
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Kind, body

computes = group("compute", "Attach clusters to the workspace as compute targets.")
_IDENTITIES = {"systemassigned": "system_assigned", "userassigned": "user_assigned"}


@command(
    computes,
    "attach",
    table="computes",
    examples=[
        "moorage compute attach --type Kubernetes --name local --resource-id "
        "/subscriptions/S/resourceGroups/G/providers/Microsoft.Kubernetes/connectedClusters/C --namespace default",
        "moorage compute attach --file compute.yml",
    ],
)
@file_option("compute target", required=False)
@name_option("compute target", required=False)
@click.option("--type", "-t", "type_", metavar="TYPE", help="Kubernetes; the only type there is.")
@click.option("--resource-id", metavar="ID", help="Resource id of the cluster.")
@click.option("--namespace", metavar="NAMESPACE", help="Namespace of all its workloads. Default: default.")
@click.option(
    "--identity-type", type=click.Choice(["SystemAssigned", "UserAssigned"], case_sensitive=False), help="Identity of its workloads."
)
@click.option("--user-assigned-identities", metavar="IDS", help="Resource ids of identities, separated by commas.")
@click.option("--description", metavar="TEXT", help="What it is for.")
@set_option()
@no_wait_option()
def attach(
    session: Session, file: str | None, type_: str | None, changes: tuple[str, ...], no_wait: bool, **options: str | None
) -> Manifest:
    """Attach a cluster to the workspace, with a namespace. A cluster can be attached many times."""
    if type_ is not None and type_.lower() != "kubernetes":
        raise Invalid(f"computes of type '{type_}' cannot be attached; the only type is Kubernetes.", target="--type")
    changes = (*changes, *_identity(options.pop("identity_type"), options.pop("user_assigned_identities")))
    document = session.document(Kind.COMPUTE, file, changes, **options)
    name = document.values.get("name")
    if not name:
        raise document.refusal("name", "is required, and is missing; give it with --name.")
    path = session.client.path("computes", name)
    found = session.client.apply(
        path, body(document, session.client.workspace, {}), wait=not no_wait, watch=session.watch(f"compute {name}")
    )
    return entities.compute(found)


def _identity(type_: str | None, ids: str | None) -> tuple[str, ...]:
    if ids and not type_:
        type_ = "userassigned"
    if type_ is None:
        return ()
    named = tuple(
        f"identity.user_assigned_identities[{index}]={id.strip()}" for index, id in enumerate(filter(None, (ids or "").split(",")))
    )
    start = ("identity.user_assigned_identities=[]",) if named else ()
    return (f"identity.type={_IDENTITIES[type_.lower()]}", *start, *named)


@command(
    computes,
    "show",
    table="computes",
    examples=["moorage compute show -n local", "moorage compute show -n local --query properties.instanceTypes"],
)
@name_option("compute target")
def show(session: Session, name: str) -> Manifest:
    """Show a compute target and the instance types of its cluster."""
    return entities.compute(session.client.get(session.client.path("computes", name)))


@command(computes, "list", table="computes", examples=["moorage compute list -o table"])
def list_computes(session: Session) -> list[Manifest]:
    """List compute targets."""
    return [entities.compute(item) for item in session.client.list(session.client.path("computes"))]


@command(computes, "detach", examples=["moorage compute detach -n local", "moorage compute detach -n local --force --yes"])
@name_option("compute target")
@yes_option()
@click.option("--force", is_flag=True, help="Even while jobs run; they are cancelled.")
@no_wait_option()
def detach(session: Session, name: str, yes: bool, force: bool, no_wait: bool) -> None:
    """Detach a cluster. Its objects of this workspace go; user data (PVCs) stays."""
    session.confirm(f"Detach the compute target {name}?", yes)
    params = {"underlyingResourceAction": "Detach", **({"force": "true"} if force else {})}
    session.delete(session.client.path("computes", name), f"compute {name}", params=params, wait=not no_wait)
