"""A whole table out of PostgreSQL: into Parquet (`p1`), the same over TLS (`p1t`), into Iceberg (`p2`)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks import marks, sides
from benchmarks.scene import ROWS, SETTINGS, staged
from servers.postgres import DebianPostgres, PostgresServer

COPY, OURS, DUCKDB = "limit: COPY to /dev/null", "Headrace", "DuckDB"
TOOLS = ("dlt", "ingestr", "sling")


def to_parquet(rows: int = ROWS) -> dict[str, Any]:
    with staged(PostgresServer(settings=SETTINGS), rows) as scene:
        arrow = _in_memory(scene.source, scene.folder)
        contestants = [
            sides.copy_limit(scene.source),
            sides.encode_limit(arrow),
            sides.headrace_to_parquet(scene.source),
            sides.duckdb_to_parquet(scene.source),
            sides.ingestr_to_parquet(scene.source),
            sides.dlt_to_parquet(scene.source),
            sides.polars_to_parquet(scene.source),
            sides.sling_to_parquet(scene.source),
        ]
        return scene.hold("PostgreSQL to Parquet", contestants, _p1)


def to_parquet_over_tls(rows: int = ROWS) -> dict[str, Any]:
    """By Debian's server, as the wheel's is built without TLS."""
    if not DebianPostgres.installed():
        return {"skipped": "no server with TLS: install Debian's package postgresql"}
    with staged(DebianPostgres(settings=SETTINGS), rows, "?sslmode=require") as scene:
        contestants = [
            sides.copy_limit(scene.source),
            sides.headrace_to_parquet(scene.source),
            sides.duckdb_to_parquet(scene.source),
            sides.ingestr_to_parquet(scene.source),
        ]
        return scene.hold("PostgreSQL to Parquet over TLS", contestants, _p1t)


def to_iceberg(rows: int = ROWS) -> dict[str, Any]:
    with staged(PostgresServer(settings=SETTINGS), rows) as scene:
        contestants = [
            sides.copy_limit(scene.source),
            sides.headrace_to_iceberg(scene.source),
            sides.ingestr_to_iceberg(scene.source),
            sides.dlt_to_iceberg(scene.source),
            sides.pyiceberg_to_iceberg(scene.source),
        ]
        return scene.hold("PostgreSQL to Iceberg", contestants, _p2)


def _p1(runs: marks.Runs) -> Sequence[marks.Mark]:
    return [
        marks.against(runs, "P1 inner time, × the speed of COPY to /dev/null", 0.95, OURS, [COPY], "inner"),
        marks.against(runs, "P1 whole process, × the best of dlt, ingestr, sling", 2.5, OURS, TOOLS),
        marks.against(runs, "P1 whole process, × DuckDB's scanner", 1.05, OURS, [DUCKDB]),
        marks.peak(runs, "P1 peak of memory, MB", 450, OURS),
    ]


def _p1t(runs: marks.Runs) -> Sequence[marks.Mark]:
    return [marks.against(runs, "P1t inner time, × the speed of COPY over TLS", 0.8, OURS, [COPY], "inner")]


def _p2(runs: marks.Runs) -> Sequence[marks.Mark]:
    return [
        marks.against(runs, "P2 inner time, × the speed of COPY to /dev/null", 0.9, OURS, [COPY], "inner"),
        marks.against(runs, "P2 whole process, × dlt", 3.5, OURS, ["dlt"]),
    ]


def _in_memory(source: sides.Sources, folder: Path) -> Path:
    """The table as an Arrow file, made by a load that counts for nothing but as a rehearsal."""
    subprocess.run(
        sides.headrace_to_parquet(source).command(folder), cwd=folder, check=True, capture_output=True
    )
    rows = ds.dataset(sides.parquet_under("out")(folder)).to_table()
    file = folder / "trips.arrow"
    with pa.ipc.new_file(str(file), rows.schema) as writer:
        writer.write_table(rows)
    shutil.rmtree(folder / "out")
    return file
