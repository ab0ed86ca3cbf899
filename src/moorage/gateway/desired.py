"""What the workspace wants of this cluster, as the stream tells it. Pure: events in, keys to look at out; comparing with the cluster is the
worker's part. Kept in memory only: a new agent asks for everything again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from moorage.kube.kinds import ONLINE_DEPLOYMENT, ONLINE_ENDPOINT, TRAINING_JOB, Kind
from moorage.kube.metadata import name_of, namespace_of
from moorage.specs.manifest import Manifest
from moorage.wire.gateway import DesiredEvent, DesiredType, ObjectKey

KINDS: dict[str, Kind] = {kind.kind: kind for kind in (TRAINING_JOB, ONLINE_ENDPOINT, ONLINE_DEPLOYMENT)}
DESIRED_LABEL = "moorage.dev/desired"
MANAGER = "moorage-gateway"


class Target(NamedTuple):
    """Which object: kind name, namespace, name."""

    kind: str
    namespace: str
    name: str

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(kind=self.kind, namespace=self.namespace, name=self.name)


def target_of(manifest: Manifest) -> Target:
    return Target(manifest["kind"], namespace_of(manifest), name_of(manifest))


class Desired:
    """The wanted objects and how far the stream has been read. Only a SYNCED moves the position: the same object twice does no harm, a gap does."""

    def __init__(self) -> None:
        self._objects: dict[Target, Manifest] = {}
        self._revisions: dict[Target, int] = {}  # at which each was wanted as it is
        self._named: set[Target] | None = None  # since a RESET that is not yet SYNCED
        self._revision: int | None = None
        self.complete = False  # a whole set has been seen once: only then is anything unwanted

    @property
    def since(self) -> int | None:
        """Where to take the stream up again; None: from a RESET on, also after a break in the middle of one."""
        return self._revision if self._named is None else None

    def get(self, target: Target) -> Manifest | None:
        return self._objects.get(target)

    def revision(self, target: Target) -> int:
        """At which revision an object was wanted as `get` has it; 0 for one that is not wanted."""
        return self._revisions.get(target, 0) if target in self._objects else 0

    def unwanted(self, target: Target) -> bool:
        """Whether the object is known not to be wanted. While a RESET goes on, what it has not named yet is still held."""
        return self.complete and target not in self._objects

    def take(self, event: DesiredEvent) -> Iterable[Target]:
        """Take one event in; the objects whose wish may have changed."""
        match event.type:
            case DesiredType.RESET:
                self._named = set()
                return ()
            case DesiredType.APPLY if event.object is not None:
                target = target_of(event.object)
                self._objects[target] = _marked(event.object)
                self._revisions[target] = event.revision
                if self._named is not None:
                    self._named.add(target)
                return (target,)
            case DesiredType.DELETE if event.key is not None:
                target = Target(event.key.kind, event.key.namespace, event.key.name)
                self._objects.pop(target, None)
                self._revisions.pop(target, None)
                if self._named is not None:
                    self._named.discard(target)
                return (target,)
            case DesiredType.SYNCED:
                return self._sync(event.revision)
            case _:
                return ()

    def _sync(self, revision: int) -> Iterable[Target]:
        dropped: set[Target] = set()
        if self._named is not None:
            dropped = self._objects.keys() - self._named
            for target in dropped:
                del self._objects[target]
                self._revisions.pop(target, None)
        self._named = None
        self._revision = revision
        self.complete = True
        return dropped


def _marked(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {**metadata, "labels": {**(metadata.get("labels") or {}), DESIRED_LABEL: "true"}}}


def is_desired(manifest: Manifest) -> bool:
    """Whether the gateway made this object."""
    return (manifest["metadata"].get("labels") or {}).get(DESIRED_LABEL) == "true"
