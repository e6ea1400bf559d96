"""Data files as plain JSON: what a commit needs to know of them, statistics included.

The bounds come from the raw statistics of the Parquet footer, since turning them into Python dates
fails for times that PostgreSQL and Arrow can hold.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
import pyiceberg.types as ice
from pyiceberg.conversions import from_bytes, to_bytes
from pyiceberg.io.pyarrow import parquet_path_to_id_mapping
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.typedef import Record

BOUND_LENGTH = 16
_NUMBERS: dict[type[ice.IcebergType], str] = {
    ice.BooleanType: "<?",
    ice.IntegerType: "<i",
    ice.DateType: "<i",
    ice.LongType: "<q",
    ice.TimeType: "<q",
    ice.TimestampType: "<q",
    ice.TimestamptzType: "<q",
    ice.FloatType: "<f",
    ice.DoubleType: "<d",
}


def describe_file(
    path: str, size: int, footer: pq.FileMetaData, schema: Schema, nans: Mapping[int, int]
) -> dict[str, Any]:
    """A file that was just written with `schema`; `nans` counts not-a-numbers by field id."""
    ids = parquet_path_to_id_mapping(schema)
    sizes: dict[int, int] = {}
    values: dict[int, int] = {}
    nulls: dict[int, int] = {}
    lower: dict[int, bytes | None] = {}
    upper: dict[int, bytes | None] = {}
    offsets = []
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        first = group.column(0)
        offsets.append(first.dictionary_page_offset if first.has_dictionary_page else first.data_page_offset)
        for position in range(footer.num_columns):
            column = group.column(position)
            field = ids[column.path_in_schema]
            sizes[field] = sizes.get(field, 0) + column.total_compressed_size
            statistics = column.statistics
            if statistics is None or footer.schema.column(position).max_repetition_level:
                continue
            values[field] = values.get(field, 0) + column.num_values
            nulls[field] = nulls.get(field, 0) + (statistics.null_count or 0)
            kind = schema.find_type(field)
            if statistics.has_min_max:
                low, high = _raw_bound(statistics.min_raw, kind), _raw_bound(statistics.max_raw, kind)
                lower[field] = _merged(lower, field, low, kind, smaller=True)
                upper[field] = _merged(upper, field, high, kind, smaller=False)
            elif statistics.null_count != column.num_values:
                lower[field] = upper[field] = None
    return {
        "path": path,
        "size": size,
        "rows": footer.num_rows,
        "offsets": offsets,
        "sizes": _texts(sizes),
        "values": _texts(values),
        "nulls": _texts(nulls),
        "nans": _texts(nans),
        "lower": _bounds(lower, schema, upper=False),
        "upper": _bounds(upper, schema, upper=True),
    }


def data_file(detail: Mapping[str, Any], spec: PartitionSpec, schema: Schema) -> DataFile:
    """The entry of a manifest from what `describe_file` said, with `spec` and `partition` added to it."""
    types = _partition_types(spec, schema)
    partition = [
        None if value is None else from_bytes(kind, base64.b64decode(value))
        for kind, value in zip(types, detail.get("partition", ()), strict=True)
    ]
    file = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=detail["path"],
        file_format=FileFormat.PARQUET,
        partition=Record(*partition),
        record_count=detail["rows"],
        file_size_in_bytes=detail["size"],
        column_sizes=_numbers(detail["sizes"]),
        value_counts=_numbers(detail["values"]),
        null_value_counts=_numbers(detail["nulls"]),
        nan_value_counts=_numbers(detail["nans"]),
        lower_bounds={int(k): base64.b64decode(v) for k, v in detail["lower"].items()},
        upper_bounds={int(k): base64.b64decode(v) for k, v in detail["upper"].items()},
        key_metadata=None,
        split_offsets=detail["offsets"],
        equality_ids=None,
        sort_order_id=None,
    )
    file.spec_id = spec.spec_id
    return file


def partition_json(values: tuple[Any, ...], spec: PartitionSpec, schema: Schema) -> list[str | None]:
    types = _partition_types(spec, schema)
    return [
        None if value is None else base64.b64encode(to_bytes(kind, value)).decode()
        for kind, value in zip(types, values, strict=True)
    ]


def _partition_types(spec: PartitionSpec, schema: Schema) -> list[ice.PrimitiveType]:
    types = [field.field_type for field in spec.partition_type(schema).fields]
    return [kind for kind in types if isinstance(kind, ice.PrimitiveType)]


def _raw_bound(raw: Any, kind: ice.IcebergType) -> Any:
    """A raw Parquet statistic in a form that compares: a number or bytes."""
    if isinstance(kind, ice.DecimalType) and isinstance(raw, bytes):
        return int.from_bytes(raw, "big", signed=True)
    return raw


def _merged(
    so_far: Mapping[int, Any], field: int, value: Any, kind: ice.IcebergType, *, smaller: bool
) -> Any:
    if field not in so_far:
        return value
    before = so_far[field]
    if before is None:
        return None
    return min(before, value) if smaller else max(before, value)


def _bounds(found: Mapping[int, Any], schema: Schema, *, upper: bool) -> dict[str, str]:
    encoded = {field: _encode(value, schema.find_type(field), upper=upper) for field, value in found.items()}
    return {str(f): base64.b64encode(value).decode() for f, value in encoded.items() if value is not None}


def _encode(value: Any, kind: ice.IcebergType, *, upper: bool) -> bytes | None:
    """The single-value serialisation of the Iceberg specification; None where no bound can be given."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if form := _NUMBERS.get(type(kind)):
        return struct.pack(form, value)
    if isinstance(kind, ice.DecimalType):
        return int(value).to_bytes((int(value).bit_length() + 8) // 8, "big", signed=True)
    if isinstance(kind, ice.StringType):
        return _text_bound(bytes(value).decode(), upper=upper)
    if isinstance(kind, ice.BinaryType):
        return _binary_bound(bytes(value), upper=upper)
    return bytes(value) if isinstance(kind, ice.UUIDType | ice.FixedType) else None


def _text_bound(text: str, *, upper: bool) -> bytes | None:
    if len(text) <= BOUND_LENGTH or not upper:
        return text[:BOUND_LENGTH].encode()
    for end in range(BOUND_LENGTH, 0, -1):
        following = ord(text[end - 1]) + 1
        if 0xD800 <= following <= 0xDFFF:
            following = 0xE000
        if following <= 0x10FFFF:
            return (text[: end - 1] + chr(following)).encode()
    return None


def _binary_bound(value: bytes, *, upper: bool) -> bytes | None:
    if len(value) <= BOUND_LENGTH or not upper:
        return value[:BOUND_LENGTH]
    kept = value[:BOUND_LENGTH].rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else None


def _texts(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(field): count for field, count in counts.items()}


def _numbers(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(field): count for field, count in counts.items()}
