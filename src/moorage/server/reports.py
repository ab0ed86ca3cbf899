"""What an agent posts becomes what users see: logs first, then everything else of a batch in one transaction with all its consequences.

A batch may come twice, or after a later one: its sequence number, the offsets of logs and the rule that whole statuses replace each other make
each repetition harmless.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moorage.errors import Invalid
from moorage.server.engine.objects import TOPIC
from moorage.server.engine.settle import settle, settle_cluster
from moorage.server.services import Services
from moorage.specs.uris import join
from moorage.store import ClusterEvent, DesiredObject, ObjectName, Transaction
from moorage.wire.gateway import (
    EventReport,
    GoneReport,
    InventoryReport,
    LogPosition,
    LogReport,
    ObjectKey,
    ReportBatch,
    ReportReceipt,
    StatusReport,
)

# Below a job's artifacts; never among what the job itself uploads there.
_STREAM = re.compile(r"^(?!outputs/)[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")


async def store_reports(services: Services, cluster: str, batch: ReportBatch) -> ReportReceipt:
    """Store a batch and act on it; the receipt once all of it is on disk.

    Args:
        services: the service's parts.
        cluster: the registration of the agent that posts.
        batch: as posted.
    """
    positions = await _store_logs(services, cluster, [each for each in batch.reports if isinstance(each, LogReport)])
    silence = services.settings.agent_timeout

    def write(tx: Transaction) -> None:
        tx.clusters.seen(cluster)
        if not tx.clusters.accept_batch(cluster, batch.instance, batch.sequence):
            return
        for position in positions:
            tx.reports.set_log_size(cluster, _name(position.key), position.stream, position.size)
        touched = [name for each in batch.reports if (name := _note(tx, cluster, each)) is not None]
        changed = {*touched, *(_name(position.key) for position in positions)}
        gone = any(isinstance(each, GoneReport) for each in batch.reports)
        for name in sorted(changed):
            found = tx.desired.find(cluster, name)
            if found is not None:
                settle(tx, found)
        if gone or any(isinstance(each, InventoryReport) for each in batch.reports):
            settle_cluster(tx, cluster, silence)
            tx.touch(TOPIC)

    await services.store.write(write, actor="agent")
    return ReportReceipt(accepted=batch.sequence, logs=positions)


def _note(
    tx: Transaction, cluster: str, report: StatusReport | GoneReport | InventoryReport | EventReport | LogReport
) -> ObjectName | None:
    """Store one report; the object it is about, if it is one this cluster was told of."""
    if isinstance(report, InventoryReport):
        tx.clusters.set_inventory(cluster, report.model_dump(mode="json", by_alias=True, exclude={"kind"}))
        return None
    name = _name(report.key)
    wanted = tx.desired.find(cluster, name)
    if wanted is None:
        # Long forgotten, or never wanted: nobody can be told.
        return None
    match report:
        case StatusReport() if _is_about_former(report, wanted):
            return None
        case StatusReport():
            tx.reports.put_status(
                cluster, name, uid=report.uid, generation=report.generation, status=report.status, logs_complete=report.logs_complete
            )
        case GoneReport():
            tx.reports.put_gone(cluster, name)
        case EventReport():
            tx.reports.put_event(
                ClusterEvent(cluster, name, report.uid, report.about, report.type, report.reason, report.message, report.count, report.time)
            )
        case LogReport():
            pass
    return name


def _is_about_former(report: StatusReport, wanted: DesiredObject) -> bool:
    """Whether a report is how an earlier wish turned out. Of a job every report counts: its wish changes only when it is cancelled."""
    return wanted.owner.type != "jobs" and report.revision is not None and report.revision < wanted.revision


async def _store_logs(services: Services, cluster: str, reports: Sequence[LogReport]) -> list[LogPosition]:
    """Append what is new of each log; how far each now reaches."""
    if not reports:
        return []
    names = {_name(each.key) for each in reports}
    places = await services.store.read(lambda tx: _log_places(tx, [tx.desired.find(cluster, name) for name in names]))
    reached = []
    for log in _joined(reports):
        place = places.get(_name(log.key))
        if place is None:
            # Its job is deleted: say that everything has arrived, so that the agent does not repeat it for ever.
            size = max(at + len(data) for at, data in log.runs)
        else:
            container, _, folder = place.partition("/")
            size = 0
            for at, data in log.runs:
                size = await services.blobs.append(container, join(folder, log.stream), data, at=at)
        reached.append(LogPosition(key=log.key, stream=log.stream, size=size))
    return reached


def _log_places(tx: Transaction, objects: Iterable[DesiredObject | None]) -> dict[ObjectName, str]:
    """Where the logs of each object's job lie, by object."""
    places = {}
    for each in objects:
        owner = tx.resources.find(each.owner.key) if each is not None else None
        if each is not None and owner is not None and owner.state.get("artifacts"):
            places[each.name] = str(owner.state["artifacts"])
    return places


@dataclass(slots=True)
class _Log:
    """What a batch holds of one log: runs of bytes, each with its offset."""

    key: ObjectKey
    stream: str
    runs: list[tuple[int, bytes]]


def _joined(reports: Sequence[LogReport]) -> list[_Log]:
    """Chunks of each log with neighbours joined, so that a batch is one append per log."""
    logs: dict[tuple[ObjectName, str], _Log] = {}
    for each in reports:
        if not _STREAM.match(each.stream):
            raise Invalid(f"'{each.stream}' is not a log's name.", target="stream")
        try:
            data = base64.b64decode(each.data, validate=True)
        except binascii.Error as error:
            raise Invalid("A log report's data is not base64.", target="data") from error
        runs = logs.setdefault((_name(each.key), each.stream), _Log(each.key, each.stream, [])).runs
        if runs and runs[-1][0] + len(runs[-1][1]) == each.offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + data)
        else:
            runs.append((each.offset, data))
    return list(logs.values())


def _name(key: ObjectKey) -> ObjectName:
    return ObjectName(key.kind, key.namespace, key.name)
