"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from moorage.store.tables import Big, Moment, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("container", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("size", Big, nullable=False),
        sa.Column("md5", Text, nullable=False),
        sa.Column("etag", Text, nullable=False),
        sa.Column("content_type", Text, nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("modified_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("container", "name", name=op.f("pk_blobs")),
    )
    op.create_table(
        "clusters",
        sa.Column("id", Text, nullable=False),
        sa.Column("arm_id", Text, nullable=False),
        sa.Column("arm_key", Text, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("inventory", sa.JSON(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("last_seen", Moment(), nullable=True),
        sa.Column("revision", Big, nullable=False),
        sa.Column("floor", Big, nullable=False),
        sa.Column("agent_instance", Text, nullable=False),
        sa.Column("agent_sequence", Big, nullable=False),
        sa.Column("token_digest", Text, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clusters")),
        sa.UniqueConstraint("arm_key", name=op.f("uq_clusters_arm_key")),
        sa.UniqueConstraint("token_digest", name=op.f("uq_clusters_token_digest")),
    )
    op.create_table(
        "leases",
        sa.Column("name", Text, nullable=False),
        sa.Column("owner", Text, nullable=False),
        sa.Column("token", Big, nullable=False),
        sa.Column("expires_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "loose_objects",
        sa.Column("object", Text, nullable=False),
        sa.Column("container", Text, nullable=False),
        sa.Column("blob", Text, nullable=False),
        sa.Column("block", Text, nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("size", Big, nullable=False),
        sa.Column("since", Moment(), nullable=False),
        sa.Column("expires", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("object", name=op.f("pk_loose_objects")),
    )
    op.create_index("ix_loose_objects_blob", "loose_objects", ["container", "blob"], unique=False)
    op.create_index(op.f("ix_loose_objects_expires"), "loose_objects", ["expires"], unique=False)
    op.create_table(
        "operations",
        sa.Column("id", Text, nullable=False),
        sa.Column("workspace", Text, nullable=False),
        sa.Column("target", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("error_code", Text, nullable=False),
        sa.Column("error_message", Text, nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index("ix_operations_target", "operations", ["target", "status"], unique=False)
    op.create_table(
        "resources",
        sa.Column("sequence", Big, autoincrement=True, nullable=False),
        sa.Column("workspace", Text, nullable=False),
        sa.Column("scope", Text, nullable=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("parent", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("lookup", Text, nullable=False),
        sa.Column("archived", sa.Boolean(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("created_by", Text, nullable=False),
        sa.Column("modified_at", Moment(), nullable=False),
        sa.Column("modified_by", Text, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_resources")),
        sa.UniqueConstraint("workspace", "type", "parent", "name", name=op.f("uq_resources_workspace_type_parent_name")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_resources_lookup", "resources", ["workspace", "type", "lookup"], unique=False)
    op.create_index("ix_resources_type", "resources", ["type", "sequence"], unique=False)
    op.create_table(
        "secrets",
        sa.Column("owner", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("changed_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "desired",
        sa.Column("cluster", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("namespace", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("revision", Big, nullable=False),
        sa.Column("object", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("owner_workspace", Text, nullable=False),
        sa.Column("owner_type", Text, nullable=False),
        sa.Column("owner_parent", Text, nullable=False),
        sa.Column("owner_name", Text, nullable=False),
        sa.Column("changed_at", Moment(), nullable=False),
        sa.ForeignKeyConstraint(["cluster"], ["clusters.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("cluster", "kind", "namespace", "name", name=op.f("pk_desired")),
    )
    op.create_index("ix_desired_owner", "desired", ["owner_workspace", "owner_type", "owner_parent", "owner_name"], unique=False)
    op.create_index("ix_desired_revision", "desired", ["cluster", "revision"], unique=True)
    op.create_table(
        "events",
        sa.Column("id", Big, autoincrement=True, nullable=False),
        sa.Column("cluster", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("namespace", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("uid", Text, nullable=False),
        sa.Column("about", Text, nullable=False),
        sa.Column("type", Text, nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.Column("message", Text, nullable=False),
        sa.Column("message_digest", Text, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("time", Moment(), nullable=False),
        sa.ForeignKeyConstraint(["cluster"], ["clusters.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("cluster", "kind", "namespace", "name", "uid", "about", "reason", "message_digest", name="uq_events_identity"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "log_positions",
        sa.Column("cluster", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("namespace", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("stream", Text, nullable=False),
        sa.Column("size", Big, nullable=False),
        sa.ForeignKeyConstraint(["cluster"], ["clusters.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("cluster", "kind", "namespace", "name", "stream", name=op.f("pk_log_positions")),
    )
    op.create_table(
        "statuses",
        sa.Column("cluster", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("namespace", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("uid", Text, nullable=False),
        sa.Column("generation", Big, nullable=False),
        sa.Column("status", sa.JSON(), nullable=False),
        sa.Column("logs_complete", sa.Boolean(), nullable=False),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.Column("reported_at", Moment(), nullable=False),
        sa.ForeignKeyConstraint(["cluster"], ["clusters.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("cluster", "kind", "namespace", "name", name=op.f("pk_statuses")),
    )
