"""Blobs keep the headers that clients set; blocks are found by their blob and id."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("blobs", sa.Column("headers", sa.JSON(), nullable=False, server_default="{}"))
    op.drop_index("ix_loose_objects_blob", table_name="loose_objects")
    op.create_index("ix_loose_objects_blob", "loose_objects", ["container", "blob", "block"])
