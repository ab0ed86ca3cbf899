"""What each cluster should hold. Every change takes the cluster's next revision; deletions stay as tombstones, so that an agent can resume."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from moorage.errors import NotFound
from moorage.ids import Workspace, parse_workspace_id
from moorage.specs.manifest import Manifest
from moorage.store.rows import DesiredObject, DesiredOwner, ObjectName, ResourceKey
from moorage.store.tables import clusters
from moorage.store.tables import desired as t

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction


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
        values = {
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
            self._tx.connection.execute(sa.insert(t).values(**key, **values))
        else:
            self._tx.connection.execute(sa.update(t).where(*_is(cluster, name)).values(values))
        return revision

    def remove(self, cluster: str, name: ObjectName) -> int | None:
        """Want it no more; the revision of that, None when it was not wanted anyway."""
        found = self.find(cluster, name)
        if found is None or found.object is None:
            return None
        revision = self._next_revision(cluster)
        self._tx.connection.execute(
            sa.update(t).where(*_is(cluster, name)).values(revision=revision, object=sa.null(), changed_at=self._tx.now)
        )
        return revision

    def find(self, cluster: str, name: ObjectName) -> DesiredObject | None:
        row = self._tx.connection.execute(sa.select(t).where(*_is(cluster, name))).one_or_none()
        return _desired(row) if row else None

    def since(self, cluster: str, revision: int, *, limit: int | None = None) -> Sequence[DesiredObject]:
        """Changes after a revision, oldest first, tombstones included. Complete only from `Cluster.floor` on."""
        query = sa.select(t).where(t.c.cluster == cluster, t.c.revision > revision).order_by(t.c.revision).limit(limit)
        return [_desired(row) for row in self._tx.connection.execute(query)]

    def all(self, cluster: str) -> Sequence[DesiredObject]:
        """Everything wanted now, in order of revision."""
        query = sa.select(t).where(t.c.cluster == cluster, t.c.object.is_not(sa.null())).order_by(t.c.revision)
        return [_desired(row) for row in self._tx.connection.execute(query)]

    def of_owner(self, owner: ResourceKey) -> Sequence[DesiredObject]:
        """What a resource wants, on any cluster, tombstones included."""
        query = sa.select(t).where(
            sa.func.lower(t.c.owner_workspace) == owner.workspace.id.lower(),
            t.c.owner_type == owner.type,
            t.c.owner_parent == owner.parent,
            t.c.owner_name == owner.name,
        )
        return [_desired(row) for row in self._tx.connection.execute(query)]

    def forget(self, object: DesiredObject) -> None:
        """Drop the memory of a deletion that the cluster confirmed: nobody needs to be told of it again. What is wanted stays."""
        same = (*_is(object.cluster, object.name), t.c.revision == object.revision, t.c.object.is_(sa.null()))
        self._tx.connection.execute(sa.delete(t).where(*same))

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
        row = self._tx.connection.execute(
            sa.update(clusters).where(clusters.c.id == cluster).values(revision=clusters.c.revision + 1).returning(clusters.c.revision)
        ).one_or_none()
        if row is None:
            raise NotFound(f"Cluster '{cluster}' is not registered.", code="ResourceNotFound", target=cluster)
        self._tx.touch(f"desired/{cluster}")
        return int(row.revision)


def _is(cluster: str, name: ObjectName) -> tuple[sa.ColumnElement[bool], ...]:
    return (t.c.cluster == cluster, t.c.kind == name.kind, t.c.namespace == name.namespace, t.c.name == name.name)


def _desired(row: sa.Row[tuple[object, ...]]) -> DesiredObject:
    values = row._mapping
    return DesiredObject(
        cluster=values["cluster"],
        name=ObjectName(values["kind"], values["namespace"], values["name"]),
        revision=values["revision"],
        object=values["object"],
        owner=DesiredOwner(_workspace(values["owner_workspace"]), values["owner_type"], values["owner_name"], values["owner_parent"]),
    )


def _workspace(id: str) -> Workspace:
    return parse_workspace_id(id)[0]
