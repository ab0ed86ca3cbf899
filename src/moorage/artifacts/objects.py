"""Put, get, list and delete objects by key. Pieces are put with one request each: no multipart upload, so none is ever left half-done in a bucket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, S3Store

from moorage.artifacts.stores import open_store, translated
from moorage.errors import Invalid, MoorageError, NotFound, Unavailable

T = TypeVar("T")
_log = logging.getLogger(__name__)

# Largest object: bounds what one upload or download holds in memory.
PIECE = 8 * 1024 * 1024
_SLICE = 256 * 1024
# As many as S3's DeleteObjects takes; elsewhere each is a request, so many at a time.
_DELETED_TOGETHER = 1000
_DELETED_AT_ONCE = 16
_PROBE = b"moorage"
# No blob of ours lies below it: containers' names are lower case letters, digits and hyphens.
_PROBES = "_started"


class Artifacts:
    """One place for objects, opened by URL."""

    def __init__(self, store: ObjectStore, folder: Path | None, shown: str) -> None:
        self._store = store
        self._shown = shown
        self._folder = folder
        self._running: set[Awaitable[object]] = set()

    @classmethod
    def open(cls, url: str, *, patience: timedelta = timedelta(seconds=20)) -> Artifacts:
        """A place for objects; nothing is asked of it yet, `check` does that.

        Args:
            url: `file:///path`, `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`. A bucket's address, region and
                credentials come from its usual variables (`AWS_...`, `AZURE_...`, `GOOGLE_...`).
            patience: how long a request that failed may be tried again.

        Raises:
            Invalid: the URL is none of these.
            Unavailable: the folder cannot be made.
        """
        parts = urlsplit(url)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        try:
            store, folder = open_store(url, patience)
            return cls(store, folder, shown)
        except OSError as error:
            raise Unavailable(
                f"The artifact folder cannot be made: {error.strerror} ({error.filename}).", code="ArtifactsUnavailable"
            ) from error
        except (BaseError, ValueError):
            # Without its cause, which quotes the URL and the variables.
            raise Invalid(
                f"The artifacts URL '{shown}...' is not usable. Set MOORAGE_ARTIFACTS_URL to file:///path, s3://, az:// or gs://, and look at "
                "the variables of its kind.",
                target="artifacts_url",
            ) from None

    async def check(self) -> None:
        """Write, read and delete a small object, so that what is wrong with the place shows before a user's upload does.

        Raises:
            Invalid: there is no such bucket, or it refuses the credentials: nothing gets better by waiting.
            Unavailable: it does not answer.
        """
        object = f"{_PROBES}/{uuid4().hex}"
        try:
            await self.put(object, _PROBE)
            whole = await self.get(object, 0, len(_PROBE)) == _PROBE and await self.get(object, 2, 5) == _PROBE[2:5]
            await self.delete([object])
        except MoorageError as error:
            if error.code == "InsufficientStorage":
                # What is there can be read, and deleted.
                return
            remedy = "Look at MOORAGE_ARTIFACTS_URL and at the variables with the bucket's address and credentials (how-to/operate.md)."
            text = f"{error.message} {remedy if self._folder is None else 'Look at MOORAGE_ARTIFACTS_URL.'} It says '{self._shown}...'."
            kind = Invalid if error.code in ("ArtifactsBucketNotFound", "ArtifactsForbidden") else Unavailable
            raise kind(text, code=error.code, target="artifacts_url") from error
        if not whole:
            raise Invalid(
                f"The artifact store at '{self._shown}...' gives back other bytes than it was given. Look at MOORAGE_ARTIFACTS_URL.",
                code="ArtifactsUnavailable",
                target="artifacts_url",
            )

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
        if isinstance(self._store, S3Store):
            for at in range(0, len(objects), _DELETED_TOGETHER):
                await self._finished(obstore.delete_async(self._store, objects[at : at + _DELETED_TOGETHER]))
            return
        for at in range(0, len(objects), _DELETED_AT_ONCE):
            done = await asyncio.gather(*map(self._delete, objects[at : at + _DELETED_AT_ONCE]), return_exceptions=True)
            for error in done:
                if error is not None:
                    raise error

    async def list(self, prefix: str = "") -> AsyncIterator[tuple[str, int]]:
        """Keys and sizes below a prefix, in no order."""
        try:
            async for batch in obstore.list(self._store, prefix or None):
                for meta in batch:
                    yield meta["path"], meta["size"]
        except (BaseError, OSError) as error:
            raise translated(error) from None

    async def _delete(self, object: str) -> None:
        try:
            await self._finished(obstore.delete_async(self._store, object))
        except NotFound:
            pass
        if self._folder is not None:
            # What obstore was writing when the process was killed.
            await asyncio.to_thread(_remove_staged, self._folder, object)

    async def _finished(self, request: Awaitable[T]) -> T:
        # Shielded: a cancelled future of obstore would call back into a loop that may be closed by then.
        future = asyncio.ensure_future(request)
        self._running.add(future)
        future.add_done_callback(self._done)
        try:
            return await asyncio.shield(future)
        except (BaseError, OSError) as error:
            ours = translated(error)
            if isinstance(ours, Unavailable):
                # Whoever operates the service hears of it here; the caller may be anybody's job.
                _log.warning("%s: %s", ours.code, ours.message)
            # Without its cause: obstore quotes addresses, in which signatures stand.
            raise ours from None

    def _done(self, future: asyncio.Future[T]) -> None:
        self._running.discard(future)
        if not future.cancelled():
            # Looked at even when the caller has gone, else asyncio complains of it.
            future.exception()


def _remove_staged(folder: Path, object: str) -> None:
    path = folder / object
    for left in path.parent.glob(f"{path.name}#*"):
        left.unlink(missing_ok=True)
