"""PersistentVolumeClaims that IT operations label for job pods, and what is wrong with those that cannot be mounted."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

from moorage.specs.manifest import Manifest

LABEL = "ml.azure.com/pvc"
ANNOTATION = "ml.azure.com/mountpath"
# Nothing may be mounted at these or below them: the pod's own layout, and what a Linux image needs to start a program.
_OURS = ("/moorage", "/mnt/azureml", "/var/azureml-app", "/var/run/secrets")
_SYSTEM = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr/bin",
    "/usr/lib",
    "/usr/sbin",
)
# And nothing may hide these whole.
_PARENTS = ("/home", "/mnt", "/opt", "/root", "/tmp", "/usr", "/usr/local", "/var")


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims to mount, as (claim name, path), and one sentence for each that is not."""

    mounts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


def select(manifests: Iterable[Manifest], namespace: str) -> Claims:
    """The labelled claims of a namespace. Of two at one path none is mounted: which data a job reads must not depend on order."""
    problems: list[str] = []
    paths: dict[str, list[str]] = {}
    for manifest in sorted(manifests, key=lambda found: str(found["metadata"]["name"])):
        metadata = manifest["metadata"]
        if metadata.get("namespace") != namespace or metadata.get("deletionTimestamp"):
            continue
        if (metadata.get("labels") or {}).get(LABEL) != "true":
            continue
        given = (metadata.get("annotations") or {}).get(ANNOTATION) or ""
        if finding := _refused(given):
            problems.append(f"PersistentVolumeClaim '{metadata['name']}' is not mounted: {finding}.")
        else:
            paths.setdefault(posixpath.normpath(given), []).append(metadata["name"])
    mounts: list[tuple[str, str]] = []
    for path, names in sorted(paths.items()):
        if len(names) == 1:
            mounts.append((names[0], path))
        else:
            problems.append(f"PersistentVolumeClaims {', '.join(names)} are not mounted: all of them want {path}.")
    return Claims(tuple(mounts), tuple(problems))


def _refused(path: str) -> str:
    if not path:
        return f"it has no annotation {ANNOTATION}"
    if not path.startswith("/"):
        return f"its mount path '{path}' is not absolute"
    if ".." in path.split("/") or ":" in path:
        return f"its mount path '{path}' contains '..' or ':'"
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/" or clean in _PARENTS:
        return f"its mount path {clean} would hide what the image needs"
    for system in (*_OURS, *_SYSTEM):
        if clean == system or clean.startswith(f"{system}/") or system.startswith(f"{clean}/"):
            return f"its mount path {clean} shadows {system}"
    return ""
