"""The workspace service's SQL state: typed rows, short units of work, and a bell that rings after each commit.

Only this package knows SQLAlchemy. `Store.read(fn)` and `Store.write(fn)` run `fn(tx)` in a worker thread within one transaction; `tx.resources`,
`tx.desired` and their siblings are all that `fn` sees, and `fn` may run again when the database asks for a retry, so it must only touch `tx`.
"""

from moorage.store.changes import Bell, Changes
from moorage.store.database import Store
from moorage.store.resources import member, text
from moorage.store.rows import (
    Blob,
    Cluster,
    ClusterEvent,
    DesiredObject,
    DesiredOwner,
    Lease,
    ObjectName,
    Operation,
    OperationStatus,
    Part,
    ReportedStatus,
    Resource,
    ResourceKey,
)
from moorage.store.transaction import Transaction

__all__ = [
    "Bell",
    "Blob",
    "Changes",
    "Cluster",
    "ClusterEvent",
    "DesiredObject",
    "DesiredOwner",
    "Lease",
    "ObjectName",
    "Operation",
    "OperationStatus",
    "Part",
    "ReportedStatus",
    "Resource",
    "ResourceKey",
    "Store",
    "Transaction",
    "member",
    "text",
]
