"""Web addresses that the operator has mapped to files of this machine: taken into the blob store when a job names them, so that its pods read
them as they read everything else, with the job's own token.

What was imported is found again by the address and by sizes and times of the files; a file that changed is imported anew, for later jobs. How long
copies stay is `webcopies`' business.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import yaml

from moorage.errors import Invalid, Throttled
from moorage.ids import Workspace, digest
from moorage.server.containers import blob_container
from moorage.server.services import Services
from moorage.server.webcopies import ADDRESSES, FOLDER, use
from moorage.specs.manifest import Manifest
from moorage.specs.uris import AssetReference, WebAddress, parse_reference
from moorage.specs.url_map import UrlMap, parse, plain
from moorage.store import ResourceKey, Transaction

_PIECE = 1024 * 1024
# When to ask again for a copy that takes long.
_AGAIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class _Found:
    """The files of one address: the blob's name below the prefix, path and size; all of them lie below `root`, without links on the way."""

    copy: str
    files: tuple[tuple[str, Path, int], ...]
    root: Path
    prefix: str
    address: str


def read_map(path: Path) -> UrlMap:
    """The operator's map; Invalid when it cannot be read or is none."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(f"The URL map {path} cannot be read: {error.strerror}.", code="FileNotFound", target="--url-map") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise Invalid(f"The URL map {path} is neither YAML nor JSON: {str(error).splitlines()[0]}.", target="--url-map") from error
    return parse({} if document is None else document, path.parent.absolute(), name=str(path))


def key_of(workspace: Workspace, url: str) -> ResourceKey:
    return ResourceKey(workspace, ADDRESSES, digest(plain(url), length=32))


def address_of(tx: Transaction, workspace: Workspace, url: str) -> str | None:
    """Where an address was imported to (`CONTAINER/PATH`); None when it is not mapped."""
    row = tx.resources.find(key_of(workspace, url))
    return None if row is None else str(row.state["address"])


async def import_inputs(services: Services, workspace: Workspace, job: Mapping[str, object]) -> None:
    """Import what a job's inputs, and the data assets among them, name by a web address.

    Raises:
        Invalid: a mapped address has no file, or leads out of its folder.
        Throttled: copying takes longer than a request should; it goes on meanwhile.
    """
    uris = _uris(job)
    urls = await services.store.read(lambda tx: _addresses(tx, workspace, uris)) if uris else {}
    if not urls:
        return
    known = await asyncio.to_thread(read_map, services.settings.url_map) if services.settings.url_map else UrlMap()
    for url, target in urls.items():
        found = await asyncio.to_thread(_look, known, workspace, url, target)
        if found is not None:
            # Before what is there is looked at, so that nothing of it goes meanwhile.
            await use(services.store, workspace, found.copy)
            await _store(services, workspace, found, url, target)
        await services.store.write(lambda tx, url=url, found=found: _note(tx, workspace, url, found))  # type: ignore[misc]


def _uris(job: Mapping[str, object]) -> dict[str, str]:
    """What a job's inputs name, by the field."""
    inputs = job.get("inputs")
    found = {name: item.get("uri") for name, item in inputs.items() if isinstance(item, dict)} if isinstance(inputs, dict) else {}
    return {f"properties.inputs.{name}.uri": uri for name, uri in found.items() if isinstance(uri, str) and uri.strip()}


def _addresses(tx: Transaction, workspace: Workspace, uris: Mapping[str, str]) -> dict[str, str]:
    """The web addresses among them and behind them, each with a field that names it."""
    found: dict[str, str] = {}
    for target, uri in uris.items():
        reference = parse_reference(uri, target=target)
        if isinstance(reference, AssetReference):
            reference = _asset(tx, workspace, reference, target) or reference
        if isinstance(reference, WebAddress):
            found[reference.url] = target
    return found


def _asset(tx: Transaction, workspace: Workspace, reference: AssetReference, target: str) -> WebAddress | None:
    """The web address of a data or model asset; None for any other. Whether it exists is the job's own check."""
    for type_, field in (("data", "dataUri"), ("models", "modelUri")):
        if reference.type not in (None, type_):
            continue
        inner = f"{type_}/versions"
        if reference.version is not None:
            row = tx.resources.find(ResourceKey(workspace, inner, reference.version, reference.name))
        else:
            row = next(iter(tx.resources.list(workspace, inner, parent=reference.name, archived=False, newest_first=True, limit=1)), None)
        uri = str(row.properties.get(field) or "") if row else ""
        parsed = parse_reference(uri, target=target) if uri else None
        if isinstance(parsed, WebAddress):
            return parsed
    return None


def _look(known: UrlMap, workspace: Workspace, url: str, target: str) -> _Found | None:
    try:
        mapped = known.find(url)
    except Invalid as error:
        raise Invalid(f"{target}: {error.message}", code=error.code, target=target) from error
    if mapped is None:
        return None
    path = Path(mapped.root).joinpath(*mapped.below.parts)
    try:
        # Links inside the folder are followed only as far as they stay in it.
        root, real = Path(mapped.root).resolve(strict=True), path.resolve(strict=True)
        folder = real.is_dir()
        if not real.is_relative_to(root) or not (folder or real.is_file()):
            raise FileNotFoundError
        files = tuple(_files(real, root)) if folder else ((path.name, real),)
        marks = [(inner, file.stat().st_size, file.stat().st_mtime_ns) for inner, file in files]
        sized = tuple((inner, file, size) for (inner, file), (_, size, _) in zip(files, marks, strict=True))
    except (FileNotFoundError, NotADirectoryError, RuntimeError) as error:  # a circle of links is a RuntimeError before Python 3.13
        raise Invalid(
            f"{target}: '{url}' is mapped to {path}, where there is nothing. Put the file there, or correct the URL map.",
            code="DataNotFound",
            target=target,
        ) from error
    except OSError as error:
        raise _unreadable(url, Path(error.filename or path), error, target) from error
    if not files:
        raise Invalid(f"{target}: '{url}' is mapped to the folder {path}, which is empty.", code="DataNotFound", target=target)
    copy = digest(repr((plain(url), marks)), length=32)
    prefix = f"{FOLDER}/{copy}"
    base = f"{prefix}/{path.name}" if folder else prefix
    return _Found(copy, sized, root, base, f"{blob_container(workspace)}/{prefix}/{path.name}")


def _unreadable(what: str, path: Path, error: OSError, target: str) -> Invalid:
    text = os.fsencode(path).decode(errors="replace")
    shown = text if len(text) <= 300 else f"{text[:300]}..."
    said = what if len(what) <= 300 else f"{what[:300]}..."
    return Invalid(
        f"{target}: '{said}' is mapped to {shown}, which this service cannot read: {error.strerror}. Ask its operator, or correct the address.",
        code="DataNotReadable",
        target=target,
    )


def _files(folder: Path, root: Path) -> list[tuple[str, Path]]:
    def refuse(error: OSError) -> None:
        raise error

    found: list[tuple[str, Path]] = []
    for here, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            path = Path(here) / name
            if os.fsencode(name) != name.encode(errors="replace"):
                raise OSError(errno.EILSEQ, "its name is not UTF-8", str(path))
            real = path.resolve()
            if real.is_file() and real.is_relative_to(root):
                found.append((path.relative_to(folder).as_posix(), real))
    return found


async def _store(services: Services, workspace: Workspace, found: _Found, url: str, target: str) -> None:
    """Copy what is not there yet; a request waits for that only so long."""
    container = blob_container(workspace)
    missing = await services.store.read(lambda tx: _missing(tx, container, found))
    if not missing:
        return

    async def copy() -> None:
        for name, path in missing:
            await _copy(services, found.root, container, name, path, target)

    if not await services.imports.finish(f"{container}/{found.copy}", copy, within=services.settings.url_map_wait):
        raise Throttled(
            f"{target}: '{url}' is still being copied into the store ({len(found.files)} files). The job was not submitted; the copy goes on. "
            "Submit it again in a while.",
            retry_after=_AGAIN,
            code="DataBeingCopied",
            target=target,
        )


def _missing(tx: Transaction, container: str, found: _Found) -> list[tuple[str, Path]]:
    """The blobs' names and the files of which no copy, or one of another size, is there."""
    sizes: dict[str, int] = {}
    last = ""
    while page := tx.blobs.list(container, prefix=f"{FOLDER}/{found.copy}/", after=last):
        sizes |= {blob.name: blob.size for blob in page}
        last = page[-1].name
    names = ((f"{found.prefix}/{inner}", path, size) for inner, path, size in found.files)
    return [(name, path) for name, path, size in names if sizes.get(name) != size]


async def _copy(services: Services, root: Path, container: str, name: str, path: Path, target: str) -> None:
    try:
        file = await asyncio.to_thread(_opened, root, path)
    except OSError as error:
        raise _unreadable(name, path, error, target) from error
    with file:
        await services.blobs.put(container, name, _pieces(file))


def _opened(root: Path, path: Path) -> BinaryIO:
    """A regular file below `root`; OSError when a link has taken the place of any part of its path since it was looked at."""
    # Non-blocking, since a pipe may lie there by now.
    sure = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    parts = path.relative_to(root).parts
    descriptor = os.open(root, os.O_RDONLY | sure)
    try:
        for part in parts:
            inner = os.open(part, os.O_RDONLY | sure, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(errno.ENOENT, "it is no file any more", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece


def _note(tx: Transaction, workspace: Workspace, url: str, found: _Found | None) -> None:
    """Remember where it lies; forget it when the operator no longer maps it."""
    key = key_of(workspace, url)
    row = tx.resources.find(key)
    state: Manifest = {"address": found.address} if found else {}
    if found is None:
        if row is not None:
            tx.resources.delete(key)
    elif row is None:
        tx.resources.create(key, {"properties": {}}, state=state)
    elif row.state != state:
        tx.resources.update(row, state=state)
