"""Blobs: names and metadata in the store, bytes in the artifact store. Streams both ways; a blob changes all at once or not at all.

Bytes are written first, as objects the store has reserved; one transaction then makes them the blob. A crash in between leaves reserved
objects, which `sweep` deletes when their time is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from moorage import clock
from moorage.artifacts import PIECE, Artifacts
from moorage.clock import Clock
from moorage.errors import Invalid, MoorageError
from moorage.server.checksums import Digest, Expected
from moorage.server.commits import Commits
from moorage.store import Blob, Part, Store, Transaction

T = TypeVar("T")

# A log grows by small chunks; its last object is rewritten until it has this size, so that a long log is not thousands of objects.
_TAIL = 256 * 1024
# Objects are reserved ahead, the more the more are used, so that a small blob costs one transaction and not two; unused ones are dropped long before the
# sweep may take them.
_AHEAD = 64
_AHEAD_FOR = timedelta(hours=1)
# As Azure's.
_MOST_BLOCKS = 50_000
NOTHING_EXPECTED = Expected()


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that are stored and belong to nothing yet."""

    parts: tuple[Part, ...]
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Description:
    """What is said of a blob besides its bytes; `md5` (base64) only where it is not calculated: of a blob made from blocks."""

    content_type: str = "application/octet-stream"
    metadata: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    md5: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """An entry of a block list: the block's id, and where it is looked for."""

    id: str
    uncommitted: bool = True
    committed: bool = True


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Reserved objects of a container that nobody uses yet, and how many were reserved at once."""

    until: datetime
    at_once: int
    objects: deque[str]


Guard = Callable[[Blob | None], None]


class BlobStore:
    """What the blob facade, the gateway's logs and the engines read and write blobs with."""

    def __init__(self, store: Store, artifacts: Artifacts, limit: int, now: Clock = clock.now) -> None:
        self._store = store
        self._artifacts = artifacts
        self._limit = limit
        self._now = now
        self._commits = Commits(store)
        self._reserved: dict[str, _Ahead] = {}

    async def close(self) -> None:
        """Let commits that were begun come to their end."""
        await self._commits.close()

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
        description: Description = Description(),
        *,
        expected: Expected = NOTHING_EXPECTED,
        guard: Guard | None = None,
    ) -> tuple[Blob, Digest]:
        """Create or replace a blob.

        Args:
            container: its container.
            name: its name there.
            chunks: the bytes, in any portions.
            description: kept and shown.
            expected: what the bytes must be; Invalid with Md5Mismatch or Crc64Mismatch when they are others.
            guard: raises within the committing transaction when the blob that is there must not be replaced.
        """
        written = await self.write(container, chunks, expected)

        def commit(tx: Transaction) -> Blob:
            if guard:
                guard(tx.blobs.find(container, name))
            return _commit(tx, container, name, written.parts, replace(description, md5=description.md5 or written.digest.md5))

        return await self._keep(written, commit), written.digest

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
        written = await self.write(container, tail + fresh)

        def commit(tx: Transaction) -> Blob:
            now = tx.blobs.find(container, name)
            if (now.etag if now else "") != (blob.etag if blob else ""):
                return now or tx.blobs.commit(container, name, ())
            return tx.blobs.commit(
                container, name, (*parts, *written.parts), content_type=content_type, metadata=blob.metadata if blob else None
            )

        return (await self._store.write(commit)).size

    async def put_block(
        self, container: str, name: str, block: str, chunks: AsyncIterator[bytes], *, expected: Expected = NOTHING_EXPECTED
    ) -> Digest:
        """Stage a block. It counts only once `put_blocks` names it.

        Raises:
            Invalid: it is empty, not what was expected, or its id has another length than the others.
        """
        # A block's MD5 is kept nowhere, and costs a third of the time of a large upload.
        written = await self.write(container, chunks, expected, with_md5=bool(expected.md5))
        if not written.parts:
            raise Invalid("A block must not be empty.", code="InvalidHeaderValue", target="Content-Length")
        await self._keep(written, lambda tx: tx.blobs.set_block(container, name, block, written.parts))
        return written.digest

    async def put_blocks(
        self, container: str, name: str, blocks: Sequence[Named], description: Description, *, guard: Guard | None = None
    ) -> Blob:
        """Make staged blocks, or blocks that the blob already consists of, in this order the blob."""
        if len(blocks) > _MOST_BLOCKS:
            raise Invalid(f"The block list may not contain more than {_MOST_BLOCKS:,} blocks.", code="BlockListTooLong")

        def commit(tx: Transaction) -> Blob:
            current = tx.blobs.find(container, name)
            if guard:
                guard(current)
            return _commit(tx, container, name, _chosen(blocks, tx.blobs.blocks(container, name), committed_blocks(current)), description)

        return await self._store.write(commit)

    async def write(
        self, container: str, chunks: AsyncIterator[bytes] | bytes, expected: Expected = NOTHING_EXPECTED, *, with_md5: bool = True
    ) -> Written:
        """Store bytes that belong to nothing yet; nothing of them stays when this raises."""
        expected.check_form()
        parts: list[Part] = []
        digest, size = Digest(with_md5=with_md5, with_crc64=bool(expected.crc64)), 0
        try:
            async for piece in _pieces(chunks):
                size += len(piece)
                if size > self._limit:
                    raise Invalid(f"The body is larger than {self._limit} bytes.", code="RequestBodyTooLarge")
                parts.append(Part(await self._reserve(container), len(piece)))
                if len(piece) > _TAIL:
                    # The digest in a thread, so that other requests go on, and while the disk writes.
                    await asyncio.gather(self._artifacts.put(parts[-1].object, piece), asyncio.to_thread(digest.update, piece))
                else:
                    digest.update(piece)
                    await self._artifacts.put(parts[-1].object, piece)
            expected.check(digest)
        except BaseException:
            await self.discard(parts)
            raise
        return Written(tuple(parts), size, digest)

    async def discard(self, parts: Sequence[Part]) -> None:
        """Let the next sweep delete them."""
        if parts:
            await self._store.write(lambda tx: tx.blobs.discard([part.object for part in parts]))

    async def sweep(self) -> int:
        """Delete the objects whose time is over: abandoned blocks, replaced bytes; how many that were."""
        deleted = 0
        while objects := await self._store.write(lambda tx: tx.blobs.claim_expired()):
            await self._artifacts.delete(objects)
            await self._forget(objects)
            deleted += len(objects)
        return deleted

    async def _keep(self, written: Written, commit: Callable[[Transaction], T]) -> T:
        try:
            return await self._commits.write(commit)
        except MoorageError:
            # Perhaps because the reservations are too old by now, after the clock jumped.
            self._reserved.clear()
            await self.discard(written.parts)
            raise

    async def _reserve(self, container: str) -> str:
        """The key of an object that the store knows of."""
        now = self._now()
        ahead = self._reserved.get(container)
        if ahead is None or not ahead.objects or now >= ahead.until:
            self._reserved = {name: each for name, each in self._reserved.items() if now < each.until}
            at_once = min(ahead.at_once * 2, _AHEAD) if ahead else 1
            fresh = [self._artifacts.new_object(container) for _ in range(at_once)]
            await self._store.write(lambda tx: tx.blobs.reserve(container, fresh))
            ahead = self._reserved[container] = _Ahead(now + _AHEAD_FOR, at_once, deque(fresh))
        return ahead.objects.popleft()

    async def _forget(self, objects: Sequence[str]) -> None:
        await self._store.write(lambda tx: tx.blobs.forget(objects))


def committed_blocks(blob: Blob | None) -> dict[str, list[Part]]:
    """The blocks that a blob was committed from, by id, in their order; none for one that was put whole."""
    found: dict[str, list[Part]] = {}
    for part in blob.parts if blob else ():
        if part.block:
            found.setdefault(part.block, []).append(part)
    return found


def _chosen(blocks: Sequence[Named], staged: Mapping[str, Sequence[Part]], committed: Mapping[str, Sequence[Part]]) -> list[Part]:
    chosen: dict[str, Sequence[Part]] = {}
    for block in blocks:
        parts = (staged.get(block.id) if block.uncommitted else None) or (committed.get(block.id) if block.committed else None)
        if parts is None:
            raise Invalid(
                "The specified block list is invalid: a block in it was never put, or was dropped a day after it was.",
                code="InvalidBlockList",
                target=block.id,
            )
        if block.id in chosen:
            raise Invalid("The specified block list is invalid: it names a block twice.", code="InvalidBlockList", target=block.id)
        chosen[block.id] = parts
    return [part for parts in chosen.values() for part in parts]


def _commit(tx: Transaction, container: str, name: str, parts: Sequence[Part], said: Description) -> Blob:
    return tx.blobs.commit(
        container, name, parts, md5=said.md5, content_type=said.content_type, metadata=said.metadata, headers=said.headers
    )


async def _pieces(chunks: AsyncIterator[bytes] | bytes) -> AsyncIterator[bytes]:
    """The same bytes in runs of at most `PIECE`, each but the last nearly as long."""
    if isinstance(chunks, bytes):
        for at in range(0, len(chunks), PIECE):
            yield chunks[at : at + PIECE]
        return
    held: list[bytes] = []
    size = 0
    async for chunk in chunks:
        for at in range(0, len(chunk), PIECE):
            some = chunk[at : at + PIECE]
            if size + len(some) > PIECE:
                piece, size = b"".join(held), 0
                # Before the piece goes out, so that it is in memory once.
                held.clear()
                yield piece
            held.append(some)
            size += len(some)
    if size:
        yield b"".join(held)
