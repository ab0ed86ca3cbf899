"""What the controllers share: informers, the clock, and the hand that carries out their steps.

A turn's writes are waited for until the informers show them, so that the next turn never decides on a world without its own deeds. That is what
client-go's "expectations" are for; here the API is in the same process and the wait is a few turns of the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Protocol

from moorage.clock import Clock, now
from moorage.embedded.control.objects import revision_of
from moorage.embedded.control.steps import Bind, Create, Delete, Patch, Record, Step
from moorage.errors import Conflict, MoorageError, NotFound
from moorage.kube.cluster import Cluster, PatchType
from moorage.kube.events import EventRecorder
from moorage.kube.informer import Informer, Informers
from moorage.kube.kinds import EVENT, POD, Kind
from moorage.kube.metadata import describe, is_deleting, key_of, name_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

# Writes of one turn in flight at once: enough to share a commit of the store, few enough to leave the others their turn.
_ABREAST = 50
# An informer that has not shown a write by then is listing anew or has lost its API; deciding on its old look is then safe, since every write
# names the version or uid it was decided on.
_PATIENCE = timedelta(seconds=5)


class ControlPlane(Cluster, Protocol):
    """A cluster that also lets its scheduler bind."""

    async def bind(self, namespace: str, pod: str, node: str, *, uid: str = "") -> Manifest: ...


@dataclass(frozen=True, slots=True)
class _Deed:
    """A write as the informer should come to show it; `written` is None for a deletion."""

    kind: Kind
    before: Manifest
    written: Manifest | None
    created: bool = False

    def shown(self, informer: Informer, newest: int) -> bool:
        about = self.written or self.before
        found = informer.get(name_of(about), namespace_of(about))
        if self.written is None:
            return found is None or uid_of(found) != uid_of(self.before) or is_deleting(found)
        if found is None:
            return not self.created or newest >= revision_of(self.written)
        return revision_of(found) >= revision_of(self.written)


class World:
    """The cluster as the controllers see and change it.

    Args:
        clock: wall-clock UTC, for what is stored in objects.
    """

    def __init__(self, cluster: ControlPlane, *, clock: Clock = now) -> None:
        self.cluster = cluster
        self.clock = clock
        self.informers = Informers(cluster)
        self._known: dict[Kind, Informer] = {}
        self._newest: dict[Kind, int] = {}
        self._changed: dict[Kind, asyncio.Event] = {}
        self._recorders: dict[str, EventRecorder] = {}

    def informer(self, kind: Kind) -> Informer:
        """The shared informer of all objects of a kind."""
        if kind not in self._known:
            self.watch_deeds(self.informers.informer(kind))
        return self._known[kind]

    def watch_deeds(self, informer: Informer) -> None:
        """Make turns wait for this informer after writing its kind."""
        kind = informer.kind
        self._known[kind] = informer
        self._newest.setdefault(kind, 0)
        changed = self._changed.setdefault(kind, asyncio.Event())

        def note(old: Manifest | None, new: Manifest | None) -> None:
            if new is not None:
                self._newest[kind] = max(self._newest[kind], revision_of(new))
            changed.set()

        informer.subscribe(note)

    def forget(self, kind: Kind) -> None:
        """The kind is served no more."""
        self._known.pop(kind, None)

    def recorder(self, component: str) -> EventRecorder:
        return self._recorders.setdefault(component, EventRecorder(self.cluster, component, self.clock))

    async def carry_out(self, steps: Sequence[Step]) -> None:
        """Make the writes in order, neighbours of one sort together, and wait until they show. The first failure ends it, after its neighbours."""
        deeds: list[_Deed] = []
        latest: dict[tuple[Kind, str], Manifest] = {}
        try:
            for _, run in groupby(steps, key=lambda step: (type(step), getattr(step, "kind", None))):
                for batch in _batches(list(run)):
                    await self._together(batch, deeds, latest)
        except MoorageError:
            await self._shown(deeds)
            raise
        await self._shown(deeds)

    async def carry_out_each(self, runs: Sequence[Sequence[Step]]) -> None:
        """Carry out each run on its own, many abreast; the first failure is raised once all have been tried."""
        failures: list[BaseException] = []
        for start in range(0, len(runs), _ABREAST):
            outcomes = await asyncio.gather(*(self.carry_out(run) for run in runs[start : start + _ABREAST]), return_exceptions=True)
            failures += [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            raise failures[0]

    async def _together(self, batch: Sequence[Step], deeds: list[_Deed], latest: dict[tuple[Kind, str], Manifest]) -> None:
        outcomes = await asyncio.gather(*(self._carry(step, latest) for step in batch), return_exceptions=True)
        failures = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                failures.append(outcome)
            elif outcome is not None:
                deeds.append(outcome)
                if outcome.written is not None:
                    latest[outcome.kind, uid_of(outcome.written)] = outcome.written
        if failures:
            raise failures[0]

    async def _carry(self, step: Step, latest: dict[tuple[Kind, str], Manifest]) -> _Deed | None:
        match step:
            case Bind():
                return await self._bind(step)
            case Create():
                return await self._create(step, latest)
            case Delete():
                return await self._delete(step)
            case Patch():
                return await self._patch(step, latest.get((step.kind, uid_of(step.object)), step.object))
            case Record():
                await self.record(step)
                return None

    async def _bind(self, step: Bind) -> _Deed:
        namespace, name = key_of(step.pod)
        return _Deed(POD, step.pod, await self.cluster.bind(namespace, name, step.node, uid=uid_of(step.pod)))

    async def _create(self, step: Create, latest: Mapping[tuple[Kind, str], Manifest]) -> _Deed:
        try:
            made = await self.cluster.create(step.kind, step.manifest)
        except MoorageError as error:
            if step.announce is not None and not isinstance(error, Conflict):
                failed = step.words[1] if step.words else "Error creating: "
                await self.record(Record(step.announce, "Warning", "FailedCreate", f"{failed}{error}", step.component))
            if step.otherwise is not None:
                patch = step.otherwise(error)
                await self._patch(patch, latest.get((patch.kind, uid_of(patch.object)), patch.object))
            raise
        if step.announce is not None:
            message = step.words[0] if step.words else f"Created {step.kind.kind.lower()}: {name_of(made)}"
            await self.record(Record(step.announce, "Normal", "SuccessfulCreate", message, step.component))
        return _Deed(step.kind, made, made, created=True)

    async def _delete(self, step: Delete) -> _Deed:
        namespace, name = key_of(step.object)
        try:
            await self.cluster.delete(
                step.kind, name, namespace or None, propagation=step.propagation, grace=step.grace, uid=uid_of(step.object)
            )
        except (NotFound, Conflict):
            return _Deed(step.kind, step.object, None)  # gone, or another one by now
        if step.announce is not None:
            message = f"Deleted {step.kind.kind.lower()}: {name}"
            await self.record(Record(step.announce, "Normal", "SuccessfulDelete", message, step.component))
        return _Deed(step.kind, step.object, None)

    async def _patch(self, step: Patch, seen: Manifest) -> _Deed | None:
        namespace, name = key_of(seen)
        patch = dict(step.patch)
        patch["metadata"] = {**(patch.get("metadata") or {}), "uid": uid_of(seen)}
        if step.type is PatchType.MERGE:
            patch["metadata"]["resourceVersion"] = seen["metadata"]["resourceVersion"]
        try:
            after = await self.cluster.patch(step.kind, name, namespace or None, patch, type=step.type, subresource=step.subresource)
        except NotFound:
            return None
        return _Deed(step.kind, seen, after)

    async def record(self, step: Record) -> None:
        """Write an event. Events are for people: one that cannot be written is logged and no more."""
        try:
            await self.recorder(step.component).record(step.regarding, step.type, step.reason, step.message)
        except MoorageError as error:
            log.info("event %s about %s could not be recorded: %s", step.reason, describe(step.regarding), error)

    async def _shown(self, deeds: Iterable[_Deed]) -> None:
        waiting = [deed for deed in deeds if deed.kind in self._known and deed.kind != EVENT]
        if not waiting:
            return
        try:
            async with asyncio.timeout(_PATIENCE.total_seconds()):
                for deed in waiting:
                    await self._shows(deed)
        except TimeoutError:
            log.info("the informer of %s does not show a write after %d s", waiting[0].kind, _PATIENCE.total_seconds())

    async def _shows(self, deed: _Deed) -> None:
        while (informer := self._known.get(deed.kind)) is not None and not deed.shown(informer, self._newest[deed.kind]):
            changed = self._changed[deed.kind]
            changed.clear()
            await changed.wait()


def _batches(steps: Sequence[Step]) -> Iterable[Sequence[Step]]:
    """The first alone, so that what is refused is refused once and not for all; then as many abreast as may be."""
    if steps:
        yield steps[:1]
    for start in range(1, len(steps), _ABREAST):
        yield steps[start : start + _ABREAST]
