"""Stages rows: Parquet data files of the table's own schema, durable and referenced by nothing.

An upsert also leaves a key log beside them: the key of every event, its order, and where its row lies.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table import Table

from headrace.connector import Batch, Change, Reject, Staged, Stream, Writer
from headrace.connectors.iceberg.catalog import translated
from headrace.connectors.iceberg.files import describe_file, partition_json
from headrace.connectors.iceberg.fit import Fit, row_reject
from headrace.connectors.iceberg.partition import split
from headrace.connectors.iceberg.types import from_iceberg

GROUP_ROWS = 250_000
GROUP_BYTES = 64 << 20
BUFFER_BYTES = 256 << 20
PIECE_BYTES = 8 << 10  # what a piece of a table costs beside its data
OPEN_FILES = 64
SAMPLE_ROWS = 8_192

ORDER, FILE, ROW = "_order", "_file", "_row"
DELETED = -1

Flushed = Callable[[pa.Table, int, int], None]


@dataclass
class _File:
    path: str
    out: pa.NativeFile
    parquet: pq.ParquetWriter
    number: int
    rows: int = 0
    nans: dict[int, int] = field(default_factory=dict)


@dataclass
class _Partition:
    values: tuple[Any, ...]
    waiting: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    file: _File | None = None

    def add(self, rows: pa.Table) -> None:
        self.waiting.append(rows)
        self.rows += rows.num_rows
        self.bytes += rows.nbytes + PIECE_BYTES

    @property
    def full(self) -> bool:
        return self.rows >= GROUP_ROWS or self.bytes >= GROUP_BYTES

    def take(self) -> pa.Table:
        """All that waits; nothing does afterwards."""
        rows = pa.concat_tables(self.waiting)
        self.waiting, self.rows, self.bytes = [], 0, 0
        return rows


class DataFiles:
    """Rows into files of a bounded size, a set of files for each partition.

    `write` takes tables whose first columns are the table's; what follows them is not written but
    handed to `flushed` together with the number of the file and of the first row in it, as the rows
    find their place. `finish` or `abandon` ends it.
    """

    def __init__(self, table: Table, target_bytes: int, flushed: Flushed | None = None):
        self.io, self.schema, self.spec = table.io, table.schema(), table.spec()
        self.file_schema = sanitize_column_names(self.schema)
        self.arrow = schema_to_pyarrow(self.file_schema)
        self.paths: list[str] = []
        self._provider = table.location_provider()
        self._options = parquet_options(table.properties)
        self._target_bytes = target_bytes
        self._flushed = flushed
        self._partitions: dict[tuple[Any, ...], _Partition] = {}
        self._unsplit = _Partition(())
        self._open_files = 0
        self._details: dict[int, dict[str, Any]] = {}
        self._floats = [
            (at, f.field_id)
            for at, f in enumerate(self.schema.fields)
            if pa.types.is_floating(self.arrow[at].type)
        ]

    def write(self, rows: pa.Table) -> None:
        if self.spec.is_unpartitioned():
            self._add((), rows)
            return
        self._unsplit.add(rows)
        if self._unsplit.full:
            self._split()

    def _split(self) -> None:
        if not self._unsplit.rows:
            return
        for values, part in split(self._unsplit.take(), self.spec, self.schema):
            self._add(values, part)
        held = sum(partition.bytes for partition in self._partitions.values())
        if held > BUFFER_BYTES:
            for partition in sorted(self._partitions.values(), key=lambda p: p.bytes, reverse=True):
                held -= partition.bytes
                self._flush(partition)
                if held < BUFFER_BYTES // 2:
                    break

    def _add(self, values: tuple[Any, ...], rows: pa.Table) -> None:
        partition = self._partitions.setdefault(values, _Partition(values))
        partition.add(rows)
        if partition.full:
            self._flush(partition)

    def finish(self) -> list[dict[str, Any]]:
        """Write what waits and make all files durable; what each is, in the order of their numbers."""
        self._split()
        for partition in self._partitions.values():
            self._flush(partition)
            if partition.file:
                self._close(partition)
        return [self._details[number] for number in sorted(self._details)]

    def abandon(self) -> None:
        """Remove every file; may be called after an error of any other method."""
        for partition in self._partitions.values():
            if partition.file:
                quietly(partition.file.parquet.close)
                quietly(partition.file.out.close)
                partition.file = None
        self._partitions.clear()
        remove(self.io, self.paths)
        self.paths = []

    def _flush(self, partition: _Partition) -> None:
        if not partition.rows:
            return
        rows = partition.take()
        file = partition.file = partition.file or self._open(rows)
        columns = rows.columns[: len(self.arrow)]
        group = rows.num_rows if rows.num_rows < 2 * GROUP_ROWS else GROUP_ROWS
        file.parquet.write_table(pa.Table.from_arrays(columns, schema=self.arrow), row_group_size=group)
        for at, id in self._floats:
            file.nans[id] = file.nans.get(id, 0) + (pc.sum(pc.is_nan(columns[at])).as_py() or 0)
        if self._flushed:
            self._flushed(rows, file.number, file.rows)
        file.rows += rows.num_rows
        if file.out.tell() >= self._target_bytes:
            self._close(partition)

    def _open(self, rows: pa.Table) -> _File:
        if self._open_files >= OPEN_FILES:
            others = [p for p in self._partitions.values() if p.file]
            self._close(max(others, key=lambda p: p.file.rows if p.file else 0))
        self._open_files += 1
        path = self._provider.new_data_location(f"{uuid.uuid4()}.parquet")
        self.paths.append(path)
        out = self.io.new_output(path).create()
        dictionary: bool | list[str] = _repetitive(rows, self.arrow) or False
        parquet = pq.ParquetWriter(
            out, self.arrow, use_dictionary=dictionary, store_decimal_as_integer=True, **self._options
        )
        return _File(path, out, parquet, len(self.paths) - 1)

    def _close(self, partition: _Partition) -> None:
        file, partition.file = partition.file, None
        if file is None:
            return
        self._open_files -= 1
        try:
            file.parquet.close()
            size = file.out.tell()
        finally:
            file.out.close()
        detail = describe_file(file.path, size, file.parquet.writer.metadata, self.file_schema, file.nans)
        detail |= {
            "spec": self.spec.spec_id,
            "partition": partition_json(partition.values, self.spec, self.schema),
        }
        self._details[file.number] = detail


class IcebergWriter(Writer):
    """Stages one slice's rows of one stream. `key` makes it keep a key log and take deletes."""

    def __init__(
        self, load: Callable[[Stream], Table], stream: Stream, key: Sequence[str], target_bytes: int
    ):
        self._load, self._key, self._target_bytes = load, tuple(key), target_bytes
        self._done: list[dict[str, Any]] = []
        self._logs: list[str] = []
        self._events = self._order = 0
        self._truncates = False
        self._begin(stream)

    def _begin(self, stream: Stream) -> None:
        self._stream = stream
        self._table = self._load(stream)
        self._fit = Fit(stream, from_iceberg(self._table.schema()), self._table.schema(), self._key)
        self._log = KeyLog(self._table, self._key, len(self._done)) if self._key else None
        self._files = DataFiles(self._table, self._target_bytes, self._log.place if self._log else None)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0

    def write(self, batch: Batch) -> Sequence[Reject]:
        if not self._key and batch.changes is not None and batch.rows.num_rows:
            return self._append_changes(batch)
        rows, rejects = self._fit(batch.rows, batch.changes)
        self._events += rows.num_rows
        if rows.num_rows:
            with translated("staging rows"):
                self._take(rows)
        return rejects

    def _append_changes(self, batch: Batch) -> Sequence[Reject]:
        deletes = pc.equal(batch.changes, int(Change.DELETE)).to_numpy(zero_copy_only=False)
        rejects = [
            row_reject(
                self._stream, batch.rows, int(at), "iceberg.delete_in_append", "an append takes no deletes"
            )
            for at in np.flatnonzero(deletes)
        ]
        return [*rejects, *self.write(Batch(batch.stream, batch.rows.filter(pa.array(~deletes))))]

    def _take(self, rows: pa.Table) -> None:
        if self._log is None:
            self._files.write(rows)
            return
        order = pa.array(np.arange(self._order, self._order + rows.num_rows))
        self._order += rows.num_rows
        self._waiting.append(rows.append_column(ORDER, order))
        self._waiting_rows += rows.num_rows
        self._waiting_bytes += rows.nbytes
        if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
            self._fold()

    def _fold(self) -> None:
        """The last event of each key goes on; its change decides whether as a row or as a delete."""
        if self._log is None or not self._waiting:
            return
        rows = pa.concat_tables(self._waiting)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        rows = rows.take(last_of_each(rows, self._log.positions))
        deleted = pc.equal(rows.column(-2), int(Change.DELETE))
        self._log.delete(rows.filter(deleted))
        upserts = rows.filter(pc.invert(deleted))
        if upserts.num_rows:
            self._files.write(upserts)

    def change_schema(self, stream: Stream) -> None:
        with translated("staging rows"):
            self._end()
            self._begin(stream)

    def truncate(self) -> None:
        self._abandon()
        self._truncates = True
        self._begin(self._stream)

    def stage(self) -> Staged:
        with translated("staging rows"):
            self._end()
        staged = Staged(
            rows=self._events,
            bytes=sum(file["size"] for file in self._done),
            truncates=self._truncates,
            detail={
                "table": str(self._table.metadata.table_uuid),
                "at": int(time.time()),
                "files": self._done,
                "keys": self._logs,
            },
        )
        self._done, self._logs = [], []
        return staged

    def _end(self) -> None:
        self._fold()
        self._done += self._files.finish()
        self._files.paths = []
        if self._log is not None and (log := self._log.finish()):
            self._logs.append(log)

    def _abandon(self) -> None:
        self._files.abandon()
        if self._log is not None:
            self._log.abandon()
        remove(self._table.io, [*[file["path"] for file in self._done], *self._logs])
        self._done, self._logs, self._waiting = [], [], []
        self._events = 0

    def close(self) -> None:
        self._abandon()


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
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    return column.cast(to)


def remove(io: FileIO, paths: Sequence[str]) -> None:
    """Delete files that nothing refers to; what cannot be deleted stays behind, invisible."""
    for path in paths:
        quietly(partial(io.delete, path))


def quietly(action: Callable[[], Any]) -> None:
    try:
        action()
    except Exception:
        return


def _repetitive(rows: pa.Table, schema: pa.Schema) -> list[str]:
    """Columns in which a dictionary pays: few distinct values in a sample of the first rows."""
    sample = rows.slice(0, SAMPLE_ROWS)
    found = []
    for at, column in enumerate(schema):
        kind = column.type
        if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) or pa.types.is_boolean(kind):
            continue
        if pc.count_distinct(sample.column(at)).as_py() * 4 <= sample.num_rows:
            found.append(column.name)
    return found


def parquet_options(properties: Mapping[str, str]) -> dict[str, Any]:
    codec = properties.get("write.parquet.compression-codec", "zstd")
    options: dict[str, Any] = {"compression": "none" if codec == "uncompressed" else codec}
    if codec in ("zstd", "gzip"):
        options["compression_level"] = int(properties.get("write.parquet.compression-level", "1"))
    return options
