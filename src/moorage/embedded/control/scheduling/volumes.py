"""What a pod's persistent volume claims mean for its place."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.embedded.control.scheduling.affinity import matches_term
from moorage.embedded.control.scheduling.plan import Volumes
from moorage.embedded.control.scheduling.snapshot import Room
from moorage.kube.informer import Informer
from moorage.kube.metadata import is_deleting, namespace_of
from moorage.specs.manifest import Manifest

_OUT_OF_REACH = "node(s) didn't match PersistentVolume's node affinity"


def reach(pod: Manifest, claims: Informer, volumes: Informer, rooms: Mapping[str, Room]) -> Volumes:
    """Whether the pod's claims are bound, and the nodes that their volumes do not reach."""
    away: dict[str, str] = {}
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if not name:
            continue
        claim = claims.get(name, namespace_of(pod))
        if claim is None:
            return Volumes(f'persistentvolumeclaim "{name}" not found')
        if is_deleting(claim):
            return Volumes(f'persistentvolumeclaim "{name}" is being deleted')
        bound = (claim.get("spec") or {}).get("volumeName")
        phase = (claim.get("status") or {}).get("phase")
        if phase == "Lost":
            return Volumes(f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{bound}"')
        if not bound or phase != "Bound":
            return Volumes("pod has unbound immediate PersistentVolumeClaims")
        persistent = volumes.get(bound)
        required = (((persistent or {}).get("spec") or {}).get("nodeAffinity") or {}).get("required")
        if required is not None:
            away |= {one: _OUT_OF_REACH for one, room in rooms.items() if not _within(required, room)}
    return Volumes(out_of_reach=away)


def _within(required: Mapping[str, object], room: Room) -> bool:
    terms = required.get("nodeSelectorTerms")
    return isinstance(terms, list) and any(matches_term(term, room) for term in terms)
