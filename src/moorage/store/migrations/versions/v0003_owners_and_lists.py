"""What a resource wants is found by its name, and a list by what it lists, in order; both read whole tables before."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_index("ix_desired_owner", table_name="desired")
    op.create_index("ix_desired_owner", "desired", ["owner_name", "owner_parent", "owner_type"])
    if op.get_context().dialect.name == "sqlite":
        op.create_index("ix_resources_listed", "resources", ["workspace", "type", "parent", "sequence"])
