"""What each cluster should hold. Every change takes the cluster's next revision; deletions stay as tombstones, so that an agent can resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import sqlalchemy as sa

from moorage.errors import NotFound
from moorage.ids import Workspace, parse_workspace_id
from moorage.specs.manifest import Manifest
from moorage.store.rows import DesiredObject, DesiredOwner, ObjectName, ResourceKey
from moorage.store.statements import equal, values
from moorage.store.tables import clusters
from moorage.store.tables import desired as t

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction

_KEY = equal(t.c.cluster, t.c.kind, t.c.namespace, t.c.name)
_FIND = sa.select(t).where(*_KEY)
_INSERT = sa.insert(t)
_UPDATE = sa.update(t).where(*_KEY)
# Without regard to the case of the workspace's id: one that was made again may be written otherwise.
_OF_OWNER = sa.select(t).where(
    sa.func.lower(t.c.owner_workspace) == sa.bindparam("owner_workspace_is"), *equal(t.c.owner_type, t.c.owner_parent, t.c.owner_name)
)
_NEXT_REVISION = sa.update(clusters).where(*equal(clusters.c.id)).values(revision=clusters.c.revision + 1).returning(clusters.c.revision)


class Desired:
    """`tx.desired`. Touches topic `desired/CLUSTER`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def apply(self, cluster: str, name: ObjectName, object: Manifest, owner: DesiredOwner) -> int:
        """Want an object as it stands here; the revision at which it is wanted so. Wanting the same again changes nothing."""
        found = self.find(cluster, name)
        if found is not None and found.object == object and found.owner == owner:
            return found.revision
        revision = self._next_revision(cluster)
        row = {
            "revision": revision,
            "object": object,
            "owner_workspace": owner.workspace.id,
            "owner_type": owner.type,
            "owner_parent": owner.parent,
            "owner_name": owner.name,
            "changed_at": self._tx.now,
        }
        if found is None:
            key = {"cluster": cluster, "kind": name.kind, "namespace": name.namespace, "name": name.name}
            self._tx.connection.execute(_INSERT, {**key, **row})
        else:
            self._tx.connection.execute(_UPDATE, {**_is(cluster, name), **row})
        return revision

    def remove(self, cluster: str, name: ObjectName) -> int | None:
        """Want it no more; the revision of that, None when it was not wanted anyway."""
        found = self.find(cluster, name)
        if found is None or found.object is None:
            return None
        revision = self._next_revision(cluster)
        self._tx.connection.execute(_UPDATE, {**_is(cluster, name), "revision": revision, "object": None, "changed_at": self._tx.now})
        return revision

    def find(self, cluster: str, name: ObjectName) -> DesiredObject | None:
        row = self._tx.connection.execute(_FIND, _is(cluster, name)).one_or_none()
        return _desired(row) if row else None

    def since(self, cluster: str, revision: int, *, limit: int | None = None) -> Sequence[DesiredObject]:
        """Changes after a revision, oldest first, tombstones included. Complete only from `Cluster.floor` on."""
        query = sa.select(t).where(t.c.cluster == cluster, t.c.revision > revision).order_by(t.c.revision).limit(limit)
        return [_desired(row) for row in self._tx.connection.execute(query)]

    def all(self, cluster: str) -> Sequence[DesiredObject]:
        """Everything wanted now, in order of revision."""
        query = sa.select(t).where(t.c.cluster == cluster, t.c.object.is_not(sa.null())).order_by(t.c.revision)
        return [_desired(row) for row in self._tx.connection.execute(query)]

    def owners(self, cluster: str, type: str) -> Sequence[tuple[ObjectName, DesiredOwner]]:
        """What is wanted now for resources of a type, and for which, in order of revision; cheap, since no object is read."""
        query = sa.select(*(column for column in t.c if column is not t.c.object))
        query = query.where(t.c.cluster == cluster, t.c.owner_type == type, t.c.object.is_not(sa.null())).order_by(t.c.revision)
        return [(_name(row), _owner(row)) for row in self._tx.connection.execute(query)]

    def of_owner(self, owner: ResourceKey) -> Sequence[DesiredObject]:
        """What a resource wants, on any cluster, tombstones included."""
        # As both databases do it: they leave letters beyond ASCII as they are.
        workspace = owner.workspace.id.encode().lower().decode()
        wanted = values(owner_workspace=workspace, owner_type=owner.type, owner_parent=owner.parent, owner_name=owner.name)
        return [_desired(row) for row in self._tx.connection.execute(_OF_OWNER, wanted)]

    def forget(self, object: DesiredObject) -> None:
        """Drop the memory of a deletion that the cluster confirmed: nobody needs to be told of it again. What is wanted stays."""
        gone = sa.delete(t).where(*_KEY, t.c.revision == object.revision, t.c.object.is_(sa.null()))
        self._tx.connection.execute(gone, _is(object.cluster, object.name))

    def prune(self, cluster: str, older_than: timedelta) -> int:
        """Forget deletions that old and raise the cluster's floor to match: an agent away for longer starts afresh."""
        old = (t.c.cluster == cluster, t.c.object.is_(sa.null()), t.c.changed_at < self._tx.now - older_than)
        newest = self._tx.connection.scalar(sa.select(sa.func.max(t.c.revision)).where(*old))
        if newest is None:
            return 0
        self._tx.connection.execute(sa.update(clusters).where(clusters.c.id == cluster, clusters.c.floor < newest).values(floor=newest))
        return self._tx.connection.execute(sa.delete(t).where(*old, t.c.revision <= newest)).rowcount

    def _next_revision(self, cluster: str) -> int:
        # The row lock of this update makes revisions become visible in their order.
        row = self._tx.connection.execute(_NEXT_REVISION, values(id=cluster)).one_or_none()
        if row is None:
            raise NotFound(f"Cluster '{cluster}' is not registered.", code="ResourceNotFound", target=cluster)
        self._tx.touch(f"desired/{cluster}")
        return int(row.revision)


def _is(cluster: str, name: ObjectName) -> Mapping[str, object]:
    return values(cluster=cluster, kind=name.kind, namespace=name.namespace, name=name.name)


def _desired(row: sa.Row[tuple[object, ...]]) -> DesiredObject:
    found = row._mapping
    return DesiredObject(found["cluster"], _name(row), found["revision"], found["object"], _owner(row))


def _name(row: sa.Row[tuple[object, ...]]) -> ObjectName:
    found = row._mapping
    return ObjectName(found["kind"], found["namespace"], found["name"])


def _owner(row: sa.Row[tuple[object, ...]]) -> DesiredOwner:
    found = row._mapping
    return DesiredOwner(_workspace(found["owner_workspace"]), found["owner_type"], found["owner_name"], found["owner_parent"])


@lru_cache(maxsize=1024)
def _workspace(id: str) -> Workspace:
    return parse_workspace_id(id)[0]
