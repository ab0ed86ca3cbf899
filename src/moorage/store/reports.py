"""What clusters said: statuses, events and how much of each log has arrived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from moorage.ids import digest
from moorage.specs.manifest import Manifest
from moorage.store.rows import ClusterEvent, ObjectName, ReportedStatus
from moorage.store.statements import equal, values
from moorage.store.tables import events, log_positions, statuses

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction

_REPORTED = (statuses, events, log_positions)
_FORGET = [sa.delete(each).where(*equal(each.c.cluster, each.c.kind, each.c.namespace, each.c.name)) for each in _REPORTED]
_STATUS = sa.select(statuses).where(*equal(statuses.c.cluster, statuses.c.kind, statuses.c.namespace, statuses.c.name))

# A job that restarts for days repeats a handful of events; more than this of one object helps nobody.
EVENTS_KEPT = 100


class Reports:
    """`tx.reports`. Touches topics `reports` and `reports/CLUSTER`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def status(self, cluster: str, name: ObjectName) -> ReportedStatus | None:
        row = self._tx.connection.execute(_STATUS, _name_is(cluster, name)).one_or_none()
        return _status(row) if row else None

    def statuses(self, cluster: str) -> Sequence[ReportedStatus]:
        return [_status(row) for row in self._tx.connection.execute(sa.select(statuses).where(statuses.c.cluster == cluster))]

    def put_status(self, cluster: str, name: ObjectName, *, uid: str, generation: int, status: Manifest, logs_complete: bool) -> None:
        """The last one wins: agents send whole statuses in order."""
        news = {"uid": uid, "generation": generation, "status": status, "logs_complete": logs_complete, "gone": False}
        self._put(cluster, name, news)

    def put_gone(self, cluster: str, name: ObjectName) -> None:
        """The object and all it owned is no more; what was last known of it stays readable."""
        found = self.status(cluster, name)
        known = {"uid": "", "generation": 0, "status": {}, "logs_complete": True} if found is None else {}
        self._put(cluster, name, {**known, "gone": True})

    def forget(self, cluster: str, name: ObjectName) -> None:
        """Drop everything reported of an object, once what it belonged to is deleted."""
        for statement in _FORGET:
            self._tx.connection.execute(statement, _name_is(cluster, name))

    def put_event(self, event: ClusterEvent) -> None:
        """Keep an event; a repetition replaces count and time of the first."""
        self._tx.touch("reports", f"reports/{event.cluster}")
        identity = {"uid": event.uid, "about": event.about, "reason": event.reason, "message_digest": digest(event.message, length=32)}
        same = (*_event_is(event.cluster, event.name), *(events.c[column] == value for column, value in identity.items()))
        latest = {"type": event.type, "count": event.count, "time": event.time}
        if self._tx.connection.execute(sa.update(events).where(*same).values(latest)).rowcount:
            return
        name = {"cluster": event.cluster, "kind": event.name.kind, "namespace": event.name.namespace, "name": event.name.name}
        self._tx.connection.execute(sa.insert(events).values(**name, **identity, **latest, message=event.message))
        kept = sa.select(events.c.id).where(*_event_is(event.cluster, event.name)).order_by(events.c.id.desc()).limit(EVENTS_KEPT)
        self._tx.connection.execute(sa.delete(events).where(*_event_is(event.cluster, event.name), events.c.id.not_in(kept)))

    def events(self, cluster: str, name: ObjectName) -> Sequence[ClusterEvent]:
        """Events about an object and its pods, latest last."""
        query = sa.select(events).where(*_event_is(cluster, name)).order_by(events.c.time, events.c.id)
        return [_event(row) for row in self._tx.connection.execute(query)]

    def log_sizes(self, cluster: str, name: ObjectName) -> dict[str, int]:
        query = sa.select(log_positions.c.stream, log_positions.c.size).where(*_log_is(cluster, name))
        return {row.stream: row.size for row in self._tx.connection.execute(query)}

    def set_log_size(self, cluster: str, name: ObjectName, stream: str, size: int) -> None:
        self._tx.touch("reports", f"reports/{cluster}")
        same = (*_log_is(cluster, name), log_positions.c.stream == stream)
        if not self._tx.connection.execute(sa.update(log_positions).where(*same).values(size=size)).rowcount:
            row = {"cluster": cluster, "kind": name.kind, "namespace": name.namespace, "name": name.name, "stream": stream, "size": size}
            self._tx.connection.execute(sa.insert(log_positions), row)

    def _put(self, cluster: str, name: ObjectName, news: Manifest) -> None:
        self._tx.touch("reports", f"reports/{cluster}")
        news = {**news, "reported_at": self._tx.now}
        if not self._tx.connection.execute(sa.update(statuses).where(*_status_is(cluster, name)).values(news)).rowcount:
            key = {"cluster": cluster, "kind": name.kind, "namespace": name.namespace, "name": name.name}
            self._tx.connection.execute(sa.insert(statuses), {**key, **news})


def _name_is(cluster: str, name: ObjectName) -> Mapping[str, object]:
    return values(cluster=cluster, kind=name.kind, namespace=name.namespace, name=name.name)


def _is(table: sa.Table, cluster: str, name: ObjectName) -> tuple[sa.ColumnElement[bool], ...]:
    c = table.c
    return (c.cluster == cluster, c.kind == name.kind, c.namespace == name.namespace, c.name == name.name)


def _status_is(cluster: str, name: ObjectName) -> tuple[sa.ColumnElement[bool], ...]:
    return _is(statuses, cluster, name)


def _event_is(cluster: str, name: ObjectName) -> tuple[sa.ColumnElement[bool], ...]:
    return _is(events, cluster, name)


def _log_is(cluster: str, name: ObjectName) -> tuple[sa.ColumnElement[bool], ...]:
    return _is(log_positions, cluster, name)


def _status(row: sa.Row[tuple[object, ...]]) -> ReportedStatus:
    found = row._mapping
    return ReportedStatus(
        cluster=found["cluster"],
        name=ObjectName(found["kind"], found["namespace"], found["name"]),
        uid=found["uid"],
        generation=found["generation"],
        status=found["status"],
        logs_complete=found["logs_complete"],
        gone=found["gone"],
        reported_at=found["reported_at"],
    )


def _event(row: sa.Row[tuple[object, ...]]) -> ClusterEvent:
    found = row._mapping
    return ClusterEvent(
        cluster=found["cluster"],
        name=ObjectName(found["kind"], found["namespace"], found["name"]),
        uid=found["uid"],
        about=found["about"],
        type=found["type"],
        reason=found["reason"],
        message=found["message"],
        count=found["count"],
        time=found["time"],
    )
