"""Making a parent's children be as planned: what is missing or drifted is applied, what is left out is deleted, what belongs to others is refused.
Applies that would repeat the last one are not sent; what was sent is remembered per parent, in this process only."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from moorage.errors import Conflict, MoorageError, NotFound
from moorage.kube.cluster import Cluster
from moorage.kube.configuration import Child, Update
from moorage.kube.informer import Informer
from moorage.kube.kinds import Kind
from moorage.kube.metadata import (
    Key,
    controller_of,
    controller_uid,
    describe,
    is_deleting,
    key_of,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
    version_of,
)
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)


class ForeignOwner(Conflict):
    """A child's name is taken by an object that is not this parent's. The runtime records it as an event and tries again later."""

    default_code = "ForeignOwner"


@dataclass(slots=True)
class _Sent:
    """The last apply of one child."""

    digest: bytes
    uid: str
    generation: int
    versions: frozenset[str]  # resource versions that are not drift: the apply's result and what the cache still showed then
    lists: int  # of the informer at that time
    made: Manifest | None  # the apply's result, until the cache shows the child


class Children:
    """The children of one controller's parents, of the declared kinds."""

    def __init__(self, cluster: Cluster, manager: str, kinds: Sequence[tuple[Child, Informer]]) -> None:
        self._cluster = cluster
        self._manager = manager
        self._kinds: Mapping[tuple[str, str], tuple[Child, Informer]] = {(c.kind.api_version, c.kind.kind): (c, i) for c, i in kinds}
        self._sent: dict[str, dict[tuple[Kind, Key], _Sent]] = {}

    def owned(self, parent: Manifest) -> dict[str, list[Manifest]]:
        """What the parent controls now, by kind name: as the caches show it, and what was made and is not in them yet.

        A plan that takes a child for absent just because the watch is late would, for one, call a job canceled whose pods are about to start.
        """
        found = {child.kind.kind: list(informer.controlled_by(uid_of(parent))) for child, informer in self._kinds.values()}
        informers = {child.kind: informer for child, informer in self._kinds.values()}
        for (kind, (namespace, name)), sent in self._sent.get(uid_of(parent), {}).items():
            if sent.made is None:
                continue
            informer = informers[kind]
            if informer.get(name, namespace) is None and informer.lists == sent.lists:
                found[kind.kind].append(sent.made)
            else:
                sent.made = None
        return found

    def forget(self, parent_uid: str) -> None:
        """The parent is gone."""
        self._sent.pop(parent_uid, None)

    def gone(self, kind: Kind, child: Manifest) -> None:
        """A child was seen to disappear: its apply is not the last word any more."""
        if (sent := self._sent.get(controller_uid(child))) is not None:
            sent.pop((kind, key_of(child)), None)

    async def converge(self, parent: Manifest, wanted: Sequence[Manifest]) -> list[MoorageError]:
        """Delete what the plan leaves out, then apply what it names, in its order.

        A child that cannot be deleted keeps no other from its deletion, and names that others have taken are all told of at once. One that cannot be
        applied keeps those after it, which may build on it: a Deployment's pods read a ConfigMap once. What is written is the beginning of a plan.
        """
        errors: list[MoorageError] = []
        complete = [self._complete(parent, manifest) for manifest in wanted]
        kept = {(child.kind, key_of(manifest)) for child, _, manifest in complete}
        for child, informer in self._kinds.values():
            for manifest in informer.controlled_by(uid_of(parent)):
                if (child.kind, key_of(manifest)) not in kept and not is_deleting(manifest):
                    await _attempt(errors, self._delete(child.kind, manifest))
        for child, informer, manifest in complete:
            try:
                await self._apply(parent, child, informer, manifest)
            except ForeignOwner as error:
                errors.append(error)
            except MoorageError as error:
                return [*errors, error]
        return errors

    def _complete(self, parent: Manifest, manifest: Manifest) -> tuple[Child, Informer, Manifest]:
        """The plan's manifest with namespace and owner filled in, and how its kind is declared."""
        declared = self._kinds.get((manifest["apiVersion"], manifest["kind"]))
        if declared is None:
            raise ValueError(f"{describe(manifest)} is planned, but its kind is not among the controller's children")
        child, informer = declared
        metadata = {**manifest["metadata"], "ownerReferences": [owner_reference(parent)]}
        if child.kind.namespaced:
            metadata.setdefault("namespace", namespace_of(parent))
        return child, informer, {**manifest, "metadata": metadata}

    async def _delete(self, kind: Kind, manifest: Manifest) -> None:
        log.info("deleting %s: not planned any more", describe(manifest))
        try:
            await self._cluster.delete(kind, name_of(manifest), manifest["metadata"].get("namespace"), uid=uid_of(manifest))
        except NotFound:
            return
        except Conflict as error:
            # Another object has the name by now: the one that was meant is gone.
            log.debug("%s: %s", describe(manifest), error)

    async def _apply(self, parent: Manifest, child: Child, informer: Informer, manifest: Manifest) -> None:
        key = key_of(manifest)
        live = informer.get(key[1], key[0])
        digest = hashlib.blake2b(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()
        sent = self._sent.setdefault(uid_of(parent), {})
        last = sent.get((child.kind, key))
        if live is None:
            unchanged = last is not None and (last.digest == digest or child.update is Update.ON_DELETE)
            if last is not None and unchanged and last.lists == informer.lists:
                return  # applied, and the watch has not told of it yet
            if informer.labels is not None:
                live = await self._look(child.kind, manifest)
        if live is not None and controller_uid(live) != uid_of(parent):
            await self._refuse_foreign(parent, child.kind, live)
        if live is not None:
            if is_deleting(live):
                return  # its disappearance wakes the parent
            if child.update is Update.ON_DELETE and controller_uid(live) == uid_of(parent):
                return
            if last is not None and last.digest == digest and not _drifted(last, live):
                return
        applied = await self._cluster.apply(child.kind, manifest, manager=self._manager, force=True)
        known = frozenset({version_of(applied), version_of(live)} if live is not None else {version_of(applied)})
        made = applied if live is None else None
        sent[child.kind, key] = _Sent(digest, uid_of(applied), _generation(applied), known, informer.lists, made)

    async def _look(self, kind: Kind, manifest: Manifest) -> Manifest | None:
        """What the informer's selector may hide."""
        try:
            return await self._cluster.get(kind, name_of(manifest), manifest["metadata"].get("namespace"))
        except NotFound:
            return None

    async def _refuse_foreign(self, parent: Manifest, kind: Kind, live: Manifest) -> None:
        owner = controller_of(live)
        if owner is not None:
            whose = f"belongs to {owner['kind']} {owner['name']}"
        else:
            seen = await self._look(kind, live)
            if seen is None or any(entry.get("manager") == self._manager for entry in seen["metadata"].get("managedFields") or ()):
                return  # ours, whose owner reference was taken away; or gone
            whose = "was not made by this controller"
        raise ForeignOwner(
            f"{describe(live)} exists and {whose}. It is left as it is; delete or rename it, and {describe(parent)} goes on.",
            target=describe(live),
        )


def _generation(manifest: Manifest) -> int:
    return int(manifest["metadata"].get("generation") or 0)


def _drifted(last: _Sent, live: Manifest) -> bool:
    """Whether somebody changed the child since our apply. A cache that still shows the time before it is not drift."""
    if uid_of(live) != last.uid:
        return True
    if last.generation:
        return _generation(live) > last.generation
    return version_of(live) not in last.versions


async def _attempt(errors: list[MoorageError], step: Coroutine[Any, Any, None]) -> None:
    try:
        await step
    except MoorageError as error:
        errors.append(error)
