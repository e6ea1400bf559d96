"""People, workspaces, roles and tokens; what there was before belongs to the workspace `local`."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

LOCAL = "00000000-0000-4000-8000-000000000001"


def moment(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def truth(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


def key(table: str, column: str = "id") -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(column, name=f"pk_{table}")


def alone(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")


def belongs(table: str, column: str, parent: str, ondelete: str = "CASCADE") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{parent}.id"], name=f"fk_{table}_{column}", ondelete=ondelete)


def upgrade() -> None:
    _people()
    _tokens()
    workspaces = sa.table("workspaces", *map(sa.column, ("id", "name", "description", "extras")))
    now = datetime.now(UTC)
    stamps = {name: sa.literal(now, sa.DateTime(timezone=True)) for name in ("created_at", "updated_at")}
    for name in stamps:
        workspaces.append_column(sa.column(name, sa.DateTime(timezone=True)))
    op.execute(workspaces.insert().values(id=LOCAL, name="local", description="", extras="{}", **stamps))
    for name in ("connections", "pipelines", "runs"):
        _move(name)


def _people() -> None:
    op.create_table(
        "workspaces",
        text("id"),
        text("name"),
        text("description"),
        text("extras"),
        moment("created_at"),
        moment("updated_at"),
        key("workspaces"),
    )
    op.create_table(
        "users",
        text("id"),
        text("email"),
        text("email_key"),
        text("password", nullable=True),
        truth("active"),
        truth("admin"),
        truth("verified"),
        text("workspace", nullable=True),
        sa.Column("version", sa.Integer, nullable=False),
        text("kept", nullable=True),
        moment("created_at"),
        moment("updated_at"),
        key("users"),
        alone("users", "email_key"),
        belongs("users", "workspace", "workspaces", "SET NULL"),
    )
    op.create_table(
        "members",
        text("id"),
        text("workspace"),
        text("user"),
        text("role"),
        moment("created_at"),
        key("members"),
        alone("members", "workspace", "user"),
        belongs("members", "workspace", "workspaces"),
        belongs("members", "user", "users"),
    )
    op.create_index("ix_members_user", "members", ["user"])
    op.create_table(
        "teams",
        text("id"),
        text("workspace"),
        text("name"),
        text("description"),
        moment("created_at"),
        moment("updated_at"),
        key("teams"),
        alone("teams", "workspace", "name"),
        belongs("teams", "workspace", "workspaces"),
    )
    op.create_table(
        "team_members",
        text("id"),
        text("team"),
        text("user"),
        truth("owner"),
        moment("created_at"),
        key("team_members"),
        alone("team_members", "team", "user"),
        belongs("team_members", "team", "teams"),
        belongs("team_members", "user", "users"),
    )
    op.create_index("ix_team_members_user", "team_members", ["user"])


def _tokens() -> None:
    op.create_table(
        "sessions",
        text("id"),
        text("user"),
        text("hash"),
        moment("created_at"),
        moment("expires_at"),
        key("sessions"),
        alone("sessions", "hash"),
        belongs("sessions", "user", "users"),
    )
    op.create_table(
        "service_tokens",
        text("id"),
        text("user"),
        text("name"),
        text("hash"),
        moment("created_at"),
        moment("expires_at"),
        moment("revoked_at", nullable=True),
        key("service_tokens"),
        belongs("service_tokens", "user", "users"),
    )
    op.create_table("revoked_tokens", text("id"), moment("expires_at"), key("revoked_tokens"))
    op.create_table(
        "one_time_tokens",
        text("hash"),
        text("purpose"),
        text("user"),
        moment("created_at"),
        moment("expires_at"),
        key("one_time_tokens", "hash"),
        belongs("one_time_tokens", "user", "users"),
    )
    op.create_table(
        "invitations",
        text("id"),
        text("workspace"),
        text("email"),
        text("role"),
        text("hash"),
        moment("created_at"),
        moment("expires_at"),
        key("invitations"),
        alone("invitations", "hash"),
        belongs("invitations", "workspace", "workspaces"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        moment("at"),
        text("actor"),
        text("workspace", nullable=True),
        text("action"),
        text("object", nullable=True),
        text("detail"),
        key("audit"),
    )
    op.create_index("ix_audit_workspace_id", "audit", ["workspace", "id"])


def _move(name: str) -> None:
    """Give a table its workspace; the default that filled it does not stay."""
    with op.batch_alter_table(name) as table:
        table.add_column(sa.Column("workspace", sa.Text, nullable=False, server_default=LOCAL))
        table.create_foreign_key(
            f"fk_{name}_workspace", "workspaces", ["workspace"], ["id"], ondelete="CASCADE"
        )
        if name == "runs":
            table.create_index("ix_runs_workspace_queued_at", ["workspace", "queued_at"])
        else:
            table.drop_constraint(f"uq_{name}_name", type_="unique")
            table.create_unique_constraint(f"uq_{name}_workspace_name", ["workspace", "name"])
            table.add_column(sa.Column("team", sa.Text))
            table.create_foreign_key(f"fk_{name}_team", "teams", ["team"], ["id"])
    with op.batch_alter_table(name) as table:
        table.alter_column("workspace", server_default=None)
