"""Upsert by row deltas: one snapshot adds the new rows and deletes the old ones by their position.

A position holds for one data file as it stands in the snapshot that is committed on. So every attempt to
commit looks the positions up anew in the table as it is then; what others have written, deleted or
compacted meanwhile is thereby seen, and the catalogue refuses the commit if anything comes in between.

A table of format version 1 knows no deletes: there, files that hold a key are written anew without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from headrace.connector import Staged
from headrace.connectors.iceberg.commit import check_staged
from headrace.connectors.iceberg.deltas import write_deletes
from headrace.connectors.iceberg.files import data_file
from headrace.connectors.iceberg.keylog import FILE, ORDER, ROW, key_type, last_of_each
from headrace.connectors.iceberg.keys import NO_ROWS, Numbers
from headrace.connectors.iceberg.live import Gone, Indexes, LiveFile
from headrace.connectors.iceberg.rewrite import Details, rewrite
from headrace.connectors.iceberg.storage import remove
from headrace.connectors.iceberg.swap import Change
from headrace.connectors.iceberg.types import from_iceberg

_ORDER_BITS = 40


class Upsert:
    """One publish's upsert. `plan` may be called again as the table moves on.

    `finish` after the commit, `undo` after a failure that left nothing behind, neither when unsure.
    """

    def __init__(self, staged: Sequence[Staged], key: Sequence[str], empties: bool, indexes: Indexes):
        self._staged, self._key, self._empties, self._indexes = staged, tuple(key), empties, indexes
        self._names = [f"k{n}" for n in range(len(self._key))]
        self._details = [file for one in staged for file in one.detail["files"]]
        self._keys: pa.Table | None = None
        self._superseded: dict[int, Numbers] = {}
        self._table: Table | None = None
        self._planned: Gone = []
        self._dead: set[str] = set()
        self._written: list[str] = []
        self._change = Change()

    def plan(self, table: Table, target_bytes: int) -> Change:
        """What to commit to the table as it is."""
        check_staged(table, self._staged)
        if self._keys is None:
            self._keys = self._read_logs(table)
        gone, dead = ([], set[str]()) if self._empties else self._look_up(table)
        if self._table is None or dead != self._dead or not _same(gone, self._planned):
            self._table, self._planned, self._dead = table, gone, dead
            self._change = self._write(table, gone, dead, target_bytes)
        removed = self._change.removed or ()
        return replace(self._change, within={file.manifest for file, _ in gone if file.path in removed})

    def finish(self) -> None:
        """Remove what was staged or written and is not in the commit."""
        if self._table is not None:
            used = {file.file_path for file in (*self._change.added, *self._change.deletes)}
            ours = [*self._written, *[file["path"] for file in self._details]]
            remove(self._table.io, [path for path in ours if path not in used])

    def undo(self) -> None:
        """Remove what `plan` wrote."""
        if self._table is not None:
            remove(self._table.io, self._written)
            self._table, self._written, self._planned = None, [], []

    def _look_up(self, table: Table) -> tuple[Gone, set[str]]:
        """The live rows that have a key of ours, and the files of which none is left."""
        assert self._keys is not None
        gone: Gone = []
        empty: set[str] = set()
        index = self._indexes.of(table)
        with index.lock:
            index.look(table, self._key)
            found = list(index.find(table, self._keys))
            dead = index.dead(table) if found else {}
            for file, rows in found:
                before = dead.get(file.path, NO_ROWS)
                fresh = np.setdiff1d(rows, before, assume_unique=True)
                if len(fresh):
                    gone.append((file, fresh))
                if len(fresh) + len(before) == file.rows:
                    empty.add(file.path)
        return gone, empty

    def _write(self, table: Table, gone: Gone, dead: set[str], target_bytes: int) -> Change:
        """Write what takes `gone` out of the table; `dead` are the files that have no other rows."""
        specs, schema = table.specs(), table.schema()

        def files(details: Details) -> list[DataFile]:
            return [data_file(detail, specs[detail["spec"]], schema) for detail in details]

        staged = files(self._details)
        lost = [(LiveFile.of(staged[number]), rows) for number, rows in self._superseded.items()]
        if table.metadata.format_version == 1:
            instead: Details = []
            for file, rows in [*lost, *gone]:
                kept = rewrite(table, [(file, rows)], target_bytes)
                self._written += [detail["path"] for detail in kept]
                instead += kept
            out = {file.path for file, _ in lost}
            added = [file for file in staged if file.file_path not in out] + files(instead)
            return Change(added, None if self._empties else {file.path for file, _ in gone})
        dead = dead | {file.path for file, rows in lost if len(rows) == file.rows}
        deletes = write_deletes(table, [part for part in [*lost, *gone] if part[0].path not in dead])
        self._written += [file.file_path for file in deletes]
        added = [file for file in staged if file.file_path not in dead]
        removed = None if self._empties else {file.path for file, _ in gone if file.path in dead}
        return Change(added, removed, deletes=deletes)

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


def _same(one: Gone, other: Gone) -> bool:
    """Are the same rows of the same files gone in both?"""
    before = {file.path: rows for file, rows in one}
    after = {file.path: rows for file, rows in other}
    return before.keys() == after.keys() and all(np.array_equal(before[p], after[p]) for p in before)
