"""Schedules, who asked for a run and what it committed; runs outlive their pipeline, names may repeat."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for name in ("connections", "pipelines"):
        with op.batch_alter_table(name) as table:
            table.drop_constraint(f"uq_{name}_workspace_name", type_="unique")
            table.create_index(f"ix_{name}_workspace_name", ["workspace", "name"])
            if name == "connections":
                table.add_column(sa.Column("tested", sa.Text))
                table.add_column(sa.Column("streams", sa.Text))
            else:
                table.add_column(sa.Column("schedule", sa.Text))
                table.add_column(sa.Column("next_at", sa.DateTime(timezone=True)))
                table.create_index("ix_pipelines_next_at", ["next_at"])
    with op.batch_alter_table("run_streams") as table:
        table.add_column(sa.Column("committed", sa.BigInteger))
        table.add_column(sa.Column("committed_bytes", sa.BigInteger))
    _runs()


def _runs() -> None:
    moment = sa.DateTime(timezone=True)
    with op.batch_alter_table("runs") as table:
        table.drop_constraint("fk_runs_pipeline", type_="foreignkey")
        table.add_column(sa.Column("pipeline_name", sa.Text))
        table.add_column(sa.Column("team", sa.Text))
        table.add_column(sa.Column("trigger", sa.Text, nullable=False, server_default="manual"))
        table.add_column(sa.Column("duration_us", sa.BigInteger))
        table.add_column(sa.Column("cancel_at", moment))
        table.add_column(sa.Column("committed", sa.BigInteger))
        table.add_column(sa.Column("committed_bytes", sa.BigInteger))
    with op.batch_alter_table("runs") as table:
        table.alter_column("trigger", server_default=None)
    # Of several that a store left unfinished only the newest can be carried on.
    op.execute(
        "UPDATE runs SET status = 'cancelled', ended_at = updated_at WHERE status IN ('queued', 'running')"
        " AND EXISTS (SELECT 1 FROM runs newer WHERE newer.pipeline = runs.pipeline"
        " AND newer.status IN ('queued', 'running') AND (newer.queued_at > runs.queued_at"
        " OR (newer.queued_at = runs.queued_at AND newer.id > runs.id)))"
    )
    unfinished = sa.text("status IN ('queued', 'running')")
    op.create_index(
        "uq_runs_pipeline",
        "runs",
        ["pipeline"],
        unique=True,
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_index(
        "ix_runs_status_queued_at",
        "runs",
        ["status", "queued_at"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
