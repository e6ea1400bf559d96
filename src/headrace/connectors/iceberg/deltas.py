"""Writes position-delete files: which rows of which data files are gone."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from headrace.connectors.iceberg.keys import Numbers
from headrace.connectors.iceberg.live import LiveFile
from headrace.connectors.iceberg.storage import remove
from headrace.connectors.iceberg.write import parquet_options

PATH_ID, POSITION_ID = 2147483546, 2147483545
_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False, metadata={"PARQUET:field_id": str(id)})
        for name, kind, id in (
            ("file_path", pa.dictionary(pa.int32(), pa.string()), PATH_ID),
            ("pos", pa.int64(), POSITION_ID),
        )
    ]
)


def write_deletes(table: Table, gone: Iterable[tuple[LiveFile, Numbers]]) -> list[DataFile]:
    """One durable file for each partition that has rows to delete, sorted as the specification asks.

    The rows of a data file are given once, ascending. After an error nothing is left behind.
    """
    partitions: dict[tuple[int, Record], list[tuple[LiveFile, Numbers]]] = {}
    for file, rows in gone:
        partitions.setdefault((file.spec, file.partition), []).append((file, rows))
    written: list[DataFile] = []
    path = ""
    try:
        for (spec, _), parts in partitions.items():
            path = table.location_provider().new_data_location(f"{uuid.uuid4()}-deletes.parquet")
            deletes = _write(table, path, sorted(parts, key=lambda part: part[0].path))
            deletes.spec_id = spec
            written.append(deletes)
    except BaseException:
        remove(table.io, [path, *[file.file_path for file in written]])
        raise
    return written


def _write(table: Table, path: str, parts: list[tuple[LiveFile, Numbers]]) -> DataFile:
    """`parts` are of one partition and sorted by path."""
    names = [file.path for file, _ in parts]
    numbers = np.repeat(np.arange(len(parts), dtype=np.int32), [len(rows) for _, rows in parts])
    paths = pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(names))
    rows = pa.Table.from_arrays([paths, pa.array(np.concatenate([p for _, p in parts]))], schema=_SCHEMA)
    with table.io.new_output(path).create() as out:
        with pq.ParquetWriter(
            out,
            _SCHEMA,
            store_schema=False,
            use_dictionary=["file_path"],
            **parquet_options(table.properties),
        ) as parquet:
            parquet.write_table(rows)
        size = out.tell()
    return DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=parts[0][0].partition,
        record_count=rows.num_rows,
        file_size_in_bytes=size,
        lower_bounds={PATH_ID: names[0].encode()},
        upper_bounds={PATH_ID: names[-1].encode()},
    )
