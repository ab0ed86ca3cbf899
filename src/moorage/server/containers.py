"""Which container belongs to which workspace: `WSKEY-blob`, `WSKEY-artifact`, `WSKEY-code-UUID`, so that no two workspaces share one."""

from __future__ import annotations

import re

from moorage.ids import Workspace, digest
from moorage.store import Resource, Store, Transaction

_OWNED = re.compile(r"^([0-9a-f]{8})-(blob|artifact|code-.+)$")


def workspace_key(workspace: Workspace) -> str:
    return digest(workspace.id.lower())


def blob_container(workspace: Workspace) -> str:
    """Of datastore `workspaceblobstore`."""
    return f"{workspace_key(workspace)}-blob"


def artifact_container(workspace: Workspace) -> str:
    """Of datastore `workspaceartifactstore`: logs and `./outputs` of jobs."""
    return f"{workspace_key(workspace)}-artifact"


def code_container(workspace: Workspace, code: str) -> str:
    """Of one code asset."""
    return f"{workspace_key(workspace)}-code-{code.lower()}"


def foreign(container: str, workspace: Workspace) -> bool:
    """Whether it is a container of some other workspace."""
    owned = _OWNED.match(container)
    return owned is not None and owned[1] != workspace_key(workspace)


def owned_by(tx: Transaction, container: str) -> Resource | None:
    """The workspace a container belongs to."""
    owned = _OWNED.match(container)
    if not owned:
        return None
    return next((each for each in tx.resources.all_of("workspaces") if workspace_key(each.key.workspace) == owned[1]), None)


async def owner_of(store: Store, container: str) -> str:
    """The ARM id of the workspace a container belongs to; `/`, where only roles on everything reach, when to none."""
    if not _OWNED.match(container):
        return "/"
    owner = await store.read(lambda tx: owned_by(tx, container))
    return owner.key.workspace.id if owner else "/"
