"""`moorage compute`: attach clusters to the workspace."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import click

from moorage.cli import entities
from moorage.cli.amendment import amended
from moorage.cli.commands import (
    SETTINGS,
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
from moorage.cli.naming import snake, snaked
from moorage.cli.session import Session
from moorage.errors import Invalid
from moorage.specs.manifest import Manifest
from moorage.wire.documents.document import Document, Kind, body
from moorage.wire.documents.edits import Changes

computes = group("compute", "Attach clusters to the workspace as compute targets.")
_IDENTITIES = {"systemassigned": "system_assigned", "userassigned": "user_assigned"}
_SIZES = "how many nodes there are is the cluster's; its own autoscaler adds and removes them."


def _identity_options(decorated: Callable[..., Any]) -> Callable[..., Any]:
    # The original's commands take both spellings.
    types = click.Choice(["SystemAssigned", "UserAssigned", "system_assigned", "user_assigned"], case_sensitive=False)
    ids = click.option("--user-assigned-identities", metavar="IDS", help="Resource ids of identities, separated by commas.")
    return click.option("--identity-type", type=types, help="Identity of its workloads.")(ids(decorated))


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
@_identity_options
@click.option("--description", metavar="TEXT", help="What it is for.")
@set_option()
@no_wait_option()
def attach(
    session: Session, file: str | None, type_: str | None, changes: tuple[str, ...], no_wait: bool, **options: str | None
) -> Manifest:
    """Attach a cluster to the workspace, with a namespace. A cluster can be attached many times."""
    if type_ is not None and type_.lower() != "kubernetes":
        raise Invalid(f"computes of type '{type_}' cannot be attached; the only type is Kubernetes.", target="--type")
    if file is None and not options["resource_id"] and not any(change.startswith("resource_id=") for change in changes):
        raise Invalid(
            '--resource-id is missing: the cluster\'s id; `moorage cluster list --query "[].id" -o tsv` shows those that are registered.',
            target="--resource-id",
        )
    changes = (*changes, *_identity(options.pop("identity_type"), options.pop("user_assigned_identities")))
    return _attach(session, session.document(Kind.COMPUTE, file, changes, **options), wait=not no_wait)


def _attach(session: Session, document: Document, *, wait: bool) -> Manifest:
    name = document.values.get("name")
    if not name:
        raise document.refusal("name", "is required, and is missing; give it with --name.")
    path = session.client.path("computes", name)
    made = body(document, session.client.workspace, {})
    with document.answering():
        return entities.compute(session.client.apply(path, made, wait=wait, watch=session.watch(f"compute {name}")))


def _identity(type_: str | None, ids: str | None) -> tuple[str, ...]:
    if ids and not type_:
        type_ = "userassigned"
    if type_ is None:
        return ()
    named = tuple(
        f"identity.user_assigned_identities[{index}]={id.strip()}" for index, id in enumerate(filter(None, (ids or "").split(",")))
    )
    start = ("identity.user_assigned_identities=[]",) if named else ()
    return (f"identity.type={_IDENTITIES[type_.lower().replace('_', '')]}", *start, *named)


@command(computes, "create", table="computes", examples=["moorage compute create --file compute.yml"])
@file_option("compute target", required=False)
@name_option("compute target", required=False)
@click.option("--type", "-t", "type_", metavar="TYPE", help="Kubernetes; the only type there is.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def create(session: Session, file: str | None, name: str | None, type_: str | None, more: tuple[str, ...]) -> Manifest:
    """Attach the cluster that a document describes, as `attach` does. Machines are not created: they belong to the cluster."""
    if file:
        document = session.document(Kind.COMPUTE, file, (), name=name)
        if more:
            raise click.UsageError(f"No such option or argument: {more[0]}.", click.get_current_context())
        return _attach(session, document, wait=True)
    kind = f"of type '{type_}' " if type_ else ""
    raise Invalid(
        f"computes {kind}are not created here: machines belong to a Kubernetes cluster. Attach one with `moorage compute attach --type Kubernetes "
        "--resource-id ID --name NAME`, and describe sizes of machines by its instance types.",
        code="NotSupported",
        target="--type",
    )


# What machines would be made of (`--size`, `--max-instances`) is not looked at: the refusal is the same.
create.context_settings = {**SETTINGS, "ignore_unknown_options": True}


@command(computes, "update", table="computes", examples=["moorage compute update -n local --set tags.team=vision"])
@name_option("compute target")
@tags_option()
@_identity_options
@refused_option("--min-instances", "--max-instances", "--idle-time-before-scale-down", reason=_SIZES, is_flag=False)
@edit_options
@no_wait_option()
def update(session: Session, name: str, tags: tuple[str, ...], changes: Changes, no_wait: bool, **options: str | None) -> Manifest:
    """Change the tags, description or identity of a compute target. Its cluster and namespace never change."""
    changes = (*_identity(options["identity_type"], options["user_assigned_identities"]), *changes)
    path = session.client.path("computes", name)
    current = session.client.get(path)
    document = amended(Kind.COMPUTE, entities.compute(current), (*tag_changes(tags), *changes))
    made = body(document, session.client.workspace, {})
    # Settings of the original's own that its SDK may have left there; what else is shown is the cluster's.
    inner = (current.get("properties") or {}).get("properties") or {}
    for field in ("defaultInstanceType", "allowUnsupportedVersion"):
        if inner.get(field) is not None:
            made["properties"]["properties"][field] = inner[field]
    with document.answering():
        return entities.compute(session.client.apply(path, made, wait=not no_wait, watch=session.watch(f"compute {name}")))


@command(computes, "list-nodes", table="nodes", examples=["moorage compute list-nodes -n local -o table"])
@name_option("compute target")
def list_nodes(session: Session, name: str) -> list[Manifest]:
    """List the nodes of a compute target's cluster."""
    found = session.client.post(f"{session.client.path('computes', name)}/listNodes")
    kept = ("labels", "allocatable")
    return [
        {snake(field): value if field in kept else snaked(value) for field, value in node.items() if value is not None}
        for node in found.get("nodes") or []
    ]


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
@click.option("--type", "-t", "type_", metavar="TYPE", help="Only those of this type; all are of type Kubernetes.")
@click.option("--max-results", "-r", type=click.IntRange(1), help="At most so many.")
def list_computes(session: Session, type_: str | None, max_results: int | None) -> list[Manifest]:
    """List compute targets."""
    found = (entities.compute(item) for item in session.client.list(session.client.path("computes")))
    return list(itertools.islice((each for each in found if not type_ or each["type"] == type_.lower()), max_results))


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


_MACHINES = "machines are not started and stopped here; they belong to the cluster."
refused_command(computes, "delete", "an attached cluster is not deleted; `moorage compute detach` takes it off the workspace.")
for _verb in ("start", "stop", "restart", "enable-sso"):
    refused_command(computes, _verb, _MACHINES)
refused_command(computes, "connect-ssh", "nodes are reached through the cluster (`kubectl debug node/NAME`).")
for _verb in ("list-sizes", "list-usage"):
    refused_command(computes, _verb, "sizes are the cluster's instance types; `moorage compute show` lists them.")
