from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from headrace.errors import ConfigError
from headrace.store import MasterKeys, Store
from headrace.store.database import Database
from headrace.store.migrate import HEAD, SCRIPTS, migrate
from headrace.store.schema import metadata

_REST = {
    "audit", "file_rejects", "files", "invitations", "members", "one_time_tokens", "registry",
    "revoked_tokens", "service_tokens", "sessions", "team_members", "teams", "users",
}  # fmt: skip
VERSIONS = sorted(script.revision for script in ScriptDirectory(SCRIPTS).walk_revisions())


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    database = Database(store_url)
    yield database
    database.close()


def fill(connection: sa.Connection) -> dict[str, int]:
    """A row more in every table, all of them of one pipeline; gives the number of rows by table."""
    tables = sa.MetaData()
    tables.reflect(connection)
    filled = [table for table in tables.sorted_tables if table.name != "alembic_version"]
    for table in filled:
        connection.execute(table.insert(), {column.name: value(column) for column in table.columns})
    return count(connection)


def value(column: sa.Column[Any]) -> Any:
    if column.name == "status":
        return "queued"
    python = column.type.python_type
    # Every text is an id that fits every reference, and JSON as well.
    return {str: "1", bytes: b"1", int: 1, bool: True, datetime: datetime(2026, 1, 1, tzinfo=UTC)}[python]


def count(connection: sa.Connection) -> dict[str, int]:
    names = [name for name in sa.inspect(connection).get_table_names() if name != "alembic_version"]
    rows = {name: sa.select(sa.func.count()).select_from(sa.table(name)) for name in names}
    return {name: connection.execute(query).scalar_one() for name, query in rows.items()}


def layout(connection: sa.Connection) -> dict[str, Any]:
    """All that a database says of its tables, and how many rows each of them has."""
    found = sa.inspect(connection)
    rows = count(connection)
    return {
        name: {
            "columns": {c["name"]: {**c, "type": str(c["type"])} for c in found.get_columns(name)},
            "primary key": found.get_pk_constraint(name),
            "references": sorted(found.get_foreign_keys(name), key=str),
            "unique": sorted(found.get_unique_constraints(name), key=str),
            "checks": sorted(found.get_check_constraints(name), key=str),
            "indexes": sorted(map(_index, found.get_indexes(name)), key=str),
            "rows": rows.get(name),
        }
        for name in sorted(found.get_table_names())
    }


def _index(found: Any) -> Any:
    options = found.get("dialect_options", {})
    return {**found, "dialect_options": {name: str(option) for name, option in options.items()}}


def test_the_migrations_form_one_line_that_ends_at_the_known_head() -> None:
    assert ScriptDirectory(SCRIPTS).get_heads() == [HEAD]
    assert [f"{number:04}" for number in range(1, len(VERSIONS) + 1)] == VERSIONS


def test_a_new_store_has_the_schema_that_its_migrations_lead_to(database: Database) -> None:
    for version in VERSIONS:
        migrate(database, version)
    with database.migrate() as connection:
        migrated = layout(connection)
        tables = sa.MetaData()
        tables.reflect(connection)
        tables.drop_all(connection)
        assert layout(connection) == {}
    migrate(database)
    with database.read() as connection:
        assert layout(connection) == migrated


def test_an_empty_database_migrates_to_the_tables_we_use(database: Database) -> None:
    migrate(database)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_a_store_of_each_earlier_version_migrates_with_all_it_holds(
    database: Database, store_url: str, tmp_path: Path, version: str
) -> None:
    migrate(database, version)
    with database.write() as connection:
        before = fill(connection)
    with Store.open(store_url, keys=MasterKeys.load(tmp_path, {})):
        pass
    with database.read() as connection:
        after = count(connection)
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
    assert {name: after[name] for name in before} == before
    with database.write() as connection:  # references still hold, and still cascade
        connection.exec_driver_sql("DELETE FROM pipelines")
        left = {name: rows for name, rows in count(connection).items() if rows}
    stay = {"connections", "secrets", "workspaces", "runs", "run_streams", "attempts", "log_lines", *_REST}
    assert left == {name: after[name] for name in stay if after[name]}
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM connections")
        connection.exec_driver_sql("DELETE FROM users")
        connection.exec_driver_sql("DELETE FROM workspaces")
        left = {name for name, rows in count(connection).items() if rows}
    assert left <= {"audit", "registry", "revoked_tokens"}


def test_a_migration_that_fails_leaves_the_store_as_it_was(database: Database) -> None:
    migrate(database, VERSIONS[0])
    with database.write() as connection:
        before = fill(connection)
        connection.exec_driver_sql("UPDATE runs SET status = 'unheard of'")
    with pytest.raises(sa.exc.IntegrityError):
        migrate(database)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == VERSIONS[0]
        assert count(connection) == before


def test_a_store_of_a_newer_version_is_left_alone(database: Database, store_url: str, tmp_path: Path) -> None:
    migrate(database)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError) as raised:
        Store.open(store_url, keys=MasterKeys.load(tmp_path, {}))
    assert raised.value.code == "store.newer"


def test_processes_that_open_a_new_store_together_all_succeed(store_url: str, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from headrace.store import MasterKeys, Store\n"
        "from headrace.model.connection import Connection\n"
        "sys.stdin.read()\n"
        "url, keys, id = sys.argv[1:]\n"
        "with Store.open(url, keys=MasterKeys.load(Path(keys), {})) as store:\n"
        "    store.connections.save(Connection(id=id, name=id, connector='x'), {'a': 'b'})\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, store_url, tmp_path / "keys", str(number)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in started:
        assert process.stdin
        process.stdin.close()
        process.stdin = None
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    with Store.open(store_url, keys=MasterKeys.load(tmp_path / "keys", {})) as store:
        assert [store.connections.settings(c.id) for c in store.connections.list()] == [{"a": "b"}] * 2


def test_opening_a_store_that_is_new_or_stands_at_the_head_loads_no_alembic(
    store_url: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    program = (
        "import sys; from pathlib import Path; from headrace.store import MasterKeys, Store\n"
        "Store.open(sys.argv[1], keys=MasterKeys.load(Path(sys.argv[2]), {})).close()\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    for _ in ("new", "at the head"):
        assert subprocess.run([sys.executable, "-c", program, store_url, keys], check=False).returncode == 0
