"""The tables. A change here needs a migration in `migrations/versions`; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

metadata = sa.MetaData(
    naming_convention={"ix": "ix_%(column_0_label)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"}
)

# Bytewise order, so that prefixes are ranges: SQLite's default, a collation in PostgreSQL.
Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class Moment(sa.TypeDecorator[datetime]):
    """An aware UTC time; SQLite, which has none, keeps ISO 8601 text that sorts."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        text: sa.types.TypeEngine[Any] = sa.String(32)
        return dialect.type_descriptor(text if dialect.name == "sqlite" else self.impl_instance)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00") if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | str | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


resources = sa.Table(
    "resources",
    metadata,
    sa.Column("sequence", Big, primary_key=True, autoincrement=True),
    sa.Column("workspace", Text, nullable=False),
    # The workspace's id in the casing of its creation: ids in answers must not vary with the request's casing.
    sa.Column("scope", Text, nullable=False),
    sa.Column("type", Text, nullable=False),
    sa.Column("parent", Text, nullable=False, default=""),
    sa.Column("name", Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
    sa.Column("lookup", Text, nullable=False, default=""),
    sa.Column("archived", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("created_by", Text, nullable=False),
    sa.Column("modified_at", Moment, nullable=False),
    sa.Column("modified_by", Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.UniqueConstraint("workspace", "type", "parent", "name"),
    sa.Index("ix_resources_lookup", "workspace", "type", "lookup"),
    sa.Index("ix_resources_type", "type", "sequence"),
    # PostgreSQL finds its way to a page by its statistics, and while it has none takes this index for keys too, whose names it then reads one by one.
    sa.Index("ix_resources_listed", "workspace", "type", "parent", "sequence").ddl_if(dialect="sqlite"),
    sqlite_autoincrement=True,
)

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("workspace", Text, nullable=False),
    sa.Column("target", Text, nullable=False),
    sa.Column("kind", Text, nullable=False),
    sa.Column("status", Text, nullable=False),
    sa.Column("error_code", Text, nullable=False, default=""),
    sa.Column("error_message", Text, nullable=False, default=""),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("finished_at", Moment, nullable=True),
    sa.Index("ix_operations_target", "target", "status"),
)

clusters = sa.Table(
    "clusters",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("arm_id", Text, nullable=False),
    sa.Column("arm_key", Text, nullable=False, unique=True),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("inventory", sa.JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("last_seen", Moment, nullable=True),
    sa.Column("revision", Big, nullable=False, default=0),
    sa.Column("floor", Big, nullable=False, default=0),
    sa.Column("agent_instance", Text, nullable=False, default=""),
    sa.Column("agent_sequence", Big, nullable=False, default=0),
    sa.Column("token_digest", Text, nullable=True, unique=True),
)


def _of_cluster(*, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column("cluster", Text, sa.ForeignKey("clusters.id", ondelete="CASCADE"), nullable=False, primary_key=primary_key)


desired = sa.Table(
    "desired",
    metadata,
    _of_cluster(primary_key=True),
    sa.Column("kind", Text, primary_key=True),
    sa.Column("namespace", Text, primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("revision", Big, nullable=False),
    sa.Column("object", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("owner_workspace", Text, nullable=False),
    sa.Column("owner_type", Text, nullable=False),
    sa.Column("owner_parent", Text, nullable=False),
    sa.Column("owner_name", Text, nullable=False),
    sa.Column("changed_at", Moment, nullable=False),
    sa.Index("ix_desired_revision", "cluster", "revision", unique=True),
    # Without the workspace, which is compared without regard to case.
    sa.Index("ix_desired_owner", "owner_name", "owner_parent", "owner_type"),
)

statuses = sa.Table(
    "statuses",
    metadata,
    _of_cluster(primary_key=True),
    sa.Column("kind", Text, primary_key=True),
    sa.Column("namespace", Text, primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("uid", Text, nullable=False),
    sa.Column("generation", Big, nullable=False),
    sa.Column("status", sa.JSON, nullable=False),
    sa.Column("logs_complete", sa.Boolean, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False, default=False),
    sa.Column("reported_at", Moment, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    _of_cluster(),
    sa.Column("kind", Text, nullable=False),
    sa.Column("namespace", Text, nullable=False),
    sa.Column("name", Text, nullable=False),
    sa.Column("uid", Text, nullable=False),
    sa.Column("about", Text, nullable=False),
    sa.Column("type", Text, nullable=False),
    sa.Column("reason", Text, nullable=False),
    sa.Column("message", Text, nullable=False),
    sa.Column("message_digest", Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("time", Moment, nullable=False),
    sa.UniqueConstraint("cluster", "kind", "namespace", "name", "uid", "about", "reason", "message_digest", name="uq_events_identity"),
    sqlite_autoincrement=True,
)

log_positions = sa.Table(
    "log_positions",
    metadata,
    _of_cluster(primary_key=True),
    sa.Column("kind", Text, primary_key=True),
    sa.Column("namespace", Text, primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("stream", Text, primary_key=True),
    sa.Column("size", Big, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("owner", Text, nullable=False),
    sa.Column("token", Big, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("owner", Text, primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("changed_at", Moment, nullable=False),
)

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("container", Text, primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("size", Big, nullable=False),
    sa.Column("md5", Text, nullable=False),
    sa.Column("etag", Text, nullable=False),
    sa.Column("content_type", Text, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("headers", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("parts", sa.JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("modified_at", Moment, nullable=False),
)

# Objects of the artifact store that no blob refers to: being written, staged as blocks, or left behind by an overwrite.
loose_objects = sa.Table(
    "loose_objects",
    metadata,
    sa.Column("object", Text, primary_key=True),
    sa.Column("container", Text, nullable=False),
    sa.Column("blob", Text, nullable=False),
    sa.Column("block", Text, nullable=True),
    sa.Column("ordinal", sa.Integer, nullable=False, default=0),
    sa.Column("size", Big, nullable=False),
    sa.Column("since", Moment, nullable=False),
    sa.Column("expires", Moment, nullable=False, index=True),
    sa.Index("ix_loose_objects_blob", "container", "blob", "block"),
)
