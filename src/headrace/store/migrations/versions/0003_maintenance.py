"""When a pipeline last looked after each of the tables that it writes."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "maintenance",
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("target_table", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "target_table", "step", name="pk_maintenance"),
        sa.ForeignKeyConstraint(
            ["pipeline"], ["pipelines.id"], name="fk_maintenance_pipeline", ondelete="CASCADE"
        ),
    )
