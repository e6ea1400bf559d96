"""The decode of COPY blocks, against psycopg's own reading of the same rows, for random rows."""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from collections.abc import Iterator
from decimal import Context, Decimal
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from headrace import native
from headrace.connectors.postgres import compiled, receive
from headrace.connectors.postgres.decode import blocks, decode
from headrace.connectors.postgres.types import Image, Kind

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    whole = st.integers(-(10**precision) + 1, 10**precision - 1)
    return whole.map(lambda n: Decimal(n).scaleb(-scale, context=EXACT))


EXACT = Context(prec=100)

COLUMNS: list[tuple[str, Image, st.SearchStrategy[Any]]] = [
    ("boolean", Image(pa.bool_(), Kind.BOOL), st.booleans()),
    ("smallint", Image(pa.int16(), Kind.INT2), st.integers(-(2**15), 2**15 - 1)),
    ("integer", Image(pa.int32(), Kind.INT4), st.integers(-(2**31), 2**31 - 1)),
    ("bigint", Image(pa.int64(), Kind.INT8), st.integers(-(2**63), 2**63 - 1)),
    ("oid", Image(pa.int64(), Kind.OID), st.integers(0, 2**32 - 1)),
    ("real", Image(pa.float32(), Kind.FLOAT4), st.floats(width=32)),
    ("double precision", Image(pa.float64(), Kind.FLOAT8), st.floats()),
    ("numeric(12,2)", Image(pa.decimal128(12, 2), Kind.NUMERIC), decimals(12, 2)),
    ("numeric(38,19)", Image(pa.decimal128(38, 19), Kind.NUMERIC), decimals(38, 19)),
    ("numeric(38)", Image(pa.decimal128(38, 0), Kind.NUMERIC), decimals(38, 0)),
    ("numeric(7,7)", Image(pa.decimal128(7, 7), Kind.NUMERIC), decimals(7, 7)),
    ("numeric(76,31)", Image(pa.decimal256(76, 31), Kind.NUMERIC), decimals(76, 31)),
    ("date", Image(pa.date32(), Kind.DATE), st.dates()),
    ("time", Image(pa.time64("us"), Kind.TIME), st.times()),
    ("timestamp", Image(pa.timestamp("us"), Kind.TIMESTAMP), st.datetimes()),
    (
        "timestamptz",
        Image(pa.timestamp("us", "UTC"), Kind.TIMESTAMP),
        st.datetimes(timezones=st.just(dt.UTC)),
    ),
    ("text", Image(pa.string(), Kind.TEXT), text),
    ("bytea", Image(pa.binary(), Kind.BYTES), st.binary(max_size=300)),
    ("jsonb", Image(pa.string(), Kind.JSONB), st.integers(0, 10**30).map(str)),
    ("uuid", Image(pa.string(), Kind.UUID), st.uuids().map(str)),
    *(
        (f"{name}[]", Image(pa.list_(arrow), Kind.LIST, "", Image(arrow, kind)), st.lists(st.none() | each))
        for name, arrow, kind, each in (
            ("bigint", pa.int64(), Kind.INT8, st.integers(-(2**63), 2**63 - 1)),
            ("text", pa.string(), Kind.TEXT, text),
            ("numeric(20,3)", pa.decimal128(20, 3), Kind.NUMERIC, decimals(20, 3)),
            ("boolean", pa.bool_(), Kind.BOOL, st.booleans()),
        )
    ),
]
CASTS = {"jsonb": "::text", "uuid": "::text", "real": "::float8"}
NAMES = [f"c{number}" for number in range(len(COLUMNS))]
IMAGES = [image for _, image, _ in COLUMNS]
rows = st.lists(st.tuples(*(st.none() | each for *_, each in COLUMNS)), max_size=12)


@pytest.fixture(scope="module")
def db(postgres_server: Any) -> Iterator[psycopg.Connection[Any]]:
    with postgres_server.database("decode") as url, psycopg.connect(url) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        columns = ", ".join(f"{n} {type}" for n, (type, *_) in zip(NAMES, COLUMNS, strict=True))
        connection.execute(f"CREATE TABLE t ({columns})")
        connection.commit()
        yield connection


def plain(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def messages(db: psycopg.Connection[Any], query: str) -> list[bytes]:
    with db.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)") as copy:  # type: ignore[arg-type]
        return [bytes(message) for message in copy]


def decoded(parts: list[bytes], **bounds: int) -> list[Any]:
    found = []
    for part in blocks(parts, len(IMAGES), **bounds):
        assert part is not None
        batch, bad = decode(*part, NAMES, IMAGES)
        batch.validate(full=True)
        assert not bad
        found += batch.to_pylist()
    return [plain(list(row.values())) for row in found]


def compiled_rows(parts: list[bytes], size: int = 1 << 20) -> list[Any]:
    library = native.library()
    assert library is not None, native.missing()
    found = []
    for block in compiled.decoded(library, receive.joined(p for p in parts if p), NAMES, IMAGES, size=size):
        assert block is not None and not block.bad
        block.rows.validate(full=True)
        found += block.rows.to_pylist()
    return [plain(list(row.values())) for row in found]


@settings(
    max_examples=3,
    phases=[__import__("hypothesis").Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(rows=rows, data=st.data())
def test_random_rows_are_decoded_as_psycopg_reads_them(db: Any, rows: list[Any], data: Any) -> None:
    db.execute("TRUNCATE t")
    values = sql.SQL(", ").join(sql.Placeholder() * len(COLUMNS))
    with db.cursor() as cursor:
        cursor.executemany(sql.SQL("INSERT INTO t VALUES ({})").format(values), rows)
    casts = [n + CASTS.get(type, "") for n, (type, *_) in zip(NAMES, COLUMNS, strict=True)]
    expected = [plain(row) for row in db.execute(f"SELECT {', '.join(casts)} FROM t")]
    parts = messages(db, "SELECT * FROM t")
    assert decoded(parts) == expected
    assert decoded(parts, rows=2) == expected
    assert compiled_rows(parts) == expected
    # a relay may cut the stream anywhere
    stream = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]
    assert decoded(pieces, size=64) == expected
    assert compiled_rows(pieces, size=64) == expected
    db.rollback()


def test_nan_and_infinity_are_told_apart_in_floats_and_refused_in_decimals() -> None:
    def number(*words: int) -> bytes:
        return struct.pack(f">{len(words)}H", *words)

    cells = [struct.pack(">d", math.nan), number(0, 0, 0xC000, 0)]
    row = struct.pack(">h", 2) + b"".join(struct.pack(">i", len(c)) + c for c in cells)
    images = [Image(pa.float64(), Kind.FLOAT8), Image(pa.decimal128(5, 2), Kind.NUMERIC)]
    batch, bad = decode(row, np.array([0]), ["f", "d"], images)
    assert math.isnan(batch.column("f")[0].as_py())
    assert [(b.row, b.column, b.text) for b in bad] == [(0, 1, "NaN")]


@pytest.mark.parametrize(
    "broken",
    [
        b"\0\1\0\0\0\4\0\0\0",  # a field that is cut off
        b"\0\2\0\0\0\4\0\0\0\1",  # another number of fields
        b"\0\1\0\0\0\2\0\1",  # a value of another length
        b"\0\1\0\0\0\4\0\0\0\1\0",  # bytes left over
    ],
)
def test_bytes_that_are_not_rows_of_these_columns_are_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"row|field|long"):
        decode(broken, np.array([0]), ["a"], [Image(pa.int32(), Kind.INT4)])


def test_a_copy_that_ends_in_mid_row_is_refused() -> None:
    head = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    with pytest.raises(ValueError, match="middle of a row"):
        list(blocks([head, b"\0\1\0\0\0\4\0\0"], 1))
    with pytest.raises(ValueError, match="not binary COPY"):
        list(blocks([b"id,name\n1,a\n2,b\n3,c\n"], 1))
    assert list(blocks([head + b"\xff\xff"], 1)) == []
