"""Which container belongs to which workspace: `WSKEY-blob`, `WSKEY-artifact`, `WSKEY-code-UUID`, so that no two workspaces share one."""

from __future__ import annotations

import re

from moorage.ids import Workspace, digest
from moorage.store import Store, Transaction

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


async def owner_of(store: Store, container: str) -> str:
    """The ARM id of the workspace a container belongs to; `/`, where only roles on everything reach, when to none."""
    owned = _OWNED.match(container)
    if not owned:
        return "/"

    def find(tx: Transaction) -> str:
        ids = (each.key.workspace for each in tx.resources.all_of("workspaces"))
        return next((workspace.id for workspace in ids if workspace_key(workspace) == owned[1]), "/")

    return await store.read(find)
