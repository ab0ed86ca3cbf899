"""The database itself: opening, migrating, units of work in threads. One thread writes; PostgreSQL is serializable, with retries when processes meet.

A committed write is on disk (`synchronous=FULL`): the gateway's receipts promise as much.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from moorage import clock
from moorage.clock import Clock
from moorage.errors import Conflict, MoorageError, Unavailable
from moorage.store.changes import Changes
from moorage.store.listener import Listener
from moorage.store.migrate import migrate
from moorage.store.sealed import SealingKey
from moorage.store.statements import json_text
from moorage.store.transaction import Transaction

T = TypeVar("T")

_BUSY_MILLISECONDS = 10_000
_READERS = 4
_ATTEMPTS = 8
# PostgreSQL: a peer that went without a word (a failover, a broken network) is noticed within a minute, not in two hours: one thread
# writes, and the listener only ever waits. What the URL says goes before.
_PEER = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
# PostgreSQL: serialization failure, deadlock, unique violation between two serializable transactions that inserted the same key.
_RETRYABLE = frozenset({"40001", "40P01", "23505"})
SYSTEM = "moorage"


class Store:
    """The workspace service's state.

    Open with `Store.open`, close with `close`. Every function passed in runs in a worker thread, possibly more than once.
    """

    def __init__(self, reader: sa.Engine, writer: sa.Engine, key: bytes, now: Clock) -> None:
        self._reader = reader
        self._writer = writer
        self._key = SealingKey(key)
        self._now = now
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")
        # One on PostgreSQL too: transactions of one process that run at once conflict with each other nearly always, and give up (benchmarks/api.py).
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._listener: Listener | None = None
        self.changes = Changes()

    @classmethod
    async def open(cls, url: str, key: bytes, *, now: Clock = clock.now) -> Store:
        """Connect, bring the schema up to date, and listen for other processes' commits.

        Args:
            url: `sqlite:////absolute/path.db` or `postgresql://user:password@host:port/database`.
            key: 32 bytes that seal secrets; see `identity.keyfiles`.
            now: the clock of all rows.
        """
        reader, writer = _engines(url)
        store = cls(reader, writer, key, now)
        try:
            await asyncio.get_running_loop().run_in_executor(store._writers, _guarded, lambda: migrate(writer))
            if writer.dialect.name == "postgresql":
                store._listener = await Listener.start(writer.url.render_as_string(hide_password=False), store.changes)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Finish what runs, then close every connection."""
        if self._listener:
            await self._listener.stop()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._readers.shutdown)
        await loop.run_in_executor(None, self._writers.shutdown)
        self._reader.dispose()
        self._writer.dispose()

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a read-only transaction that sees one moment of the database."""
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, _guarded, lambda: self._attempt(self._reader, work, SYSTEM)[0]
        )

    async def write(self, work: Callable[[Transaction], T], *, actor: str = SYSTEM) -> T:
        """Run `work` in a transaction of its own: all of it happens, or, when it raises, nothing. `actor` is noted as creator or modifier.

        Bells ring after the commit even when the caller was cancelled meanwhile.
        """
        loop = asyncio.get_running_loop()

        def run() -> T:
            result, topics = _retrying(lambda: self._attempt(self._writer, work, actor))
            if topics:
                loop.call_soon_threadsafe(self.changes.publish, topics)
            return result

        return await loop.run_in_executor(self._writers, _guarded, run)

    async def ready(self) -> None:
        """Answer, or raise Unavailable."""
        await self.read(lambda tx: tx.connection.execute(sa.select(1)).scalar())

    def _attempt(self, engine: sa.Engine, work: Callable[[Transaction], T], actor: str) -> tuple[T, set[str]]:
        with engine.connect() as connection, connection.begin():
            tx = Transaction(connection, self._key, self._now(), actor)
            result = work(tx)
            if tx.topics and self._listener:
                self._listener.notify(connection, tx.topics)
            return result, tx.topics


def _retrying(attempt: Callable[[], T]) -> T:
    for number in range(_ATTEMPTS - 1):
        try:
            return attempt()
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _RETRYABLE:
                raise
            # Random, so that two transactions that met do not meet again.
            time.sleep(random.uniform(0, 0.01 * 2**number))
    return attempt()


def _guarded(work: Callable[[], T]) -> T:
    """Translate the database's errors into ours; messages leave out statements and parameters, which may hold secrets."""
    try:
        return work()
    except sa.exc.IntegrityError as error:
        raise Conflict("The database refused the write because it contradicts what is stored.") from error
    except sa.exc.DBAPIError as error:
        raise _unavailable(error) from error
    except sa.exc.TimeoutError as error:
        raise Unavailable("All database connections are busy. Try again shortly.") from error


def _unavailable(error: sa.exc.DBAPIError) -> MoorageError:
    text = str(error.orig).partition("\n")[0][:200]
    if "disk is full" in text or getattr(error.orig, "sqlstate", None) == "53100":
        return Unavailable("The database's disk is full. Free some space; nothing was changed.", code="InsufficientStorage")
    if "locked" in text:
        return Unavailable("Another process holds the database. Is a second server running on the same folder?", code="DatabaseBusy")
    return Unavailable(f"The database does not answer: {text}", code="DatabaseUnavailable")


def _engines(url: str) -> tuple[sa.Engine, sa.Engine]:
    try:
        address = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise Unavailable(
            "The database URL does not parse. Use sqlite:////path/file.db or postgresql://user:password@host/database."
        ) from error
    if address.get_backend_name() == "sqlite":
        return _sqlite(address)
    if address.get_backend_name() == "postgresql":
        return _postgresql(address.set(drivername="postgresql+psycopg"))
    raise Unavailable(f"The database '{address.get_backend_name()}' is not supported. Use sqlite:// or postgresql://.")


def _sqlite(address: sa.URL) -> tuple[sa.Engine, sa.Engine]:
    if not address.database or address.database == ":memory:":
        raise Unavailable("The store needs a file: sqlite:////path/file.db.")
    Path(address.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def engine(*, writes: bool) -> sa.Engine:
        made = sa.create_engine(
            address,
            poolclass=sa.pool.QueuePool,
            pool_size=_READERS + 1,
            json_serializer=json_text,
            connect_args={"check_same_thread": False},
        )

        @sa.event.listens_for(made, "connect")
        def prepare(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
            # The driver's own transaction control would commit before DDL and begin late; see SQLAlchemy's notes on pysqlite.
            connection.isolation_level = None
            connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            if not writes:
                connection.execute("PRAGMA query_only=ON")

        @sa.event.listens_for(made, "begin")
        def begin(connection: sa.Connection) -> None:
            # IMMEDIATE: a read that later turns into a write could find the database changed underneath.
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return made

    return engine(writes=False), engine(writes=True)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log, which the file then keeps. SQLite does not wait for others here, so we do."""
    deadline = clock.monotonic() + _BUSY_MILLISECONDS / 1000
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if clock.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.02))


def _postgresql(address: sa.URL) -> tuple[sa.Engine, sa.Engine]:
    address = address.update_query_dict({name: value for name, value in _PEER.items() if name not in address.query})
    engine = sa.create_engine(address, pool_size=_READERS, max_overflow=_READERS, pool_pre_ping=True, json_serializer=json_text)
    reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return reader, engine.execution_options(isolation_level="SERIALIZABLE")
