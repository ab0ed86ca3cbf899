"""PostgreSQL's NOTIFY as bells: commits of other processes wake this one. On SQLite there is one process and nothing to listen to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import psycopg
import sqlalchemy as sa

from moorage.errors import Unavailable
from moorage.store.changes import Changes

_CHANNEL = "moorage_changes"
_RECONNECT_SECONDS = 2.0
_log = logging.getLogger(__name__)


class Listener:
    """One connection that listens; when it breaks it is made anew, and every bell rings, since notifications may have been lost."""

    def __init__(self, url: str, changes: Changes) -> None:
        self._url = url.replace("postgresql+psycopg://", "postgresql://")
        self._changes = changes
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, url: str, changes: Changes) -> Listener:
        listener = cls(url, changes)
        try:
            connection = await listener._connect()
        except psycopg.OperationalError as error:
            raise Unavailable(
                f"The database does not answer: {str(error).partition(chr(10))[0][:200]}", code="DatabaseUnavailable"
            ) from error
        listener._task = asyncio.create_task(listener._listen(connection), name="store-listener")
        return listener

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def notify(self, connection: sa.Connection, topics: Iterable[str]) -> None:
        """Within a transaction: tell the others when it commits."""
        for topic in topics:
            connection.execute(sa.select(sa.func.pg_notify(_CHANNEL, topic)))

    async def _connect(self) -> psycopg.AsyncConnection:
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        await connection.execute(f"LISTEN {_CHANNEL}")
        return connection

    async def _listen(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            try:
                async with connection:
                    async for notice in connection.notifies():
                        self._changes.publish([notice.payload])
            except psycopg.OperationalError as error:
                _log.warning("lost the database's notifications: %s", str(error).partition("\n")[0])
            connection = await self._reconnected()
            self._changes.publish_all()

    async def _reconnected(self) -> psycopg.AsyncConnection:
        while True:
            try:
                return await self._connect()
            except psycopg.OperationalError:
                await asyncio.sleep(_RECONNECT_SECONDS)
