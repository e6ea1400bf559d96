"""Dead letters and log lines; a run's status is one of those we know; runs are found by pipeline."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")


def upgrade() -> None:
    known = ", ".join(f"'{status}'" for status in STATUSES)
    with op.batch_alter_table("runs") as runs:
        runs.create_check_constraint("status", f"status IN ({known})")
        runs.create_index("ix_runs_pipeline_queued_at", ["pipeline", "queued_at"])
    op.create_table(
        "rejects",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("where_hash", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("where", sa.Text, nullable=False),
        sa.Column("row", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rejects"),
        sa.UniqueConstraint("pipeline", "stream", "where_hash", name="uq_rejects_pipeline_stream_where_hash"),
        sa.ForeignKeyConstraint(
            ["pipeline"], ["pipelines.id"], name="fk_rejects_pipeline", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_rejects_run", ondelete="CASCADE"),
    )
    op.create_index("ix_rejects_run", "rejects", ["run"])
    op.create_table(
        "log_lines",
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("line", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("stream", sa.Text),
        sa.Column("message", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "line", name="pk_log_lines"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_log_lines_run", ondelete="CASCADE"),
    )
