"""The one mapping of Arrow types to PostgreSQL types, and which column can take which values.

    int8, int16, uint8        smallint           bool                       boolean
    int32, uint16             integer            date32, date64             date
    int64, uint32             bigint             time32, time64             time
    uint64                    numeric(20,0)      timestamp                  timestamp
    float16, float32          real               timestamp with zone        timestamptz
    float64                   double precision   list of any of these       array
    decimal(p,s)              numeric(p,s)       struct, map, nested list   jsonb
    string, null              text               extension arrow.json       jsonb
    binary                    bytea              extension arrow.uuid       uuid

Microseconds are the finest time that PostgreSQL knows: a row with a finer value is rejected. A
dictionary is its values. `jsonb` and `uuid` are read back as text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import pyarrow as pa
from pyarrow import types as kind

from headrace.connector import Stream
from headrace.errors import ConfigError

NAME_BYTES = 63
_SYSTEM_COLUMNS = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
_SQL = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "bpchar": "character",
}
_DIGITS = {"int2": 5, "int4": 10, "int8": 19}
# integers whose every value a float holds exactly
_INT_IN_FLOAT = {("int2", "float4"), ("int2", "float8"), ("int4", "float8")}
_TEXT = {"text", "varchar", "bpchar", "citext"}
_IMAGES: dict[str, pa.DataType] = {
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "bool": pa.bool_(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}


@dataclass(frozen=True, slots=True)
class Type:
    """A PostgreSQL type by its internal name (`int4`).

    `size` is the precision of a number or a time, or the length of a text. `texty` marks types that
    have no Arrow type of their own and take their values as text (enums, uuid, inet, …), `spelled` those
    whose binary form is their text as well.
    """

    name: str
    size: int | None = None
    scale: int | None = None
    array: bool = False
    texty: bool = False
    spelled: bool = False

    def __str__(self) -> str:
        """As it is written in SQL."""
        size = (
            ""
            if self.size is None
            else f"({self.size})"
            if self.scale is None
            else f"({self.size},{self.scale})"
        )
        return f"{_SQL.get(self.name, self.name)}{size}{'[]' if self.array else ''}"

    @property
    def element(self) -> Type:
        return replace(self, array=False)

    @property
    def image(self) -> pa.DataType:
        """The Arrow type that is read back from a column of this type."""
        if self.array:
            return pa.list_(self.element.image)
        if self.name == "numeric" and self.size is not None and self.size <= 76:
            return _decimal(self.size, self.scale or 0)
        return _IMAGES.get(self.name, pa.string())

    def holds(self, other: Type) -> bool:
        """May a column of this type stand as it is for values of type `other`?

        Where only single values could fail (the length of a text, a label of an enum), the answer is
        yes, and the rows are looked at.
        """
        if self.array or other.array:
            return self.array and other.array and self.element.holds(other.element)
        if self.name == other.name == "numeric" or (self.name == "numeric" and other.name in _DIGITS):
            whole, scale = other._digits()
            mine, my_scale = self._digits()
            return self.size is None or (mine >= whole and my_scale >= scale)
        if self.name in _DIGITS and other.name in _DIGITS:
            return _DIGITS[self.name] >= _DIGITS[other.name]
        if other.name == "text":
            return self.name in _TEXT or self.texty
        if other.name in ("jsonb", "uuid") and self.name in ("text", "varchar", "json"):
            return True
        return (
            self.name == other.name
            or (other.name, self.name) == ("float4", "float8")
            or (other.name, self.name) in _INT_IN_FLOAT
        )

    def widened(self, other: Type) -> Type | None:
        """The smallest type for the values of both; None if there is none."""
        if self.array or other.array:
            both = self.element.widened(other.element) if self.array and other.array else None
            return both and replace(both, array=True)
        for one, two in ((self, other), (other, self)):
            if one.holds(two) and one.name in (*_DIGITS, "numeric", "float4", "float8"):
                return one
        if {self.name, other.name} <= {*_DIGITS, "numeric"}:
            (mine, my_scale), (whole, scale) = self._digits(), other._digits()
            size, scale = max(mine, whole) + max(my_scale, scale), max(my_scale, scale)
            return Type("numeric", size, scale) if size <= 1000 else None
        return None

    def _digits(self) -> tuple[int, int]:
        """Digits before and after the point."""
        if self.name in _DIGITS:
            return _DIGITS[self.name], 0
        return (self.size or 0) - (self.scale or 0), self.scale or 0


def _decimal(precision: int, scale: int) -> pa.DataType:
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def type_of(arrow: pa.DataType) -> Type | None:
    """The PostgreSQL type for an Arrow type; None if there is none."""
    if isinstance(arrow, pa.BaseExtensionType):
        named = {"arrow.json": Type("jsonb"), "arrow.uuid": Type("uuid")}
        return named.get(arrow.extension_name) or type_of(arrow.storage_type)
    if kind.is_dictionary(arrow):
        return type_of(arrow.value_type)
    if is_list(arrow):
        element = _inside(arrow.value_type)
        if element is None or element.array or element.name == "jsonb":
            return element and Type("jsonb")
        return replace(element, array=True)
    if kind.is_map(arrow):
        return Type("jsonb") if _inside(arrow.key_type) and _inside(arrow.item_type) else None
    if kind.is_struct(arrow):
        return Type("jsonb") if all(_inside(field.type) for field in arrow) else None
    if kind.is_decimal(arrow):
        scale = max(arrow.scale, 0)
        return Type("numeric", max(arrow.precision - min(arrow.scale, 0), scale), scale)
    if kind.is_timestamp(arrow):
        return Type("timestamptz" if arrow.tz else "timestamp")
    for test, name in _PLAIN:
        if test(arrow):
            return Type("numeric", 20, 0) if name == "uint8" else Type(name)
    return None


def _inside(arrow: pa.DataType) -> Type | None:
    """The type of a part of a nested value; nanoseconds are not looked at there, so they are not taken."""
    fine = (kind.is_timestamp(arrow) or kind.is_time64(arrow)) and arrow.unit == "ns"
    return None if fine else type_of(arrow)


def is_list(arrow: pa.DataType) -> bool:
    return bool(kind.is_list(arrow) or kind.is_large_list(arrow) or kind.is_fixed_size_list(arrow))


def is_text(arrow: pa.DataType) -> bool:
    return bool(kind.is_string(arrow) or kind.is_large_string(arrow) or kind.is_string_view(arrow))


def is_binary(arrow: pa.DataType) -> bool:
    return bool(
        kind.is_binary(arrow)
        or kind.is_large_binary(arrow)
        or kind.is_binary_view(arrow)
        or kind.is_fixed_size_binary(arrow)
    )


_PLAIN = (
    (kind.is_boolean, "bool"),
    (kind.is_uint64, "uint8"),
    (lambda t: kind.is_int8(t) or kind.is_int16(t) or kind.is_uint8(t), "int2"),
    (lambda t: kind.is_int32(t) or kind.is_uint16(t), "int4"),
    (lambda t: kind.is_int64(t) or kind.is_uint32(t), "int8"),
    (lambda t: kind.is_float16(t) or kind.is_float32(t), "float4"),
    (kind.is_float64, "float8"),
    (lambda t: is_text(t) or kind.is_null(t), "text"),
    (is_binary, "bytea"),
    (kind.is_date, "date"),
    (kind.is_time, "time"),
)


def fit(name: str) -> str:
    """The name as PostgreSQL can hold it: one over 63 bytes ends in a hash, the same every time."""
    raw = name.encode()
    if len(raw) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:8]
    return f"{raw[: NAME_BYTES - 9].decode(errors='ignore')}_{digest}"


def columns_of(stream: Stream) -> dict[str, tuple[str, Type]]:
    """For each column of the stream its name and type in the table.

    Raises ConfigError for a column that PostgreSQL cannot hold.
    """
    found: dict[str, tuple[str, Type]] = {}
    taken: dict[str, str] = {}
    for field in stream.schema:
        type = type_of(field.type)
        if type is None:
            raise ConfigError(
                "postgres.type",
                f"{stream.id}: PostgreSQL has no type for column {field.name!r} ({field.type})",
                field=field.name,
                remedy="Cast the column in a transform, for instance to string, or leave it out.",
            )
        name = fit(field.name)
        if not name or "\0" in name or name in _SYSTEM_COLUMNS or name.startswith("_headrace_"):
            raise ConfigError(
                "postgres.column_name",
                f"{stream.id}: a column in PostgreSQL can't be named {field.name!r}",
                field=field.name,
                remedy="Rename the column in a transform.",
            )
        if name in taken:
            raise ConfigError(
                "postgres.column_twice",
                f"{stream.id}: two columns would both be named {name!r}",
                field=field.name,
                remedy="Rename one of them in a transform.",
            )
        taken[name] = field.name
        found[field.name] = (name, type)
    if not found:
        raise ConfigError(
            "postgres.no_columns",
            f"{stream.id} has no columns",
            field="columns",
            remedy="Choose at least one.",
        )
    return found


def image_of(stream: Stream) -> pa.Schema:
    """The stream's schema as it is read back. Its columns keep their names, also those that `fit` cuts."""
    return pa.schema([pa.field(name, type.image) for name, (_, type) in columns_of(stream).items()])
