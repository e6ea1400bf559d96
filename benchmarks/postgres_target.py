"""PostgreSQL → PostgreSQL beside psql's binary COPY into COPY: `make bench PARTS=postgres_target`.

Two databases of one server; whole processes, from start to end, in turn, `RUNS` times. CPU seconds are those
of all processes, the server's among them; `inner` are the wall seconds without the
start of the process, as the record of the run has them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.executors import RUNS
from benchmarks.report import report
from benchmarks.trips import TABLE
from servers.postgres import PostgresServer

SUMS = """
SELECT count(*), sum(id), sum(fare), sum(distance::numeric), max(ended), sum(length(note)), sum(place)
FROM trips
"""


def measure(rows: int = 3_000_000) -> dict[str, Any]:
    with PostgresServer() as server, server.database("old") as source, server.database("new") as target:
        with server.connect("old") as connection:
            connection.execute(TABLE.format(rows=rows))
            connection.execute("VACUUM ANALYZE trips")
            expected = connection.execute(SUMS).fetchall()
            columns = connection.execute(
                "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)"
                " FROM pg_attribute WHERE attrelid = 'trips'::regclass AND attnum > 0"
            ).fetchone()
        results: dict[str, list[dict[str, float]]] = {}
        with server.connect("new") as connection:
            for _ in range(RUNS):
                for name, way, full in ways(source, target):
                    _arrange(connection, str(columns and columns[0]), full=full)
                    cpu, began = _busy(), time.perf_counter()
                    inner = way()
                    wall = time.perf_counter() - began
                    took = {"wall": round(wall, 3), "cpu": round(_busy() - cpu, 3)}
                    took |= {"inner": round(inner, 3)} if inner else {}
                    results.setdefault(name, []).append(took)
                    assert connection.execute(SUMS).fetchall() == expected, name
    return report(rows, results)


def ways(source: str, target: str) -> list[tuple[str, Callable[[], float], bool]]:
    """Each with a name, and whether the table is full of rows before."""
    psql = shutil.which("psql") or "psql"
    headrace = str(Path(sys.executable).with_name("headrace"))

    def pipe(*commands: str) -> float:
        out = [psql, "-qX", "-c", "COPY trips TO STDOUT (FORMAT binary)", source]
        into = [psql, "-qX", "-v", "ON_ERROR_STOP=1", *(w for c in commands for w in ("-c", c)), target]
        with subprocess.Popen(out, stdout=subprocess.PIPE) as reading:
            subprocess.run(into, stdin=reading.stdout, check=True)
        return 0.0

    def run(mode: str, parallelism: int) -> float:
        with tempfile.TemporaryDirectory() as home:
            command = [headrace, "run", "--json", "--read", "full"]
            words = ["--from", source, "--to", target, "-s", "public.trips", "--mode", mode]
            done = subprocess.run(
                [*command, *words, "--parallelism", str(parallelism)],
                check=True, cwd=home, capture_output=True, env=os.environ | {"HEADRACE_DATA": home},
            )  # fmt: skip
        (found,) = json.loads(done.stdout)["runs"]
        return float(found["seconds"])

    copy = "COPY trips FROM STDIN (FORMAT binary)"
    return [
        ("limit: psql, COPY into COPY", lambda: pipe(copy), False),
        ("append, 1 slice at a time", lambda: run("append", 1), False),
        ("append, 2 slices at a time", lambda: run("append", 2), False),
        ("replace of an empty table, 2 slices at a time", lambda: run("replace", 2), False),
        (
            "psql, DELETE of as many rows and COPY",
            lambda: pipe("BEGIN", "DELETE FROM trips", copy, "COMMIT"),
            True,
        ),
        ("replace of as many rows, 2 slices at a time", lambda: run("replace", 2), True),
    ]


def _arrange(connection: psycopg.Connection[Any], columns: str, *, full: bool) -> None:
    """The table as it is before each run: new, or with the rows of the run before."""
    connection.execute("DROP TABLE IF EXISTS _headrace_ledger")
    if full:
        connection.execute("VACUUM FULL trips")
    else:
        connection.execute("DROP TABLE IF EXISTS trips")
        connection.execute(f"CREATE TABLE trips ({columns})")
    connection.execute("CHECKPOINT")


def _busy() -> float:
    """CPU seconds that the machine has been busy."""
    user, nice, system = Path("/proc/stat").read_text().split(None, 4)[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")
