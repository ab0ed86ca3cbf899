"""Build contexts: folders of blobs, known by a digest of what they hold, and brought to the disk for the time of a build.

The names of blobs are anybody's; none of them may lead out of the folder that the context is written to.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from moorage.errors import Invalid, Unavailable
from moorage.ids import digest
from moorage.server.blobstore import BlobStore
from moorage.specs.image_build import dockerfile_path
from moorage.store import Blob, Store, Transaction
from moorage.wire.assets import BuildContext

P = ParamSpec("P")
T = TypeVar("T")
_PAGE = 5000
_SMALL = 256 * 1024
# A file system that is full, or a quota or limit that is reached.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of a disk that contexts are written to: the service's database and blobs are usually on it too.
KEPT_FREE = 256 * 1024 * 1024
_REMEDY = (
    "The service's operator has to free some space there, or to choose another folder (MOORAGE_IMAGE_BUILD_FOLDER). Then submit again."
)


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


class Space:
    """The disk that contexts are written to: what those on their way have still to write is not free for the next one.

    Args:
        folder: where they are, for messages and for the file system's own figures; it exists when `take` is called.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._due: dict[object, int] = {}

    @property
    def folder(self) -> Path:
        return self._folder

    def take(self, owner: object, files: Mapping[str, ContextFile], what: str) -> None:
        """Set room aside for files, in whole blocks; Unavailable when it is not there."""
        disk = os.statvfs(self._folder)
        needed = sum(_on_disk(each, disk.f_frsize) for each in files.values())
        free = disk.f_bavail * disk.f_frsize - sum(self._due.values()) - KEPT_FREE
        if needed > free:
            raise Unavailable(
                f"{what} needs {needed:,} bytes in {self._folder}, where {needed - free:,} bytes are missing: {max(0, free):,} are left for it, without "
                f"what other builds still write there and {KEPT_FREE:,} that stay free. {_REMEDY}",
                code="InsufficientStorage",
            )
        # Some file systems make them as they are needed, and say 0.
        if disk.f_files and len(files) > disk.f_favail:
            raise Unavailable(
                f"{what} needs as many files in {self._folder}, where {len(files) - disk.f_favail:,} are missing: the file system has room for "
                f"{disk.f_favail:,} more. {_REMEDY}",
                code="InsufficientStorage",
            )
        self._due[owner] = needed

    def used(self, owner: object, file: ContextFile) -> None:
        """The file is written: the file system's own figures know it."""
        self._due[owner] = max(0, self._due[owner] - _on_disk(file, os.statvfs(self._folder).f_frsize))

    def leave(self, owner: object) -> None:
        """Nothing of the owner's is on its way any more."""
        self._due.pop(owner, None)


def _on_disk(file: ContextFile, block: int) -> int:
    return -(-file.size // block) * block


async def download(store: Store, blobs: BlobStore, context: BuildContext, folder: Path, space: Space) -> tuple[int, int]:
    """Write the context's files below a new, empty folder; how many they were, and their bytes.

    Args:
        store: to look the context up.
        blobs: the service's.
        context: as it was described.
        folder: below the folder of `space`.
        space: the disk.

    Raises:
        Invalid: the context changed since it was described, or a name in it cannot be a file's.
        Unavailable: the disk has no room for it.
    """
    files = await store.read(lambda tx: listed(tx, context.address))
    label = f"environment '{context.environment}:{context.version}'"
    if _digest(context.dockerfile, files) != context.digest:
        raise _changed(label)
    size = sum(each.size for each in files.values())
    what = f"The build context of {label} ({len(files)} files, {size:,} bytes)"
    here = ""
    try:
        space.take(folder, files, what)
        for here, each in files.items():
            path = folder.joinpath(*_parts(here, label))
            blob = await blobs.get(context.address.partition("/")[0], each.blob)
            if _file(blob) != each:
                # After the list was made, and before its turn came: what is built would be neither the one nor the other.
                raise _changed(label)
            await _write(path, blobs.stream(blob), each.size)
            space.used(folder, each)
    except OSError as error:
        if error.errno in FULL:
            raise Unavailable(
                f"{what} does not fit into {space.folder}: {error.strerror}, at '{here}'. {_REMEDY}", code="InsufficientStorage"
            ) from error
        raise Invalid(
            f"{what} cannot be written as files: '{here}': {error.strerror}. Rename it, and register a new version.",
            code="BuildContextInvalid",
        ) from error
    finally:
        space.leave(folder)
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
        await wholly(_put, path, b"".join([piece async for piece in pieces]))
        return
    with contextlib.ExitStack() as open_files:
        file = await wholly(_created, path, open_files)
        async for piece in pieces:
            await wholly(file.write, piece)
        await wholly(file.flush)


async def wholly(step: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """A step in a thread, waited for also when this is cancelled: what it writes must not appear after the folder was removed."""
    task = asyncio.ensure_future(asyncio.to_thread(step, *given, **named))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        # Whatever became of it: nobody wants the file any more.
        task.exception()
        raise


def _put(path: Path, content: bytes) -> None:
    with contextlib.ExitStack() as open_files:
        _created(path, open_files).write(content)


def _created(path: Path, open_files: contextlib.ExitStack) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return open_files.enter_context(path.open("xb"))
