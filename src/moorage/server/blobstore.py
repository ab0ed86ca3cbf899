"""Blobs: names and metadata in the store, bytes in the artifact store. Streams both ways; a blob changes all at once or not at all.

Bytes are written first, as objects the store has reserved; one transaction then makes them the blob. A crash in between leaves reserved
objects, which `sweep` deletes when their time is over.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from moorage.artifacts import PIECE, Artifacts
from moorage.errors import Invalid
from moorage.store import Blob, Part, Store, Transaction

# A log grows by small chunks; its last object is rewritten until it has this size, so that a long log is not thousands of objects.
_TAIL = 256 * 1024


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that are stored and belong to nothing yet."""

    parts: tuple[Part, ...]
    size: int
    md5: str


Guard = Callable[[Blob | None], None]


class BlobStore:
    """What the blob facade, the gateway's logs and the engines read and write blobs with."""

    def __init__(self, store: Store, artifacts: Artifacts, limit: int) -> None:
        self._store = store
        self._artifacts = artifacts
        self._limit = limit

    async def get(self, container: str, name: str) -> Blob:
        """The blob's row; NotFound with BlobNotFound."""
        return await self._store.read(lambda tx: tx.blobs.get(container, name))

    def stream(self, blob: Blob, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes `start` to before `end` of the blob as it was when `blob` was read, even if it is overwritten meanwhile."""
        return self._artifacts.stream([(part.object, part.size) for part in blob.parts], start, blob.size if end is None else end)

    async def read(self, container: str, name: str) -> bytes:
        """All of a blob, for small ones."""
        return b"".join([chunk async for chunk in self.stream(await self.get(container, name))])

    async def put(
        self,
        container: str,
        name: str,
        chunks: AsyncIterator[bytes] | bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: dict[str, str] | None = None,
        md5: str = "",
        guard: Guard | None = None,
    ) -> Blob:
        """Create or replace a blob.

        Args:
            container: its container.
            name: its name there.
            chunks: the bytes, in any portions.
            content_type: kept and shown.
            metadata: kept and shown.
            md5: the expected digest (base64); Invalid with Md5Mismatch when the bytes have another.
            guard: raises within the committing transaction when the blob that is there must not be replaced.
        """
        written = await self.write(container, name, chunks)
        if md5 and md5 != written.md5:
            await self.discard(written)
            raise Invalid("The MD5 value specified in the request did not match the value calculated by the server.", code="Md5Mismatch")

        def commit(tx: Transaction) -> Blob:
            if guard:
                guard(tx.blobs.find(container, name))
            return tx.blobs.commit(container, name, written.parts, md5=written.md5, content_type=content_type, metadata=metadata)

        return await self._store.write(commit)

    async def append(self, container: str, name: str, data: bytes, *, at: int, content_type: str = "text/plain; charset=utf-8") -> int:
        """Append to a blob that has one writer, e.g. a job's log; the size it then has.

        Only what lies beyond the present end is taken: bytes before it are there already, and a gap (`at` beyond the end) takes nothing, so that
        the caller sees from the size where to send from.
        """
        blob = await self._store.read(lambda tx: tx.blobs.find(container, name))
        size = blob.size if blob else 0
        fresh = data[size - at :] if at <= size else b""
        if not fresh and blob is not None:
            return size
        parts = blob.parts if blob else ()
        tail = b""
        if parts and parts[-1].size < _TAIL:
            tail = await self._artifacts.get(parts[-1].object, 0, parts[-1].size)
            parts = parts[:-1]
        written = await self.write(container, name, tail + fresh)

        def commit(tx: Transaction) -> Blob:
            now = tx.blobs.find(container, name)
            if (now.etag if now else "") != (blob.etag if blob else ""):
                return now or tx.blobs.commit(container, name, ())
            return tx.blobs.commit(
                container, name, (*parts, *written.parts), content_type=content_type, metadata=blob.metadata if blob else None
            )

        return (await self._store.write(commit)).size

    async def put_block(self, container: str, name: str, block: str, chunks: AsyncIterator[bytes], *, md5: str = "") -> str:
        """Stage a block; its MD5. It counts only once `put_blocks` names it."""
        written = await self.write(container, name, chunks)
        if md5 and md5 != written.md5:
            await self.discard(written)
            raise Invalid("The MD5 value specified in the request did not match the value calculated by the server.", code="Md5Mismatch")
        await self._store.write(lambda tx: tx.blobs.set_block(container, name, block, written.parts))
        return written.md5

    async def put_blocks(
        self, container: str, name: str, blocks: list[str], *, content_type: str, metadata: dict[str, str], guard: Guard | None = None
    ) -> Blob:
        """Make the staged blocks, in this order, the blob."""

        def commit(tx: Transaction) -> Blob:
            if guard:
                guard(tx.blobs.find(container, name))
            staged = tx.blobs.blocks(container, name)
            missing = [block for block in blocks if block not in staged]
            if missing:
                raise Invalid(
                    "The specified block list is invalid: a block in it was never put.", code="InvalidBlockList", target=missing[0]
                )
            if len(set(blocks)) != len(blocks):
                raise Invalid("The specified block list is invalid: it names a block twice.", code="InvalidBlockList")
            parts = [part for block in blocks for part in staged[block]]
            return tx.blobs.commit(container, name, parts, content_type=content_type, metadata=metadata)

        return await self._store.write(commit)

    async def write(self, container: str, name: str, chunks: AsyncIterator[bytes] | bytes) -> Written:
        """Store bytes that belong to nothing yet; nothing of them stays when this raises."""
        parts: list[Part] = []
        md5, size = hashlib.md5(usedforsecurity=False), 0
        try:
            async for piece in _pieces(chunks):
                size += len(piece)
                if size > self._limit:
                    raise Invalid(f"The body is larger than {self._limit} bytes.", code="RequestBodyTooLarge")
                md5.update(piece)
                object = self._artifacts.new_object(container)
                await self._reserve(container, name, object)
                parts.append(Part(object, len(piece)))
                await self._artifacts.put(object, piece)
        except BaseException:
            await self.discard(Written(tuple(parts), size, ""))
            raise
        return Written(tuple(parts), size, base64.b64encode(md5.digest()).decode())

    async def discard(self, written: Written) -> None:
        """Let the next sweep delete them."""
        if written.parts:
            await self._store.write(lambda tx: tx.blobs.discard([part.object for part in written.parts]))

    async def sweep(self) -> int:
        """Delete the objects whose time is over: abandoned blocks, replaced bytes; how many that were."""
        deleted = 0
        while objects := await self._store.read(lambda tx: tx.blobs.expired()):
            await self._artifacts.delete(objects)
            await self._forget(objects)
            deleted += len(objects)
        return deleted

    async def _reserve(self, container: str, name: str, object: str) -> None:
        await self._store.write(lambda tx: tx.blobs.reserve(container, name, object))

    async def _forget(self, objects: Sequence[str]) -> None:
        await self._store.write(lambda tx: tx.blobs.forget(objects))


async def _pieces(chunks: AsyncIterator[bytes] | bytes) -> AsyncIterator[bytes]:
    if isinstance(chunks, bytes):
        for at in range(0, len(chunks), PIECE):
            yield chunks[at : at + PIECE]
        return
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        while len(held) >= PIECE:
            yield bytes(held[:PIECE])
            del held[:PIECE]
    if held:
        yield bytes(held)
