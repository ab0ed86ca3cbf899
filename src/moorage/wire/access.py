"""What a workload's token may touch: exactly the addresses its custom resource names."""

from __future__ import annotations

from dataclasses import dataclass

from moorage.specs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Access:
    """Blob prefixes (`CONTAINER/PATH`), sorted and without repetition."""

    read: tuple[str, ...]
    write: tuple[str, ...]


def access(manifest: Manifest) -> Access:
    """Read what the spec names as code, inputs and model; write its outputs and artifacts; nothing else."""
    spec = manifest.get("spec") or {}
    read = [(spec.get(part) or {}).get("uri") for part in ("code", "model")]
    read += [item.get("uri") for item in (spec.get("inputs") or {}).values()]
    write = [item.get("uri") for item in (spec.get("outputs") or {}).values()] + [spec.get("artifactsUri")]
    return Access(tuple(sorted({uri for uri in read if uri})), tuple(sorted({uri for uri in write if uri})))
