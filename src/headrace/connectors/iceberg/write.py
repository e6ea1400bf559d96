"""Stages rows: Parquet data files of the table's own schema, durable and referenced by nothing.

An upsert also leaves a key log beside them: the key of every event, its order, and where its row lies.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table import Table

from headrace.connector import Batch, Change, Reject, Staged, Stream, Writer
from headrace.connectors.iceberg.catalog import translated
from headrace.connectors.iceberg.files import describe_file, partition_json
from headrace.connectors.iceberg.fit import Fit, row_reject
from headrace.connectors.iceberg.keylog import ORDER, KeyLog, last_of_each
from headrace.connectors.iceberg.partition import split
from headrace.connectors.iceberg.storage import quietly, remove
from headrace.connectors.iceberg.types import from_iceberg

GROUP_ROWS = 250_000
GROUP_BYTES = 64 << 20
BUFFER_BYTES = 256 << 20
PIECE_BYTES = 8 << 10  # what a piece of a table costs beside its data
OPEN_FILES = 64
SAMPLE_ROWS = 8_192

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
        self._since = time.time()  # no staged file is older
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
                "at": self._since,
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
