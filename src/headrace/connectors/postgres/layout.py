"""Which column of a stream goes into which column of the table, and which rows cannot go there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as kind

from headrace.connector import Batch, Change, Reject, Stream
from headrace.connectors.postgres import encode
from headrace.connectors.postgres.image import Type, columns_of, is_text
from headrace.connectors.postgres.table import Column, Table, check_required, mismatch, takes
from headrace.errors import ConfigError

CHANGE, ORDER, UNCHANGED = "_headrace_change", "_headrace_order", "_headrace_unchanged"
BOOKKEEPING = {CHANGE: Type("int2"), ORDER: Type("int8"), UNCHANGED: Type("text", array=True)}
"""Columns that a staging table for upserts has besides those of the table."""

# what a date and a timestamp can hold at least, in days and microseconds since 1970, and the day
# after the last
_FIRST_DAY, _END_DAY = -2_440_588, 2_145_042_906
_FIRST_MICRO = -210_866_803_200_000_000
_DAY = 86_400_000_000
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

Fault = tuple[str, str]
"""The code and the reason of a reject."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one stream go into one table; `upsert` decides whether deletes and order count."""

    stream: Stream
    columns: Mapping[str, Column]  # by the stream's own name
    key: tuple[str, ...]
    upsert: bool

    @classmethod
    def of(cls, stream: Stream, table: Table, *, upsert: bool) -> Layout:
        """Raises ConfigError when the table does not hold the stream: `prepare` brings it there."""
        columns = {}
        for name, (target, type) in columns_of(stream).items():
            column = table.columns.get(target)
            if column is None:
                raise ConfigError(
                    "postgres.schema_mismatch",
                    f"the table of {stream.id} has no column {target!r}",
                    field=name,
                    remedy="Run again, so that the table is brought up to date.",
                )
            if not takes(column, type):
                raise mismatch(stream, column, type)
            columns[name] = column
        check_required(table, stream)
        return cls(stream, columns, stream.primary_key, upsert)

    def faults(self, batch: Batch) -> dict[int, Fault]:
        """What is wrong with rows that cannot be held, by row, as far as whole columns tell."""
        found: dict[int, Fault] = {}
        deletes = _deletes(batch) if self.upsert else None
        for name, column in self.columns.items():
            array = encode.plain(batch.rows.column(name))
            for mask, fault in self._column_faults(name, column, array, batch, deletes):
                for row in np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False)):
                    found.setdefault(int(row), fault)
        return found

    def _column_faults(
        self, name: str, column: Column, array: pa.Array, batch: Batch, deletes: pa.Array | None
    ) -> Iterator[tuple[pa.Array, Fault]]:
        if array.null_count and self.upsert and name in self.key:
            yield array.is_null(), ("postgres.value.null_key", f"the key column {name!r} is null")
        elif array.null_count and column.not_null:
            missing = array.is_null()
            if deletes is not None:
                missing = pc.and_not(missing, deletes)
            if batch.unchanged and name in batch.unchanged:
                missing = pc.and_not(missing, batch.unchanged[name])
            yield missing, ("postgres.value.null", f"column {name!r} of the table is NOT NULL")
        if is_text(array.type):
            nul = "a NUL character, which PostgreSQL can't hold in text"
            yield pc.match_substring(array, "\0"), ("postgres.value.nul", f"{name!r} holds {nul}")
            if column.type.size is not None:
                yield (
                    pc.greater(pc.utf8_length(array), column.type.size),
                    ("postgres.value.too_long", f"{name!r} is longer than {column.sql} allows"),
                )
        elif kind.is_temporal(array.type):
            for mask, why in _time_faults(array, column):
                yield mask, ("postgres.value.range", f"{name!r} {why}")

    @property
    def types(self) -> dict[str, Type]:
        """The columns of the staging table."""
        own = {column.name: column.type for column in self.columns.values()}
        return own | BOOKKEEPING if self.upsert else own

    def staged(self, batch: Batch, first: int) -> pa.RecordBatch:
        """The rows with the columns of the staging table, in the stream's types; `first` numbers them."""
        arrays = [batch.rows.column(name) for name in self.columns]
        if self.upsert:
            count = batch.rows.num_rows
            arrays.append(batch.changes if batch.changes is not None else pa.array(np.zeros(count, np.int8)))
            arrays.append(pa.array(np.arange(first, first + count)))
            arrays.append(self._unchanged(batch))
        return pa.RecordBatch.from_arrays(arrays, list(self.types))

    def _unchanged(self, batch: Batch) -> pa.Array:
        """For each row the table's columns that the source did not send; null when it sent all."""
        marks = {
            self.columns[name].name: mask.to_numpy(zero_copy_only=False)
            for name, mask in (batch.unchanged or {}).items()
            if name in self.columns and name not in self.key
        }
        if not marks:
            return pa.nulls(batch.rows.num_rows, pa.list_(pa.string()))
        table = np.column_stack(list(marks.values()))
        counts = table.sum(axis=1)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        names = pa.array(list(marks), pa.string()).take(pa.array(np.nonzero(table)[1]))
        return pa.ListArray.from_arrays(pa.array(offsets), names, mask=pa.array(counts == 0))

    def rejects(self, rows: pa.RecordBatch, faults: Sequence[Fault]) -> Iterator[Reject]:
        """A reject for each of `rows`, known by its key and its content."""
        texts = encode.to_json(pa.StructArray.from_arrays(rows.columns, rows.schema.names)).to_pylist()
        for text, (code, reason) in zip(texts, faults, strict=True):
            row = json.loads(text)
            where: dict[str, Any] = {"row": hashlib.sha256(text.encode()).hexdigest()[:32]}
            if self.key:
                where["key"] = {name: row[name] for name in self.key}
            yield Reject(stream=self.stream.id, code=code, reason=reason, where=where, row=row)


def keys_only(batch: Batch, key: Sequence[str]) -> Batch:
    """The batch with nothing but the key in its deletes: what else they carry is not written anywhere."""
    if batch.changes is None:
        return batch
    deletes = _deletes(batch).to_numpy(zero_copy_only=False)
    if not deletes.any():
        return batch
    indices = pa.array(np.arange(len(deletes)), mask=deletes)
    columns = [
        column if name in key else column.take(indices)
        for name, column in zip(batch.rows.schema.names, batch.rows.columns, strict=True)
    ]
    rows = pa.RecordBatch.from_arrays(columns, batch.rows.schema.names)
    return Batch(batch.stream, rows, batch.changes, batch.unchanged)


def _deletes(batch: Batch) -> pa.Array:
    if batch.changes is None:
        return pa.array(np.zeros(batch.rows.num_rows, np.bool_))
    return pc.equal(batch.changes, int(Change.DELETE))


def _time_faults(array: pa.Array, column: Column) -> Iterator[tuple[pa.Array, str]]:
    """Moments that PostgreSQL, or the precision of this column, does not know."""
    if kind.is_date(array.type):
        days = array.cast(pa.date32()).cast(pa.int32())
        outside = pc.or_(pc.less(days, _FIRST_DAY), pc.greater_equal(days, _END_DAY))
        yield outside, "is a date that PostgreSQL can't hold"
        return
    if kind.is_duration(array.type):
        return
    unit = _UNITS[array.type.unit]
    ticks = (array.cast(pa.int32()) if array.type.bit_width == 32 else array).cast(pa.int64())
    if kind.is_time(array.type):
        first, last = 0, _DAY // 1_000_000 * unit
    else:
        last = min((1 << 63) // 1_000_000 * unit, (1 << 63) - 1)
        first = max(_FIRST_MICRO // 1_000_000 * unit, -(1 << 63))
    yield pc.or_(pc.less(ticks, first), pc.greater(ticks, last)), "is a time that PostgreSQL can't hold"
    precision = 6 if column.type.size is None else column.type.size
    step = unit // 10**precision
    if step > 1:
        rest = pc.subtract(ticks, pc.multiply(pc.divide(ticks, step), step))
        yield pc.not_equal(rest, 0), f"is finer than {column.sql} can hold"
