"""Blobs as rows: a name, its metadata, and the immutable objects of the artifact store that make up its bytes.

A commit is one row, so that a reader sees the old blob or the new one and never a mixture. Every object is noted here before it is written
and after it is replaced, so that none is ever left behind unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa

from moorage.errors import Invalid, NotFound, Unavailable
from moorage.specs.manifest import Manifest
from moorage.store.rows import Blob, Part
from moorage.store.statements import batched, equal, values
from moorage.store.tables import blobs as t
from moorage.store.tables import loose_objects as loose

if TYPE_CHECKING:
    from moorage.store.transaction import Transaction

# Azure drops blocks that nobody committed after a week; here a day, since disks of laptops are small.
STAGED_FOR = timedelta(days=1)
# Readers that opened a blob before it was overwritten may finish within this time.
REPLACED_FOR = timedelta(hours=1)
_LAST_CODE_POINT = "\U0010ffff"
# The size of an object that is being deleted.
_DOOMED = -1
_LISTED = [column for column in t.c if column.name != "parts"]
_NAME = equal(t.c.container, t.c.name)
_FIND = sa.select(t).where(*_NAME)
_INSERT = sa.insert(t)
_UPDATE = sa.update(t).where(*_NAME)
_DELETE = sa.delete(t).where(*_NAME)
_LEAVE = sa.insert(loose)
_COMMIT = sa.delete(loose).where(loose.c.object.in_(sa.bindparam("objects", expanding=True)), loose.c.size != _DOOMED)
_DROP = sa.update(loose).where(*equal(loose.c.container, loose.c.blob), loose.c.block.is_not(None))


class Blobs:
    """`tx.blobs`."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def find(self, container: str, name: str) -> Blob | None:
        row = self._tx.connection.execute(_FIND, values(container=container, name=name)).one_or_none()
        return _blob(row, row._mapping["parts"]) if row else None

    def get(self, container: str, name: str) -> Blob:
        found = self.find(container, name)
        if found is None:
            raise NotFound("The specified blob does not exist.", code="BlobNotFound", target=f"{container}/{name}")
        return found

    def list(self, container: str, *, prefix: str = "", after: str = "", limit: int = 5000) -> Sequence[Blob]:
        """Blobs whose names begin with `prefix` and sort after `after`, in bytewise order, without their parts, which may be many."""
        return [_blob(row) for row in self._tx.connection.execute(_range(sa.select(*_LISTED), container, prefix, after).limit(limit))]

    def list_folder(self, container: str, *, prefix: str, delimiter: str, after: str = "", limit: int = 5000) -> Sequence[Blob | str]:
        """Like `list`, but names that contain the delimiter after the prefix are folded into one string that ends with it."""
        found: list[Blob | str] = []
        # What a folder holds is skipped, so that after one only little is read ahead.
        ahead = 200
        while len(found) < limit:
            for blob in (page := self.list(container, prefix=prefix, after=after, limit=min(limit - len(found), ahead))):
                rest = blob.name[len(prefix) :]
                if delimiter in rest:
                    folder = prefix + rest[: rest.index(delimiter) + len(delimiter)]
                    found.append(folder)
                    after = folder + _LAST_CODE_POINT
                    ahead = 1
                    break
                found.append(blob)
                after = blob.name
            else:
                ahead = min(ahead * 4, 1000)
            if not page:
                break
        return found

    def containers(self, prefix: str, after: str = "") -> Sequence[str]:
        """Containers that hold blobs, whose names begin with `prefix` and sort after `after`."""
        query = sa.select(t.c.container).distinct().where(t.c.container > after, t.c.container >= prefix)
        return list(self._tx.connection.scalars(query.where(t.c.container < prefix + _LAST_CODE_POINT).order_by(t.c.container)))

    def reserve(self, container: str, objects: Sequence[str]) -> None:
        """Note objects about to be written; they live for a day unless committed."""
        self._tx.connection.execute(_LEAVE, [self._loose(container, "", Part(object, 0), STAGED_FOR) for object in objects])

    def set_block(self, container: str, name: str, block: str, parts: Sequence[Part]) -> None:
        """These reserved objects are, in this order, the uncommitted block; a former block of that id gives way.

        Raises:
            Invalid: the blob's other uncommitted blocks have ids of another length.
        """
        of_blob = (loose.c.container == container, loose.c.blob == name, loose.c.block.is_not(None))
        other = self._tx.connection.scalar(sa.select(loose.c.block).where(*of_blob).order_by(loose.c.block).limit(1))
        if other is not None and len(other) != len(block):
            raise Invalid(
                f"The specified blob or block content is invalid: all block ids of a blob must be of the same length, here {len(other)}.",
                code="InvalidBlobOrBlock",
                target="blockid",
            )
        self._drop_blocks(container, name, block)
        expires = self._tx.now + STAGED_FOR
        for ordinal, part in enumerate(parts):
            staged = {"blob": name, "block": block, "ordinal": ordinal, "size": part.size, "expires": expires}
            query = sa.update(loose).where(loose.c.object == part.object, loose.c.size != _DOOMED).values(staged)
            _all(self._tx.connection.execute(query).rowcount, 1)

    def blocks(self, container: str, name: str) -> Mapping[str, Sequence[Part]]:
        """Uncommitted blocks of a blob by id."""
        query = sa.select(loose.c.block, loose.c.object, loose.c.size)
        query = query.where(loose.c.container == container, loose.c.blob == name, loose.c.block.is_not(None))
        found = defaultdict(list)
        for block, object, size in self._tx.connection.execute(query.order_by(loose.c.block, loose.c.ordinal)):
            found[block].append(Part(object, size, block))
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
        headers: dict[str, str] | None = None,
    ) -> Blob:
        """Make `parts` the blob's bytes. Blocks that were staged and not named, and the former bytes, become rubbish."""
        before = self.find(container, name)
        kept = {part.object for part in parts}
        blob = Blob(
            container=container,
            name=name,
            size=sum(part.size for part in parts),
            md5=md5,
            etag=_new_etag(),
            content_type=content_type,
            created_at=before.created_at if before else self._tx.now,
            modified_at=self._tx.now,
            metadata=metadata or {},
            headers=headers or {},
            parts=tuple(parts),
        )
        fresh = kept - {part.object for part in before.parts} if before else kept
        for some in batched(sorted(fresh)):
            _all(self._tx.connection.execute(_COMMIT, {"objects": some}).rowcount, len(some))
        self._drop_blocks(container, name)
        self._write(blob, before)
        if before:
            self._leave(before, kept)
        self._tx.touch(f"blobs/{container}")
        return blob

    def describe(
        self,
        blob: Blob,
        *,
        metadata: dict[str, str] | None = None,
        content_type: str | None = None,
        md5: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Blob:
        """Replace all metadata, or what else is given; the bytes stay, the etag does not."""
        after = replace(
            blob,
            metadata=blob.metadata if metadata is None else metadata,
            content_type=blob.content_type if content_type is None else content_type,
            md5=blob.md5 if md5 is None else md5,
            headers=blob.headers if headers is None else headers,
            etag=_new_etag(),
            modified_at=self._tx.now,
        )
        self._write(after, blob)
        return after

    def delete(self, container: str, name: str) -> bool:
        """Delete a blob; whether it was there."""
        before = self.find(container, name)
        if before is None:
            return False
        self._tx.connection.execute(_DELETE, values(container=container, name=name))
        self._leave(before, set())
        return True

    def claim_expired(self, limit: int = 500) -> Sequence[str]:
        """Objects nobody needs any more; delete them from the artifact store, then `forget` them. From now on no blob can be made of them.

        A blob's blocks live as long as the last of them: an upload of many GB may take longer than a block lives.
        """
        growing = sa.select(loose.c.container, loose.c.blob).where(loose.c.block.is_not(None), loose.c.expires > self._tx.now)
        blob = sa.tuple_(loose.c.container, loose.c.blob)
        query = sa.select(loose.c.object).where(loose.c.expires <= self._tx.now, loose.c.block.is_(None) | blob.not_in(growing))
        found = list(self._tx.connection.scalars(query.limit(limit)))
        for some in batched(found):
            self._tx.connection.execute(sa.update(loose).where(loose.c.object.in_(some)).values(block=None, size=_DOOMED))
        return found

    def forget(self, objects: Sequence[str]) -> None:
        for some in batched(objects):
            self._tx.connection.execute(sa.delete(loose).where(loose.c.object.in_(some)))

    def _write(self, blob: Blob, before: Blob | None) -> None:
        row = {
            "size": blob.size,
            "md5": blob.md5,
            "etag": blob.etag,
            "content_type": blob.content_type,
            "metadata": blob.metadata,
            "headers": blob.headers,
            "parts": [[part.object, part.size, *([part.block] if part.block else [])] for part in blob.parts],
            "created_at": blob.created_at,
            "modified_at": blob.modified_at,
        }
        if before is None:
            self._tx.connection.execute(_INSERT, {"container": blob.container, "name": blob.name, **row})
        else:
            self._tx.connection.execute(_UPDATE, {**values(container=blob.container, name=blob.name), **row})

    def _leave(self, blob: Blob, kept: set[str]) -> None:
        left = [self._loose(blob.container, blob.name, part, REPLACED_FOR) for part in blob.parts if part.object not in kept]
        if left:
            self._tx.connection.execute(_LEAVE, left)

    def _drop_blocks(self, container: str, name: str, block: str | None = None) -> None:
        dropped = _DROP if block is None else _DROP.where(loose.c.block == block)
        left = {"block": None, "expires": self._tx.now + REPLACED_FOR}
        self._tx.connection.execute(dropped, {**values(container=container, blob=name), **left})

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


def _all(found: int, wanted: int) -> None:
    if found != wanted:
        raise Unavailable("What was sent took longer than unfinished uploads are kept. Send it again.", code="ServerBusy")


def _range(query: sa.Select[tuple[object, ...]], container: str, prefix: str, after: str) -> sa.Select[tuple[object, ...]]:
    query = query.where(t.c.container == container, t.c.name > after)
    if prefix:
        query = query.where(t.c.name >= prefix, t.c.name < prefix + _LAST_CODE_POINT)
    return query.order_by(t.c.name)


def _blob(row: sa.Row[tuple[object, ...]], parts: Sequence[Sequence[Any]] = ()) -> Blob:
    found = row._mapping
    return Blob(
        container=found["container"],
        name=found["name"],
        size=found["size"],
        md5=found["md5"],
        etag=found["etag"],
        content_type=found["content_type"],
        created_at=found["created_at"],
        modified_at=found["modified_at"],
        metadata=found["metadata"],
        headers=found["headers"],
        parts=tuple(Part(*part) for part in parts),
    )


def _new_etag() -> str:
    return f'"0x{uuid4().hex[:15].upper()}"'
