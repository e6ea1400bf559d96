"""Arrow types and their one image in Iceberg.

    Arrow                                   Iceberg           read back as
    int8 int16 int32 uint8 uint16           int               int32
    uint32 int64                            long              int64
    uint64                                  decimal(20, 0)    decimal128(20, 0)
    float16 float32, float64                float, double     float32, float64
    decimal of up to 38 digits              decimal           decimal128
    decimal of more digits                  string            string
    date32 date64, time32 time64            date, time        date32, time64[us]
    timestamp (any unit)                    timestamp         timestamp[us]
    timestamp (any unit and zone)           timestamptz       timestamp[us, UTC]
    duration                                long              int64, microseconds
    string, dictionary, null, JSON          string            string
    binary of any kind                      binary            binary
    UUID                                    uuid              extension arrow.uuid
    list, struct, map                       the same, nested

Every column is optional. Nanoseconds that a microsecond cannot hold reject their row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pyarrow as pa
import pyiceberg.types as ice
from pyiceberg.exceptions import ValidationError
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema, index_by_name

from headrace.errors import ConfigError

MAX_DIGITS = 38
_INT32 = frozenset({pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()})
_PLAIN: dict[pa.DataType, ice.PrimitiveType] = {
    pa.bool_(): ice.BooleanType(),
    pa.int32(): ice.IntegerType(),
    pa.int64(): ice.LongType(),
    pa.float32(): ice.FloatType(),
    pa.float64(): ice.DoubleType(),
    pa.date32(): ice.DateType(),
    pa.time64("us"): ice.TimeType(),
    pa.timestamp("us"): ice.TimestampType(),
    pa.timestamp("us", "UTC"): ice.TimestamptzType(),
    pa.string(): ice.StringType(),
    pa.binary(): ice.BinaryType(),
    pa.uuid(): ice.UUIDType(),
}


def image(schema: pa.Schema) -> pa.Schema:
    """The schema that a scan reads back, with small strings and lists and no metadata.

    Raises ConfigError for what Iceberg cannot hold.
    """
    if not schema.names:
        raise ConfigError(
            "iceberg.no_columns",
            "a table needs a column",
            field="columns",
            remedy="Choose at least one column.",
        )
    if "" in schema.names:
        raise ConfigError(
            "iceberg.bad_name",
            "a column has no name",
            field="columns",
            remedy="Rename or leave out the column.",
        )
    found = pa.schema([pa.field(f.name, image_type(f.type, f.name)) for f in schema])
    try:
        index_by_name(to_iceberg(found))
    except ValidationError as error:
        raise ConfigError(
            "iceberg.bad_name",
            f"two columns have one name: {error}",
            field="columns",
            remedy="Rename one of the columns by a transform.",
        ) from None
    return found


def image_type(of: pa.DataType, where: str) -> pa.DataType:
    """The image of one type; `where` names the column in errors."""
    types = pa.types
    if of in _PLAIN:
        return of
    if isinstance(of, pa.BaseExtensionType):
        return image_type(of.storage_type, where)
    if of in _INT32:
        return pa.int32()
    if of == pa.uint32() or types.is_duration(of):
        return pa.int64()
    if of == pa.uint64():
        return pa.decimal128(20, 0)
    if of == pa.float16():
        return pa.float32()
    if types.is_decimal(of):
        digits = max(of.precision - min(of.scale, 0), of.scale)
        return pa.decimal128(digits, max(of.scale, 0)) if digits <= MAX_DIGITS else pa.string()
    if types.is_date(of):
        return pa.date32()
    if types.is_time(of):
        return pa.time64("us")
    if types.is_timestamp(of):
        return pa.timestamp("us", "UTC" if of.tz else None)
    if types.is_dictionary(of) or types.is_run_end_encoded(of):
        return image_type(of.value_type, where)
    if types.is_null(of) or types.is_large_string(of) or types.is_string_view(of):
        return pa.string()
    if types.is_large_binary(of) or types.is_binary_view(of) or types.is_fixed_size_binary(of):
        return pa.binary()
    if isinstance(
        of, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.ListViewType | pa.LargeListViewType
    ):
        return pa.list_(pa.field("element", image_type(of.value_type, f"{where}.element")))
    if types.is_map(of):
        return pa.map_(image_type(of.key_type, f"{where}.key"), image_type(of.item_type, f"{where}.value"))
    if types.is_struct(of) and of.num_fields:
        return pa.struct([pa.field(f.name, image_type(f.type, f"{where}.{f.name}")) for f in of])
    raise ConfigError(
        "iceberg.unsupported_type",
        f"column {where!r} has the type {of}, which Iceberg cannot hold",
        field="columns",
        remedy="Cast the column to a string, or leave it out.",
    )


def to_iceberg(schema: pa.Schema) -> Schema:
    """An Iceberg schema with ids of its own from a schema made by `image`."""
    ids = itertools.count(1)
    return Schema(*[ice.NestedField(next(ids), f.name, iceberg_type(f.type, ids)) for f in schema])


def iceberg_type(of: pa.DataType, ids: Iterator[int]) -> ice.IcebergType:
    """One type made by `image_type`; nested fields take their ids from `ids`."""
    if of in _PLAIN:
        return _PLAIN[of]
    if pa.types.is_decimal128(of):
        return ice.DecimalType(of.precision, of.scale)
    if pa.types.is_list(of):
        return ice.ListType(next(ids), iceberg_type(of.value_type, ids), element_required=False)
    if pa.types.is_map(of):
        key, value = next(ids), next(ids)
        return ice.MapType(
            key, iceberg_type(of.key_type, ids), value, iceberg_type(of.item_type, ids), value_required=False
        )
    if pa.types.is_struct(of):
        return ice.StructType(*[ice.NestedField(next(ids), f.name, iceberg_type(f.type, ids)) for f in of])
    raise TypeError(of)


def from_iceberg(schema: Schema) -> pa.Schema:
    """A table's schema in the types of `image`; a fixed column stays fixed."""
    arrow = schema_to_pyarrow(schema, include_field_ids=False)
    return pa.schema([pa.field(f.name, _small(f.type)) for f in arrow])


def _small(of: pa.DataType) -> pa.DataType:
    return of if pa.types.is_fixed_size_binary(of) else image_type(of, "")
