"""A table from one PostgreSQL database into another (`p3`), appended and in place of an older copy."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql

from benchmarks import check, environments, marks, sides
from benchmarks.contest import Command, Side
from benchmarks.scene import ROWS, SETTINGS, Scene, staged
from servers.postgres import PostgresServer

LIMIT = "limit: COPY | COPY"
FULL = "limit: DELETE and COPY | COPY"
Mode = Literal["append", "replace"]


def measure(rows: int = ROWS) -> dict[str, Any]:
    with staged(PostgresServer(settings=SETTINGS), rows) as scene:
        homes = {name: Home(scene, name) for name in ("limit", *SIDES)}
        contestants = [
            _limit(homes["limit"]),
            _limit_of_full(homes["limit"]),
            *(side(homes[name], mode) for name, side in SIDES.items() for mode in ("append", "replace")),
        ]  # fmt: skip
        return scene.hold("PostgreSQL to PostgreSQL", contestants, _p3)


def _p3(runs: marks.Runs) -> Sequence[marks.Mark]:
    return [
        marks.against(
            runs, f"P3 {mode}, whole process, × the speed of COPY | COPY", 0.7, f"Headrace, {mode}", [LIMIT]
        )
        for mode in ("append", "replace")
    ]


@dataclass(frozen=True)
class Home:
    """A database for the copies of one side, `copy.trips`."""

    scene: Scene
    name: str

    @property
    def source(self) -> sides.Sources:
        return self.scene.source

    @property
    def target(self) -> sides.Sources:
        url = self.source.url
        return sides.Sources(f"{url.rpartition('/')[0]}/copies_of_{self.name}")

    def empty(self, *, table: bool = False) -> Callable[[Path], None]:
        """Makes the database anew, with the table if the side wants it there."""

        def make(_: Path) -> None:
            name = sql.Identifier(f"copies_of_{self.name}")
            with psycopg.connect(self.source.url, autocommit=True) as source:
                source.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
                source.execute(sql.SQL("CREATE DATABASE {}").format(name))
                columns = source.execute(
                    "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ')"
                    " FROM pg_attribute WHERE attrelid = 'trips'::regclass AND attnum > 0"
                ).fetchone()
            with psycopg.connect(self.target.url, autocommit=True) as target:
                target.execute("CREATE SCHEMA copy")
                if table and columns:
                    target.execute(sql.SQL("CREATE TABLE copy.trips ({})").format(sql.SQL(str(columns[0]))))

        return make

    def sums(self, schema: str = "copy") -> Callable[[Path], check.Sums]:
        def look(_: Path) -> check.Sums:
            with psycopg.connect(self.target.url) as connection:
                return check.in_postgres(connection, f"{schema}.trips")

        return look


def _limit(home: Home) -> Side:
    return Side(
        name=LIMIT, kind="limit", command=lambda place: _pipe(home, _COPY),
        inner=sides.psql_timing, settings="psql to psql, binary, into an empty table",
        before=home.empty(table=True), sums=home.sums(),
    )  # fmt: skip


def _limit_of_full(home: Home) -> Side:
    """In place of the rows that the other limit has left."""
    return Side(
        name=FULL, kind="limit",
        command=lambda place: _pipe(home, "BEGIN", "DELETE FROM copy.trips", _COPY, "COMMIT"),
        inner=sides.psql_timing, settings="the same in place of as many rows, in one transaction",
        sums=home.sums(),
    )  # fmt: skip


_COPY = "COPY copy.trips FROM STDIN (FORMAT binary)"


def _pipe(home: Home, *statements: str) -> Command:
    read = shlex.join(["psql", "-X", home.source.url, "-c", "COPY trips TO STDOUT (FORMAT binary)"])
    words = [word for statement in (r"\timing on", *statements) for word in ("-c", statement)]
    write = shlex.join(["psql", "-X", "-v", "ON_ERROR_STOP=1", home.target.url, *words])
    return ["bash", "-o", "pipefail", "-c", f"{read} | {write}"]


def _side(home: Home, name: str, mode: Mode, how: Side) -> Side:
    """`how` with its name and, to append, an empty database; to replace, what the run before left."""
    return replace(how, name=f"{name}, {mode}", before=how.before if mode == "append" else None)


def _headrace(home: Home, mode: Mode) -> Side:
    words = ["--mode", mode, "--target-table", "copy.trips"]
    side = Side(
        name="", kind="ours", inner=sides.headrace_seconds, settings="defaults",
        command=lambda place: sides.headrace_run(home.source.url, home.target.url, "public.trips", *words),
        before=home.empty(), sums=home.sums(),
    )  # fmt: skip
    return _side(home, "Headrace", mode, side)


def _duckdb(home: Home, mode: Mode) -> Side:
    duckdb = environments.rival("duckdb")
    work = {
        "append": "INSERT INTO target.copy.trips SELECT * FROM source.public.trips",
        "replace": "BEGIN; DROP TABLE target.copy.trips;"
        " CREATE TABLE target.copy.trips AS SELECT * FROM source.public.trips; COMMIT",
    }
    statements = [
        f"LOAD '{duckdb.extension('postgres_scanner')}'",
        f"ATTACH '{home.source.keywords()}' AS source (TYPE postgres, READ_ONLY)",
        f"ATTACH '{home.target.keywords()}' AS target (TYPE postgres)",
        "SET preserve_insertion_order = false",
        work[mode],
    ]
    side = Side(
        name="", kind="rival", inner=sides.duckdb_timer, settings="its program with the PostgreSQL extension",
        command=lambda place: [duckdb.program("duckdb"), "-c", ".timer on", "-c", "; ".join(statements)],
        before=home.empty(table=True), sums=home.sums(),
    )  # fmt: skip
    return _side(home, "DuckDB", mode, side)


def _ingestr(home: Home, mode: Mode) -> Side:
    side = Side(
        name="", kind="rival", inner=sides.ingestr_end, settings="defaults, no load timestamp",
        command=lambda place: sides.ingestr_run(home.source, home.target.url, "copy.trips", mode),
        before=home.empty(), sums=home.sums(),
    )  # fmt: skip
    return _side(home, "ingestr", mode, side)


def _dlt(home: Home, mode: Mode) -> Side:
    def command(place: Path) -> Command:
        return sides.dlt_run(home.source, "postgres", home.target.url, mode)

    side = Side(
        name="", kind="rival", command=command, inner=sides.last_number, env=sides.dlt_env(),
        settings="connectorx backend, Parquet loader by ADBC", before=home.empty(),
        sums=home.sums("copied_by_dlt"),
    )  # fmt: skip
    return _side(home, "dlt", mode, side)


SIDES: dict[str, Callable[[Home, Mode], Side]] = {
    "headrace": _headrace,
    "duckdb": _duckdb,
    "ingestr": _ingestr,
    "dlt": _dlt,
}
