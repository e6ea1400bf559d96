"""Is a copy of `trips` the same as its source? Counts, sums, extremes and a checksum over all rows.

The source, and copies in PostgreSQL, are summed up by the server; files are read by DuckDB, which no side is
measured with here. Values are compared, not types: a decimal may have become wider, an integer longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from servers import readers

Sums = Mapping[str, Any]

# By column, its value as a whole number or text, in the words of PostgreSQL and of DuckDB.
_WHOLE = ("{0}::bigint", "{0}::bigint")
_MONEY = ("({0} * 100)::bigint", "({0}::decimal(14, 2) * 100)::bigint")
_MOMENT = ("(extract(epoch FROM {0}) * 1000000)::bigint", "epoch_us({0})")
_DAY = ("{0} - date '2000-01-01'", "date_diff('day', date '2000-01-01', {0}::date)")
_FLOAT = ("floor({0} * 1024)::bigint", "floor({0} * 1024)::bigint")  # exact: a power of two
_FLAG = ("{0}::int", "{0}::boolean::int")
_TEXT = ("{0}", "{0}")
COLUMNS = {
    "id": _WHOLE, "vendor": _WHOLE, "started": _MOMENT, "ended": _MOMENT, "riders": _WHOLE,
    "distance": _FLOAT, "rate": _WHOLE, "stored": _FLAG, "place": _WHOLE, "goal": _WHOLE, "fare": _MONEY,
    "tip": _MONEY, "total": _MONEY, "day": _DAY, "paid": _TEXT, "note": _TEXT, "reference": _WHOLE,
}  # fmt: skip
_HASH = ("('x' || substr(md5({0}), 1, 8))::bit(32)::bigint", "('0x' || substr(md5({0}), 1, 8))::bigint")


@dataclass(frozen=True)
class Written:
    """The files of a copy and how they were written."""

    files: int
    bytes: int
    row_groups: int
    codec: str


def in_postgres(connection: psycopg.Connection[Any], table: str) -> Sums:
    """`table` goes into the statement as it is."""
    cursor = connection.execute(_statement(0, table).encode())
    assert cursor.description is not None
    row = cursor.fetchone()
    assert row is not None
    return _plain([column.name for column in cursor.description], row)


def in_parquet(files: Sequence[Path]) -> Sums:
    if not files:
        return {"rows": 0}
    with duckdb.connect() as database:
        database.read_parquet([str(file) for file in files]).create_view("copy")
        return _sums(database, "copy")


def in_iceberg(metadata: Path) -> Sums:
    """`metadata` is the table's newest metadata file."""
    with readers.duckdb_for_iceberg() as database:
        return _sums(database, f"iceberg_scan('{metadata}')")


def difference(expected: Sums, found: Sums) -> str | None:
    """What is wrong with a copy, or None."""
    wrong = [f"{name} {found.get(name)}, not {value}" for name, value in expected.items()
             if found.get(name) != value]  # fmt: skip
    return "; ".join(wrong[:3]) if wrong else None


def written(files: Sequence[Path]) -> Written:
    import pyarrow.parquet as pq

    footers = [pq.read_metadata(file) for file in files]
    codecs = {
        footer.row_group(0).column(0).compression.lower() for footer in footers if footer.num_row_groups
    }
    return Written(
        files=len(files),
        bytes=sum(file.stat().st_size for file in files),
        row_groups=sum(footer.num_row_groups for footer in footers),
        codec=", ".join(sorted(codecs)),
    )


def _statement(dialect: int, table: str) -> str:
    parts, row = ["count(*) AS rows"], []
    for name, words in COLUMNS.items():
        value = words[dialect].format(name)
        summed = value if words is not _TEXT else f"length({name})"
        parts += [
            f"count({name}) AS {name}_values",
            f"sum({summed}) AS {name}_sum",
            f"min({value}) AS {name}_min",
            f"max({value}) AS {name}_max",
        ]
        row.append(f"coalesce(({value})::varchar, '-')")
    parts.append(f"sum({_HASH[dialect].format(' || chr(31) || '.join(row))}) AS checksum")
    return f"SELECT {', '.join(parts)} FROM {table}"


def _sums(database: duckdb.DuckDBPyConnection, table: str) -> Sums:
    cursor = database.execute(_statement(1, table))
    row = cursor.fetchone()
    assert row is not None and cursor.description is not None
    return _plain([column[0] for column in cursor.description], row)


def _plain(names: Sequence[str], row: Sequence[Any]) -> Sums:
    return {name: _number(value) for name, value in zip(names, row, strict=True)}


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, (Decimal, float)) else value
