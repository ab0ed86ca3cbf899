"""The durable log of the object store: SQLite, written by one thread in batches so that one commit serves every write that waits.

A write is durable against kill -9 once its batch is committed (WAL, synchronous=NORMAL); the file is locked to one process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from moorage.errors import Unavailable

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
  grp TEXT NOT NULL, plural TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  revision INTEGER NOT NULL, data BLOB NOT NULL,
  UNIQUE (grp, plural, namespace, name)
);
"""
_PUT = (
    "INSERT INTO objects (grp, plural, namespace, name, revision, data) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (grp, plural, namespace, name) DO UPDATE SET revision = excluded.revision, data = excluded.data"
)
_DELETE = "DELETE FROM objects WHERE grp = ? AND plural = ? AND namespace = ? AND name = ?"
_SET_REVISION = "INSERT INTO meta (name, value) VALUES ('revision', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


class Key(NamedTuple):
    """Where an object lives, whatever its version. `namespace` is empty for cluster-scoped kinds."""

    group: str
    plural: str
    namespace: str
    name: str

    @property
    def resource(self) -> tuple[str, str]:
        return self.group, self.plural


@dataclass(frozen=True, slots=True)
class Record:
    """One write: the object's bytes, or None for its removal."""

    key: Key
    revision: int
    data: bytes | None


class Journal:
    """The SQLite file. Every method blocks; the object store calls `append` in its writer thread, the rest before and after."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        opened: sqlite3.Connection | None = None
        try:
            # Opened on the loop's thread, written on the writer's: never at once, because the store hands over one batch at a time.
            opened = self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
            path.chmod(0o600)
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("PRAGMA journal_size_limit = 16777216")
            self._database.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";\n"):
                self._database.execute(statement)
            self._database.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (_SCHEMA_VERSION,))
            self._database.execute("COMMIT")
            (found,) = self._database.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        except sqlite3.Error as error:
            if opened is not None:
                opened.close()
            raise Unavailable(f"cannot open the cluster's state {path}: {error}. Is another Moorage cluster running on it?") from error
        if found != _SCHEMA_VERSION:
            self._database.close()
            raise Unavailable(f"{path} has schema {found}; this Moorage reads schema {_SCHEMA_VERSION}. Use the version that wrote it.")

    @property
    def revision(self) -> int:
        """The highest revision ever given out, deletions included."""
        row = self._database.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()
        return int(row[0]) if row else 0

    def records(self) -> Iterator[Record]:
        for group, plural, namespace, name, revision, data in self._database.execute(
            "SELECT grp, plural, namespace, name, revision, data FROM objects"
        ):
            yield Record(Key(group, plural, namespace, name), revision, data)

    def append(self, batch: Sequence[Record]) -> None:
        """Commit a batch, in order; Unavailable (disk full, file gone) leaves the file as it was before."""
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            for record in batch:
                if record.data is None:
                    database.execute(_DELETE, record.key)
                else:
                    database.execute(_PUT, (*record.key, record.revision, record.data))
            database.execute(_SET_REVISION, (batch[-1].revision,))
            database.execute("COMMIT")
        except sqlite3.Error as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise Unavailable(f"cannot write the cluster's state {self.path}: {error}") from error

    def close(self) -> None:
        self._database.close()
