"""The way up: reports wait here until the workspace has acknowledged them. Memory is bounded, since of each thing only the latest is kept and log
chunks wait for room; nothing is lost by that, because everything can be read again from the cluster."""

from __future__ import annotations

import asyncio
import base64
import logging
import uuid
from collections.abc import Hashable
from datetime import timedelta

from moorage.clock import Clock, now
from moorage.errors import Conflict, Invalid, MoorageError, Throttled, Unavailable
from moorage.gateway.connection import Workspace
from moorage.gateway.desired import Target
from moorage.kube.backoff import Backoff
from moorage.wire.gateway import (
    NOT_APPLIED,
    NOT_APPLIED_YET,
    EventReport,
    GoneReport,
    InventoryReport,
    LogReport,
    Report,
    ReportBatch,
    ReportReceipt,
    StatusReport,
)

log = logging.getLogger(__name__)

Slot = tuple[Hashable, ...]

CHUNK = 256 * 1024  # bytes of log in one report
_CHUNKS = 16  # log reports waiting at once
_MOST_EVENTS = 1000
_BATCH_REPORTS = 200
_WITH_PHASE = ("TrainingJob", "OnlineDeployment")
_STATES = ("status", "gone", "inventory")  # first parts of the slots of what is told once and holds until it changes
_FIRST_PAUSE = timedelta(milliseconds=200)
_LONGEST_PAUSE = timedelta(seconds=30)
# A state that the service will not take is told again after this long: it may be the service that changes, by an upgrade say, and the state does not.
_REFUSED_AGAIN = timedelta(minutes=1)


class Outbox:
    """Reports on their way to the workspace, in batches that are repeated until acknowledged."""

    def __init__(self, workspace: Workspace, *, clock: Clock = now, backoff: Backoff | None = None) -> None:
        self._workspace = workspace
        self._clock = clock
        self._backoff = backoff or Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._instance = uuid.uuid4().hex
        self._sequence = 0
        self._waiting: dict[Slot, Report] = {}
        self._statuses: dict[Target, StatusReport] = {}  # the last of each that was put in; equal ones are not sent again
        self._inventory: InventoryReport | None = None
        self._events: dict[Slot, None] = {}  # slots of events, oldest first
        self._logs: dict[Slot, asyncio.Future[int]] = {}
        self._room = asyncio.Semaphore(_CHUNKS)
        self._wake = asyncio.Event()

    # --- putting in ---

    def status(self, target: Target, report: StatusReport) -> None:
        if self._statuses.get(target) == report:
            return
        self._statuses[target] = report
        self._waiting.pop(("gone", target), None)
        self._put(("status", target), report)

    def gone(self, target: Target) -> None:
        self._statuses.pop(target, None)
        self._waiting.pop(("status", target), None)
        self._put(("gone", target), GoneReport(key=target.key))

    def inventory(self, report: InventoryReport) -> None:
        if report != self._inventory:
            self._inventory = report
            self._put(("inventory",), report)

    def repeat(self) -> None:
        """The workspace has forgotten what it was told, or another has taken its place: tell it all again."""
        for target, report in self._statuses.items():
            self._put(("status", target), report)
        if self._inventory is not None:
            self._put(("inventory",), self._inventory)

    def event(self, target: Target, report: EventReport) -> None:
        slot: Slot = ("event", target, report.uid, report.about, report.type, report.reason, report.message)
        self._events.pop(slot, None)
        self._events[slot] = None
        if len(self._events) > _MOST_EVENTS:
            oldest = next(iter(self._events))
            del self._events[oldest]
            if self._waiting.pop(oldest, None) is not None:
                log.warning("more than %d events wait for the workspace; the oldest are dropped", _MOST_EVENTS)
        self._put(slot, report)

    def refused(self, target: Target, error: MoorageError, *, revision: int, final: bool) -> None:
        """The cluster did not take a desired object as it was wanted at `revision`.

        What passes by itself has a reason of its own, so that nobody gives the object up: the next try may do.
        """
        moment = self._clock()
        about = f"{target.kind}/{target.name}"
        passing = isinstance(error, Unavailable | Throttled | Conflict)
        reason = NOT_APPLIED_YET if passing else NOT_APPLIED
        message = f"The cluster {'has not taken' if passing else 'did not take'} the {target.kind}{' yet' if passing else ''}: {error}"
        self.event(target, EventReport(key=target.key, uid="", about=about, type="Warning", reason=reason, message=message, time=moment))
        if final and target.kind in _WITH_PHASE:
            status = {"phase": "Failed", "reason": NOT_APPLIED, "message": message}
            self.status(target, StatusReport(key=target.key, uid="", generation=0, status=status, revision=revision, logs_complete=True))

    async def deliver(self, target: Target, stream: str, offset: int, data: bytes) -> int:
        """Send a piece of a log and wait until it is stored; how far the log reaches at the workspace then.

        Raises:
            Invalid: the workspace will never take it.
        """
        slot: Slot = ("log", target, stream)
        async with self._room:
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._logs[slot] = future
            self._put(slot, LogReport(key=target.key, stream=stream, offset=offset, data=base64.b64encode(data).decode()))
            try:
                return await future
            finally:
                if self._logs.get(slot) is future:
                    del self._logs[slot]
                    self._waiting.pop(slot, None)

    def _put(self, slot: Slot, report: Report) -> None:
        self._waiting[slot] = report
        self._wake.set()

    # --- sending ---

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            await self._send(dict(list(self._waiting.items())[:_BATCH_REPORTS]))

    async def _send(self, reports: dict[Slot, Report]) -> None:
        """One batch, until acknowledged. What arrives meanwhile in the same slots waits for the next."""
        self._sequence += 1
        while True:
            try:
                receipt = await self._workspace.report(
                    ReportBatch(instance=self._instance, sequence=self._sequence, reports=list(reports.values()))
                )
                if receipt.accepted < self._sequence:
                    raise Unavailable(f"The workspace acknowledged batch {receipt.accepted} of its reports, not {self._sequence}.")
            except Invalid as error:
                # It refused, hence stored nothing, and the number is free again.
                self._sequence -= 1
                await self._isolate(reports, error)
                return
            except MoorageError as error:
                pause = max(self._backoff.next(), error.retry_after if isinstance(error, Throttled) else timedelta(0))
                log.warning("%s Reports wait; again in %.1f s", error, pause.total_seconds())
                await asyncio.sleep(pause.total_seconds())
                continue
            self._backoff.reset()
            self._acknowledge(reports, receipt)
            return

    async def _isolate(self, reports: dict[Slot, Report], error: Invalid) -> None:
        """One report among them is unacceptable: find it by halves, so that the others arrive."""
        if len(reports) > 1:
            items = list(reports.items())
            await self._send(dict(items[: len(items) // 2]))
            await self._send(dict(items[len(items) // 2 :]))
            return
        for slot, report in reports.items():
            log.error("the workspace will not take a report about %s: %s", slot[:2], error)
            if self._waiting.get(slot) is report and slot[0] in _STATES:
                asyncio.get_running_loop().call_later(_REFUSED_AGAIN.total_seconds(), self._tell_again, slot, report)
            self._remove(slot, report)
            if (future := self._logs.get(slot)) is not None and not future.done():
                future.set_exception(Invalid(error.message))

    def _tell_again(self, slot: Slot, report: Report) -> None:
        """Unless something later has been told, or waits to be, in its place."""
        match report:
            case StatusReport():
                holds = self._statuses.get(_about(report)) is report
            case GoneReport():
                holds = _about(report) not in self._statuses
            case _:
                holds = self._inventory is report
        if holds and slot not in self._waiting:
            self._put(slot, report)

    def _acknowledge(self, reports: dict[Slot, Report], receipt: ReportReceipt) -> None:
        sizes = {(Target(at.key.kind, at.key.namespace, at.key.name), at.stream): at.size for at in receipt.logs}
        for slot, report in reports.items():
            current = self._waiting.get(slot) is report
            self._remove(slot, report)
            if isinstance(report, LogReport) and current and (future := self._logs.get(slot)) is not None and not future.done():
                target = Target(report.key.kind, report.key.namespace, report.key.name)
                sent = report.offset + len(base64.b64decode(report.data))
                future.set_result(sizes.get((target, report.stream), sent))

    def _remove(self, slot: Slot, report: Report) -> None:
        if self._waiting.get(slot) is report:
            del self._waiting[slot]
            self._events.pop(slot, None)


def _about(report: StatusReport | GoneReport) -> Target:
    return Target(report.key.kind, report.key.namespace, report.key.name)
