"""Which Arrow types the files hold, and how a table's schema grows.

Parquet holds nearly every type as it is. Text and bytes come back in their small form, dictionaries as
their values, seconds as milliseconds, zones as UTC, and an extension other than UUID as its storage.
Every column may be null.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.types as is_a

from headrace.errors import ConfigError


def image(schema: pa.Schema) -> pa.Schema:
    """The schema as it is stored and read back. Raises ConfigError for what Parquet cannot hold."""
    twice = {name for name in schema.names if schema.names.count(name) > 1}
    if twice or not schema.names:
        raise ConfigError(
            "parquet.columns",
            f"several columns are named {sorted(twice)[0]!r}" if twice else "there is no column to write",
            field="columns",
            remedy="Rename or choose the columns, so that each has a name of its own.",
        )
    return pa.schema([pa.field(field.name, _image(field.type, field.name)) for field in schema])


def _image(of: pa.DataType, where: str) -> pa.DataType:
    if isinstance(of, pa.UuidType):
        return of
    if isinstance(of, pa.BaseExtensionType):
        return _image(of.storage_type, where)
    if is_a.is_dictionary(of) or is_a.is_run_end_encoded(of):
        return _image(of.value_type, where)
    if is_a.is_large_string(of) or is_a.is_string_view(of):
        return pa.string()
    if is_a.is_large_binary(of) or is_a.is_binary_view(of):
        return pa.binary()
    if is_a.is_decimal32(of) or is_a.is_decimal64(of):
        return pa.decimal128(of.precision, of.scale)
    if is_a.is_date64(of):
        return pa.date32()
    if is_a.is_time(of):
        return pa.time32("ms") if of.unit == "s" else of
    if is_a.is_timestamp(of):
        return pa.timestamp("ms" if of.unit == "s" else of.unit, "UTC" if of.tz else None)
    if isinstance(
        of, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.ListViewType | pa.LargeListViewType
    ):
        return pa.list_(_image(of.value_type, where))
    if is_a.is_map(of):
        return pa.map_(_image(of.key_type, where), _image(of.item_type, where))
    if is_a.is_struct(of) and of.num_fields:
        return pa.struct([pa.field(field.name, _image(field.type, where)) for field in of])
    plain = is_a.is_primitive(of) and not is_a.is_interval(of)
    if plain or is_a.is_decimal(of) or is_a.is_null(of) or of in (pa.string(), pa.binary()):
        return of
    if is_a.is_fixed_size_binary(of):
        return of
    raise ConfigError(
        "parquet.type",
        f"the column {where!r} is of type {of}, which Parquet can't hold",
        field="columns",
        remedy="Cast the column to text, or leave it out.",
    )


def grown(table: pa.Schema | None, images: Iterable[pa.Schema]) -> pa.Schema:
    """The table's schema, able to hold all `images` as well: columns added, types widened.

    Raises ConfigError where only a lossy type would hold both.
    """
    fields = {field.name: field for field in table or ()}
    for schema in images:
        for field in schema:
            known = fields.get(field.name)
            fields[field.name] = field if known is None else field.with_type(_wider(known, field))
    return pa.schema(fields.values())


def _wider(known: pa.Field, new: pa.Field) -> pa.DataType:
    if known.type == new.type:
        return known.type
    try:
        both = (
            pa.unify_schemas([pa.schema([known]), pa.schema([new])], promote_options="permissive")
            .field(0)
            .type
        )
    except pa.ArrowTypeError:
        both = None
    if both is None or not (_keeps(known.type, both) and _keeps(new.type, both)):
        raise ConfigError(
            "parquet.other_type",
            f"the column {known.name!r} is {known.type} in the table and {new.type} in the stream",
            field="schema_policy",
            remedy="Cast the column by a transform, or give the stream another target table.",
        )
    return both


def _keeps(narrow: pa.DataType, wide: pa.DataType) -> bool:
    """Arrow's permissive promotion goes further than every value survives; this is where it does."""
    if narrow == wide or is_a.is_null(narrow):
        return True
    if is_a.is_integer(narrow):
        whole = is_a.is_integer(wide) and narrow != pa.uint64()
        exact = is_a.is_float64(wide) and narrow.bit_width <= 32
        return bool(whole or exact or is_a.is_decimal(wide))
    if is_a.is_timestamp(narrow) and is_a.is_timestamp(wide):
        return bool(wide.unit != "ns")  # nanoseconds reach only from 1677 to 2262
    if is_a.is_list(narrow) and is_a.is_list(wide):
        return _keeps(narrow.value_type, wide.value_type)
    if is_a.is_struct(narrow) and is_a.is_struct(wide):
        return all(_keeps(field.type, wide.field(field.name).type) for field in narrow)
    alike = (is_a.is_floating, is_a.is_decimal, is_a.is_time)
    return any(same(narrow) and same(wide) for same in alike)
