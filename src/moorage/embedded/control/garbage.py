"""Wires the garbage collector and the ending of namespaces, which look at objects of every kind the cluster serves, definitions of users included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from moorage.embedded.control import collector
from moorage.embedded.control.collector import Node, Owner
from moorage.embedded.control.loop import Loop
from moorage.embedded.control.objects import is_true
from moorage.embedded.control.steps import NOTHING, Decision
from moorage.embedded.control.world import World
from moorage.embedded.kinds import BUILT_IN
from moorage.errors import NotFound
from moorage.kube.informer import Informer
from moorage.kube.kinds import CRD, Kind
from moorage.kube.metadata import Key, is_deleting, key_of, name_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

_OWNER_UID = "uid of an owner"
_NAMESPACE = "namespace"
# A second view of the same objects would be collected twice.
_VIEWS = frozenset({"events.k8s.io"})

# How long to wait for a kind that is being listed for the first time.
LISTING = timedelta(seconds=1)

Appeared = Callable[[Informer], None]


class Everything:
    """An informer for every kind: built-in ones from the start, defined ones while their definition is established."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._informers: dict[Kind, Informer] = {}
        self._defined: dict[str, dict[Kind, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._withdrawn: set[tuple[str, str]] = set()
        self._appeared: list[Appeared] = []
        self._vanished: list[Callable[[Manifest], None]] = []
        for kind in (resource.kind for resource in BUILT_IN):
            if kind.group not in _VIEWS:
                self._enter(kind, world.informer(kind))
        world.informer(CRD).subscribe(self._definition_changed)

    def on_kind(self, appeared: Appeared) -> None:
        """Hand over every informer there is or will be."""
        self._appeared.append(appeared)
        for informer in self._informers.values():
            appeared(informer)

    def on_withdrawal(self, vanished: Callable[[Manifest], None]) -> None:
        """Tell of every object that went away with the definition of its kind."""
        self._vanished.append(vanished)

    def was_withdrawn(self, api_version: str, kind: str) -> bool:
        return (api_version.rpartition("/")[0], kind) in self._withdrawn

    def informer_of(self, api_version: str, kind: str) -> Informer | None:
        """The informer of the kind in any version of its group, as objects are the same in all of them."""
        group = api_version.rpartition("/")[0]
        return next((found for one, found in self._informers.items() if (one.group, one.kind) == (group, kind)), None)

    def kinds(self) -> Iterator[tuple[Kind, Informer]]:
        yield from tuple(self._informers.items())

    @property
    def complete(self) -> bool:
        """Whether every kind has been listed."""
        return all(informer.synced.is_set() for informer in self._informers.values())

    def dependents(self, uid: str) -> Sequence[Node]:
        return [Node(kind, one) for kind, informer in self.kinds() for one in informer.find(_OWNER_UID, uid)]

    def contents(self, namespace: str) -> Sequence[Node]:
        return [Node(kind, one) for kind, informer in self.kinds() if kind.namespaced for one in informer.find(_NAMESPACE, namespace)]

    async def run(self) -> None:
        """Run the informers of defined kinds until cancelled; the world runs those of built-in ones."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for definition in self._world.informer(CRD):
                self._definition_changed(None, definition)
            await asyncio.get_running_loop().create_future()

    def _enter(self, kind: Kind, informer: Informer) -> None:
        informer.add_index(_OWNER_UID, lambda one: tuple({ref.get("uid") for ref in one["metadata"].get("ownerReferences") or ()}))
        informer.add_index(_NAMESPACE, lambda one: (namespace_of(one),))
        self._informers[kind] = informer
        self._withdrawn.discard((kind.group, kind.kind))
        for appeared in self._appeared:
            appeared(informer)

    def _definition_changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if self._group is None:
            return  # `run` looks at all of them
        definition = new or old
        assert definition is not None
        served = _served(new) if new is not None and is_true(new, "Established") else ()
        running = self._defined.setdefault(name_of(definition), {})
        for kind in [kind for kind in running if kind not in served]:
            running.pop(kind).cancel()
            self._withdraw(kind)
        for kind in served:
            if kind not in running:
                informer = Informer(self._world.cluster, kind)
                self._world.watch_deeds(informer)
                self._enter(kind, informer)
                running[kind] = self._group.create_task(informer.run(), name=f"informer {kind}")

    def _withdraw(self, kind: Kind) -> None:
        informer = self._informers.pop(kind)
        self._world.forget(kind)
        self._withdrawn.add((kind.group, kind.kind))
        for one in informer:
            for vanished in self._vanished:
                vanished(one)


def _served(definition: Manifest) -> tuple[Kind, ...]:
    """The kind in its storage version, one informer being enough for all versions."""
    spec = definition["spec"]
    version = next((one["name"] for one in spec.get("versions") or () if one.get("storage") and one.get("served", True)), None)
    if version is None:
        return ()
    names = spec["names"]
    return (Kind(spec["group"], version, names["kind"], names["plural"], namespaced=spec.get("scope") == "Namespaced"),)


def garbage_collector(world: World, everything: Everything) -> Loop:
    """Keys are uids, so that a name used anew is another object."""
    places: dict[str, tuple[Informer, Key]] = {}

    def standing(dependent: Manifest, reference: Manifest) -> Owner:
        informer = everything.informer_of(reference["apiVersion"], reference["kind"])
        if informer is None and everything.was_withdrawn(reference["apiVersion"], reference["kind"]):
            return Owner.GONE
        if informer is None or not informer.synced.is_set():
            return Owner.UNKNOWN
        namespace = namespace_of(dependent) if informer.kind.namespaced else ""
        owner = informer.get(reference["name"], namespace)
        if owner is None or uid_of(owner) != reference["uid"]:
            return Owner.GONE
        going = is_deleting(owner) and collector.FOREGROUND in (owner["metadata"].get("finalizers") or ())
        return Owner.WAITING if going and reference.get("blockOwnerDeletion") else Owner.ALIVE

    def decide(key: Key) -> Decision:
        place = places.get(key[1])
        if place is None:
            return NOTHING
        if not everything.complete:
            return Decision(requeue_after=LISTING)
        informer, name = place
        found = informer.get(name[1], name[0])
        if found is None or uid_of(found) != key[1]:
            return NOTHING
        node = Node(informer.kind, found)
        return collector.decide(node, lambda reference: standing(found, reference), everything.dependents(key[1]))

    async def confirm(key: Key, decision: Decision) -> bool:
        """Ask the API itself about owners that seem gone: an object's informer may be ahead of its owner's."""
        informer, name = places[key[1]]
        found = informer.get(name[1], name[0])
        if found is None or is_deleting(found):
            return True
        gone = [one for one in Node(informer.kind, found).references if standing(found, one) is Owner.GONE]
        return not any([await _exists(world, everything, found, one) for one in gone])

    loop = Loop(world, "garbage-collector", decide, confirm=confirm)

    def vanished(one: Manifest) -> None:
        for dependent in everything.dependents(uid_of(one)):
            loop.queue.add(("", uid_of(dependent.object)))

    everything.on_withdrawal(vanished)

    def watch(informer: Informer) -> None:
        def changed(old: Manifest | None, new: Manifest | None) -> None:
            if new is not None:
                uid = uid_of(new)
                places[uid] = informer, key_of(new)
                if _concerned(old, new):
                    loop.queue.add(("", uid))
                if not is_deleting(new) or (old is not None and _same_end(old, new)):
                    return
            elif old is not None:
                uid = uid_of(old)
                places.pop(uid, None)
                for reference in old["metadata"].get("ownerReferences") or ():
                    loop.queue.add(("", reference["uid"]))
            else:
                return
            for dependent in everything.dependents(uid):
                loop.queue.add(("", uid_of(dependent.object)))

        informer.subscribe(changed)

    everything.on_kind(watch)
    return loop


async def _exists(world: World, everything: Everything, dependent: Manifest, reference: Manifest) -> bool:
    informer = everything.informer_of(reference["apiVersion"], reference["kind"])
    if informer is None:
        return False
    namespace = namespace_of(dependent) if informer.kind.namespaced else None
    try:
        owner = await world.cluster.get(informer.kind, reference["name"], namespace)
    except NotFound:
        return False
    return uid_of(owner) == uid_of({"metadata": reference})


def _concerned(old: Manifest | None, new: Manifest) -> bool:
    """Whether an object's own change is one for the collector: it has owners, or goes behind a finalizer of the collector's."""
    metadata = new["metadata"]
    if is_deleting(new):
        return bool({collector.FOREGROUND, collector.ORPHAN} & set(metadata.get("finalizers") or ()))
    references = metadata.get("ownerReferences")
    return bool(references) and (old is None or old["metadata"].get("ownerReferences") != references)


def _same_end(old: Manifest, new: Manifest) -> bool:
    return is_deleting(old) and old["metadata"].get("finalizers") == new["metadata"].get("finalizers")
