"""The runtime around a pure `reconcile`: it watches, wakes parents, hands them to `reconcile`, and makes the cluster agree with the plan.
Settled means no write; idle means no request beyond the open watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from moorage.clock import Clock, now
from moorage.errors import Conflict, Forbidden, MoorageError, NotFound, Throttled, Unavailable
from moorage.kube.children import Children, ForeignOwner
from moorage.kube.cluster import Cluster
from moorage.kube.configuration import Child, ControllerConfig, Labelled, OwnedThrough, Related
from moorage.kube.events import EventRecorder
from moorage.kube.informer import Informer, Informers, Subscriber
from moorage.kube.kinds import Kind
from moorage.kube.merge import merge_patch, without_nulls
from moorage.kube.metadata import (
    Key,
    controller_uid,
    describe,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
    version_of,
)
from moorage.kube.queue import WorkQueue
from moorage.kube.reconcile import Note, Observed, Plan
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

Event = tuple[str, str, str]


class Controller:
    """Runs one ControllerConfig.

    Args:
        informers: shared with other controllers and run by whoever shares them; None: the controller has and runs its own.
    """

    def __init__(self, cluster: Cluster, config: ControllerConfig, *, informers: Informers | None = None, clock: Clock = now) -> None:
        if (config.finalizer is None) != (config.finalize is None):
            raise ValueError(f"controller {config.name}: finalizer and finalize belong together")
        self._cluster = cluster
        self._config = config
        self._clock = clock
        self._recorder = EventRecorder(cluster, config.name, clock)
        self._own_informers = informers is None
        self._informers = informers or Informers(cluster)
        self._queue: WorkQueue[Key] = WorkQueue(maximum=config.longest_backoff)
        self._parents = self._informers.informer(config.parent, config.namespace)
        kinds = [(child, self._informer(child.kind, child.labels)) for child in config.children]
        self._children = Children(cluster, config.manager, kinds)
        self._by_kind = {child.kind: informer for child, informer in kinds}
        self._related = [(related, self._informer(related.kind, related.labels, related.fields)) for related in config.related]
        self._shared = {(kind.api_version, kind.kind): (kind, self._informer(kind, None)) for kind in config.shared}
        self._descendants = [self._descend(descendant) for descendant in config.descendants]
        self._statuses: dict[str, tuple[Manifest, Manifest]] = {}  # parent uid: status as planned, and as the server stored it
        self._recorded: dict[str, frozenset[Event]] = {}  # parent uid: events of its last plan
        self._forbidden: dict[str, str] = {}  # parent uid: what the cluster said to the notes of its last plan
        self._subscribe(kinds)

    @property
    def idle(self) -> bool:
        """Whether nothing is being worked on or waits for it, delayed wake-ups aside."""
        return self._queue.idle

    async def run(self) -> None:
        """Work until cancelled. Only a defect of the runtime itself ends it with an error."""
        async with asyncio.TaskGroup() as group:
            if self._own_informers:
                group.create_task(self._informers.run(), name=f"{self._config.name} informers")
            await self._informers.synced()
            for number in range(self._config.workers):
                group.create_task(self._work(), name=f"{self._config.name} worker {number}")

    # --- waking parents ---

    def _informer(self, kind: Kind, labels: str | None, fields: str | None = None) -> Informer:
        return self._informers.informer(kind, self._config.namespace if kind.namespaced else None, labels=labels, fields=fields)

    def _subscribe(self, kinds: Sequence[tuple[Child, Informer]]) -> None:
        self._parents.subscribe(self._parent_changed)
        for child, informer in kinds:
            informer.subscribe(self._child_changed(child.kind))
        for related, informer in self._related:
            informer.subscribe(self._related_changed(related))
        for _, informer in self._shared.values():
            informer.subscribe(self._shared_changed)

    def _parent_changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if new is None and old is not None:
            self._forget(uid_of(old))
        for manifest in (old, new):
            if manifest is not None:
                self._queue.add(key_of(manifest))
                return

    def _forget(self, uid: str) -> None:
        self._children.forget(uid)
        self._statuses.pop(uid, None)
        self._recorded.pop(uid, None)
        self._forbidden.pop(uid, None)

    def _wake_uid(self, uid: str) -> None:
        if uid and (parent := self._parents.with_uid(uid)) is not None:
            self._queue.add(key_of(parent))

    def _child_changed(self, kind: Kind) -> Subscriber:
        def changed(old: Manifest | None, new: Manifest | None) -> None:
            if new is None and old is not None:
                self._children.gone(kind, old)
            for manifest in (old, new):
                if manifest is not None:
                    self._wake_uid(controller_uid(manifest))

        return changed

    def _related_changed(self, related: Related) -> Subscriber:
        def changed(old: Manifest | None, new: Manifest | None) -> None:
            if old is not None and new is not None and related.matters is not None and not related.matters(old, new):
                return
            versions = [manifest for manifest in (old, new) if manifest is not None]
            for parent in self._parents:
                if any(_concerns(related, parent, manifest) for manifest in versions):
                    self._queue.add(key_of(parent))

        return changed

    def _shared_changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if new is None and old is not None:
            for parent in self._parents:
                if not namespace_of(old) or namespace_of(old) == namespace_of(parent):
                    self._queue.add(key_of(parent))

    def _descend(self, descendant: OwnedThrough | Labelled) -> tuple[str, Callable[[Manifest], Iterable[Manifest]]]:
        """Prepare finding and waking for one kind of descendants; answers its kind's name and how a parent's are found."""
        match descendant:
            case Labelled():
                return descendant.kind.kind, self._descend_by_labels(descendant)
            case OwnedThrough():
                return descendant.kind.kind, self._descend_by_owners(descendant)

    def _descend_by_labels(self, descendant: Labelled) -> Callable[[Manifest], Iterable[Manifest]]:
        informer = self._informer(descendant.kind, ",".join(descendant.keys))
        index = f"labels {','.join(descendant.keys)}"

        def labelled(manifest: Manifest) -> tuple[tuple[str, ...], ...]:
            labels = labels_of(manifest)
            return ((namespace_of(manifest), *(labels.get(key, "") for key in descendant.keys)),)

        def parent_of(manifest: Manifest) -> tuple[str, ...]:
            return (namespace_of(manifest), *descendant.values(manifest))

        def changed(old: Manifest | None, new: Manifest | None) -> None:
            for manifest in (old, new):
                if manifest is not None:
                    for value in labelled(manifest):
                        for parent in self._parents.find(index, value):
                            self._queue.add(key_of(parent))

        informer.add_index(index, labelled)
        self._parents.add_index(index, lambda parent: (parent_of(parent),))
        informer.subscribe(changed)
        return lambda parent: informer.find(index, parent_of(parent))

    def _descend_by_owners(self, descendant: OwnedThrough) -> Callable[[Manifest], Iterable[Manifest]]:
        first, *others = descendant.through
        if first not in self._by_kind:
            raise ValueError(f"controller {self._config.name}: {descendant.kind} descend through {first}, which is none of its children")
        chain = [self._by_kind[first], *(self._informer(kind, descendant.labels) for kind in (*others, descendant.kind))]

        def find(parent: Manifest) -> Iterable[Manifest]:
            level: Sequence[Manifest] = [parent]
            for informer in chain:
                level = [manifest for owner in level for manifest in informer.controlled_by(uid_of(owner))]
            return level

        def wake(position: int, manifest: Manifest) -> None:
            owner: Manifest | None = manifest
            for informer in reversed(chain[:position]):
                owner = informer.with_uid(controller_uid(owner)) if owner is not None else None
            if owner is not None:
                self._wake_uid(controller_uid(owner))

        def changed(position: int) -> Subscriber:
            def tell(old: Manifest | None, new: Manifest | None) -> None:
                for manifest in (old, new):
                    if manifest is not None:
                        wake(position, manifest)

            return tell

        for position in range(1, len(chain)):
            chain[position].subscribe(changed(position))
        return find

    # --- working on one parent ---

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            try:
                await self._reconcile(key)
            except Exception as error:
                pause = self._queue.retry(key)
                where = f"{self._config.name}: {self._config.parent.kind} {'/'.join(part for part in key if part)}"
                if isinstance(error, Conflict):
                    log.info("%s: %s Again in %.2f s.", where, error, pause.total_seconds())
                elif isinstance(error, MoorageError):
                    log.warning("%s: %s Again in %.2f s.", where, error, pause.total_seconds())
                else:
                    log.exception("%s: defect in its reconcile. Again in %.2f s.", where, pause.total_seconds())
            else:
                self._queue.forget(key)
            finally:
                self._queue.done(key)

    async def _reconcile(self, key: Key) -> None:
        parent = self._parents.get(key[1], key[0])
        if parent is None:
            return
        config = self._config
        if is_deleting(parent):
            if config.finalize is not None and config.finalizer in (parent["metadata"].get("finalizers") or ()):
                plan = config.finalize(self._observe(parent))
                await self._carry_out(parent, plan)
                if not plan.children and not any(self._children.owned(parent).values()):
                    await self._set_finalizers(parent, remove=True)
            return
        if config.finalizer is not None and config.finalizer not in (parent["metadata"].get("finalizers") or ()):
            await self._set_finalizers(parent, remove=False)
            return  # the change wakes the parent
        await self._carry_out(parent, config.reconcile(self._observe(parent)))
        if self._parents.with_uid(uid_of(parent)) is None:
            self._forget(uid_of(parent))  # it went away during the work, after it had been forgotten

    def _observe(self, parent: Manifest) -> Observed:
        children = self._children.owned(parent)
        for kind, find in self._descendants:
            known = {uid_of(manifest) for manifest in children.get(kind, ())}
            children.setdefault(kind, []).extend(manifest for manifest in find(parent) if uid_of(manifest) not in known)
        related: dict[str, list[Manifest]] = {}
        for declared, informer in self._related:
            found = informer.in_namespace(namespace_of(parent)) if declared.kind.namespaced and namespace_of(parent) else informer
            related.setdefault(declared.kind.kind, []).extend(item for item in found if _concerns(declared, parent, item))
        forbidden = self._forbidden.get(uid_of(parent), "")
        return Observed(parent=parent, children=children, now=self._clock(), related=related, forbidden=forbidden)

    async def _carry_out(self, parent: Manifest, plan: Plan) -> None:
        if plan.requeue_after is not None:
            self._queue.add_after(key_of(parent), plan.requeue_after)
        errors: list[MoorageError] = []
        if plan.status is not None:
            for manifest in plan.shared:
                await self._ensure(parent, manifest)
            errors = await self._children.converge(parent, plan.children)
            await self._write_status(parent, without_nulls(plan.status))
            errors += await self._annotate_all(parent, plan.notes)
        await self._record(parent, plan, errors)
        if errors:
            for error in errors[1:]:
                log.warning("%s: %s: %s", self._config.name, describe(parent), error)
            raise errors[0]

    async def _ensure(self, parent: Manifest, manifest: Manifest) -> None:
        declared = self._shared.get((manifest["apiVersion"], manifest["kind"]))
        if declared is None:
            raise ValueError(f"{describe(manifest)} is shared, but its kind is not declared so")
        kind, informer = declared
        metadata = {**manifest["metadata"]}
        if kind.namespaced:
            metadata.setdefault("namespace", namespace_of(parent))
        if informer.get(metadata["name"], metadata.get("namespace") or "") is not None:
            return
        try:
            await self._cluster.create(kind, {**manifest, "metadata": metadata})
        except Conflict:
            log.debug("%s is there already", describe(manifest))

    async def _annotate_all(self, parent: Manifest, notes: Sequence[Note]) -> list[MoorageError]:
        """Write the notes. That they are forbidden is kept for the next look at the parent, which the retry takes: people wait for what they bring."""
        try:
            for note in notes:
                await self._annotate(note)
        except Forbidden as error:
            self._forbidden[uid_of(parent)] = error.message
            return [error]
        self._forbidden.pop(uid_of(parent), None)
        return []

    async def _annotate(self, note: Note) -> None:
        metadata = note.of["metadata"]
        present = metadata.get("annotations") or {}
        if all(present.get(key) == value for key, value in note.annotations.items()):
            return
        # The uid makes it fail on an object that has taken the place of the one that was seen.
        patch = {"metadata": {"uid": uid_of(note.of), "annotations": dict(note.annotations)}}
        try:
            await self._cluster.patch(self._kind_of(note.of), name_of(note.of), metadata.get("namespace"), patch)
        except (NotFound, Conflict) as error:
            log.debug("%s: %s", describe(note.of), error)  # its disappearance wakes the parent

    def _kind_of(self, descendant: Manifest) -> Kind:
        for declared in self._config.descendants:
            if (declared.kind.api_version, declared.kind.kind) == (descendant["apiVersion"], descendant["kind"]):
                return declared.kind
        raise ValueError(f"{describe(descendant)} is to be annotated, but its kind is not among the controller's descendants")

    async def _write_status(self, parent: Manifest, planned: Manifest) -> None:
        stored: Manifest = parent.get("status") or {}
        if planned == stored:
            return
        last = self._statuses.get(uid_of(parent))
        if last is not None and last == (planned, stored):
            return  # what the server makes of it (pruning, defaults) differs from the plan and always will
        patch = {"metadata": {"resourceVersion": version_of(parent)}, "status": merge_patch(stored, planned)}
        try:
            # The version makes it fail on a parent that has changed since: a plan made from an old look must not become its status.
            written = await self._cluster.patch(
                self._config.parent, name_of(parent), parent["metadata"].get("namespace"), patch, subresource="status"
            )
        except NotFound:
            return  # deleted meanwhile
        self._statuses[uid_of(parent)] = planned, written.get("status") or {}

    async def _record(self, parent: Manifest, plan: Plan, errors: Sequence[MoorageError]) -> None:
        """Record what the last plan did not say already. Events are for people: failing to write one is logged and no more."""
        events = frozenset(plan.events) | {("Warning", error.code, str(error)) for error in errors if not _passing(error)}
        before = self._recorded.get(uid_of(parent))
        for type, reason, message in sorted(events - (before or frozenset())):
            try:
                await self._recorder.record(parent, type, reason, message, again=before is not None)
            except MoorageError as error:
                log.warning("%s: event %s about %s could not be recorded: %s", self._config.name, reason, describe(parent), error)
        self._recorded[uid_of(parent)] = events

    async def _set_finalizers(self, parent: Manifest, *, remove: bool) -> None:
        finalizers = [item for item in parent["metadata"].get("finalizers") or () if item != self._config.finalizer]
        if not remove:
            finalizers.append(str(self._config.finalizer))
        patch = {"metadata": {"resourceVersion": version_of(parent), "finalizers": finalizers}}
        try:
            await self._cluster.patch(self._config.parent, name_of(parent), parent["metadata"].get("namespace"), patch)
        except NotFound:
            return


def _concerns(related: Related, parent: Manifest, manifest: Manifest) -> bool:
    if related.kind.namespaced and namespace_of(parent) and namespace_of(manifest) != namespace_of(parent):
        return False
    return related.concerns is None or related.concerns(parent, manifest)


def _passing(error: MoorageError) -> bool:
    """Whether the error is of the moment and says nothing about the parent: an outage, a lost race."""
    return isinstance(error, Unavailable | Throttled) or (isinstance(error, Conflict) and not isinstance(error, ForeignOwner))
