"""Brings the schema up to date at start, under a lock, in one transaction: all migrations or none."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from moorage.errors import Unavailable

# Any constant; two servers that start at once on PostgreSQL queue up on it.
_LOCK = 0x6D6F6F72


def migrate(engine: sa.Engine, revision: str = "head") -> None:
    """Run what is missing, up to a revision. SQLite's BEGIN IMMEDIATE and an advisory lock on PostgreSQL keep a second process out meanwhile."""
    postgresql = engine.dialect.name == "postgresql"
    with engine.connect() as connection:
        if postgresql:
            # A serializable transaction would see the database as it was before it waited for the lock.
            connection = connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            if postgresql:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            _upgrade(connection, revision)


def _upgrade(connection: sa.Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise Unavailable(
            f"The database's schema is not one this version knows ({error}). It was probably written by a newer version of Moorage.",
            code="SchemaUnknown",
        ) from error
