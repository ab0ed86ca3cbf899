"""Blobs as rows: a name, its metadata, and the immutable objects of the artifact store that make up its bytes.

A commit is one row, so that a reader sees the old blob or the new one and never a mixture. Every object is noted here before it is written
and after it is replaced, so that none is ever left behind unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import sqlalchemy as sa

from moorage.errors import NotFound
from moorage.specs.manifest import Manifest
from moorage.store.rows import Blob, Part
from moorage.store.tables import blobs as t
from moorage.store.tables import loose_objects as loose

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction

# Azure drops blocks that nobody committed after a week; here a day, since disks of laptops are small.
STAGED_FOR = timedelta(days=1)
# Readers that opened a blob before it was overwritten may finish within this time.
REPLACED_FOR = timedelta(hours=1)
_LAST_CODE_POINT = "\U0010ffff"


class Blobs:
    """`tx.blobs`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def find(self, container: str, name: str) -> Blob | None:
        row = self._tx.connection.execute(sa.select(t).where(t.c.container == container, t.c.name == name)).one_or_none()
        return _blob(row) if row else None

    def get(self, container: str, name: str) -> Blob:
        found = self.find(container, name)
        if found is None:
            raise NotFound("The specified blob does not exist.", code="BlobNotFound", target=f"{container}/{name}")
        return found

    def list(self, container: str, *, prefix: str = "", after: str = "", limit: int = 5000) -> Sequence[Blob]:
        """Blobs whose names begin with `prefix` and sort after `after`, in bytewise order."""
        return [_blob(row) for row in self._tx.connection.execute(_range(sa.select(t), container, prefix, after).limit(limit))]

    def list_folder(self, container: str, *, prefix: str, delimiter: str, after: str = "", limit: int = 5000) -> Sequence[Blob | str]:
        """Like `list`, but names that contain the delimiter after the prefix are folded into one string that ends with it."""
        found: list[Blob | str] = []
        while len(found) < limit:
            for blob in (page := self.list(container, prefix=prefix, after=after, limit=min(limit - len(found), 200))):
                rest = blob.name[len(prefix) :]
                if delimiter in rest:
                    folder = prefix + rest[: rest.index(delimiter) + len(delimiter)]
                    found.append(folder)
                    after = folder + _LAST_CODE_POINT
                    break
                found.append(blob)
                after = blob.name
            if not page:
                break
        return found

    def reserve(self, container: str, name: str, object: str) -> None:
        """Note an object about to be written for a blob; it lives for a day unless committed."""
        self._tx.connection.execute(sa.insert(loose).values(self._loose(container, name, Part(object, 0), STAGED_FOR)))

    def set_block(self, container: str, name: str, block: str, parts: Sequence[Part]) -> None:
        """These reserved objects are, in this order, the uncommitted block; a former block of that id gives way."""
        self._drop_blocks(container, name, block)
        for ordinal, part in enumerate(parts):
            self._tx.connection.execute(
                sa.update(loose).where(loose.c.object == part.object).values(block=block, ordinal=ordinal, size=part.size)
            )

    def blocks(self, container: str, name: str) -> dict[str, tuple[Part, ...]]:
        """Uncommitted blocks of a blob by id."""
        query = sa.select(loose).where(loose.c.container == container, loose.c.blob == name, loose.c.block.is_not(None))
        found: dict[str, tuple[Part, ...]] = {}
        for row in self._tx.connection.execute(query.order_by(loose.c.block, loose.c.ordinal)):
            found[row.block] = (*found.get(row.block, ()), Part(row.object, row.size))
        return found

    def discard(self, objects: Sequence[str]) -> None:
        """These objects may be deleted now."""
        for some in batched(objects):
            self._tx.connection.execute(sa.update(loose).where(loose.c.object.in_(some)).values(block=None, expires=self._tx.now))

    def commit(
        self,
        container: str,
        name: str,
        parts: Sequence[Part],
        *,
        md5: str = "",
        content_type: str = "application/octet-stream",
        metadata: dict[str, str] | None = None,
    ) -> Blob:
        """Make `parts` the blob's bytes. Blocks that were staged and not named, and the former bytes, become rubbish."""
        before = self.find(container, name)
        kept = {part.object for part in parts}
        blob = Blob(
            container=container,
            name=name,
            size=sum(part.size for part in parts),
            md5=md5,
            etag=f'"0x{uuid4().hex[:15].upper()}"',
            content_type=content_type,
            created_at=before.created_at if before else self._tx.now,
            modified_at=self._tx.now,
            metadata=metadata or {},
            parts=tuple(parts),
        )
        for some in batched(sorted(kept)):
            self._tx.connection.execute(sa.delete(loose).where(loose.c.object.in_(some)))
        self._drop_blocks(container, name)
        self._write(blob, before)
        if before:
            self._leave(before, kept)
        self._tx.touch(f"blobs/{container}")
        return blob

    def set_metadata(self, blob: Blob, metadata: dict[str, str]) -> Blob:
        """Replace all metadata; the bytes stay, the etag does not."""
        etag = f'"0x{uuid4().hex[:15].upper()}"'
        self._tx.connection.execute(
            sa.update(t)
            .where(t.c.container == blob.container, t.c.name == blob.name)
            .values(metadata=metadata, etag=etag, modified_at=self._tx.now)
        )
        return self.get(blob.container, blob.name)

    def delete(self, container: str, name: str) -> bool:
        """Delete a blob; whether it was there."""
        before = self.find(container, name)
        if before is None:
            return False
        self._tx.connection.execute(sa.delete(t).where(t.c.container == container, t.c.name == name))
        self._leave(before, set())
        return True

    def expired(self, limit: int = 500) -> Sequence[str]:
        """Objects nobody needs any more; delete them from the artifact store, then `forget` them."""
        return list(self._tx.connection.scalars(sa.select(loose.c.object).where(loose.c.expires <= self._tx.now).limit(limit)))

    def forget(self, objects: Sequence[str]) -> None:
        for some in batched(objects):
            self._tx.connection.execute(sa.delete(loose).where(loose.c.object.in_(some)))

    def _write(self, blob: Blob, before: Blob | None) -> None:
        values = {
            "size": blob.size,
            "md5": blob.md5,
            "etag": blob.etag,
            "content_type": blob.content_type,
            "metadata": blob.metadata,
            "parts": [[part.object, part.size] for part in blob.parts],
            "created_at": blob.created_at,
            "modified_at": blob.modified_at,
        }
        if before is None:
            self._tx.connection.execute(sa.insert(t).values(container=blob.container, name=blob.name, **values))
        else:
            self._tx.connection.execute(sa.update(t).where(t.c.container == blob.container, t.c.name == blob.name).values(values))

    def _leave(self, blob: Blob, kept: set[str]) -> None:
        left = [self._loose(blob.container, blob.name, part, REPLACED_FOR) for part in blob.parts if part.object not in kept]
        if left:
            self._tx.connection.execute(sa.insert(loose), left)

    def _drop_blocks(self, container: str, name: str, block: str | None = None) -> None:
        which = loose.c.block.is_not(None) if block is None else loose.c.block == block
        self._tx.connection.execute(
            sa.update(loose)
            .where(loose.c.container == container, loose.c.blob == name, which)
            .values(block=None, expires=self._tx.now + REPLACED_FOR)
        )

    def _loose(self, container: str, name: str, part: Part, keep: timedelta) -> Manifest:
        return {
            "object": part.object,
            "container": container,
            "blob": name,
            "block": None,
            "ordinal": 0,
            "size": part.size,
            "since": self._tx.now,
            "expires": self._tx.now + keep,
        }


def batched(names: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    """Slices that fit into one statement's parameters."""
    return (names[at : at + size] for at in range(0, len(names), size))


def _range(query: sa.Select[tuple[object, ...]], container: str, prefix: str, after: str) -> sa.Select[tuple[object, ...]]:
    query = query.where(t.c.container == container, t.c.name > after)
    if prefix:
        query = query.where(t.c.name >= prefix, t.c.name < prefix + _LAST_CODE_POINT)
    return query.order_by(t.c.name)


def _blob(row: sa.Row[tuple[object, ...]]) -> Blob:
    values = row._mapping
    return Blob(
        container=values["container"],
        name=values["name"],
        size=values["size"],
        md5=values["md5"],
        etag=values["etag"],
        content_type=values["content_type"],
        created_at=values["created_at"],
        modified_at=values["modified_at"],
        metadata=values["metadata"],
        parts=tuple(Part(object, size) for object, size in values["parts"]),
    )
