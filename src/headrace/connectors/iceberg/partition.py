"""Partitioning: from the setting to a spec, and from rows to one group a partition.

Transforms work on Iceberg's own representation (days, microseconds) with whole columns where that is
plain arithmetic, and on the distinct values elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyiceberg.types as ice
from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    VoidTransform,
    YearTransform,
)

from headrace.connectors.iceberg.config import PARTITION
from headrace.errors import ConfigError

_UNITS: dict[type[Transform[Any, Any]], str] = {
    YearTransform: "Y",
    MonthTransform: "M",
    DayTransform: "D",
    HourTransform: "h",
}
_TIMES: dict[str, Callable[[], Transform[Any, Any]]] = {
    "identity": IdentityTransform, "year": YearTransform, "month": MonthTransform,
    "day": DayTransform, "hour": HourTransform,
}  # fmt: skip


def make_spec(texts: Sequence[str], schema: Schema) -> PartitionSpec:
    """The spec that the setting describes. Raises ConfigError for a column that is absent or does not fit."""
    fields = []
    for number, text in enumerate(texts):
        match = PARTITION.fullmatch(text.strip())
        if match is None:
            raise AssertionError(text)
        name, column, wide, width, of, plain = (part and part.strip() for part in match.groups())
        source = column or of or plain
        transform: Transform[Any, Any]
        if wide == "bucket":
            transform, suffix = BucketTransform(int(width)), "_bucket"
        elif wide == "truncate":
            transform, suffix = TruncateTransform(int(width)), "_trunc"
        else:
            transform, suffix = _TIMES[name or "identity"](), "" if name in (None, "identity") else f"_{name}"
        found = next((f for f in schema.fields if f.name == source), None)
        if found is None or not transform.can_transform(found.field_type):
            why = (
                "there is no such column" if found is None else f"the column has the type {found.field_type}"
            )
            raise ConfigError(
                "iceberg.bad_partition",
                f"partitioning by {text!r} can't be: {why}",
                field="partition_spec",
                remedy="Name a column of the stream, and a transform that fits its type.",
            )
        field_name = re.sub(r"\W", "_", source) + suffix if suffix else source
        fields.append(
            PartitionField(found.field_id, PARTITION_FIELD_ID_START + number, transform, field_name)
        )
    return PartitionSpec(*fields)


def split(rows: pa.Table, spec: PartitionSpec, schema: Schema) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """The rows of each partition, in their order, with the partition's values as Iceberg represents them."""
    columns = []
    for field in spec.fields:
        source = schema.find_field(field.source_id)
        index = next(i for i, top in enumerate(schema.fields) if top.field_id == field.source_id)
        columns.append(_transformed(rows.column(index).combine_chunks(), field.transform, source.field_type))
    codes = np.zeros(rows.num_rows, np.int64)
    for own, values in columns:
        codes = codes * len(values) + own
    distinct, first, group = np.unique(codes, return_index=True, return_inverse=True)
    if len(distinct) == 1:
        yield tuple(values[own[0]] for own, values in columns), rows
        return
    order = np.argsort(group, kind="stable")
    ends = np.searchsorted(group[order], np.arange(len(distinct)), side="right")
    start = 0
    for row, end in zip(first, ends, strict=True):
        yield tuple(values[own[row]] for own, values in columns), rows.take(pa.array(order[start:end]))
        start = end


def _transformed(
    column: pa.Array, transform: Transform[Any, Any], kind: ice.IcebergType
) -> tuple[np.ndarray[Any, Any], list[Any]]:
    """A code for each row, and the transformed value that each code stands for."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    stored = _stored(column)
    if type(transform) in _UNITS:
        stored = _elapsed(stored, column.type, _UNITS[type(transform)])
    whole = pa.types.is_integer(stored.type)
    if whole and isinstance(transform, BucketTransform):
        stored = _bucket(stored, transform.num_buckets)
    encoded = pc.dictionary_encode(stored, null_encoding="encode")
    values = encoded.dictionary.to_pylist()
    if isinstance(column.type, pa.UuidType):
        values = [None if v is None else UUID(bytes=v) for v in values]
    if isinstance(transform, VoidTransform):
        values = [None] * len(values)
    elif isinstance(transform, TruncateTransform) or (isinstance(transform, BucketTransform) and not whole):
        apply = transform.transform(kind)
        values = [None if value is None else apply(value) for value in values]
    same: dict[Any, int] = {}
    codes = np.array([same.setdefault(value, len(same)) for value in values], np.int64)
    return codes[encoded.indices.to_numpy(zero_copy_only=False)], list(same)


def _stored(column: pa.Array) -> pa.Array:
    if isinstance(column.type, pa.UuidType):
        return column.storage
    if pa.types.is_timestamp(column.type) or pa.types.is_time64(column.type):
        return column.view(pa.int64())
    return column.view(pa.int32()) if pa.types.is_date32(column.type) else column


def _elapsed(stored: pa.Array, kind: pa.DataType, unit: str) -> pa.Array:
    numbers = pc.fill_null(stored, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    moments = numbers.view("datetime64[D]" if pa.types.is_date32(kind) else "datetime64[us]")
    whole = moments.astype(f"datetime64[{unit}]").view(np.int64).astype(np.int32)
    return pa.array(whole, mask=pc.is_null(stored).to_numpy(zero_copy_only=False))


def _bucket(stored: pa.Array, count: int) -> pa.Array:
    """Iceberg's bucket of each number: 32-bit Murmur3 of its eight bytes."""
    numbers = pc.fill_null(stored, 0).to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
    state = np.zeros(len(numbers), np.uint32)
    for half in (numbers.astype(np.uint32), (numbers >> np.uint64(32)).astype(np.uint32)):
        mixed = _turn(half * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
        state = _turn(state ^ mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    state ^= np.uint32(8)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        state = (state ^ (state >> np.uint32(shift))) * np.uint32(factor)
    state ^= state >> np.uint32(16)
    bucket = (state & np.uint32(0x7FFFFFFF)) % np.uint32(count)
    return pa.array(bucket.astype(np.int32), mask=pc.is_null(stored).to_numpy(zero_copy_only=False))


def _turn(bits: np.ndarray[Any, Any], by: int) -> np.ndarray[Any, Any]:
    return (bits << np.uint32(by)) | (bits >> np.uint32(32 - by))
