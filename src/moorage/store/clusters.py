"""Registered clusters, their agents' credentials, and how far each agent's reports were accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from moorage.errors import NotFound
from moorage.specs.manifest import Manifest
from moorage.store.rows import Cluster
from moorage.store.tables import clusters as t

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction

# How many earlier lives of an agent are remembered, so that a batch that one of them sent late is not taken for news.
LIVES_KEPT = 16


class Clusters:
    """`tx.clusters`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def find(self, arm_id: str) -> Cluster | None:
        return self._one(t.c.arm_key == arm_id.lower())

    def get(self, id: str) -> Cluster:
        """By registration id."""
        found = self._one(t.c.id == id)
        if found is None:
            raise NotFound(f"Cluster '{id}' is not registered.", code="ResourceNotFound", target=id)
        return found

    def of_token(self, digest: str) -> Cluster | None:
        """Whose agent holds the token with this SHA-256 digest."""
        return self._one(t.c.token_digest == digest)

    def list(self) -> Sequence[Cluster]:
        return [_cluster(row) for row in self._tx.connection.execute(sa.select(t).order_by(t.c.arm_key))]

    def put(self, id: str, arm_id: str, body: Manifest) -> Cluster:
        """Register under `id`, or replace the body of the registration that `arm_id` has already (whose id then stays)."""
        self._tx.touch("clusters")
        found = self.find(arm_id)
        if found is None:
            values = {"id": id, "arm_id": arm_id, "arm_key": arm_id.lower(), "body": body, "inventory": {}, "created_at": self._tx.now}
            self._tx.connection.execute(sa.insert(t).values(values))
            return self.get(id)
        self._tx.connection.execute(sa.update(t).where(t.c.id == found.id).values(body=body))
        return self.get(found.id)

    def delete(self, id: str) -> bool:
        """Forget a cluster with everything desired of and reported by it."""
        self._tx.touch("clusters", f"desired/{id}")
        return self._tx.connection.execute(sa.delete(t).where(t.c.id == id)).rowcount > 0

    def set_token_digest(self, id: str, digest: str | None) -> None:
        """The one agent token that works from now on, by its SHA-256; None revokes."""
        self._tx.touch(f"desired/{id}")
        self._tx.connection.execute(sa.update(t).where(t.c.id == id).values(token_digest=digest))

    def seen(self, id: str) -> None:
        """Its agent spoke just now."""
        self._tx.touch("clusters")
        self._tx.connection.execute(sa.update(t).where(t.c.id == id).values(last_seen=self._tx.now))

    def set_inventory(self, id: str, inventory: Manifest) -> None:
        self._tx.touch("clusters")
        self._tx.connection.execute(sa.update(t).where(t.c.id == id).values(inventory=inventory, last_seen=self._tx.now))

    def accept_batch(self, id: str, instance: str, sequence: int) -> bool:
        """Note a report batch; False when it is old: it, or a later one of its agent's life, or one of a later life was accepted before."""
        cluster = self.get(id)
        current, *former = cluster.agent_instance.split() or [""]
        if instance in former or (instance == current and sequence <= cluster.agent_sequence):
            return False
        lives = [each for each in (instance, *([] if instance == current else [current]), *former) if each]
        values = {"agent_instance": " ".join(lives[:LIVES_KEPT]), "agent_sequence": sequence}
        self._tx.connection.execute(sa.update(t).where(t.c.id == id).values(values))
        return True

    def _one(self, condition: sa.ColumnElement[bool]) -> Cluster | None:
        row = self._tx.connection.execute(sa.select(t).where(condition)).one_or_none()
        return _cluster(row) if row else None


def _cluster(row: sa.Row[tuple[object, ...]]) -> Cluster:
    values = row._mapping
    return Cluster(
        id=values["id"],
        arm_id=values["arm_id"],
        body=values["body"],
        inventory=values["inventory"],
        created_at=values["created_at"],
        last_seen=values["last_seen"],
        revision=values["revision"],
        floor=values["floor"],
        agent_instance=values["agent_instance"],
        agent_sequence=values["agent_sequence"],
    )
