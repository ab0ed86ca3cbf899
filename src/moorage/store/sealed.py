"""Sealed secrets: AES-256-GCM under a key that is not in the database, bound to the row they stand in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moorage.errors import Unavailable
from moorage.store.tables import secrets as t

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction

_NONCE_BYTES = 12


class SealingKey:
    """Seals and opens. The associated data names the row, so that a value moved to another row does not open."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, value: str, place: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value.encode(), place.encode())

    def open(self, sealed: bytes, place: str) -> str:
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode()).decode()
        except InvalidTag as error:
            raise Unavailable(
                "A stored secret does not open with this service's key file. Restore the key file that belongs to the database.",
                code="SealingKeyMismatch",
            ) from error


class Secrets:
    """`tx.secrets`: by owner (an ARM id, compared without regard to case) and name."""

    def __init__(self, tx: Transaction, key: SealingKey) -> None:
        self._tx = tx
        self._key = key

    def put(self, owner: str, name: str, value: str) -> None:
        owner = owner.lower()
        values = {"sealed": self._key.seal(value, f"{owner}\0{name}"), "changed_at": self._tx.now}
        same = (t.c.owner == owner, t.c.name == name)
        if not self._tx.connection.execute(sa.update(t).where(*same).values(values)).rowcount:
            self._tx.connection.execute(sa.insert(t).values(owner=owner, name=name, **values))

    def find(self, owner: str, name: str) -> str | None:
        owner = owner.lower()
        sealed = self._tx.connection.scalar(sa.select(t.c.sealed).where(t.c.owner == owner, t.c.name == name))
        return None if sealed is None else self._key.open(sealed, f"{owner}\0{name}")

    def delete(self, owner: str) -> None:
        """All secrets of an owner that is being deleted."""
        self._tx.connection.execute(sa.delete(t).where(t.c.owner == owner.lower()))
