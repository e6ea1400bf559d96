"""Connections, pipelines, and what a run must remember to go on after a crash."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def moment(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def belongs(table: str, column: str, parent: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [f"{parent}.id"], name=f"fk_{table}_{column}", ondelete="CASCADE"
    )


def upgrade() -> None:
    op.create_table(
        "connections",
        text("id"),
        text("name"),
        text("connector"),
        text("settings"),
        text("extras"),
        sa.Column("version", sa.Integer, nullable=False),
        moment("created_at"),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_connections"),
        sa.UniqueConstraint("name", name="uq_connections_name"),
    )
    op.create_table(
        "secrets",
        text("connection"),
        text("field"),
        text("key_id"),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        moment("created_at"),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("connection", "field", name="pk_secrets"),
        belongs("secrets", "connection", "connections"),
    )
    op.create_table(
        "pipelines",
        text("id"),
        text("name"),
        text("source"),
        text("target"),
        sa.Column("paused", sa.Boolean, nullable=False),
        text("definition"),
        sa.Column("version", sa.Integer, nullable=False),
        moment("created_at"),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_pipelines"),
        sa.UniqueConstraint("name", name="uq_pipelines_name"),
        sa.ForeignKeyConstraint(["source"], ["connections.id"], name="fk_pipelines_source"),
        sa.ForeignKeyConstraint(["target"], ["connections.id"], name="fk_pipelines_target"),
    )
    op.create_table(
        "leases",
        text("pipeline"),
        text("id"),
        text("holder"),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        moment("expires_at"),
        moment("created_at"),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("pipeline", name="pk_leases"),
        belongs("leases", "pipeline", "pipelines"),
    )
    op.create_table(
        "runs",
        text("id"),
        text("pipeline"),
        text("status"),
        sa.Column("attempt", sa.Integer, nullable=False),
        moment("queued_at"),
        moment("started_at", nullable=True),
        moment("ended_at", nullable=True),
        text("error", nullable=True),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        belongs("runs", "pipeline", "pipelines"),
    )
    op.create_table(
        "attempts",
        text("run"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        moment("started_at"),
        moment("ended_at", nullable=True),
        text("error", nullable=True),
        sa.PrimaryKeyConstraint("run", "number", name="pk_attempts"),
        belongs("attempts", "run", "runs"),
    )
    op.create_table(
        "run_streams",
        text("run"),
        text("stream"),
        text("status"),
        text("counts"),
        sa.Column("expected", sa.BigInteger),
        text("error", nullable=True),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("run", "stream", name="pk_run_streams"),
        belongs("run_streams", "run", "runs"),
    )
    op.create_table(
        "slices",
        text("pipeline"),
        text("stream"),
        text("key"),
        text("slice"),
        text("staged"),
        text("counts"),
        text("fingerprint"),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        moment("created_at"),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("pipeline", "stream", "key", name="pk_slices"),
        belongs("slices", "pipeline", "pipelines"),
    )
    op.create_table(
        "checkpoints",
        text("pipeline"),
        text("slice"),
        text("position"),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        moment("created_at"),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("pipeline", "slice", name="pk_checkpoints"),
        belongs("checkpoints", "pipeline", "pipelines"),
    )
    op.create_table(
        "checkpoint_tokens",
        text("pipeline"),
        text("slice"),
        text("stream"),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        text("position"),
        moment("created_at"),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("pipeline", "slice", "stream", name="pk_checkpoint_tokens"),
        sa.ForeignKeyConstraint(
            ["pipeline", "slice"],
            ["checkpoints.pipeline", "checkpoints.slice"],
            name="fk_checkpoint_tokens_pipeline_slice",
            ondelete="CASCADE",
        ),
    )
