"""Alembic's entry: runs the migrations on the connection, and within the transaction, of `store.migrate`."""

from __future__ import annotations

from alembic import context

from moorage.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
