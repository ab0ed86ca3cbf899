"""One transaction as a unit of work sees it: the repositories, the time, who acts, and which bells to ring after the commit."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from moorage.store.blobs import Blobs
from moorage.store.clusters import Clusters
from moorage.store.desired import Desired
from moorage.store.leases import Leases
from moorage.store.operations import Operations
from moorage.store.reports import Reports
from moorage.store.resources import Resources
from moorage.store.sealed import SealingKey, Secrets


class Transaction:
    """What `Store.read` and `Store.write` hand to their function; useless after it returned.

    Attributes:
        now: one time for all rows of this transaction.
        actor: who is noted as creator or modifier.
        topics: what `touch` collected.
    """

    def __init__(self, connection: sa.Connection, key: SealingKey, now: datetime, actor: str) -> None:
        self.connection = connection
        self.now = now
        self.actor = actor
        self.topics: set[str] = set()
        self.resources = Resources(self)
        self.operations = Operations(self)
        self.clusters = Clusters(self)
        self.desired = Desired(self)
        self.reports = Reports(self)
        self.leases = Leases(self)
        self.secrets = Secrets(self, key)
        self.blobs = Blobs(self)

    def touch(self, *topics: str) -> None:
        """Ring these topics' bells once this transaction is committed."""
        self.topics.update(topics)
