"""A csv file into an Iceberg table (`p10`), beside DuckDB, which writes one plain Parquet file of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import check, environments, marks, sides
from benchmarks.contest import Side
from benchmarks.scene import ROWS, SETTINGS, staged
from servers.postgres import PostgresServer


def measure(rows: int = ROWS) -> dict[str, Any]:
    with staged(PostgresServer(settings=SETTINGS), rows) as scene:
        file = scene.folder / "trips.csv"
        _write(scene.source.url, file)
        contestants = [_headrace(file), _duckdb(file), _pyiceberg(file)]
        return scene.hold("csv to Iceberg", contestants, _p10)


def _p10(runs: marks.Runs) -> Sequence[marks.Mark]:
    return [marks.against(runs, "P10 whole process, × DuckDB's csv to Parquet", 0.7, "Headrace", ["DuckDB"])]


def _write(url: str, file: Path) -> None:
    """As PostgreSQL writes csv, but flags as most programs write them."""
    with psycopg.connect(url) as connection, file.open("wb") as out:
        columns = ", ".join(f"{name}::text" if name == "stored" else name for name in check.COLUMNS)
        statement = f"COPY (SELECT {columns} FROM trips) TO STDOUT (FORMAT csv, HEADER)"
        with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for block in copy:
                out.write(block)


def _headrace(file: Path) -> Side:
    return Side(
        name="Headrace", kind="ours", settings="defaults: zstd level 1",
        command=lambda place: sides.headrace_run(str(file), "iceberg:./out", "*"),
        inner=sides.headrace_seconds,
        sums=lambda place: check.in_iceberg(sides.newest_metadata("out")(place)),
        files=sides.parquet_under("out"),
    )  # fmt: skip


def _duckdb(file: Path) -> Side:
    options = f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {sides.ROW_GROUP}"
    statements = [
        "SET preserve_insertion_order = false",
        f"COPY (SELECT * FROM read_csv('{file}')) TO 'trips.parquet' ({options})",
    ]
    return Side(
        name="DuckDB", kind="rival",
        settings=f"its program, types found by itself; {sides.LEVEL}; no Iceberg",
        command=lambda place: [
            environments.rival("duckdb").program("duckdb"), "-c", ".timer on", "-c", "; ".join(statements)
        ],
        inner=sides.duckdb_timer, sums=lambda place: check.in_parquet([place / "trips.parquet"]),
        files=sides.parquet_under("."),
    )  # fmt: skip


def _pyiceberg(file: Path) -> Side:
    python, script = environments.rival("pyiceberg").python, environments.SCRIPTS / "pyiceberg_csv.py"
    return Side(
        name="pyiceberg", kind="rival",
        settings="read by pyarrow.csv, one append; zstd level 1, SQLite catalogue",
        command=lambda place: [python, script, file, place / "out"], inner=sides.last_number,
        sums=lambda place: check.in_iceberg(sides.newest_metadata("out")(place)),
        files=sides.parquet_under("out"),
    )  # fmt: skip
