"""The registry of connectors that packages brought."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "registry",
        text("id"),
        text("connector_id"),
        text("name"),
        text("type"),
        text("category", nullable=True),
        text("version"),
        text("description", nullable=True),
        text("technology", nullable=True),
        text("runtime", nullable=True),
        text("licence", nullable=True),
        text("owner", nullable=True),
        text("icon", nullable=True),
        text("status"),
        text("ui_spec"),
        text("digest", nullable=True),
        text("connector", nullable=True),
        text("contract", nullable=True),
        sa.Column("runnable", sa.Boolean, nullable=False),
        text("reason", nullable=True),
        text("report"),
        text("archive", nullable=True),
        text("program"),
        text("created_by"),
        text("updated_by"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("live_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_registry"),
        sa.UniqueConstraint("connector_id", "version", name="uq_registry_connector_id_version"),
    )
    op.create_index("ix_registry_digest", "registry", ["digest"])
