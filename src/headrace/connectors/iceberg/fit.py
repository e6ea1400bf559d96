"""Rows of a batch into the table's columns, and out of the way what the table cannot hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema, sanitize_column_names

from headrace.connector import Change, Reject, Stream
from headrace.errors import ConfigError

CHANGE = "_change"


class Fit:
    """Turns record batches of one stream into tables whose first columns are the table's, in its types."""

    def __init__(self, stream: Stream, small: pa.Schema, schema: Schema, key: Sequence[str]):
        if missing := [name for name in stream.schema.names if name not in small.names]:
            raise ConfigError(
                "iceberg.missing_column",
                f"the table of {stream.id} has no column {missing[0]!r}",
                field="columns",
                remedy="Let the schema policy be evolve, or leave the column out.",
            )
        if lost := [name for name in key if name not in stream.schema.names]:
            raise ConfigError(
                "iceberg.missing_key",
                f"{stream.id} has no key column {lost[0]!r}",
                field="key",
                remedy="Choose key columns among the stream's columns.",
            )
        self._stream, self._small, self._key = stream, small, key
        self._arrow = schema_to_pyarrow(sanitize_column_names(schema))
        self._required = [f.name for f in schema.fields if f.required]

    def __call__(self, rows: pa.RecordBatch, changes: pa.Array | None) -> tuple[pa.Table, list[Reject]]:
        """The table, with the column `_change` at its end if there is a key, and the rejected rows."""
        bad: dict[int, tuple[str, str]] = {}
        deleted = None
        if changes is not None:
            deleted = pc.equal(changes, int(Change.DELETE)).to_numpy(zero_copy_only=False)
        columns = []
        for target, small in zip(self._arrow, self._small, strict=True):
            at = rows.schema.get_field_index(small.name)
            if at < 0:
                columns.append(pa.nulls(rows.num_rows, target.type))
                continue
            column = self._cast(rows.column(at), small, target.type, bad)
            if small.name in self._key or small.name in self._required:
                self._refuse_nulls(column, small.name, deleted, bad)
            columns.append(column)
        fields = list(self._arrow)
        if self._key:
            columns.append(
                pa.array(np.zeros(rows.num_rows, np.int8)) if changes is None else changes.cast(pa.int8())
            )
            fields.append(pa.field(CHANGE, pa.int8()))
        taken = pa.Table.from_arrays(columns, schema=pa.schema(fields))
        if not bad:
            return taken, []
        rejects = [row_reject(self._stream, rows, at, *why) for at, why in sorted(bad.items())]
        good = np.ones(rows.num_rows, bool)
        good[list(bad)] = False
        return taken.filter(pa.array(good)), rejects

    def _refuse_nulls(
        self,
        column: pa.Array,
        name: str,
        deleted: np.ndarray[Any, Any] | None,
        bad: dict[int, tuple[str, str]],
    ) -> None:
        if not column.null_count:
            return
        empty = pc.is_null(column).to_numpy(zero_copy_only=False)
        if deleted is not None and name not in self._key:
            empty &= ~deleted
        why = ("iceberg.null", f"the column {name!r} is required and null")
        if name in self._key:
            why = ("iceberg.null_key", f"the key column {name!r} is null")
        for at in np.flatnonzero(empty):
            bad.setdefault(int(at), why)

    def _cast(
        self, column: pa.Array, small: pa.Field, to: pa.DataType, bad: dict[int, tuple[str, str]]
    ) -> pa.Array:
        try:
            return cast(column, small.type, to)
        except pa.ArrowInvalid:
            pass
        except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
            raise ConfigError(
                "iceberg.bad_cast",
                f"column {small.name!r} of {self._stream.id} is {column.type}, and {small.type} in the table",
                field="columns",
                remedy="Cast the column by a transform, or write into another table.",
            ) from None
        good: list[pa.Array] = []
        self._halve(column, 0, (small, to), good, bad)
        return pa.concat_arrays(good)

    def _halve(
        self,
        column: pa.Array,
        start: int,
        types: tuple[pa.Field, pa.DataType],
        good: list[pa.Array],
        bad: dict[int, tuple[str, str]],
    ) -> None:
        """Find the rows that do not fit; they are null in `good`."""
        small, to = types
        try:
            good.append(cast(column, small.type, to))
        except pa.ArrowInvalid as error:
            if len(column) == 1:
                bad.setdefault(
                    start, ("iceberg.value", f"column {small.name!r}: {str(error).splitlines()[0]}")
                )
                good.append(pa.nulls(1, to))
                return
            half = len(column) // 2
            self._halve(column.slice(0, half), start, types, good, bad)
            self._halve(column.slice(half), start + half, types, good, bad)


def cast(column: pa.Array, small: pa.DataType, to: pa.DataType) -> pa.Array:
    """A value for a value, never a loss; by way of the image, to which Arrow casts from more types."""
    if isinstance(column.type, pa.BaseExtensionType) and column.type != to:
        column = column.storage
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if column.type == to:
        return column
    if pa.types.is_duration(column.type):
        return column.cast(pa.duration("us")).view(pa.int64())
    return (column if column.type == small else column.cast(small)).cast(to)


def row_reject(stream: Stream, rows: pa.RecordBatch, at: int, code: str, reason: str) -> Reject:
    """A reject that names the row by its key, or by a hash of its content where there is none."""
    row = {name: _plain(rows.column(n).slice(at, 1)) for n, name in enumerate(rows.schema.names)}
    key = {name: row[name] for name in stream.primary_key if row.get(name) is not None}
    where = key or {"row": hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()}
    return Reject(stream=stream.id, code=code, reason=reason, where=where, row=row)


def _plain(cell: pa.Array) -> str | int | bool | None:
    """An array of one value as JSON can hold it; by Arrow's own text where Python's types are too narrow."""
    kind = cell.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or cell.null_count:
        value: int | bool | None = cell[0].as_py()
        return value
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return str(cell[0].as_py().hex())
    try:
        return str(cell.cast(pa.string())[0].as_py())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return str(cell[0])
