"""Which Arrow image a PostgreSQL column has: it follows from the catalogue alone, never from the values.

docs/postgres-types.md shows the images; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa


class Kind(StrEnum):
    """The binary form in which COPY brings a value."""

    BOOL = "bool"
    INT2 = "int2"
    INT4 = "int4"
    INT8 = "int8"
    OID = "oid"
    FLOAT4 = "float4"
    FLOAT8 = "float8"
    NUMERIC = "numeric"
    DATE = "date"
    TIME = "time"
    TIMESTAMP = "timestamp"
    TEXT = "text"
    BYTES = "bytes"
    JSONB = "jsonb"  # a version byte, then text
    UUID = "uuid"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Image:
    """An Arrow type, and how to get there: `cast` stands behind the column in SQL."""

    arrow: pa.DataType
    kind: Kind
    cast: str = ""
    element: Image | None = None


class PgType(NamedTuple):
    """A row of pg_type. `base` and `base_modifier` are a domain's, `element` is an array's."""

    oid: int
    kind: str
    base: int
    base_modifier: int
    element: int
    category: str


_TEXT = Image(pa.string(), Kind.TEXT)
_AS_TEXT = Image(pa.string(), Kind.TEXT, "::pg_catalog.text")

# By the numbers of pg_type.dat, which never change. What is not here is shown as the server's text.
_SCALARS: Mapping[int, Image] = {
    16: Image(pa.bool_(), Kind.BOOL),
    17: Image(pa.binary(), Kind.BYTES),
    19: _TEXT,  # name
    20: Image(pa.int64(), Kind.INT8),
    21: Image(pa.int16(), Kind.INT2),
    23: Image(pa.int32(), Kind.INT4),
    25: _TEXT,  # text
    26: Image(pa.int64(), Kind.OID),
    114: _TEXT,  # json
    700: Image(pa.float32(), Kind.FLOAT4),
    701: Image(pa.float64(), Kind.FLOAT8),
    790: Image(pa.string(), Kind.TEXT, "::pg_catalog.numeric::pg_catalog.text"),  # money: no locale's signs
    1042: _TEXT,  # char(n), padded with blanks to its length
    1043: _TEXT,  # varchar
    1082: Image(pa.date32(), Kind.DATE),
    1083: Image(pa.time64("us"), Kind.TIME),
    1114: Image(pa.timestamp("us"), Kind.TIMESTAMP),
    1184: Image(pa.timestamp("us", "UTC"), Kind.TIMESTAMP),
    2950: Image(pa.string(), Kind.UUID),
    3802: Image(pa.string(), Kind.JSONB),
}
_NUMERIC = 1700
_VECTORS = frozenset({22, 30})  # int2vector and oidvector count as arrays, but are not

CURSORS = frozenset({20, 21, 23, 1082, 1114, 1184})
"""Types of columns that discovery proposes as cursors."""

ORDERED = CURSORS | {25, 26, 700, 701, 1043, _NUMERIC}
"""Types that a cursor may have."""

TIMES = frozenset({1082, 1114, 1184})
"""Types from which a duration can be taken off."""

FLOATING = frozenset({700, 701, _NUMERIC})
"""Types that know NaN and infinity."""


def resolve(types: Mapping[int, PgType], oid: int, modifier: int) -> tuple[int, int]:
    """The type and modifier under any domains."""
    while (found := types.get(oid)) and found.kind == "d":
        oid = found.base
        if modifier < 0:
            modifier = found.base_modifier
    return oid, modifier


def image(types: Mapping[int, PgType], oid: int, modifier: int, dimensions: int = 0) -> Image:
    """The image of a column of type `oid` with a type modifier (-1 for none).

    `dimensions` is what the column was declared with: an array of two and more is shown as text.
    """
    oid, modifier = resolve(types, oid, modifier)
    if oid in _SCALARS:
        return _SCALARS[oid]
    if oid == _NUMERIC:
        return _numeric(modifier)
    found = types.get(oid)
    if found is None or oid in _VECTORS:
        return _AS_TEXT
    if found.kind == "e":
        return _TEXT
    if found.category == "A" and found.element and dimensions <= 1:
        element = image(types, found.element, modifier)
        if element.kind is Kind.LIST:  # an array of a domain over an array
            return _AS_TEXT
        cast = "".join(f"{part}[]" for part in element.cast.replace("::", " ::").split())
        return Image(pa.list_(pa.field("item", element.arrow)), Kind.LIST, cast, element)
    return _AS_TEXT


def _numeric(modifier: int) -> Image:
    if modifier < 0:
        return _AS_TEXT  # any number of digits, NaN and infinities
    precision = ((modifier - 4) >> 16) & 0xFFFF
    scale = (((modifier - 4) & 0x7FF) ^ 1024) - 1024
    digits = max(precision - min(scale, 0), scale)  # numeric(3, -2) has 5 digits, numeric(3, 5) too
    scale = max(scale, 0)
    if digits <= 38:
        return Image(pa.decimal128(digits, scale), Kind.NUMERIC)
    if digits <= 76:
        return Image(pa.decimal256(digits, scale), Kind.NUMERIC)
    return _AS_TEXT
