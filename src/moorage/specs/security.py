"""Who the containers of a workload run as: ours as an ordinary user always but for one; the user's as its image says, or as an ordinary user where
its namespace enforces the Pod Security Standard "restricted". The reasons stand in docs/decisions/0010-workload-security.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from moorage.specs.manifest import Manifest

ENFORCE_LABEL = "pod-security.kubernetes.io/enforce"
# The component image's user; its group owns what is shared.
USER = GROUP = 1000
_NAME = "moorage"
_SECCOMP: Manifest = {"type": "RuntimeDefault"}
# All that the standard "restricted" asks of a container.
RESTRICTED: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsGroup": GROUP,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": _SECCOMP,
}
# Reads what any user of the image has written, readable to others or not; within the standard "baseline".
_READS_ALL: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"add": ["DAC_OVERRIDE"], "drop": ["ALL"]},
    "runAsGroup": 0,
    "runAsNonRoot": False,
    "runAsUser": 0,
    "seccompProfile": _SECCOMP,
}


def enforced(namespace: str, restricted: Iterable[Manifest]) -> bool:
    """Whether pods of that namespace must be restricted; `restricted` are Namespaces whose label says so."""
    return any(
        found["metadata"]["name"] == namespace and (found["metadata"].get("labels") or {}).get(ENFORCE_LABEL) == "restricted"
        for found in restricted
    )


def pod(restricted: bool, *, prepares: bool) -> Manifest:
    """The pod's `securityContext`: the group that volumes belong to.

    Args:
        prepares: the pod fills the volume of environments, which a driver may hand over as root's.
    """
    if not restricted and not prepares:
        # A group for volumes would also change the owners of the claims that IT operations have mounted.
        return {}
    return {"fsGroup": GROUP, "fsGroupChangePolicy": "OnRootMismatch"}


def of_users(restricted: bool) -> Manifest:
    """The `securityContext` of the user's container."""
    return RESTRICTED if restricted else {"seccompProfile": _SECCOMP}


def of_uploads(restricted: bool) -> Manifest:
    """The `securityContext` of the container that stores what the user's has written."""
    return RESTRICTED if restricted else _READS_ALL


def variables(restricted: bool, home: str) -> Mapping[str, str]:
    """What a program expects of its user and the image cannot say of ours: a folder to write to, and a name."""
    return {"HOME": home, "LOGNAME": _NAME, "USER": _NAME} if restricted else {}
