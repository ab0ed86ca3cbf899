"""Leases: exclusive, expiring, fenced. Time comes from the database's host, i.e. this process: keep hosts' clocks within a fraction of the lease."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from moorage.errors import Conflict
from moorage.store.rows import Lease
from moorage.store.tables import leases as t

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction


class Leases:
    """`tx.leases`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def acquire(self, name: str, owner: str, duration: timedelta) -> Lease | None:
        """Take a lease that is free, expired or already ours; None while another holds it."""
        row = self._tx.connection.execute(sa.select(t).where(t.c.name == name)).one_or_none()
        expires = self._tx.now + duration
        if row is None:
            self._tx.connection.execute(sa.insert(t).values(name=name, owner=owner, token=1, expires_at=expires))
            return Lease(name, owner, 1, expires)
        if row.owner != owner and row.expires_at > self._tx.now:
            return None
        token = row.token if row.owner == owner and row.expires_at > self._tx.now else row.token + 1
        self._tx.connection.execute(sa.update(t).where(t.c.name == name).values(owner=owner, token=token, expires_at=expires))
        return Lease(name, owner, token, expires)

    def renew(self, lease: Lease, duration: timedelta) -> Lease:
        """The heartbeat; Conflict when the lease passed to another, after which its holder must stop."""
        expires = self._tx.now + duration
        renewed = self._tx.connection.execute(
            sa.update(t).where(t.c.name == lease.name, t.c.owner == lease.owner, t.c.token == lease.token).values(expires_at=expires)
        )
        if renewed.rowcount != 1:
            raise Conflict(f"Lease '{lease.name}' passed to another process.", code="LeaseLost", target=lease.name)
        return Lease(lease.name, lease.owner, lease.token, expires)

    def release(self, lease: Lease) -> None:
        """Let it go; the row stays, so that its token keeps growing."""
        self._tx.connection.execute(
            sa.update(t)
            .where(t.c.name == lease.name, t.c.owner == lease.owner, t.c.token == lease.token)
            .values(owner="", expires_at=self._tx.now)
        )
