"""ARM resources: one generic table for all types, with optimistic versions and keyset paging."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from moorage.errors import Conflict, NotFound
from moorage.ids import Workspace, parse_workspace_id
from moorage.specs.manifest import Manifest
from moorage.store.rows import Resource, ResourceKey
from moorage.store.statements import batched, contains, equal, json_text, values
from moorage.store.tables import resources as t

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction

_KEY = equal(t.c.workspace, t.c.type, t.c.parent, t.c.name)
_FIND = sa.select(t).where(*_KEY)
_STATES = sa.select(t.c.name, t.c.state).where(
    *equal(t.c.workspace, t.c.type, t.c.parent), t.c.name.in_(sa.bindparam("names", expanding=True))
)
_INSERT = sa.insert(t).returning(t)
_UPDATE = sa.update(t).where(*_KEY, *equal(t.c.sequence, t.c.version))
_DELETE = sa.delete(t).where(*_KEY)


class Resources:
    """`tx.resources`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def find(self, key: ResourceKey) -> Resource | None:
        row = self._tx.connection.execute(_FIND, _is(key)).one_or_none()
        return _resource(row) if row else None

    def get(self, key: ResourceKey) -> Resource:
        found = self.find(key)
        if found is None:
            raise missing(key)
        return found

    def states(self, keys: Iterable[ResourceKey]) -> Mapping[ResourceKey, Manifest]:
        """The states alone, by the keys as they were asked for; those that do not exist are missing. Cheaper by far than one by one."""
        asked = defaultdict(set)
        for key in keys:
            asked[key.workspace, key.type, key.parent].add(key.name)
        found: dict[ResourceKey, Manifest] = {}
        for (workspace, type, parent), names in asked.items():
            for some in batched(sorted(names)):
                within = {**values(workspace=workspace.id.lower(), type=type, parent=parent), "names": some}
                for name, state in self._tx.connection.execute(_STATES, within):
                    found[ResourceKey(workspace, type, name, parent)] = state
        return found

    def list(
        self,
        workspace: Workspace,
        type: str,
        *,
        parent: str | None = None,
        lookup: str | None = None,
        archived: bool | None = None,
        body_has: Sequence[str] = (),
        state_has: Sequence[str] = (),
        newest_first: bool = False,
        after: int | None = None,
        limit: int | None = None,
    ) -> Sequence[Resource]:
        """Resources of a type in order of creation.

        Args:
            workspace: whose.
            type: the ARM type, e.g. `environments/versions`.
            parent: only below this one.
            lookup: only those with this second key.
            archived: only archived (True) or only active ones (False).
            body_has: only those whose body has each of these somewhere in its JSON (`member` makes them): a sieve, so that what certainly does not
                match is not even read. SQLite's is blind to the case of letters.
            state_has: the same of the state.
            newest_first: turn the order round.
            after: `sequence` of the last one already seen, in the order asked for.
            limit: how many at most.
        """
        query = sa.select(t).where(t.c.workspace == workspace.id.lower(), t.c.type == type)
        if parent is None and "/" not in type:
            # These have none; said, it leads to an index that has them in order.
            parent = ""
        if parent is not None:
            query = query.where(t.c.parent == parent)
        if lookup is not None:
            query = query.where(t.c.lookup == lookup)
        if archived is not None:
            query = query.where(t.c.archived == archived)
        query = query.where(*(contains(t.c.body, each) for each in body_has), *(contains(t.c.state, each) for each in state_has))
        if after is not None:
            query = query.where(t.c.sequence < after if newest_first else t.c.sequence > after)
        query = query.order_by(t.c.sequence.desc() if newest_first else t.c.sequence).limit(limit)
        return [_resource(row) for row in self._tx.connection.execute(query)]

    def names(self, workspace: Workspace, type: str, *, parent: str = "") -> Sequence[str]:
        """The names alone, oldest first, archived ones included; cheap, since no body is read."""
        query = sa.select(t.c.name).where(t.c.workspace == workspace.id.lower(), t.c.type == type, t.c.parent == parent)
        return list(self._tx.connection.scalars(query.order_by(t.c.sequence)))

    def all_of(self, type: str) -> Sequence[Resource]:
        """Every resource of a type in every workspace: for the engines, which serve them all."""
        return [_resource(row) for row in self._tx.connection.execute(sa.select(t).where(t.c.type == type).order_by(t.c.sequence))]

    def all_with(self, type: str, lookup: str) -> Sequence[Resource]:
        """Every resource of a type, in any workspace, with this second key."""
        query = sa.select(t).where(t.c.type == type, t.c.lookup == lookup).order_by(t.c.sequence)
        return [_resource(row) for row in self._tx.connection.execute(query)]

    def workspaces(self, subscription: str, resource_group: str | None = None) -> Sequence[Resource]:
        found = self.all_of("workspaces")
        return [
            each
            for each in found
            if each.key.workspace.subscription.lower() == subscription.lower()
            and (resource_group is None or each.key.workspace.resource_group.lower() == resource_group.lower())
        ]

    def create(
        self, key: ResourceKey, body: Manifest, *, state: Manifest | None = None, lookup: str = "", archived: bool = False
    ) -> Resource:
        """Insert; Conflict when it exists already."""
        self._tx.touch(f"resources/{key.type}")
        now = self._tx.now
        row = {
            "workspace": key.workspace.id.lower(),
            "scope": key.workspace.id,
            "type": key.type,
            "parent": key.parent,
            "name": key.name,
            "body": body,
            "state": state or {},
            "lookup": lookup,
            "archived": archived,
            "created_at": now,
            "created_by": self._tx.actor,
            "modified_at": now,
            "modified_by": self._tx.actor,
            "version": 1,
        }
        if self.find(key) is not None:
            raise Conflict(f"{key.type} '{key.name}' exists already.", target=key.id)
        return _resource(self._tx.connection.execute(_INSERT, row).one())

    def update(
        self,
        seen: Resource,
        *,
        body: Manifest | None = None,
        state: Manifest | None = None,
        lookup: str | None = None,
        archived: bool | None = None,
    ) -> Resource:
        """Replace the named parts of `seen`; Conflict when somebody wrote it since it was read. Writing nothing new is no write.

        A change of `state` alone is the service's own doing and leaves `modified_at` and `modified_by` as they are.
        """
        wanted = replace(
            seen,
            body=seen.body if body is None else body,
            state=seen.state if state is None else state,
            lookup=seen.lookup if lookup is None else lookup,
            archived=seen.archived if archived is None else archived,
        )
        if wanted == seen:
            return seen
        if wanted.body != seen.body or wanted.archived != seen.archived:
            wanted = replace(wanted, modified_at=self._tx.now, modified_by=self._tx.actor)
        wanted = replace(wanted, version=seen.version + 1)
        self._tx.touch(f"resources/{seen.key.type}")
        changed = self._tx.connection.execute(
            _UPDATE,
            {
                **_is(seen.key),
                **values(sequence=seen.sequence, version=seen.version),
                "body": wanted.body,
                "state": wanted.state,
                "lookup": wanted.lookup,
                "archived": wanted.archived,
                "modified_at": wanted.modified_at,
                "modified_by": wanted.modified_by,
                "version": wanted.version,
            },
        )
        if changed.rowcount != 1:
            raise Conflict(
                f"{seen.key.type} '{seen.name}' changed meanwhile. Read it again and retry.", code="ResourceModified", target=seen.id
            )
        return wanted

    def delete(self, key: ResourceKey) -> bool:
        """Remove it; whether it was there."""
        gone = self._tx.connection.execute(_DELETE, _is(key)).rowcount > 0
        if gone:
            self._tx.touch(f"resources/{key.type}")
        return gone

    def delete_all(self, workspace: Workspace) -> Sequence[ResourceKey]:
        """Remove everything of a workspace, itself included; what there was."""
        within = t.c.workspace == workspace.id.lower()
        keys = [
            ResourceKey(workspace, row.type, row.name, row.parent)
            for row in self._tx.connection.execute(sa.select(t.c.type, t.c.name, t.c.parent).where(within))
        ]
        self._tx.connection.execute(sa.delete(t).where(within))
        self._tx.touch(*{f"resources/{key.type}" for key in keys})
        return keys


def member(name: str, value: str | None = None) -> str:
    """How a member of an object stands in a stored body or state, for the sieves of `Resources.list`; without a value, its name alone."""
    return json_text(name) + ":" + ("" if value is None else json_text(value))


def text(value: str) -> str:
    """How a text stands there, without its quotes."""
    return json_text(value)[1:-1]


# What people call the types, and what lists them.
_NOUNS = {
    "batchEndpoints": ("batch endpoint", "moorage batch-endpoint list"),
    "batchEndpoints/deployments": ("batch deployment", "moorage batch-deployment list"),
    "components": ("component", "moorage component list"),
    "computes": ("compute target", "moorage compute list"),
    "data": ("data asset", "moorage data list"),
    "datastores": ("datastore", "moorage datastore list"),
    "environments": ("environment", "moorage environment list"),
    "jobs": ("job", "moorage job list"),
    "models": ("model", "moorage model list"),
    "onlineEndpoints": ("online endpoint", "moorage online-endpoint list"),
    "onlineEndpoints/deployments": ("online deployment", "moorage online-deployment list"),
    "schedules": ("schedule", "moorage schedule list"),
}


def missing(key: ResourceKey) -> NotFound:
    """The error for a resource that is not there, in words that name it and say where the right name is found."""
    versioned = key.type.removesuffix("/versions")
    noun, listed = _NOUNS.get(versioned, (versioned, ""))
    where = f"does not exist in workspace '{key.workspace.name}'"
    if versioned != key.type:
        text, listed = f"Version '{key.name}' of {noun} '{key.parent}' {where}.", f"{listed} --name {key.parent}" if listed else ""
    elif key.parent:
        text, listed = f"{noun.capitalize()} '{key.name}' of endpoint '{key.parent}' {where}.", f"{listed} --endpoint-name {key.parent}"
    else:
        text = f"{noun.capitalize()} '{key.name}' {where}."
    remedy = f" See what there is: {listed}." if listed else ""
    return NotFound(text + remedy, code="ResourceNotFound", target=key.id)


def _is(key: ResourceKey) -> Mapping[str, object]:
    return values(workspace=key.workspace.id.lower(), type=key.type, parent=key.parent, name=key.name)


def _resource(row: sa.Row[tuple[object, ...]]) -> Resource:
    # In the order of the table's columns: to look each up by its name costs a page of a list as much as the database does.
    cells: Sequence[Any] = row
    sequence, _, scope, type, parent, name, body, state, lookup, archived, created_at, created_by, modified_at, modified_by, version = cells
    return Resource(
        key=ResourceKey(_workspace(scope), type, name, parent),
        body=body,
        state=state,
        lookup=lookup,
        archived=archived,
        created_at=created_at,
        created_by=created_by,
        modified_at=modified_at,
        modified_by=modified_by,
        version=version,
        sequence=sequence,
    )


@lru_cache(maxsize=1024)
def _workspace(id: str) -> Workspace:
    return parse_workspace_id(id)[0]
