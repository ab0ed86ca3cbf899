"""Put, get, list and delete objects by key. Pieces are put with one request each: no multipart upload, so none is ever left half-done in a bucket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from moorage.errors import Invalid, MoorageError, NotFound, Unavailable

T = TypeVar("T")

# Largest object: bounds what one upload or download holds in memory.
PIECE = 8 * 1024 * 1024
_SLICE = 256 * 1024
# Linux: no space (28), quota (122), file too large (27).
_FULL = re.compile(r"os error (28|122|27)\b")


class Artifacts:
    """One place for objects, opened by URL."""

    def __init__(self, store: ObjectStore, folder: Path | None) -> None:
        self._store = store
        self._folder = folder
        self._running: set[Awaitable[object]] = set()

    @classmethod
    def open(cls, url: str) -> Artifacts:
        """`file:///path`, `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`; a bucket's credentials come from its usual variables."""
        parts = urlsplit(url)
        try:
            if parts.scheme == "file":
                folder = Path(unquote(parts.path))
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                return cls(LocalStore(folder), folder)
            return cls(from_url(url), None)
        except OSError as error:
            raise Unavailable(
                f"The artifact folder cannot be made: {error.strerror} ({error.filename}).", code="ArtifactsUnavailable"
            ) from error
        except (BaseError, ValueError) as error:
            raise Invalid(
                f"The artifacts URL '{parts.scheme}://{parts.hostname or ''}...' is not usable. Use file:///path, s3://, az:// or gs://.",
                target="artifacts_url",
            ) from error

    async def close(self) -> None:
        """Let requests that a caller stopped waiting for come to their end."""
        await asyncio.gather(*self._running, return_exceptions=True)

    @staticmethod
    def new_object(container: str) -> str:
        """A key no object has had: `CONTAINER/ab/cdef...`."""
        name = uuid4().hex
        return f"{container}/{name[:2]}/{name[2:]}"

    async def put(self, object: str, data: bytes) -> None:
        """Store an object of at most `PIECE` bytes; when this returns it is there whole, when it raises it is not."""
        await self._finished(obstore.put_async(self._store, object, data, use_multipart=False))

    async def get(self, object: str, start: int, end: int) -> bytes:
        """Bytes `start` to before `end`, which must not be the same."""
        return bytes(await self._finished(obstore.get_range_async(self._store, object, start=start, end=end)))

    async def stream(self, objects: Sequence[tuple[str, int]], start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes `start` to before `end` of objects (key and size each) laid end to end, of which a piece is in memory."""
        at = 0
        for object, size in objects:
            first, last = max(start - at, 0), min(end - at, size)
            if first < last:
                # In slices, so that a slow reader is not sent more than fits into a socket.
                held = memoryview(await self._finished(obstore.get_range_async(self._store, object, start=first, end=last)))
                for begin in range(0, len(held), _SLICE):
                    yield bytes(held[begin : begin + _SLICE])
            at += size

    async def delete(self, objects: Sequence[str]) -> None:
        """Remove them; those that are gone already are no error."""
        for object in objects:
            try:
                await self._finished(obstore.delete_async(self._store, object))
            except NotFound:
                pass
            if self._folder is not None:
                # What obstore was writing when the process was killed.
                await asyncio.to_thread(_remove_staged, self._folder, object)

    async def list(self, prefix: str = "") -> AsyncIterator[tuple[str, int]]:
        """Keys and sizes below a prefix, in no order."""
        async for batch in obstore.list(self._store, prefix or None):
            for meta in batch:
                yield meta["path"], meta["size"]

    async def _finished(self, request: Awaitable[T]) -> T:
        # Shielded: a cancelled future of obstore would call back into a loop that may be closed by then.
        future = asyncio.ensure_future(request)
        self._running.add(future)
        future.add_done_callback(self._done)
        try:
            return await asyncio.shield(future)
        except (BaseError, OSError) as error:
            raise _translated(error) from error

    def _done(self, future: asyncio.Future[T]) -> None:
        self._running.discard(future)
        if not future.cancelled():
            # Looked at even when the caller has gone, else asyncio complains of it.
            future.exception()


def _remove_staged(folder: Path, object: str) -> None:
    path = folder / object
    for left in path.parent.glob(f"{path.name}#*"):
        left.unlink(missing_ok=True)


def _translated(error: Exception) -> MoorageError:
    text = str(error)
    if isinstance(error, NotFoundError | FileNotFoundError):
        return NotFound("The object is not in the artifact store.", code="BlobNotFound")
    if _FULL.search(text):
        return Unavailable(
            "The disk that keeps artifacts is full. Free some space and send it again; nothing was stored.", code="InsufficientStorage"
        )
    return Unavailable(f"The artifact store does not answer: {text.partition(chr(10))[0][:200]}", code="ArtifactsUnavailable")
