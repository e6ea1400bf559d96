"""The key log of an upsert: the key of each event, when it came, and where its row was staged."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.table import Table

from headrace.connectors.iceberg.storage import quietly, remove
from headrace.connectors.iceberg.types import from_iceberg

ORDER, FILE, ROW = "_order", "_file", "_row"
DELETED = -1


class KeyLog:
    """A small Parquet file of key columns: an event a row, with its order, its file and its row there."""

    def __init__(self, table: Table, key: Sequence[str], first_file: int):
        names = [f.name for f in table.schema().fields]
        self.positions = [names.index(name) for name in key]
        self._io = table.io
        self._first_file = first_file
        small = from_iceberg(table.schema())
        self._schema = pa.schema(
            [pa.field(f"k{n}", key_type(small[at].type)) for n, at in enumerate(self.positions)]
            + [pa.field(ORDER, pa.int64()), pa.field(FILE, pa.int32()), pa.field(ROW, pa.int64())]
        )
        self._path = table.location_provider().new_data_location(f"{uuid.uuid4()}-keys.parquet")
        self._out: pa.NativeFile | None = None
        self._parquet: pq.ParquetWriter | None = None

    def place(self, rows: pa.Table, file: int, first_row: int) -> None:
        self._add(rows, pa.array(np.full(rows.num_rows, self._first_file + file, np.int32)), first_row)

    def delete(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self._add(rows, pa.array(np.full(rows.num_rows, DELETED, np.int32)), 0)

    def finish(self) -> str | None:
        """The log's path once it is durable; None if there was no event."""
        if self._parquet is None or self._out is None:
            return None
        self._parquet.close()
        self._out.close()
        self._parquet = self._out = None
        return self._path

    def abandon(self) -> None:
        if self._parquet is not None and self._out is not None:
            quietly(self._parquet.close)
            quietly(self._out.close)
            self._parquet = self._out = None
            remove(self._io, [self._path])

    def _add(self, rows: pa.Table, files: pa.Array, first_row: int) -> None:
        if self._parquet is None:
            self._out = self._io.new_output(self._path).create()
            self._parquet = pq.ParquetWriter(self._out, self._schema, compression="zstd", compression_level=1)
        columns = [key_column(rows.column(at), self._schema[n].type) for n, at in enumerate(self.positions)]
        places = pa.array(np.arange(first_row, first_row + rows.num_rows))
        self._parquet.write_table(
            pa.Table.from_arrays(
                [*columns, rows.column(rows.num_columns - 1), files, places], schema=self._schema
            )
        )


def last_of_each(rows: pa.Table, key: Sequence[int]) -> pa.Array:
    """Indices, ascending, of the row with the highest order of each key; `key` gives column numbers."""
    names = [f"k{n}" for n in range(len(key))]
    columns = [key_column(rows.column(at), key_type(rows.schema.field(at).type)) for at in key]
    keyed = pa.Table.from_arrays([*columns, pa.array(np.arange(rows.num_rows))], [*names, ROW])
    last = keyed.group_by(names, use_threads=False).aggregate([(ROW, "max")]).column(f"{ROW}_max")
    return pc.take(last, pc.sort_indices(last)).combine_chunks()


def key_type(of: pa.DataType) -> pa.DataType:
    """A type by which Arrow can group and join."""
    if isinstance(of, pa.BaseExtensionType):
        return pa.binary()
    if pa.types.is_large_string(of):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(of) or pa.types.is_fixed_size_binary(of) else of


def key_column(column: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    """Equal keys in equal bytes, in the type that `key_type` gives."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if pa.types.is_floating(column.type):  # zero has one sign, and not-a-number one form
        column = pc.add(column, pa.scalar(0, column.type))
        column = pc.if_else(pc.is_nan(column), pa.scalar(float("nan"), column.type), column)
    return column.cast(to)
