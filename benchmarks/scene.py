"""A server with the table in it, and a folder for the runs of a contest."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import check, environments, marks, sides
from benchmarks.contest import Side, hold
from benchmarks.report import report
from benchmarks.trips import TABLE
from servers.postgres import FAST, PostgresServer

ROWS = 3_000_000
SETTINGS = {**FAST, "shared_buffers": "1GB", "max_wal_size": "8GB", "autovacuum": "off"}


@dataclass(frozen=True)
class Scene:
    """The table in a running server, what it adds up to, and a folder for the runs."""

    source: sides.Sources
    rows: int
    expected: check.Sums
    folder: Path

    def hold(self, title: str, contestants: Sequence[Side], wanted: marks.Marks) -> dict[str, Any]:
        """The report of a contest."""
        outcome = hold(contestants, self.expected, self.folder)
        return report(
            self.rows,
            outcome.runs,
            title=title,
            quick=self.rows < ROWS,
            sides=outcome.sides,
            versions=environments.used(),
            server=server_of(self.source.url),
            marks=[mark.record() for mark in wanted(outcome.runs)],
        )


@contextlib.contextmanager
def staged(server: PostgresServer, rows: int, query: str = "") -> Iterator[Scene]:
    with (
        workplace() as folder,
        server,
        server.database("bench") as url,
        server.connect("bench") as connection,
    ):
        connection.execute(TABLE.format(rows=rows).encode())
        connection.execute("VACUUM (FREEZE, ANALYZE) trips")
        yield Scene(sides.Sources(url + query), rows, check.in_postgres(connection, "trips"), folder)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder for the runs, on the same disk for all."""
    environments.CACHE.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="runs-", dir=environments.CACHE))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def server_of(url: str) -> Mapping[str, Any]:
    with psycopg.connect(url) as connection:
        version = connection.info.parameter_status("server_version")
    return {"version": version, "settings": SETTINGS}
