"""What a workload's token may touch: exactly the addresses its custom resource names."""

from __future__ import annotations

import json
from dataclasses import dataclass

from moorage.specs.manifest import Manifest

# What the last revision that served reads, beside what the spec names: while a changed deployment has not come up, the replicas of the former one
# still serve, and one that has to start anew must find its model.
STILL_READ = "moorage.dev/still-read"


@dataclass(frozen=True, slots=True)
class Access:
    """Blob prefixes (`CONTAINER/PATH`), sorted and without repetition."""

    read: tuple[str, ...]
    write: tuple[str, ...]


def access(manifest: Manifest) -> Access:
    """Read what the spec names as code, inputs and model, and what its annotation still allows; write its outputs and artifacts; nothing else."""
    spec = manifest.get("spec") or {}
    write = [item.get("uri") for item in (spec.get("outputs") or {}).values()] + [spec.get("artifactsUri")]
    return Access(tuple(sorted(_named(spec) | _still_read(manifest))), tuple(sorted({uri for uri in write if uri})))


def keeping_access(manifest: Manifest, former: Manifest | None, *, served: bool) -> Manifest:
    """The manifest with access to what replicas of the former revision read.

    Args:
        manifest: what is wanted now.
        former: what was wanted so far; None when nothing was.
        served: whether the former revision came up; if not, the one before it is what still serves.
    """
    if former is None:
        return manifest
    if former.get("spec") == manifest.get("spec"):
        kept = _still_read(former)
    else:
        kept = _named(former.get("spec") or {}) if served else _still_read(former)
    kept -= _named(manifest.get("spec") or {})
    if not kept:
        return manifest
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), STILL_READ: json.dumps(sorted(kept))}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _named(spec: Manifest) -> set[str]:
    named = [(spec.get(part) or {}).get("uri") for part in ("code", "model")]
    named += [item.get("uri") for item in (spec.get("inputs") or {}).values()]
    return {uri for uri in named if uri}


def _still_read(manifest: Manifest) -> set[str]:
    text = (manifest["metadata"].get("annotations") or {}).get(STILL_READ) if "metadata" in manifest else None
    return set(json.loads(text)) if text else set()
