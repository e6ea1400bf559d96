"""What lies in a table: its live data files, the rows of them that are deleted, and where each key is.

All of it follows from files that never change, so what was read once stays true however the table moves
on: a look reads the manifests, delete files and key columns that are new since the last, whoever wrote them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyiceberg.types as ice
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestEntry, ManifestFile
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, Table
from pyiceberg.typedef import Record
from pyiceberg.utils.concurrent import ExecutorFactory

from headrace.connectors.iceberg.keylog import key_column, key_type
from headrace.connectors.iceberg.keys import NO_ROWS, Keys, Numbers
from headrace.connectors.iceberg.types import from_iceberg
from headrace.errors import ConfigError

INDEX_BYTES = 256 << 20
_RANGED = (
    ice.IntegerType, ice.LongType, ice.DateType, ice.TimeType, ice.TimestampType, ice.TimestamptzType,
    ice.StringType, ice.BinaryType, ice.DecimalType,
)  # fmt: skip

Span = tuple[Any, Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class LiveFile:
    """A data file or a position-delete file, by the manifest that lists it.

    `spans` are the bounds of the key columns.
    """

    path: str
    rows: int
    size: int
    sequence: int
    spec: int
    partition: Record
    format: FileFormat
    manifest: str
    spans: tuple[Span, ...]

    @classmethod
    def of(
        cls, file: DataFile, sequence: int = 0, manifest: str = "", spans: tuple[Span, ...] = ()
    ) -> LiveFile:
        return cls(
            file.file_path,
            file.record_count,
            file.file_size_in_bytes,
            sequence,
            file.spec_id or 0,
            file.partition,
            file.file_format,
            manifest,
            spans,
        )

    def scan(self, table: Table, schema: Schema) -> Iterator[pa.RecordBatch]:
        """All rows, deleted ones included, in order and in the columns of `schema`."""
        file = DataFile.from_args(
            content=DataFileContent.DATA, file_path=self.path, file_format=self.format,
            partition=self.partition, record_count=self.rows, file_size_in_bytes=self.size,
        )  # fmt: skip
        file.spec_id = self.spec
        scan = ArrowScan(table.metadata, table.io, schema, AlwaysTrue())
        return scan._record_batches_from_scan_tasks_and_deletes([FileScanTask(file)], {})


Gone = list[tuple[LiveFile, Numbers]]
"""Data files, each with rows of it that are deleted or shall be, ascending."""


class TableIndex:
    """One table as it was at the last `look`. One thread at a time."""

    def __init__(self, indexes: Indexes):
        self.lock = threading.RLock()
        self.data: list[LiveFile] = []
        self.deletes: list[LiveFile] = []
        self.bytes = 0
        self._indexes = indexes
        self._key: tuple[str, ...] = ()
        self._shape: object = None
        self._manifests: dict[str, tuple[list[LiveFile], list[LiveFile]]] = {}
        self._found: dict[str, Keys] = {}
        self._dead: dict[str, Numbers] = {}
        self._applied: dict[str, frozenset[str]] = {}
        self._looked: set[str] = set()

    def look(self, table: Table, key: Sequence[str] = ()) -> None:
        """Learn what the table's current snapshot holds; `key` names the columns to find rows by."""
        fields = [table.schema().find_field(name) for name in key]
        shape = [(field.field_id, str(field.field_type)) for field in fields]
        if shape != self._shape:
            self.forget()
            self._shape = shape
        self._key = tuple(key)
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io) if snapshot else []
        fresh = [manifest for manifest in manifests if manifest.manifest_path not in self._manifests]
        read = ExecutorFactory.get_or_create().map(lambda m: _read_manifest(m, table.io, fields), fresh)
        known = self._manifests | {m.manifest_path: files for m, files in zip(fresh, read, strict=True)}
        self._manifests = {m.manifest_path: known[m.manifest_path] for m in manifests}
        self.data = [file for data, _ in self._manifests.values() for file in data]
        self.deletes = [file for _, deletes in self._manifests.values() for file in deletes]
        live = {file.path for file in self.data}
        for path in self._found.keys() - live:
            self.bytes -= self._found.pop(path).nbytes

    def dead(self, table: Table) -> Mapping[str, Numbers]:
        """The deleted rows of each data file that has any, ascending, as of the last look."""
        files = {file.path: file for file in self.deletes}
        live = {file.path: file.sequence for file in self.data}
        # A rollback takes delete files away, or brings data files back that some of them name.
        back = live.keys() - self._looked
        if not self._applied.keys() <= files.keys() or any(back & names for names in self._applied.values()):
            self._dead, self._applied = {}, {}
        self._looked = set(live)
        parts: dict[str, list[Numbers]] = {}
        for path in files.keys() - self._applied.keys():
            positions = list(_read_positions(table.io, files[path]))
            self._applied[path] = frozenset(of for of, _ in positions)
            for of, rows in positions:
                if live.get(of, files[path].sequence + 1) <= files[path].sequence:
                    parts.setdefault(of, []).append(rows)
        for of, more in parts.items():
            self._dead[of] = np.unique(np.concatenate([self._dead.get(of, NO_ROWS), *more]))
        self._dead = {path: rows for path, rows in self._dead.items() if path in live}
        return self._dead

    def named(self) -> Mapping[str, frozenset[str]]:
        """The data files that each delete file names, as of the last `dead`."""
        return self._applied

    def find(self, table: Table, wanted: pa.Table) -> Iterator[tuple[LiveFile, Numbers]]:
        """The rows whose key is in `wanted`, deleted ones included: file by file, ascending."""
        codes = Keys.of(wanted.columns)
        for file in self.data:
            if len(codes.codes) and _may_hold(file, wanted):
                rows = self._keys(table, file).rows_in(codes)
                if len(rows):
                    yield file, rows

    def forget(self) -> None:
        self._found, self._dead, self._applied, self._manifests = {}, {}, {}, {}
        self._shape, self.bytes = None, 0

    def _keys(self, table: Table, file: LiveFile) -> Keys:
        if known := self._found.get(file.path):
            return known
        schema = table.schema().select(*self._key)
        image = from_iceberg(table.schema())
        found = pa.Table.from_batches(file.scan(table, schema)) if file.rows else None
        columns = [
            key_column(found[name], key_type(image.field(name).type))
            if found is not None
            else pa.chunked_array([], key_type(image.field(name).type))
            for name in self._key
        ]
        keys = Keys.of(columns)
        if self._indexes.room(self, keys.nbytes):
            self._found[file.path] = keys
            self.bytes += keys.nbytes
        return keys


class Indexes:
    """The indexes of all tables that one target writes, within `budget` bytes of keys."""

    def __init__(self, budget: int | None = None):
        self._budget = INDEX_BYTES if budget is None else budget
        self._lock = threading.Lock()
        self._tables: OrderedDict[str, TableIndex] = OrderedDict()

    def of(self, table: Table) -> TableIndex:
        name = str(table.metadata.table_uuid)
        with self._lock:
            index = self._tables.setdefault(name, TableIndex(self))
            self._tables.move_to_end(name)
            return index

    def room(self, asking: TableIndex, size: int) -> bool:
        """Is there room for so many bytes more? Makes it, if need be, of the tables longest unused.

        The files of one table do not drive each other out: a table too large for the budget would then
        be read anew at each look, and this way only what is too much is.
        """
        with self._lock:
            for name, index in list(self._tables.items()):
                if sum(one.bytes for one in self._tables.values()) + size <= self._budget:
                    return True
                if index is not asking and index.lock.acquire(blocking=False):
                    index.forget()
                    index.lock.release()
                    del self._tables[name]
            return sum(one.bytes for one in self._tables.values()) + size <= self._budget


def _read_manifest(
    manifest: ManifestFile, io: FileIO, fields: Sequence[ice.NestedField]
) -> tuple[list[LiveFile], list[LiveFile]]:
    data, deletes = [], []
    path = manifest.manifest_path
    for entry in manifest.fetch_manifest_entry(io, discard_deleted=True):
        file = entry.data_file
        if file.content == DataFileContent.DATA:
            spans = tuple(_span(file, field) for field in fields)
            data.append(LiveFile.of(file, _sequence(entry), path, spans))
            continue
        if file.content == DataFileContent.EQUALITY_DELETES:
            raise ConfigError(
                "iceberg.equality_deletes",
                "the table holds equality deletes of another writer",
                remedy="Compact the table with the engine that wrote them, or use another table.",
            )
        if file.file_format != FileFormat.PARQUET:
            raise ConfigError(
                "iceberg.delete_format",
                f"the table holds delete files in the format {file.file_format.value} of another writer",
                remedy="Compact the table with the engine that wrote them, or use another table.",
            )
        deletes.append(LiveFile.of(file, _sequence(entry), path))
    return data, deletes


def _sequence(entry: ManifestEntry) -> int:
    return entry.sequence_number or 0


def _read_positions(io: FileIO, file: LiveFile) -> Iterator[tuple[str, Numbers]]:
    """The data files that a delete file names, and the rows of each."""
    with io.new_input(file.path).open() as source:
        found = pq.read_table(source, columns=["file_path", "pos"], read_dictionary=["file_path"])
    if not found.num_rows:
        return
    paths = pc.cast(found["file_path"], pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
    names = paths.chunk(0).dictionary.to_pylist()
    numbers = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in paths.chunks])
    rows = found["pos"].to_numpy()
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(len(names) + 1))
    for at, name in enumerate(names):
        if bounds[at] < bounds[at + 1]:
            yield name, rows[order[bounds[at] : bounds[at + 1]]]


def _may_hold(file: LiveFile, wanted: pa.Table) -> bool:
    """May a key of ours be in the file, by its column statistics?"""
    within: Any = None
    for keys, span in zip(wanted.columns, file.spans, strict=True):
        if span is None:
            continue
        column = keys
        low, high = (pa.scalar(bound, pa.int64()) if isinstance(bound, int) else bound for bound in span)
        if isinstance(span[0], int) and column.type not in (pa.int32(), pa.int64()):
            column = column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())
        inside = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))
        within = inside if within is None else pc.and_(within, inside)
    return within is None or bool(pc.any(within).as_py())


def _span(file: DataFile, field: ice.NestedField) -> Span:
    """Bounds of a column in a file, None where they are not known or do not compare."""
    low, high = (file.lower_bounds or {}).get(field.field_id), (file.upper_bounds or {}).get(field.field_id)
    kind = field.field_type
    if low is None or high is None or not isinstance(kind, _RANGED):
        return None
    return from_bytes(kind, low), from_bytes(kind, high)
