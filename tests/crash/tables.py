"""Read a target's table back without the target's own code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql
from pyiceberg.catalog.sql import SqlCatalog

Target = tuple[str, Mapping[str, Any]]
"""The name of a connector and its settings."""


Name = tuple[str | None, str]


def read_table(target: Target, stream: str, columns: pa.Schema, namespace: str | None = None) -> pa.Table:
    """All rows of the stream's table, with the columns and types of `columns`."""
    connector, settings = target
    read = {"iceberg": _iceberg, "parquet": _parquet, "postgres": _postgres}[connector]
    return read(settings, (namespace, stream), columns).select(columns.names).cast(columns)


def _iceberg(settings: Mapping[str, Any], name: Name, columns: pa.Schema) -> pa.Table:
    folder = Path(settings["warehouse"]).absolute()
    catalog = SqlCatalog("default", uri=f"sqlite:///{folder / 'catalog.db'}", warehouse=f"file://{folder}")
    try:
        return catalog.load_table((name[0] or "default", name[1])).scan().to_arrow()
    finally:
        catalog.engine.dispose()


def _parquet(settings: Mapping[str, Any], name: Name, columns: pa.Schema) -> pa.Table:
    folder = Path(settings["url"]).joinpath(*filter(None, name))
    (newest,) = sorted(folder.glob("_commits/*.json"))[-1:]
    table = newest.parent.parent
    files = [table / file["path"] for file in json.loads(newest.read_text())["live"]]
    parts = [pq.ParquetFile(file).read() for file in files]
    return pa.concat_tables(parts, promote_options="permissive") if parts else columns.empty_table()


def _postgres(settings: Mapping[str, Any], name: Name, columns: pa.Schema) -> pa.Table:
    names = sql.SQL(", ").join(map(sql.Identifier, columns.names))
    query = sql.SQL("SELECT {} FROM {}").format(names, sql.Identifier(name[0] or "public", name[1]))
    with psycopg.connect(
        host=settings["host"],
        port=settings["port"],
        dbname=settings["database"],
        user=settings["username"],
        password=settings["password"],
        options="-c TimeZone=UTC",
    ) as connection:
        rows = connection.execute(query).fetchall()
    data = {
        name: pa.array([row[at] for row in rows], columns.field(name).type)
        for at, name in enumerate(columns.names)
    }
    return pa.table(data, schema=columns)
