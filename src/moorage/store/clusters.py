"""Registered clusters, their agents' credentials, and how far each agent's reports were accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from moorage.errors import NotFound
from moorage.specs.manifest import Manifest
from moorage.store.rows import Cluster
from moorage.store.statements import equal, values
from moorage.store.tables import clusters as t

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction

_BY_ID = sa.select(t).where(*equal(t.c.id))
_BY_ARM_ID = sa.select(t).where(*equal(t.c.arm_key))
_BY_TOKEN = sa.select(t).where(*equal(t.c.token_digest))
_ALL = sa.select(t).order_by(t.c.arm_key)

# How many earlier lives of an agent are remembered, so that a batch that one of them sent late is not taken for news.
LIVES_KEPT = 16


class Clusters:
    """`tx.clusters`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def find(self, arm_id: str) -> Cluster | None:
        return self._one(_BY_ARM_ID, values(arm_key=arm_id.lower()))

    def known(self, id: str) -> Cluster | None:
        """By registration id."""
        return self._one(_BY_ID, values(id=id))

    def get(self, id: str) -> Cluster:
        """By registration id; NotFound when it is not registered, or no more."""
        found = self.known(id)
        if found is None:
            raise NotFound(f"Cluster '{id}' is not registered.", code="ResourceNotFound", target=id)
        return found

    def of_token(self, digest: str) -> Cluster | None:
        """Whose agent holds the token with this SHA-256 digest."""
        return self._one(_BY_TOKEN, values(token_digest=digest))

    def list(self) -> Sequence[Cluster]:
        return [_cluster(row) for row in self._tx.connection.execute(_ALL)]

    def put(self, id: str, arm_id: str, body: Manifest) -> Cluster:
        """Register under `id`, or replace the body of the registration that `arm_id` has already (whose id then stays)."""
        self._tx.touch("clusters")
        found = self.find(arm_id)
        if found is None:
            row = {"id": id, "arm_id": arm_id, "arm_key": arm_id.lower(), "body": body, "inventory": {}, "created_at": self._tx.now}
            self._tx.connection.execute(sa.insert(t), row)
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
        accepted = {"agent_instance": " ".join(lives[:LIVES_KEPT]), "agent_sequence": sequence}
        self._tx.connection.execute(sa.update(t).where(t.c.id == id).values(accepted))
        return True

    def _one(self, query: sa.Select[tuple[object, ...]], wanted: Mapping[str, object]) -> Cluster | None:
        row = self._tx.connection.execute(query, wanted).one_or_none()
        return _cluster(row) if row else None


def _cluster(row: sa.Row[tuple[object, ...]]) -> Cluster:
    found = row._mapping
    return Cluster(
        id=found["id"],
        arm_id=found["arm_id"],
        body=found["body"],
        inventory=found["inventory"],
        created_at=found["created_at"],
        last_seen=found["last_seen"],
        revision=found["revision"],
        floor=found["floor"],
        agent_instance=found["agent_instance"],
        agent_sequence=found["agent_sequence"],
    )
