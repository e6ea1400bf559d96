"""Load a shop from PostgreSQL into an Iceberg lake, change it, load what changed, and compare all rows."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

from demo.truth import differences
from servers.postgres import PASSWORD, PostgresServer
from servers.readers import read_with_duckdb, read_with_pyiceberg

HERE = Path(__file__).parent
LAKE = HERE / "lake"
COMMAND = Path(sys.executable).with_name("headrace")
TABLES = ("customers", "orders", "Order lines")
STREAMS = [
    *("--stream", "public.customers"),
    *("--stream", "public.orders"),
    *("--stream", 'public."Order lines"'),
    *("--read", "incremental", "--cursor", "updated_at", "--mode", "upsert"),
]


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def headrace(*arguments: str) -> None:
    """Show the command, run it, and stop the demo when it fails."""
    print(f"$ headrace {shlex.join(arguments).replace(PASSWORD, '…')}", flush=True)
    environment = {**os.environ, "HEADRACE_DATA": str(LAKE / ".headrace")}
    code = subprocess.run([COMMAND, *arguments], env=environment, check=False).returncode
    if code:
        raise SystemExit(f"headrace ended with {code}")


def connect(url: str) -> psycopg.Connection[Any]:
    """Intervals are compared as ISO 8601 texts, which is their image in the lake."""
    return psycopg.connect(url, autocommit=True, options="-c IntervalStyle=iso_8601")


def run_sql(connection: psycopg.Connection[Any], file: str) -> None:
    connection.execute((HERE / file).read_text())  # type: ignore[arg-type]


def lake_location(name: tuple[str, str]) -> str:
    """Where the newest metadata of a table of the lake lies, asked of the catalogue by pyiceberg."""
    catalog = SqlCatalog("default", uri=f"sqlite:///{LAKE / 'catalog.db'}", warehouse=f"file://{LAKE}")
    try:
        return catalog.load_table(name).metadata_location
    finally:
        catalog.engine.dispose()


def compare(connection: psycopg.Connection[Any]) -> list[str]:
    """Every row at the source against every row in the lake, as read by each of two readers."""
    found = []
    for table in TABLES:
        location = lake_location(("public", table))
        for reader, read in (("pyiceberg", read_with_pyiceberg), ("DuckDB", read_with_duckdb)):
            rows: pa.Table = read(location)
            wrong = differences(connection, table, rows)
            print(
                f"  {table:12} read by {reader:9} {rows.num_rows:>8,} rows  {'differs' if wrong else 'equal'}"
            )
            found += wrong
    return found


def compare_file(file: Path) -> list[str]:
    wanted = len(file.read_text().splitlines()) - 1
    found = []
    for reader, read in (("pyiceberg", read_with_pyiceberg), ("DuckDB", read_with_duckdb)):
        rows = read(lake_location(("default", file.stem)))
        total = sum(rows["rate"].to_pylist())
        right = rows.num_rows == wanted and total == sum(range(wanted)) / 4
        print(
            f"  {file.stem:12} read by {reader:9} {rows.num_rows:>8,} rows  {'equal' if right else 'differs'}"
        )
        if not right:
            found.append(f"{file.stem}: {rows.num_rows} rows, {total} in all")
    return found


def write_rates(file: Path) -> None:
    lines = [f"2026-{n % 12 + 1:02}-{n % 28 + 1:02},C{n:04},{n / 4}" for n in range(5000)]
    file.write_text("\n".join(["day,currency,rate", *lines]) + "\n")


def main() -> int:
    began = time.monotonic()
    shutil.rmtree(LAKE, ignore_errors=True)
    LAKE.mkdir()
    say("A throw-away PostgreSQL with a shop of 250,000 rows")
    with PostgresServer() as server, server.database("shop") as url, connect(url) as shop:
        run_sql(shop, "shop.sql")
        (version,) = shop.execute("SHOW server_version").fetchone() or ("?",)
        print(f"  PostgreSQL {version} on port {server.port}")

        say("1. The first run loads everything")
        headrace("run", "--from", url, "--to", f"iceberg:{LAKE}", *STREAMS)
        wrong = compare(shop)

        say("2. Rows change at the source; the next run of the same line brings only those")
        run_sql(shop, "changes.sql")
        headrace("run", "--from", url, "--to", f"iceberg:{LAKE}", *STREAMS)
        wrong += compare(shop)

    say("3. A CSV file comes to lie beside them")
    rates = LAKE / "rates.csv"
    write_rates(rates)
    headrace("run", "--from", str(rates), "--to", f"iceberg:{LAKE}", "--stream", "rates")
    wrong += compare_file(rates)

    for line in wrong:
        print(line)
    say("Everything in the lake equals its source." if not wrong else "The lake differs from its source!")
    print(f"  {time.monotonic() - began:.0f} s in all. Look further:")
    print(f"    export HEADRACE_DATA={LAKE / '.headrace'}")
    print(f"    {COMMAND} status")
    print(f"    {COMMAND} logs")
    print(f"    {COMMAND} state")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
