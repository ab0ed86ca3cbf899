"""Alembic's folder: `env.py` runs on the connection that `store.migrate` hands over."""
