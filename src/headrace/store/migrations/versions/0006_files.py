"""Uploaded files, and the rows of them that could not be imported."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def moment(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "files",
        text("id"),
        text("workspace"),
        text("name"),
        text("format"),
        number("size"),
        text("sha256"),
        text("key"),
        text("status"),
        text("created_by"),
        text("options"),
        text("plan", nullable=True),
        text("profile", nullable=True),
        text("problem", nullable=True),
        number("imported", nullable=True),
        number("rejected", nullable=True),
        text("reasons"),
        moment("completed_at", nullable=True),
        sa.Column("removed", sa.Boolean, nullable=False),
        text("lease"),
        text("holder"),
        number("epoch"),
        moment("expires_at", nullable=True),
        moment("touched_at"),
        moment("created_at"),
        moment("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        sa.ForeignKeyConstraint(
            ["workspace"], ["workspaces.id"], name="fk_files_workspace", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_files_workspace_created_at", "files", ["workspace", "created_at"])
    op.create_index("ix_files_status", "files", ["status"])
    op.create_table(
        "file_rejects",
        text("file"),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        number("line"),
        text("column", nullable=True),
        text("code"),
        text("message"),
        text("raw"),
        sa.PrimaryKeyConstraint("file", "number", name="pk_file_rejects"),
        sa.ForeignKeyConstraint(["file"], ["files.id"], name="fk_file_rejects_file", ondelete="CASCADE"),
    )
