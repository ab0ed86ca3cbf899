"""Writes OCI images without a container engine: a file tree in layers, in an archive that `ctr images import`, `docker load`, `podman load` and `skopeo` read.

The same tree gives the same bytes: entries are sorted, times are one, owners are numbers. Gzip's bytes may differ between versions of zlib, the
layers' own digests (`diff_ids`) do not.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from image.facts import Facts

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_CHUNK = 1024 * 1024
_XATTR = "SCHILY.xattr."


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it lies in a file.

    Args:
        title: what is in it, for people.
        path: the layer's tar file, compressed or not.
        digest: `sha256:...` of that file.
        diff_id: `sha256:...` of the tar file without compression.
        size: bytes of that file.
        unpacked: bytes of the files in it.
        compressed: whether the file is compressed (gzip).
    """

    title: str
    path: Path
    digest: str
    diff_id: str
    size: int
    unpacked: int
    compressed: bool


def split(tree: Path, into: Sequence[str], choose: Callable[[str], int], folder: Path, *, epoch: int, compress: bool) -> list[Layer]:
    """Cut a root file system into layers, lowest first.

    Args:
        tree: a tar file of the whole tree, not compressed.
        into: titles of the layers.
        choose: the layer of a path (no leading slash) as an index of `into`.
        folder: where the layers' files are put.
        epoch: the time of every file, in seconds since 1970.
        compress: gzip them, as registries expect; nodes import what is not compressed faster.
    """
    with tarfile.open(tree, "r:") as source:
        entries = _entries(source)
        return [
            _layer(title, folder / f"{number}.tar", source, [each for each in entries if choose(each[0]) == number], (epoch, compress))
            for number, title in enumerate(into)
        ]


def archive(path: Path, facts: Facts, reference: str, layers: Sequence[Layer], *, architecture: str, epoch: int) -> str:
    """Write the image archive, and answer the image's digest."""
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = _json(_config(facts, layers, architecture, created))
    manifest = _json(_manifest(config, layers))
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
            | {
                "platform": {"architecture": architecture, "os": "linux"},
                # The one that containerd takes the name from, and the one of the specification.
                "annotations": {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference},
            }
        ],
    }
    # What older engines read instead of the index.
    old = [{"Config": _blob(config), "RepoTags": [reference], "Layers": [f"blobs/{each.digest.replace(':', '/')}" for each in layers]}]
    small = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        "manifest.json": _json(old),
        _blob(config): config,
        _blob(manifest): manifest,
    }
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as target:
        for folder in ("blobs", "blobs/sha256"):
            target.addfile(_member(folder, epoch, tarfile.DIRTYPE))
        for name, content in sorted(small.items()):
            target.addfile(_member(name, epoch, size=len(content)), io.BytesIO(content))
        for layer in {each.digest: each for each in layers}.values():
            with layer.path.open("rb") as content_file:
                target.addfile(_member(f"blobs/{layer.digest.replace(':', '/')}", epoch, size=layer.size), content_file)
    return _digest(manifest)


def _entries(source: tarfile.TarFile) -> list[tuple[str, tarfile.TarInfo]]:
    """What belongs into layers, sorted by path. Devices are the container runtime's."""
    found = {
        each.name.removeprefix("./").strip("/"): each for each in source.getmembers() if not (each.isdev() or each.name in (".", "./"))
    }
    return sorted(found.items())


def _layer(title: str, path: Path, source: tarfile.TarFile, entries: Iterable[tuple[str, tarfile.TarInfo]], how: tuple[int, bool]) -> Layer:
    epoch, compress = how
    unpacked = 0
    # Several names of one file: in this layer the first one carries the content, whatever the order was in the source.
    carried: dict[str, str] = {}
    with path.open("wb") as raw:
        outer = _Hashing(raw)
        zipped = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=outer, mtime=0) if compress else None
        inner = _Hashing(zipped or outer)
        with tarfile.open(fileobj=cast("IO[bytes]", inner), mode="w|", format=tarfile.PAX_FORMAT) as target:
            for name, entry in entries:
                member = _member(name, epoch, entry.type, mode=entry.mode, linkname=entry.linkname)
                member.uid, member.gid = entry.uid, entry.gid
                member.pax_headers = {key: value for key, value in entry.pax_headers.items() if key.startswith(_XATTR)}
                if not (entry.isreg() or entry.islnk()):
                    target.addfile(member)
                    continue
                origin = entry.linkname if entry.islnk() else entry.name
                if (first := carried.setdefault(origin.removeprefix("./"), name)) != name:
                    member.type, member.linkname = tarfile.LNKTYPE, first
                    target.addfile(member)
                    continue
                content = source.extractfile(entry)
                assert content is not None, name
                member.type, member.linkname = tarfile.REGTYPE, ""
                member.size = source.getmember(entry.linkname).size if entry.islnk() else entry.size
                unpacked += member.size
                target.addfile(member, content)
        if zipped is not None:
            zipped.close()
    return Layer(title, path, outer.digest, inner.digest, outer.size, unpacked, compress)


class _Hashing:
    """A file to write to that knows the digest of what was written."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, content: bytes) -> int:
        self._hash.update(content)
        self.size += len(content)
        self._target.write(content)
        return len(content)

    def flush(self) -> None:
        """Nothing is held back here."""


def _member(
    name: str, epoch: int, kind: bytes = tarfile.REGTYPE, *, size: int = 0, mode: int | None = None, linkname: str = ""
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mtime, member.linkname = kind, size, epoch, linkname
    member.mode = mode if mode is not None else (0o755 if kind == tarfile.DIRTYPE else 0o644)
    return member


def _config(facts: Facts, layers: Sequence[Layer], architecture: str, created: str) -> Mapping[str, Any]:
    run: dict[str, Any] = {
        "User": facts.user,
        "Env": [f"{name}={value}" for name, value in facts.environment.items()],
        "Entrypoint": list(facts.entry_point),
        "Cmd": list(facts.command),
        "WorkingDir": facts.working_folder,
        "Labels": dict(facts.labels),
    }
    return {
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": {name: value for name, value in run.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
        "history": [{"created": created, "created_by": f"scripts/image: {each.title}"} for each in layers],
    }


def _manifest(config: bytes, layers: Sequence[Layer]) -> Mapping[str, Any]:
    kind = "application/vnd.oci.image.layer.v1.tar"
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [{"mediaType": kind + ("+gzip" if each.compressed else ""), "digest": each.digest, "size": each.size} for each in layers],
    }


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def _json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
