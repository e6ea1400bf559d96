"""Writes the rows of one slice as Parquet files, by partition, in files of a bounded size."""

from __future__ import annotations

import contextlib
import io
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headrace.connector import Batch, Change, Reject, Staged, Stream, Writer
from headrace.connector.files import Storage, Upload
from headrace.connectors.parquet import ParquetConfig
from headrace.connectors.parquet.log import File
from headrace.connectors.parquet.types import grown, image
from headrace.errors import DataError, HeadraceError

_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
_MAX_OPEN = 64  # files, over all partitions of a slice
_MAX_PENDING = 128 << 20  # bytes of rows that wait for their row group, likewise
_SAMPLE = 10_000  # rows looked at to decide on a dictionary


class SliceWriter(Writer):
    """Files appear under their final name, whole and synced; none counts before a commit names it."""

    def __init__(self, storage: Storage, folder: str, config: ParquetConfig, stream: Stream):
        self._storage, self._folder, self._config = storage, folder, config
        self._image = image(stream.schema)
        self._table = self._image
        self._open: dict[str, _OpenFile] = {}
        self._files: list[File] = []
        self._rows = 0
        self._truncates = False
        self._staged = False
        self._since = time.time()  # no staged file is older

    def write(self, batch: Batch) -> Sequence[Reject]:
        if batch.changes is not None and pc.any(pc.not_equal(batch.changes, Change.INSERT)).as_py():
            raise DataError(
                "parquet.changes",
                f"{batch.stream}: Parquet files take new rows only, no updates or deletes",
                remedy="Append the change log as rows, or use a target that can upsert.",
            )
        rows = _conform(batch.rows, self._image)
        for partition, part in _split(rows, self._config.partition_by):
            self._take(partition, part)
        self._rows += rows.num_rows
        return ()

    def _take(self, partition: Mapping[str, str], rows: pa.RecordBatch) -> None:
        folder = "/".join(
            ["data", *(f"{quote(c, safe='')}={quote(v, safe='')}" for c, v in partition.items())]
        )
        file = self._open.pop(folder, None)
        if file is None:
            while len(self._open) >= _MAX_OPEN:
                self._finish(next(iter(self._open)))
            path = f"{folder}/{uuid.uuid4().hex}.parquet"
            file = _OpenFile(self._storage, self._folder, path, self._config, partition)
        self._open[folder] = file  # last in the order of use
        file.add(rows)
        if file.full:
            self._finish(folder)
        while sum(other.pending_bytes for other in self._open.values()) > _MAX_PENDING:
            max(self._open.values(), key=lambda other: other.pending_bytes).flush()

    def _finish(self, folder: str) -> None:
        self._files.append(self._open[folder].finish())
        del self._open[folder]

    def change_schema(self, stream: Stream) -> None:
        for folder in list(self._open):
            self._finish(folder)
        self._image = image(stream.schema)
        self._table = grown(self._table, [self._image])

    def truncate(self) -> None:
        self._drop()
        self._rows = 0
        self._truncates = True

    def stage(self) -> Staged:
        for folder in list(self._open):
            self._finish(folder)
        self._staged = True
        return Staged(
            rows=self._rows,
            bytes=sum(file.bytes for file in self._files),
            truncates=self._truncates,
            detail={
                "at": self._since,
                "files": [asdict(file) for file in self._files],
                "schema": Stream(name="", schema=self._table).to_json()["schema"],
            },
        )

    def close(self) -> None:
        if not self._staged:
            with contextlib.suppress(HeadraceError):  # what stays behind is named by no commit
                self._drop()

    def _drop(self) -> None:
        for file in self._open.values():
            file.drop()
        self._open.clear()
        self._storage.delete(f"{self._folder}/{file.path}" for file in self._files)
        self._files.clear()


class _OpenFile:
    """One file that is being written; rows wait until they make a row group."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        path: str,
        config: ParquetConfig,
        partition: Mapping[str, str],
    ):
        self._storage, self._folder, self._path, self._config = storage, folder, path, config
        self._partition = dict(partition)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self.pending_bytes = 0
        self._rows = 0
        self._upload: Upload | None = None
        self._sink: _Sink | None = None
        self._writer: pq.ParquetWriter | None = None

    @property
    def full(self) -> bool:
        return self._upload is not None and self._upload.tell() >= self._config.max_file_size_mb << 20

    def add(self, rows: pa.RecordBatch) -> None:
        self._pending.append(rows)
        self._pending_rows += rows.num_rows
        self.pending_bytes += rows.nbytes
        if self._pending_rows >= self._config.row_group_rows:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group of its own."""
        table = pa.Table.from_batches(self._pending)
        self._pending, self._pending_rows, self.pending_bytes = [], 0, 0
        if self._writer is None:
            self._upload = self._storage.create(f"{self._folder}/{self._path}")
            self._sink = _Sink(self._upload)
            self._writer = pq.ParquetWriter(
                self._sink,
                table.schema,
                compression=self._config.compression,
                compression_level=self._level(),
                use_dictionary=_repetitive(table),
            )
        self._writer.write_table(table, row_group_size=self._config.row_group_rows)
        self._rows += table.num_rows

    def _level(self) -> int | None:
        if self._config.compression in ("zstd", "gzip"):
            return self._config.compression_level or 1
        return None

    def finish(self) -> File:
        if self._pending:
            self.flush()
        assert self._writer is not None and self._upload is not None
        self._writer.close()
        size = self._upload.tell()
        self._upload.finish()
        self._upload.close()
        return File(path=self._path, rows=self._rows, bytes=size, partition=self._partition)

    def drop(self) -> None:
        if self._writer is not None and self._sink is not None and self._upload is not None:
            self._sink.deaf = True
            with contextlib.suppress(pa.ArrowException, OSError):
                self._writer.close()
            self._writer.is_open = False
            self._upload.close()


class _Sink(io.RawIOBase):
    """An upload as Arrow sees it. A Parquet writer that is let go still writes its footer: into nothing."""

    def __init__(self, upload: Upload):
        self._upload = upload
        self.deaf = False

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return len(data) if self.deaf else self._upload.write(data) or 0

    def tell(self) -> int:
        return self._upload.tell()


def _conform(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if rows.schema.equals(schema):
        return rows
    columns = []
    for field, column in zip(schema, rows.columns, strict=True):
        try:
            columns.append(_plain(column, field.type).cast(field.type))
        except pa.ArrowInvalid:
            raise DataError(
                "parquet.value",
                f"a value of column {field.name!r} does not fit {field.type}",
                remedy="Cast the column by a transform.",
            ) from None
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _plain(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """What Arrow can cast, of an array that it cannot."""
    if pa.types.is_run_end_encoded(column.type):
        return pc.run_end_decode(column)
    if isinstance(column, pa.ExtensionArray) and column.type != wanted:
        return column.storage
    return column


def _split(rows: pa.RecordBatch, by: Sequence[str]) -> Iterator[tuple[dict[str, str], pa.RecordBatch]]:
    """The rows of each partition, in their order."""
    if not rows.num_rows:
        return
    code = np.zeros(rows.num_rows, np.int64)
    for name in by:
        encoded = rows.column(name).dictionary_encode(null_encoding="encode")
        code = code * len(encoded.dictionary) + encoded.indices.to_numpy()
    codes, firsts, group = np.unique(code, return_index=True, return_inverse=True)
    if len(codes) == 1:
        yield _values(rows, by, 0), rows
        return
    order = np.argsort(group, kind="stable")
    sorted_rows = rows.take(pa.array(order))
    ends = np.cumsum(np.bincount(group))
    for first, start, end in zip(firsts.tolist(), [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        yield _values(rows, by, first), sorted_rows.slice(start, end - start)


def _values(rows: pa.RecordBatch, by: Sequence[str], at: int) -> dict[str, str]:
    cells = {name: rows.column(name).slice(at, 1).cast(pa.string())[0].as_py() for name in by}
    return {name: _NULL_FOLDER if text in (None, "") else text for name, text in cells.items()}


def _repetitive(table: pa.Table) -> list[str]:
    """The columns for which a dictionary pays: few distinct values among the first rows."""
    sample = table.slice(0, _SAMPLE)
    return [
        field.name
        for field, column in zip(sample.schema, sample.columns, strict=True)
        if not (pa.types.is_nested(field.type) or pa.types.is_null(field.type))
        and not isinstance(field.type, pa.BaseExtensionType)
        and pc.count_distinct(column, mode="all").as_py() * 10 <= sample.num_rows
    ]
