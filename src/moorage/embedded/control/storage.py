"""Wires the claim binder and the local provisioner: folders are made before their volume is, and removed before it goes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from moorage.embedded.control import volumes
from moorage.embedded.control.loop import Loop
from moorage.embedded.control.pods import is_finished
from moorage.embedded.control.steps import NOTHING, Create, Decision, Patch
from moorage.embedded.control.world import World
from moorage.errors import Conflict, MoorageError, NotFound
from moorage.kube.kinds import POD, PV, PVC, STORAGE_CLASS
from moorage.kube.metadata import Key, key_of, name_of, namespace_of, uid_of
from moorage.specs.manifest import Manifest

log = logging.getLogger(__name__)

_USERS = "users of a claim"


async def ensure_storage_class(world: World) -> None:
    """The default class, made at every start; a claim without it stays Pending and says so."""
    try:
        await world.cluster.create(STORAGE_CLASS, volumes.storage_class())
    except Conflict:
        return
    except MoorageError as error:
        log.warning("storage class %s could not be made: %s", volumes.CLASS_NAME, error)


def claims(world: World, root: Path) -> Loop:
    found_claims, found_volumes = world.informer(PVC), world.informer(PV)
    classes, pods = world.informer(STORAGE_CLASS), world.informer(POD)
    pods.add_index(_USERS, _claims_of)

    def decide(key: Key) -> Decision:
        claim = found_claims.get(key[1], key[0])
        if claim is None:
            return NOTHING
        return volumes.decide_claim(claim, tuple(found_volumes), tuple(classes), root=root, in_use=bool(pods.find(_USERS, key)))

    async def with_folder(key: Key, decision: Decision) -> bool:
        for step in decision.steps:
            if isinstance(step, Create) and step.kind == PV:
                await asyncio.to_thread(volumes.make_folder, root, step.manifest["metadata"]["name"])
        return True

    # One worker: two claims must not take the same volume.
    loop = Loop(world, volumes.COMPONENT, decide, workers=1, confirm=with_folder)

    def claim_changed(old: Manifest | None, new: Manifest | None) -> None:
        if new is not None:
            loop.queue.add(key_of(new))

    def volume_changed(old: Manifest | None, new: Manifest | None) -> None:
        one = new or old
        reference = one["spec"].get("claimRef") if one is not None else None
        if reference:
            loop.queue.add((reference.get("namespace") or "", reference["name"]))
        elif new is not None:
            all_unbound(None, None)

    def all_unbound(old: Manifest | None, new: Manifest | None) -> None:
        for claim in found_claims:
            if not claim["spec"].get("volumeName"):
                loop.queue.add(key_of(claim))

    def pod_changed(old: Manifest | None, new: Manifest | None) -> None:
        if old is not None and (new is None or is_finished(new)):
            for key in _claims_of(old):
                loop.queue.add(key)

    found_claims.subscribe(claim_changed)
    found_volumes.subscribe(volume_changed)
    classes.subscribe(all_unbound)
    pods.subscribe(pod_changed)
    return loop


def persistent_volumes(world: World, root: Path) -> Loop:
    found_claims, found_volumes = world.informer(PVC), world.informer(PV)

    def decide(key: Key) -> Decision:
        volume = found_volumes.get(key[1])
        if volume is None:
            return NOTHING
        reference = volume["spec"].get("claimRef") or {}
        return volumes.decide_volume(volume, found_claims.get(reference.get("name", ""), reference.get("namespace") or ""))

    async def without_folder(key: Key, decision: Decision) -> bool:
        volume = found_volumes.get(key[1])
        if volume is None or not volumes.reclaims(volume) or any(step.subresource for step in decision.steps if isinstance(step, Patch)):
            return True
        # What cannot be undone is decided on the API itself, not on a copy of it.
        if await _is_claimed(world, volume["spec"]["claimRef"]):
            return False
        await asyncio.to_thread(volumes.remove_folder, root, volume)
        return True

    loop = Loop(world, "persistentvolume-reclaimer", decide, workers=1, confirm=without_folder)

    def volume_changed(old: Manifest | None, new: Manifest | None) -> None:
        if new is not None:
            loop.queue.add(("", name_of(new)))

    def claim_changed(old: Manifest | None, new: Manifest | None) -> None:
        for claim in (old, new):
            if claim is not None and (name := claim["spec"].get("volumeName")):
                loop.queue.add(("", name))
        if old is not None and new is None:
            for volume in found_volumes:
                if (volume["spec"].get("claimRef") or {}).get("name") == name_of(old):
                    loop.queue.add(("", name_of(volume)))

    found_volumes.subscribe(volume_changed)
    found_claims.subscribe(claim_changed)
    return loop


async def _is_claimed(world: World, reference: Manifest) -> bool:
    try:
        claim = await world.cluster.get(PVC, reference["name"], reference["namespace"])
    except NotFound:
        return False
    return uid_of(claim) == uid_of({"metadata": reference})


def _claims_of(pod: Manifest) -> list[Key]:
    """The claims a pod holds while it has not finished."""
    if is_finished(pod):
        return []
    names = [(one.get("persistentVolumeClaim") or {}).get("claimName") for one in (pod.get("spec") or {}).get("volumes") or ()]
    return [(namespace_of(pod), name) for name in names if name]
