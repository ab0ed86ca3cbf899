"""Copies of mapped web files in the blob store, kept while jobs name them and for a week after. A row for each says when one last did.

A row is there before the first byte of its copy, and every deletion looks at it in its own transaction: what a job is about to read is never half gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from moorage.clock import parse_rfc3339, rfc3339
from moorage.ids import Workspace
from moorage.server.containers import blob_container
from moorage.specs.manifest import Manifest
from moorage.store import ResourceKey, Store, Transaction

FOLDER = "WebFiles"
# Rows that say where an address was copied to, and rows of the copies; neither is a resource of the API.
ADDRESSES = "webFiles"
COPIES = "webCopies"
# A week, so that a project that runs every few days copies once.
KEPT = timedelta(days=7)
# How exact the time of the last use is.
_STEP = timedelta(hours=1)
# Blobs deleted in one transaction, and copies looked at in one round.
_BATCH, _MOST = 1000, 100_000
_COPY = re.compile("[0-9a-f]{32}")


async def use(store: Store, workspace: Workspace, copy: str) -> None:
    """A job is about to name this copy: for a week from now on nothing of it goes."""
    key = ResourceKey(workspace, COPIES, copy)

    def fresh(tx: Transaction) -> bool:
        row = tx.resources.find(key)
        return row is not None and parse_rfc3339(row.state["used"]) + _STEP > tx.now

    def note(tx: Transaction) -> None:
        row = tx.resources.find(key)
        state: Manifest = {"used": rfc3339(tx.now)}
        if row is None:
            tx.resources.create(key, {"properties": {}}, state=state)
        else:
            tx.resources.update(row, state=state)

    if not await store.read(fresh):
        await store.write(note)


async def forget_unused(store: Store) -> int:
    """Delete the copies that no job has named for a week, and no object of a cluster or asset names; how many blobs that were."""
    deleted = 0
    for workspace, copy in await store.read(_copies):
        while gone := await store.write(lambda tx, workspace=workspace, copy=copy: _forget(tx, workspace, copy)):  # type: ignore[misc]
            deleted += gone
    return deleted


def _copies(tx: Transaction) -> list[tuple[Workspace, str]]:
    found: list[tuple[Workspace, str]] = []
    for each in tx.resources.all_of("workspaces"):
        workspace = each.key.workspace
        noted = tx.resources.names(workspace, COPIES)
        entries = tx.blobs.list_folder(blob_container(workspace), prefix=f"{FOLDER}/", delimiter="/", limit=_MOST)
        folders = [entry.split("/")[1] for entry in entries if isinstance(entry, str)]
        # What somebody else has put into the folder is theirs.
        ours = {name for name in folders if _COPY.fullmatch(name)}
        found += [(workspace, name) for name in sorted(ours.union(noted))]
    return found


def _forget(tx: Transaction, workspace: Workspace, copy: str) -> int:
    """Delete some blobs of a copy whose time is over, and its rows; how many blobs went."""
    key, container = ResourceKey(workspace, COPIES, copy), blob_container(workspace)
    row = tx.resources.find(key)
    if row is None:
        # Of an earlier version, or of a former workspace of this name: its time counts from now on.
        tx.resources.create(key, {"properties": {}}, state={"used": rfc3339(tx.now)})
        return 0
    prefix = f"{FOLDER}/{copy}/"
    if (
        parse_rfc3339(row.state["used"]) + KEPT > tx.now
        or _read_by_a_cluster(tx, f"{container}/{prefix}")
        or _registered(tx, workspace, prefix)
    ):
        return 0
    for address in tx.resources.list(workspace, ADDRESSES):
        if str(address.state["address"]).startswith(f"{container}/{prefix}"):
            tx.resources.delete(address.key)
    blobs = tx.blobs.list(container, prefix=prefix, limit=_BATCH)
    for blob in blobs:
        tx.blobs.delete(container, blob.name)
    if len(blobs) < _BATCH:
        tx.resources.delete(key)
    return len(blobs)


def _registered(tx: Transaction, workspace: Workspace, prefix: str) -> bool:
    """Whether somebody has made an asset of the copy itself."""
    versions = (row.properties for type_ in ("data/versions", "models/versions") for row in tx.resources.list(workspace, type_))
    return any(f"/{prefix}" in text for properties in versions for text in _texts(properties))


def _read_by_a_cluster(tx: Transaction, address: str) -> bool:
    """Whether an object that a cluster should hold reads what lies there."""
    objects = (each.object for cluster in tx.clusters.list() for each in tx.desired.all(cluster.id))
    return any(text.startswith(address) for object in objects for text in _texts(object))


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)
