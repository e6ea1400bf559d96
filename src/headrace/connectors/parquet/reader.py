"""Reads a table back as its log has it; for checks, tests and small tables."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.connector import Stream
from headrace.connector.files import Storage
from headrace.connectors.parquet.log import File, Log
from headrace.connectors.parquet.target import folder_of
from headrace.errors import NotFoundError


def live_files(storage: Storage, stream: Stream) -> list[File]:
    """The files that are the table now; their paths are relative to its folder. None: []."""
    log = Log(storage, folder_of(stream))
    newest = log.newest()
    return list(log.live(newest)) if newest else []


def read_table(storage: Storage, stream: Stream) -> pa.Table:
    """All rows, in the table's schema: a column that a file lacks is null there. Raises NotFoundError."""
    folder = folder_of(stream)
    log = Log(storage, folder)
    newest = log.newest()
    if newest is None or not newest.schema.names:
        raise NotFoundError(
            "parquet.no_table",
            f"there is no table {stream.id} in {storage.url}",
            field="target",
            remedy="Check the name, and that a run has finished.",
        )
    parts = []
    for file in log.live(newest):
        with storage.open(storage.stat(f"{folder}/{file.path}")) as data:
            parts.append(_widened(pq.read_table(data), newest.schema))
    return pa.concat_tables(parts) if parts else newest.schema.empty_table()


def _widened(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.schema.names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
