"""What a new workspace begins with: its own row and the two datastores that the SDK addresses by hard-coded names."""

from __future__ import annotations

from moorage.ids import Workspace
from moorage.server.containers import artifact_container, blob_container
from moorage.specs.manifest import Manifest
from moorage.specs.uris import ARTIFACT_DATASTORE, BLOB_DATASTORE
from moorage.store import Resource, ResourceKey, Transaction


def workspace_key(workspace: Workspace) -> ResourceKey:
    """Where a workspace's own row stands; Azure compares workspace names without regard to case."""
    return ResourceKey(workspace, "workspaces", workspace.name.lower())


def ensure_workspace(tx: Transaction, workspace: Workspace, body: Manifest) -> tuple[Resource, bool]:
    """The workspace, made with `body` unless it exists; whether it is new."""
    existing = tx.resources.find(workspace_key(workspace))
    resource = existing or tx.resources.create(workspace_key(workspace), body)
    ensure_datastores(tx, resource.key.workspace)
    return resource, existing is None


def ensure_datastores(tx: Transaction, workspace: Workspace) -> None:
    for name, container in ((BLOB_DATASTORE, blob_container(workspace)), (ARTIFACT_DATASTORE, artifact_container(workspace))):
        key = ResourceKey(workspace, "datastores", name)
        if tx.resources.find(key) is None:
            tx.resources.create(key, {"properties": _built_in(container, default=name == BLOB_DATASTORE)}, state={"builtIn": True})


def _built_in(container: str, *, default: bool) -> Manifest:
    return {
        "datastoreType": "AzureBlob",
        "containerName": container,
        "credentials": {"credentialsType": "Sas"},
        "description": "",
        "isDefault": default,
        "properties": {},
        "tags": {},
    }
