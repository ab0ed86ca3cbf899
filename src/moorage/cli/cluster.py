"""`moorage cluster`: register clusters with the workspace service, so that their agents may connect."""

from __future__ import annotations

from moorage.cli import entities
from moorage.cli.commands import command, group, name_option, yes_option
from moorage.cli.session import Session
from moorage.ids import ClusterId
from moorage.specs.manifest import Manifest

clusters = group("cluster", "Register clusters with the workspace service.")


def resource_id(session: Session, name: str) -> str:
    """The ARM id that a cluster of this name has in the profile's subscription and resource group."""
    scope = session.client.workspace
    return str(ClusterId(scope.subscription, scope.resource_group, name))


@command(clusters, "register", table="clusters", examples=["moorage cluster register -n factory-1"])
@name_option("cluster")
def register(session: Session, name: str) -> Manifest:
    """Register a cluster and show its resource id, which `compute attach` takes. Doing it again changes nothing."""
    return entities.cluster(session.client.apply(resource_id(session, name), {"properties": {}}))


@command(clusters, "show", table="clusters", examples=["moorage cluster show -n factory-1"])
@name_option("cluster")
def show(session: Session, name: str) -> Manifest:
    """Show a cluster: whether its agent is connected, and when it was last heard."""
    return entities.cluster(session.client.get(resource_id(session, name)))


@command(clusters, "list", table="clusters", examples=["moorage cluster list -o table"])
def list_clusters(session: Session) -> list[Manifest]:
    """List clusters of the resource group."""
    return [entities.cluster(item) for item in session.client.list(resource_id(session, "x").rpartition("/")[0])]


@command(clusters, "delete", examples=["moorage cluster delete -n factory-1 --yes"])
@name_option("cluster")
@yes_option()
def delete(session: Session, name: str, yes: bool) -> None:
    """Remove a cluster's registration; its agent can no longer connect. Refused while it is attached."""
    session.confirm(f"Remove the registration of cluster {name}?", yes)
    session.delete(resource_id(session, name), f"cluster {name}")
