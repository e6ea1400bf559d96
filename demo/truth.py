"""Is a table in the lake the same as its source? Told without any code of the mover."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

# What has no type of its own in the lake is compared as the text that PostgreSQL itself makes of it.
_AS_TEXT = """
    SELECT attname, atttypid = ANY('{json,jsonb,uuid,interval,numeric}'::regtype[]) AND atttypmod = -1
                    OR typtype IN ('e', 'r')
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""


def differences(connection: psycopg.Connection[Any], table: str, lake: pa.Table) -> list[str]:
    """What tells the two apart, in words; nothing when they hold the same rows, each as often."""
    name = sql.Identifier("public", table)
    columns = connection.execute(_AS_TEXT, [name.as_string(connection)]).fetchall()
    if sorted(column for column, _ in columns) != sorted(lake.column_names):
        return [f"{table}: columns differ: {lake.column_names}"]
    chosen = sql.SQL(", ").join(
        sql.SQL("{}::text" if as_text else "{}").format(sql.Identifier(column)) for column, as_text in columns
    )
    here = Counter(
        tuple(map(_plain, row))
        for row in connection.execute(sql.SQL("SELECT {} FROM {}").format(chosen, name))
    )
    ordered = lake.select([column for column, _ in columns])
    there = Counter(
        tuple(map(_plain, row)) for row in zip(*(c.to_pylist() for c in ordered.columns), strict=True)
    )
    found = []
    for label, rows in (("only at the source", here - there), ("only in the lake", there - here)):
        if rows:
            found.append(f"{table}: {rows.total()} rows {label}, such as {next(iter(rows))}")
    return found


def _plain(value: Any) -> Any:
    """The value in a form that is equal and hashable on both sides."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, dt.datetime) and value.tzinfo:
        return value.astimezone(dt.UTC)
    if isinstance(value, Decimal):
        return value.normalize()
    if isinstance(value, list):
        return tuple(map(_plain, value))
    return value
