"""Build contexts: folders of blobs, known by a digest of what they hold, and brought to the disk for the time of a build.

The names of blobs are anybody's; none of them may lead out of the folder that the context is written to.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from moorage.errors import Invalid, Unavailable
from moorage.ids import digest
from moorage.server.blobstore import BlobStore
from moorage.specs.image_build import dockerfile_path
from moorage.store import Blob, Store, Transaction
from moorage.wire.assets import BuildContext

_PAGE = 5000
_SMALL = 256 * 1024
# A file system that is full, or a quota or limit that is reached.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class ContextFile:
    """One file: the blob's name, its size, and what changes with its content."""

    blob: str
    size: int
    mark: str


def describe(tx: Transaction, name: str, version: str, address: str, dockerfile: str, *, target: str) -> BuildContext:
    """The build context of an environment's version.

    Args:
        tx: to look into the store.
        name: the environment.
        version: its version.
        address: the folder, `CONTAINER/PATH`.
        dockerfile: as the version says.
        target: the field that names the environment, for messages.

    Raises:
        Invalid: the folder holds nothing, or has no such Dockerfile.
    """
    path = dockerfile_path(dockerfile, target=target)
    files = listed(tx, address)
    if path not in files:
        label = f"{name}:{version}"
        what = f"has no file '{path}'" if files else "holds nothing"
        raise Invalid(
            f"{target}: the build context of environment '{label}' {what}. Register a version whose context has its Dockerfile.",
            code="DataNotFound",
            target=target,
        )
    return BuildContext(name, version, address, path, _digest(path, files))


def listed(tx: Transaction, address: str) -> dict[str, ContextFile]:
    """The files of a context by their names in it."""
    container, _, path = address.partition("/")
    prefix = f"{path}/" if path else ""
    found: dict[str, ContextFile] = {}
    after = ""
    while page := tx.blobs.list(container, prefix=prefix, after=after, limit=_PAGE):
        found |= {blob.name[len(prefix) :]: _file(blob) for blob in page}
        after = page[-1].name
    return found


def _file(blob: Blob) -> ContextFile:
    # Its md5 is missing where it was uploaded in blocks; its etag changes with each write.
    return ContextFile(blob.name, blob.size, blob.md5 or blob.etag)


def _changed(label: str) -> Invalid:
    return Invalid(
        f"The build context of {label} changed after the image was asked for. Register a version of its own for it.",
        code="BuildContextChanged",
    )


def _digest(dockerfile: str, files: Mapping[str, ContextFile]) -> str:
    return digest(dockerfile, *(f"{name}\n{each.size}\n{each.mark}" for name, each in sorted(files.items())), length=32)


async def download(store: Store, blobs: BlobStore, context: BuildContext, folder: Path) -> tuple[int, int]:
    """Write the context's files below a new, empty folder; how many they were, and their bytes.

    Raises:
        Invalid: the context changed since it was described, or a name in it cannot be a file's.
        Unavailable: the disk is full.
    """
    files = await store.read(lambda tx: listed(tx, context.address))
    label = f"environment '{context.environment}:{context.version}'"
    if _digest(context.dockerfile, files) != context.digest:
        raise _changed(label)
    size = sum(each.size for each in files.values())
    what = f"The build context of {label} ({len(files)} files, {size:,} bytes)"
    here = ""
    try:
        free = (await asyncio.to_thread(shutil.disk_usage, folder)).free
        if size > free:
            raise OSError(errno.ENOSPC, f"{free:,} bytes are free")
        for here, each in files.items():
            path = folder.joinpath(*_parts(here, label))
            blob = await blobs.get(context.address.partition("/")[0], each.blob)
            if _file(blob) != each:
                # After the list was made, and before its turn came: what is built would be neither the one nor the other.
                raise _changed(label)
            await _write(path, blobs.stream(blob), each.size)
    except OSError as error:
        if error.errno in FULL:
            raise Unavailable(
                f"{what} does not fit where the service puts it: {error.strerror}. Its operator has to free some space there, or to choose "
                "another folder (MOORAGE_IMAGE_BUILD_FOLDER). Then submit again.",
                code="InsufficientStorage",
            ) from error
        raise Invalid(
            f"{what} cannot be written as files: '{here}': {error.strerror}. Rename it, and register a new version.",
            code="BuildContextInvalid",
        ) from error
    return len(files), size


def _parts(name: str, label: str) -> Sequence[str]:
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise Invalid(
            f"The build context of {label} has a blob '{name}', whose name cannot be a file's. Rename it, and register a new version.",
            code="BuildContextInvalid",
        )
    return parts


async def _write(path: Path, pieces: AsyncIterator[bytes], size: int) -> None:
    if size <= _SMALL:
        # Most files are: one visit to a thread in place of three.
        await asyncio.to_thread(_put, path, b"".join([piece async for piece in pieces]))
        return
    file = await asyncio.to_thread(_created, path)
    with file:
        async for piece in pieces:
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(file.flush)


def _put(path: Path, content: bytes) -> None:
    with _created(path) as file:
        file.write(content)


def _created(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")
