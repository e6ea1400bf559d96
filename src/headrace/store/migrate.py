"""Brings a database to the newest schema, once, however many processes open it together."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, insert, inspect, text

from headrace.errors import ConfigError
from headrace.model.workspace import LOCAL
from headrace.store.database import Database
from headrace.store.schema import metadata, workspaces

HEAD = "0007"
"""The newest migration; here too, so that opening a store that stands there loads no Alembic."""

SCRIPTS = Path(__file__).with_name("migrations")


def migrate(database: Database, to: str = HEAD) -> None:
    """Bring the database to a version (the name of a migration); those passed already are left alone.

    Raises ConfigError (`store.newer`) for a version that this program does not know.
    """
    with database.read() as connection:
        if _version(connection) == to:
            return
    with database.migrate() as connection:
        found = _version(connection)
        if found is not None and found > HEAD:
            raise ConfigError(
                "store.newer",
                f"the store was migrated by a newer headrace (to {found}; this one knows {HEAD})",
                remedy="Upgrade headrace, or use another store.",
            )
        if found is None and to == HEAD:
            _make(connection)
        elif found is None or found < to:
            _upgrade(connection, to)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _make(connection: Connection) -> None:
    """The newest schema in an empty database: what all migrations lead to, without loading Alembic."""
    metadata.create_all(connection, checkfirst=False)
    now = datetime.now(UTC)
    home = {"id": LOCAL, "name": "local", "description": "", "extras": {}}
    connection.execute(insert(workspaces), home | {"created_at": now, "updated_at": now})
    connection.execute(
        text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
             " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))")
    )  # fmt: skip
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def _upgrade(connection: Connection, to: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    command.upgrade(config, to)
