"""Upsert by copy-on-write: files that hold a key of the staged events are written anew without its rows.

What `IcebergWriter` leaves (data files and a key log) says nothing of how old rows are taken out, so
another way of deleting replaces this file alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyiceberg.types as ice
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _read_all_delete_files
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, Table

from headrace.connector import Staged
from headrace.connectors.iceberg.commit import Change, check_staged
from headrace.connectors.iceberg.files import data_file
from headrace.connectors.iceberg.types import from_iceberg
from headrace.connectors.iceberg.write import (
    FILE,
    ORDER,
    ROW,
    DataFiles,
    key_column,
    key_type,
    last_of_each,
    remove,
)
from headrace.errors import ConfigError

_ORDER_BITS = 40
_RANGED = (
    ice.IntegerType, ice.LongType, ice.DateType, ice.TimeType, ice.TimestampType, ice.TimestamptzType,
    ice.StringType, ice.BinaryType, ice.DecimalType,
)  # fmt: skip

_Details = list[dict[str, Any]]


class Upsert:
    """One publish's upsert. `plan` may be called again as the table moves on; files are written once.

    `finish` after the commit, `undo` after a failure that left nothing behind, neither when unsure.
    """

    def __init__(self, staged: Sequence[Staged], key: Sequence[str], empties: bool, target_bytes: int):
        self._staged, self._key, self._empties, self._target_bytes = staged, tuple(key), empties, target_bytes
        self._names = [f"k{n}" for n in range(len(self._key))]
        self._details = [file for one in staged for file in one.detail["files"]]
        self._keys: pa.Table | None = None
        self._superseded: dict[int, np.ndarray[Any, Any]] = {}
        self._rewritten: dict[Any, _Details | None] = {}
        self._table: Table | None = None

    def plan(self, table: Table) -> Change:
        """What to commit to the table as it is."""
        check_staged(table, self._staged)
        self._table = table
        if self._keys is None:
            self._keys = self._read_logs(table)
        schema, specs = table.schema(), table.specs()

        def files(details: _Details) -> list[DataFile]:
            return [data_file(detail, specs[detail["spec"]], schema) for detail in details]

        added: list[DataFile] = []
        for number, detail in enumerate(self._details):
            (own,) = files([detail])
            lost = self._superseded.get(number)
            added += [own] if lost is None else files(self._without(table, number, own, lost))
        if self._empties:
            return Change(added, None)
        removed = set()
        for task in self._tasks(table):
            instead = self._replace(table, task)
            if instead is not None:
                removed.add(task.file.file_path)
                added += files(instead)
        return Change(added, removed)

    def finish(self) -> None:
        """Remove the staged files that were written anew."""
        if self._table is not None:
            remove(self._table.io, [self._details[number]["path"] for number in self._superseded])

    def undo(self) -> None:
        """Remove what `plan` wrote."""
        if self._table is not None:
            written = [file for details in self._rewritten.values() for file in details or ()]
            remove(self._table.io, [file["path"] for file in written])
            self._rewritten.clear()

    def _read_logs(self, table: Table) -> pa.Table:
        """The distinct keys of all events; notes the staged rows that a later event supersedes."""
        small = from_iceberg(table.schema())
        fields = [
            pa.field(n, key_type(small.field(c).type)) for n, c in zip(self._names, self._key, strict=True)
        ]
        fields += [pa.field(ORDER, pa.int64()), pa.field(FILE, pa.int32()), pa.field(ROW, pa.int64())]
        schema, logs, first_file = pa.schema(fields), [], 0
        for number, one in enumerate(self._staged):
            for path in one.detail["keys"]:
                with table.io.new_input(path).open() as source:
                    log = pq.read_table(source)
                file = pc.if_else(pc.less(log[FILE], 0), log[FILE], pc.add(log[FILE], first_file)).cast(
                    pa.int32()
                )
                order = pc.add(log[ORDER], number << _ORDER_BITS)
                columns = [*[log[name] for name in self._names], order, file, log[ROW]]
                logs.append(pa.table(columns, names=schema.names).cast(schema))
            first_file += len(one.detail["files"])
        events = pa.concat_tables(logs).sort_by(ORDER) if logs else schema.empty_table()
        last = last_of_each(events, range(len(self._names)))
        lost = np.ones(events.num_rows, bool)
        lost[last.to_numpy()] = False
        lost &= pc.greater_equal(events[FILE], 0).to_numpy()
        superseded = events.filter(pa.array(lost))
        files, rows = superseded[FILE].to_numpy(), superseded[ROW].to_numpy()
        self._superseded = {int(number): rows[files == number] for number in np.unique(files)}
        return events.take(last).select(self._names)

    def _tasks(self, table: Table) -> Iterator[FileScanTask]:
        """Data files in which a key may be, by their column statistics."""
        assert self._keys is not None
        if not self._keys.num_rows:
            return
        try:
            tasks = list(table.scan().plan_files())
        except ValueError as error:
            if "equality deletes" not in str(error):
                raise
            raise ConfigError(
                "iceberg.equality_deletes",
                "the table holds equality deletes of another writer",
                remedy="Compact the table with the engine that wrote them, or use another table.",
            ) from error
        fields = [table.schema().find_field(name) for name in self._key]
        for task in tasks:
            within: Any = None
            for name, field in zip(self._names, fields, strict=True):
                span = _span(task.file, field)
                if span is None:
                    continue
                low, high = (
                    pa.scalar(bound, pa.int64()) if isinstance(bound, int) else bound for bound in span
                )
                column = self._keys[name]
                if isinstance(span[0], int) and column.type not in (pa.int32(), pa.int64()):
                    column = column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())
                inside = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))
                within = inside if within is None else pc.and_(within, inside)
            if within is None or pc.any(within).as_py():
                yield task

    def _replace(self, table: Table, task: FileScanTask) -> _Details | None:
        """New files in place of the task's, without the rows that have a key of ours; None if it has none."""
        name = (task.file.file_path, tuple(sorted(file.file_path for file in task.delete_files)))
        if name not in self._rewritten:
            hit = self._matches(table, task)
            self._rewritten[name] = self._copy(table, task, hit) if hit.any() else None
        return self._rewritten[name]

    def _without(self, table: Table, number: int, file: DataFile, lost: np.ndarray[Any, Any]) -> _Details:
        """A staged file written anew without the rows in `lost`."""
        if number not in self._rewritten:
            hit = np.zeros(file.record_count, bool)
            hit[lost] = True
            self._rewritten[number] = self._copy(table, FileScanTask(file), hit)
        return self._rewritten[number] or []

    def _matches(self, table: Table, task: FileScanTask) -> np.ndarray[Any, Any]:
        """For each live row of the task's file: is its key one of ours?"""
        assert self._keys is not None
        wanted = table.schema().select(*self._key)
        parts, rows = [], 0
        for batch in _scan(table, wanted, task):
            found = pa.Table.from_batches([batch])
            columns = [
                key_column(found[column], self._keys.schema.field(name).type)
                for name, column in zip(self._names, self._key, strict=True)
            ]
            numbers = pa.array(np.arange(rows, rows + batch.num_rows))
            parts.append(pa.table([*columns, numbers], names=[*self._names, ROW]))
            rows += batch.num_rows
        hit = np.zeros(rows, bool)
        if parts:
            same = pa.concat_tables(parts).join(self._keys, self._names, join_type="left semi")
            hit[same[ROW].to_numpy()] = True
        return hit

    def _copy(self, table: Table, task: FileScanTask, hit: np.ndarray[Any, Any]) -> _Details:
        """The live rows of the task's file but those in `hit`, in new files."""
        files = DataFiles(table, self._target_bytes)
        at = 0
        try:
            for batch in _scan(table, table.schema(), task):
                keep = pa.array(~hit[at : at + batch.num_rows])
                at += batch.num_rows
                rows = batch.filter(keep)
                if rows.num_rows:
                    columns = [c.cast(f.type) for c, f in zip(rows.columns, files.arrow, strict=True)]
                    files.write(pa.Table.from_arrays(columns, schema=files.arrow))
            return files.finish()
        except BaseException:
            files.abandon()
            raise


def _scan(table: Table, schema: Schema, task: FileScanTask) -> Iterator[pa.RecordBatch]:
    """The live rows of one file, in order, a batch at a time (the public call reads the file whole)."""
    deletes = _read_all_delete_files(table.io, [task])
    scan = ArrowScan(table.metadata, table.io, schema, AlwaysTrue())
    return scan._record_batches_from_scan_tasks_and_deletes([task], deletes)


def _span(file: DataFile, field: ice.NestedField) -> tuple[Any, Any] | None:
    """Bounds of a column in a file, None where they are not known or do not compare."""
    low, high = (file.lower_bounds or {}).get(field.field_id), (file.upper_bounds or {}).get(field.field_id)
    kind = field.field_type
    if low is None or high is None or not isinstance(kind, _RANGED):
        return None
    return from_bytes(kind, low), from_bytes(kind, high)
