"""The tables as they stand at the newest migration, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    event,
    text,
)

from headrace.model.run import RunStatus


class Instant(TypeDecorator[datetime]):
    """A moment in UTC with microseconds; SQLite, which knows no zones, holds it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """Plain data as JSON text.

    Not PostgreSQL's own JSON types: they refuse NUL, NaN and lone surrogates, which rejected rows hold.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, _dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[str]:
    return Column("id", Text, primary_key=True)


def _moment(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, Instant, nullable=nullable)


def _of(parent: str, *, key: bool = True) -> Column[str]:
    """A reference to the row that this one belongs to and goes with."""
    return Column(
        parent.removesuffix("s"),
        Text,
        ForeignKey(f"{parent}.id", ondelete="CASCADE"),
        primary_key=key,
        nullable=False,
    )


workspaces = Table(
    "workspaces",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("extras", Json, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("email", Text, nullable=False),
    Column("email_key", Text, nullable=False, unique=True),  # the address as it is compared
    Column("password", Text),  # its hash; without one nobody can sign in by password
    Column("active", Boolean, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("verified", Boolean, nullable=False),
    Column("workspace", Text, ForeignKey("workspaces.id", ondelete="SET NULL")),
    Column("version", Integer, nullable=False),
    Column("kept", Text),
    _moment("created_at"),
    _moment("updated_at"),
)

members = Table(
    "members",
    metadata,
    _id(),
    _of("workspaces", key=False),
    _of("users", key=False),
    Column("role", Text, nullable=False),
    _moment("created_at"),
    UniqueConstraint("workspace", "user"),
    Index(None, "user"),
)

teams = Table(
    "teams",
    metadata,
    _id(),
    _of("workspaces", key=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    UniqueConstraint("workspace", "name"),
)

team_members = Table(
    "team_members",
    metadata,
    _id(),
    _of("teams", key=False),
    _of("users", key=False),
    Column("owner", Boolean, nullable=False),
    _moment("created_at"),
    UniqueConstraint("team", "user"),
    Index(None, "user"),
)

sessions = Table(
    "sessions",
    metadata,
    _id(),
    _of("users", key=False),
    Column("hash", Text, nullable=False, unique=True),
    _moment("created_at"),
    _moment("expires_at"),
)

service_tokens = Table(
    "service_tokens",
    metadata,
    _id(),  # the token's jti
    _of("users", key=False),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False),
    _moment("created_at"),
    _moment("expires_at"),
    _moment("revoked_at", nullable=True),
)

revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    _id(),  # the token's jti
    _moment("expires_at"),
)

one_time_tokens = Table(
    "one_time_tokens",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("purpose", Text, nullable=False),
    _of("users", key=False),
    _moment("created_at"),
    _moment("expires_at"),
)

invitations = Table(
    "invitations",
    metadata,
    _id(),
    _of("workspaces", key=False),
    Column("email", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    _moment("created_at"),
    _moment("expires_at"),
)

audit = Table(
    "audit",
    metadata,
    # SQLite numbers rows by itself only in a column that is INTEGER to the letter.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    _moment("at"),
    Column("actor", Text, nullable=False),
    Column("workspace", Text),  # no reference: entries outlive what they speak of
    Column("action", Text, nullable=False),
    Column("object", Text),
    Column("detail", Json, nullable=False),
    Index(None, "workspace", "id"),
)

connections = Table(
    "connections",
    metadata,
    _id(),
    _of("workspaces", key=False),
    Column("team", Text, ForeignKey("teams.id")),
    Column("name", Text, nullable=False),
    Column("connector", Text, nullable=False),
    Column("settings", Json, nullable=False),
    Column("tested", Json),
    Column("streams", Json),
    Column("extras", Json, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Index(None, "workspace", "name"),
)

secrets = Table(
    "secrets",
    metadata,
    _of("connections"),
    Column("field", Text, primary_key=True),  # the dotted path of the setting
    Column("key_id", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

pipelines = Table(
    "pipelines",
    metadata,
    _id(),
    _of("workspaces", key=False),
    Column("team", Text, ForeignKey("teams.id")),
    Column("name", Text, nullable=False),
    Column("source", Text, ForeignKey("connections.id"), nullable=False),
    Column("target", Text, ForeignKey("connections.id"), nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("schedule", Text),
    Column("next_at", Instant),  # when the schedule asks for the next run
    Column("definition", Json, nullable=False),  # what no query asks for
    Column("version", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Index(None, "workspace", "name"),
    Index(None, "next_at"),
)

registry = Table(
    "registry",
    metadata,
    _id(),  # connector_id-version
    Column("connector_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("category", Text),
    Column("version", Text, nullable=False),
    Column("description", Text),
    Column("technology", Text),
    Column("runtime", Text),
    Column("licence", Text),
    Column("owner", Text),
    Column("icon", Text),
    Column("status", Text, nullable=False),
    Column("ui_spec", Json, nullable=False),
    Column("digest", Text),  # of the package
    Column("connector", Text),  # its name in the catalogue
    Column("contract", Text),
    Column("runnable", Boolean, nullable=False),
    Column("reason", Text),
    Column("report", Json, nullable=False),
    Column("archive", Text),
    Column("program", Json, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("updated_by", Text, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    _moment("live_at", nullable=True),
    UniqueConstraint("connector_id", "version"),
    Index(None, "digest"),
)

leases = Table(
    "leases",
    metadata,
    _of("pipelines"),
    Column("id", Text, nullable=False),  # new at each takeover
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

UNFINISHED = text("status IN ('queued', 'running')")

runs = Table(
    "runs",
    metadata,
    _id(),
    _of("workspaces", key=False),
    Column("pipeline", Text, nullable=False),  # no reference: a run outlives its pipeline
    Column("pipeline_name", Text),  # and this is what a pipeline that is gone was called,
    Column("team", Text),  # and whose it was
    Column("trigger", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("queued_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("ended_at", Instant),
    Column("duration_us", BigInteger),  # from queued_at to ended_at
    Column("cancel_at", Instant),  # when somebody asked for its end
    Column("committed", BigInteger),
    Column("committed_bytes", BigInteger),
    Column("error", Json),
    Column("updated_at", Instant, nullable=False),
    CheckConstraint(f"status IN ({', '.join(repr(s.value) for s in RunStatus)})", name="status"),
    Index(None, "pipeline", "queued_at"),
    Index(None, "workspace", "queued_at"),
    Index(None, "status", "queued_at", sqlite_where=UNFINISHED),
    Index("uq_runs_pipeline", "pipeline", unique=True, sqlite_where=UNFINISHED),
)


@event.listens_for(runs, "before_create")
def _partial(table: Table, connection: Connection, **_: Any) -> None:
    """On PostgreSQL the same indexes are partial. Said above, it would load that dialect at each start."""
    if connection.dialect.name == "postgresql":
        for index in table.indexes:
            if (where := index.dialect_kwargs.get("sqlite_where")) is not None:
                index.dialect_kwargs["postgresql_where"] = where


attempts = Table(
    "attempts",
    metadata,
    _of("runs"),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("error", Json),
)

run_streams = Table(
    "run_streams",
    metadata,
    _of("runs"),
    Column("stream", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("counts", Json, nullable=False),
    Column("committed", BigInteger),
    Column("committed_bytes", BigInteger),
    Column("expected", BigInteger),
    Column("error", Json),
    Column("updated_at", Instant, nullable=False),
)

slices = Table(
    "slices",
    metadata,
    _of("pipelines"),
    Column("stream", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("slice", Json, nullable=False),
    Column("staged", Json, nullable=False),
    Column("counts", Json, nullable=False),
    Column("fingerprint", Text, nullable=False),  # of the plan that staged it
    Column("epoch", BigInteger, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _of("pipelines"),
    Column("slice", Text, primary_key=True),
    Column("position", Json, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

checkpoint_tokens = Table(
    "checkpoint_tokens",
    metadata,
    Column("pipeline", Text, primary_key=True),
    Column("slice", Text, primary_key=True),
    Column("stream", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("position", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    ForeignKeyConstraint(
        ["pipeline", "slice"], ["checkpoints.pipeline", "checkpoints.slice"], ondelete="CASCADE"
    ),
)

maintenance = Table(
    "maintenance",
    metadata,
    _of("pipelines"),
    Column("target_table", Text, primary_key=True),
    Column("step", Text, primary_key=True),
    Column("looked_at", Instant, nullable=False),
)

rejects = Table(
    "rejects",
    metadata,
    # SQLite numbers rows by itself only in a column that is INTEGER to the letter.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    _of("pipelines", key=False),
    _of("runs", key=False),
    Column("stream", Text, nullable=False),
    Column("where_hash", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("where", Json, nullable=False),
    Column("row", Json),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("pipeline", "stream", "where_hash"),
    Index(None, "run"),
)

log_lines = Table(
    "log_lines",
    metadata,
    _of("runs"),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("level", Text, nullable=False),
    Column("stream", Text),
    Column("message", Text, nullable=False),
)

files = Table(
    "files",
    metadata,
    _id(),
    _of("workspaces", key=False),
    Column("name", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("key", Text, nullable=False),  # where the content lies in the storage
    Column("status", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("options", Json, nullable=False),
    Column("plan", Json),
    Column("profile", Json),
    Column("problem", Json),
    Column("imported", BigInteger),
    Column("rejected", BigInteger),
    Column("reasons", Json, nullable=False),
    _moment("completed_at", nullable=True),
    Column("removed", Boolean, nullable=False),
    Column("lease", Text, nullable=False),  # new at each takeover of its import
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    _moment("expires_at", nullable=True),
    _moment("touched_at"),
    _moment("created_at"),
    _moment("updated_at"),
    Index(None, "workspace", "created_at"),
    Index(None, "status"),
)

file_rejects = Table(
    "file_rejects",
    metadata,
    _of("files"),
    Column("number", Integer, primary_key=True, autoincrement=False),  # in the order of reading
    Column("line", BigInteger, nullable=False),
    Column("column", Text),
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("raw", Text, nullable=False),
)
