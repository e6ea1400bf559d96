"""Types, tables of other people, and rows that PostgreSQL can't hold, on a real server."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import Batch, Slice, Stream, WriteMode
from headrace.connectors.postgres import layout
from headrace.connectors.postgres import stage as stage_module
from headrace.connectors.postgres.image import type_of
from headrace.connectors.postgres.target import PostgresTarget
from headrace.errors import ConfigError
from servers.postgres import PostgresServer
from tests.integration.postgres_target import (
    APPEND,
    REPLACE,
    UPSERT,
    batch,
    load,
    orders,
    query,
    stage,
    table,
    target_at,
    token,
)

UTC = dt.UTC


@pytest.fixture
def target(postgres_url: str) -> Iterator[PostgresTarget]:
    with closing(target_at(postgres_url)) as opened:
        yield opened


def micros(*values: int | None) -> pa.Array:
    return pa.array(values, pa.timestamp("us"))


# an Arrow array, the column it makes, its image, and what the server shows of it as text
ROUND_TRIPS: list[tuple[pa.Array, str, pa.DataType, list[str | None]]] = [
    (pa.array([-128, 127, None], pa.int8()), "smallint", pa.int16(), ["-128", "127", None]),
    (pa.array([-(2**15), None], pa.int16()), "smallint", pa.int16(), ["-32768", None]),
    (pa.array([2**31 - 1], pa.int32()), "integer", pa.int32(), ["2147483647"]),
    (pa.array([-(2**63), 2**63 - 1], pa.int64()), "bigint", pa.int64(), [str(-(2**63)), str(2**63 - 1)]),
    (pa.array([255], pa.uint8()), "smallint", pa.int16(), ["255"]),
    (pa.array([2**16 - 1], pa.uint16()), "integer", pa.int32(), ["65535"]),
    (pa.array([2**32 - 1], pa.uint32()), "bigint", pa.int64(), [str(2**32 - 1)]),
    (pa.array([2**64 - 1], pa.uint64()), "numeric(20,0)", pa.decimal128(20, 0), [str(2**64 - 1)]),
    (pa.array([1.5, None], pa.float16()), "real", pa.float32(), ["1.5", None]),
    (
        pa.array([0.1, 3.4028235e38, 1e-45, math.nan, math.inf, -math.inf, -0.0], pa.float32()),
        "real",
        pa.float32(),
        ["0.1", "3.4028235e+38", "1e-45", "NaN", "Infinity", "-Infinity", "-0"],
    ),
    (
        pa.array([0.1, 1.7976931348623157e308, 5e-324, math.nan, -math.inf, None], pa.float64()),
        "double precision",
        pa.float64(),
        ["0.1", "1.7976931348623157e+308", "5e-324", "NaN", "-Infinity", None],
    ),
    (
        pa.array([Decimal("-1234567.89"), Decimal("0.00"), None], pa.decimal128(10, 2)),
        "numeric(10,2)",
        pa.decimal128(10, 2),
        ["-1234567.89", "0.00", None],
    ),
    (
        pa.array([Decimal("1E-20"), Decimal("-1E-20")], pa.decimal128(30, 20)),
        "numeric(30,20)",
        pa.decimal128(30, 20),
        ["0.00000000000000000001", "-0.00000000000000000001"],
    ),
    (
        pa.array([Decimal("9" * 60)], pa.decimal256(60, 0)),
        "numeric(60,0)",
        pa.decimal256(60, 0),
        ["9" * 60],
    ),
    (pa.array([Decimal("12300")], pa.decimal128(3, -2)), "numeric(5,0)", pa.decimal128(5, 0), ["12300"]),
    (pa.array(["", "a", None], pa.string()), "text", pa.string(), ["", "a", None]),
    (
        pa.array(
            ['a"b', "a\\b", "a,b", "a\nb\r\nc", "\\.", "\\N", "NULL", " ü 😀 ", "\t"], pa.large_string()
        ),
        "text",
        pa.string(),
        ['a"b', "a\\b", "a,b", "a\nb\r\nc", "\\.", "\\N", "NULL", " ü 😀 ", "\t"],
    ),
    (pa.array(["x", None], pa.string_view()), "text", pa.string(), ["x", None]),
    (pa.array(["x", None, "x"]).dictionary_encode(), "text", pa.string(), ["x", None, "x"]),
    (pa.nulls(2), "text", pa.string(), [None, None]),
    (
        pa.array([b"", b"\0\xff\\x", None, bytes(range(256))], pa.binary()),
        "bytea",
        pa.binary(),
        ["\\x", "\\x00ff5c78", None, "\\x" + bytes(range(256)).hex()],
    ),
    (pa.array([b"ab", None], pa.binary(2)), "bytea", pa.binary(), ["\\x6162", None]),
    (pa.array([b"ab"], pa.large_binary()), "bytea", pa.binary(), ["\\x6162"]),
    (pa.array([b"ab"], pa.binary_view()), "bytea", pa.binary(), ["\\x6162"]),
    (pa.array([True, False, None]), "boolean", pa.bool_(), ["true", "false", None]),
    (
        pa.array([0, -719_162, 2_932_896, None, -25_567], pa.date32()),
        "date",
        pa.date32(),
        ["1970-01-01", "0001-01-01", "9999-12-31", None, "1900-01-01"],
    ),
    (
        pa.array([-719_163, -2_440_588, 2_932_897, 2_145_042_905], pa.date32()),
        "date",
        pa.date32(),
        ["0001-12-31 BC", "4714-11-24 BC", "10000-01-01", "5874897-12-31"],
    ),
    (pa.array([86_400_000], pa.date64()), "date", pa.date32(), ["1970-01-02"]),
    (
        pa.array([0, 1, 86_399_999_999, 86_400_000_000, None], pa.time64("us")),
        "time without time zone",
        pa.time64("us"),
        ["00:00:00", "00:00:00.000001", "23:59:59.999999", "24:00:00", None],
    ),
    (pa.array([61], pa.time32("s")), "time without time zone", pa.time64("us"), ["00:01:01"]),
    (pa.array([61_000], pa.time64("ns")), "time without time zone", pa.time64("us"), ["00:00:00.000061"]),
    (
        micros(0, -1, 253_402_300_799_999_999, None),
        "timestamp without time zone",
        pa.timestamp("us"),
        ["1970-01-01 00:00:00", "1969-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999", None],
    ),
    (
        micros(-62_135_596_800_000_001, -210_866_803_200_000_000, 253_402_300_800_000_000),
        "timestamp without time zone",
        pa.timestamp("us"),
        ["0001-12-31 23:59:59.999999 BC", "4714-11-24 00:00:00 BC", "10000-01-01 00:00:00"],
    ),
    (
        pa.array([-1_000, 1_000], pa.timestamp("ns")),
        "timestamp without time zone",
        pa.timestamp("us"),
        ["1969-12-31 23:59:59.999999", "1970-01-01 00:00:00.000001"],
    ),
    (
        pa.array([1], pa.timestamp("s")),
        "timestamp without time zone",
        pa.timestamp("us"),
        ["1970-01-01 00:00:01"],
    ),
    (
        pa.array([0, -62_135_596_800_000_001], pa.timestamp("us", "Europe/Berlin")),
        "timestamp with time zone",
        pa.timestamp("us", "UTC"),
        ["1970-01-01 00:00:00+00", "0001-12-31 23:59:59.999999+00 BC"],
    ),
    (
        pa.array([[1, None], [], None, [3]], pa.list_(pa.int32())),
        "integer[]",
        pa.list_(pa.int32()),
        ["{1,NULL}", "{}", None, "{3}"],
    ),
    (
        pa.array([["", 'a"b', "a\\b", "NULL", None, "{,}"]], pa.large_list(pa.string())),
        "text[]",
        pa.list_(pa.string()),
        ['{"","a\\"b","a\\\\b","NULL",NULL,"{,}"}'],
    ),
    (
        pa.array([[1.5, math.nan], None], pa.list_(pa.float64(), 2)),
        "double precision[]",
        pa.list_(pa.float64()),
        ["{1.5,NaN}", None],
    ),
    (
        pa.array([[b"\0a", None]], pa.list_(pa.binary())),
        "bytea[]",
        pa.list_(pa.binary()),
        ['{"\\\\x0061",NULL}'],
    ),
    (
        pa.array([[Decimal("1.10")]], pa.list_(pa.decimal128(5, 2))),
        "numeric(5,2)[]",
        pa.list_(pa.decimal128(5, 2)),
        ["{1.10}"],
    ),
    (
        pa.array([[dt.datetime(2020, 2, 29, 1, tzinfo=UTC)]], pa.list_(pa.timestamp("us", "UTC"))),
        "timestamp with time zone[]",
        pa.list_(pa.timestamp("us", "UTC")),
        ['{"2020-02-29 01:00:00+00"}'],
    ),
    (pa.array([[True, False]]), "boolean[]", pa.list_(pa.bool_()), ["{t,f}"]),
    (
        pa.array(
            [{"b": 1, "a": None}, None, {"b": None, "a": ' "\\\n'}],
            pa.struct([("b", pa.int64()), ("a", pa.string())]),
        ),
        "jsonb",
        pa.string(),
        ['{"a": null, "b": 1}', None, '{"a": " \\"\\\\\\n", "b": null}'],
    ),
    (
        pa.array([[("k", [1]), ("l", None)], None, []], pa.map_(pa.string(), pa.list_(pa.int64()))),
        "jsonb",
        pa.string(),
        ['{"k": [1], "l": null}', None, "{}"],
    ),
    (pa.array([[[1], [2, None]], None]), "jsonb", pa.string(), ["[[1], [2, null]]", None]),
    (
        pa.array(
            [{"n": Decimal("1.10"), "f": math.inf, "t": dt.datetime(2020, 1, 2), "x": b"\1", "z": True}],
            pa.struct(
                [
                    ("n", pa.decimal128(9, 2)),
                    ("f", pa.float64()),
                    ("t", pa.timestamp("us")),
                    ("x", pa.binary()),
                    ("z", pa.bool_()),
                ]
            ),
        ),
        "jsonb",
        pa.string(),
        ['{"f": "inf", "n": 1.10, "t": "2020-01-02 00:00:00.000000", "x": "\\\\x01", "z": true}'],
    ),
    (pa.array(['{"a": 1}', None], pa.json_()), "jsonb", pa.string(), ['{"a": 1}', None]),
    (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(range(16))], pa.binary(16))),
        "uuid",
        pa.string(),
        ["00010203-0405-0607-0809-0a0b0c0d0e0f"],
    ),
]


def test_the_page_shows_the_types_and_codes_that_the_code_has() -> None:
    samples = [
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64(), pa.decimal128(12, 2), pa.decimal256(60, 4)),
        *(pa.string(), pa.binary(), pa.bool_(), pa.date32(), pa.time64("us")),
        *(
            pa.timestamp("us"),
            pa.timestamp("us", "UTC"),
            pa.list_(pa.int32()),
            pa.list_(pa.list_(pa.int32())),
        ),
        *(pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64()), pa.json_(), pa.uuid()),
        *(pa.null(), pa.duration("us")),
    ]
    page = (Path(__file__).parents[2] / "docs/postgres-target.md").read_text()
    rows = [line for line in page.partition("## Types")[2].partition("\n## ")[0].splitlines() if "`" in line]
    expected = []
    for arrow in samples:
        type = type_of(arrow)
        shown = f"`{type}` | `{type.image}`" if type else "– | –"
        expected.append(f"| `{arrow}` | {shown} |")
    assert [row for row in rows if row.startswith("|")] == expected
    codes = set(re.findall(r"postgres\.value\.\w+", page))
    source = Path(layout.__file__).read_text() + Path(stage_module.__file__).read_text()
    assert codes == set(re.findall(r'"(postgres\.value\.\w+)"', source))


@pytest.fixture(scope="module")
def shared_url(postgres_server: PostgresServer) -> Iterator[str]:
    """One database for tests that differ in the name of their table."""
    with postgres_server.database("target_types") as url:
        query(url, "CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
        yield f"{url}?options=-cTimeZone%3DUTC"


@pytest.fixture(scope="module")
def shared_target(shared_url: str) -> Iterator[PostgresTarget]:
    with closing(target_at(shared_url.partition("?")[0])) as opened:
        yield opened


@pytest.mark.parametrize(("mode", "sliced"), [(APPEND, False), (UPSERT, True)], ids=["whole", "sliced"])
@pytest.mark.parametrize("case", range(len(ROUND_TRIPS)), ids=[str(a.type) for a, *_ in ROUND_TRIPS])
def test_every_type_is_written_and_shown_as_documented(
    shared_target: PostgresTarget, shared_url: str, case: int, mode: WriteMode, sliced: bool
) -> None:
    array, column, image, shown = ROUND_TRIPS[case]
    array, shown = (array.slice(1), shown[1:]) if sliced else (array, shown)
    name = f"t_{case}_{mode}_{sliced}"
    schema = pa.schema([("id", pa.int64()), ("v", array.type)])
    stream = Stream(name=name, schema=schema, primary_key=("id",))
    shared_target.prepare(stream, mode)
    rows = pa.RecordBatch.from_arrays([pa.array(range(len(array)), pa.int64()), array], schema=schema)
    staged, rejects = stage(shared_target, stream, mode, Batch(stream.id, rows))
    shared_target.publish(stream, mode, [staged], token())
    assert rejects == []
    assert shared_target.image(stream).field("v").type == image
    assert shared_target.describe(stream) == shared_target.image(stream)
    declared = (
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attname = 'v' AND attrelid = %s::regclass"
    )
    assert query(shared_url, declared, f'"{name}"') == [(column,)]
    found = query(shared_url, f'SELECT v::text FROM "{name}" ORDER BY id')
    assert [row[0] for row in found] == shown


@pytest.mark.parametrize(
    "type",
    [pa.duration("us"), pa.month_day_nano_interval(), pa.list_(pa.timestamp("ns")), pa.list_view(pa.int8())],
)
def test_a_type_without_an_image_is_refused_by_column(target: PostgresTarget, type: pa.DataType) -> None:
    with pytest.raises(ConfigError) as caught:
        target.image(orders(odd=type))
    assert (caught.value.code, caught.value.field) == ("postgres.type", "odd")
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["xmin", "ctid", "", "a\0b", "_headrace_order"])
def test_a_column_name_that_postgres_refuses_is_refused_first(target: PostgresTarget, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        target.image(orders(**{name: pa.string()}))
    assert (caught.value.code, caught.value.field) == ("postgres.column_name", name)


def test_a_table_name_that_postgres_refuses_is_refused_first(target: PostgresTarget) -> None:
    for name in ("a\0b", "_headrace_ledger"):
        with pytest.raises(ConfigError) as caught:
            target.image(orders(name))
        assert caught.value.code == "postgres.table_name"


def test_a_table_gets_new_columns_and_wider_types(target: PostgresTarget, postgres_url: str) -> None:
    narrow = orders(
        a=pa.int16(),
        b=pa.int32(),
        c=pa.int64(),
        d=pa.float32(),
        e=pa.decimal128(5, 2),
        f=pa.list_(pa.int16()),
        g=pa.int16(),
    )
    load(
        target,
        narrow,
        UPSERT,
        [{"id": 1, "a": 1, "b": 2, "c": 3, "d": 0.5, "e": Decimal("1.10"), "f": [1], "g": 1}],
    )
    wide = orders(
        a=pa.int32(), b=pa.int64(), c=pa.decimal128(21, 2), d=pa.float64(), e=pa.decimal128(12, 4),
        f=pa.list_(pa.int64()), g=pa.float64(), new=pa.string(),
    )  # fmt: skip
    new = {"id": 2, "a": 2**31 - 1, "b": 2**40, "c": Decimal("1e18"), "d": 0.1, "e": Decimal("12345678.1234"),
           "f": [2**40], "g": 0.1, "new": "x"}  # fmt: skip
    load(target, wide, UPSERT, [new], 2)
    assert table(postgres_url) == [
        (1, 1, 2, Decimal("3.00"), 0.5, Decimal("1.1000"), [1], 1.0, None),
        (
            2,
            2**31 - 1,
            2**40,
            Decimal("1000000000000000000.00"),
            0.1,
            Decimal("12345678.1234"),
            [2**40],
            0.1,
            "x",
        ),
    ]
    assert target.describe(wide) == target.image(wide)


def test_a_narrower_stream_leaves_a_wider_table_alone(target: PostgresTarget, postgres_url: str) -> None:
    query(
        postgres_url,
        "CREATE TABLE orders (id bigint, n numeric, i numeric(12,1), f float8, extra text DEFAULT 'd')",
    )
    stream = orders(n=pa.decimal128(9, 3), i=pa.int32(), f=pa.float32())
    load(target, stream, APPEND, [{"id": 1, "n": Decimal("1.001"), "i": 2**31 - 1, "f": 0.5}])
    assert table(postgres_url) == [(1, Decimal("1.001"), Decimal("2147483647.0"), 0.5, "d")]
    described = target.describe(stream)
    assert described is not None
    assert described.field("n").type == pa.decimal128(9, 3)
    assert described.names == ["id", "n", "i", "f", "extra"]


@pytest.mark.parametrize(
    ("column", "type", "shown"),
    [
        ("note date", pa.string(), "date"),
        ("note integer", pa.string(), "integer"),
        ("note text", pa.int64(), "text"),
        ("note timestamptz", pa.timestamp("us"), "timestamp with time zone"),
        ("note bigint", pa.float64(), "bigint"),
        ("note text GENERATED ALWAYS AS (id::text) STORED", pa.string(), "generated"),
    ],
)
def test_a_table_of_another_shape_is_refused_and_stays_as_it_is(
    target: PostgresTarget, postgres_url: str, column: str, type: pa.DataType, shown: str
) -> None:
    query(postgres_url, f"CREATE TABLE orders (id bigint, {column})")
    query(postgres_url, "INSERT INTO orders (id) VALUES (1)")
    before = table(postgres_url)
    stream = orders(note=type)
    for attempt in (
        lambda: target.prepare(stream, REPLACE),
        lambda: target.open(stream, REPLACE, Slice(key="s", reads=())),
    ):
        with pytest.raises(ConfigError, match=shown) as caught:
            attempt()
        assert caught.value.code == "postgres.schema_mismatch"
        assert caught.value.remedy
    assert table(postgres_url) == before


def test_a_required_column_that_the_stream_lacks_is_named(target: PostgresTarget, postgres_url: str) -> None:
    query(
        postgres_url,
        "CREATE TABLE orders (id bigint, note text, who text NOT NULL, at timestamp NOT NULL DEFAULT now(), "
        "n int GENERATED ALWAYS AS IDENTITY)",
    )
    with pytest.raises(ConfigError, match="'who', text NOT NULL") as caught:
        target.prepare(orders(), APPEND)
    assert caught.value.field == "who"
    query(postgres_url, "ALTER TABLE orders ALTER who SET DEFAULT 'me'")
    load(target, orders(), APPEND, [{"id": 1, "note": "a"}])
    assert query(postgres_url, "SELECT id, who, n FROM orders") == [(1, "me", 1)]


def test_a_column_that_a_view_depends_on_is_named_when_it_would_have_to_grow(
    target: PostgresTarget, postgres_url: str
) -> None:
    query(postgres_url, "CREATE TABLE orders (id int, note text)")
    query(postgres_url, "CREATE VIEW seen AS SELECT id FROM orders")
    with pytest.raises(ConfigError, match="view") as caught:
        target.prepare(orders(), APPEND)
    assert caught.value.code == "postgres.schema_mismatch"


def test_a_view_is_no_table(target: PostgresTarget, postgres_url: str) -> None:
    query(postgres_url, "CREATE VIEW orders AS SELECT 1 AS id")
    with pytest.raises(ConfigError) as caught:
        target.describe(orders())
    assert caught.value.code == "postgres.not_a_table"


def test_upsert_without_a_usable_key_is_refused(target: PostgresTarget) -> None:
    keyless = Stream(name="orders", schema=pa.schema([("id", pa.int64())]))
    misnamed = Stream(name="orders", schema=pa.schema([("id", pa.int64())]), primary_key=("no",))
    for stream, code in ((keyless, "postgres.no_key"), (misnamed, "postgres.key_missing")):
        with pytest.raises(ConfigError) as caught:
            target.prepare(stream, UPSERT)
        assert (caught.value.code, caught.value.field) == (code, "key")


def test_a_partitioned_table_and_one_with_an_identity_are_written(
    target: PostgresTarget, postgres_url: str
) -> None:
    query(postgres_url, "CREATE TABLE orders (id bigint PRIMARY KEY, note text) PARTITION BY RANGE (id)")
    query(postgres_url, "CREATE TABLE one PARTITION OF orders FOR VALUES FROM (0) TO (10)")
    query(postgres_url, "CREATE TABLE two PARTITION OF orders FOR VALUES FROM (10) TO (20)")
    query(postgres_url, "CREATE TABLE other (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    for name, sequence in (("orders", 1), ("other", 1)):
        load(target, orders(name), UPSERT, [{"id": 1, "note": "a"}, {"id": 11, "note": "a"}], sequence)
        load(target, orders(name), UPSERT, [{"id": 11, "note": "b"}], sequence + 1)
        assert table(postgres_url, name) == [(1, "a"), (11, "b")]


def test_a_schema_change_in_mid_write_keeps_the_rows_before_it(
    target: PostgresTarget, postgres_url: str
) -> None:
    first, then = orders(n=pa.int16()), orders(n=pa.int64(), new=pa.list_(pa.string()))
    target.prepare(first, UPSERT)
    with closing(target.open(first, UPSERT, Slice(key="s", reads=()))) as writer:
        writer.write(batch(first, [{"id": 1, "n": 1}, {"id": 2, "n": 2}]))
        target.prepare(then, UPSERT)
        writer.change_schema(then)
        writer.write(batch(then, [{"id": 2, "n": 2**40, "new": ["x"]}]))
        changed = writer.stage()
    old, _ = stage(
        target, orders(note=pa.string()) if False else then, UPSERT, batch(then, [{"id": 3, "n": 3}])
    )
    target.publish(then, UPSERT, [changed, old], token())
    assert changed.rows == 3
    assert table(postgres_url) == [(1, 1, None), (2, 2**40, ["x"]), (3, 3, None)]


def test_rows_staged_before_and_after_a_schema_change_go_together(
    target: PostgresTarget, postgres_url: str
) -> None:
    first, then = orders(n=pa.int16()), orders(n=pa.decimal128(12, 2), new=pa.list_(pa.string()))
    for mode, name in ((UPSERT, "orders"), (APPEND, "appended")):
        one, two = (Stream(name=name, schema=s.schema, primary_key=("id",)) for s in (first, then))
        target.prepare(one, mode)
        before, _ = stage(target, one, mode, batch(one, [{"id": 1, "n": 1}]))
        target.prepare(two, mode)
        after, _ = stage(target, two, mode, batch(two, [{"id": 2, "n": Decimal("2.50"), "new": ["x"]}]))
        target.publish(two, mode, [before, after], token())
        assert table(postgres_url, name) == [(1, Decimal("1.00"), None), (2, Decimal("2.50"), ["x"])]


REFUSED: list[tuple[str, pa.DataType, Any, str]] = [
    ("text", pa.string(), "a\0b", "postgres.value.nul"),
    ("varchar(3)", pa.string(), "four", "postgres.value.too_long"),
    ("varchar(3)", pa.string(), "abc ", "postgres.value.too_long"),  # COPY would cut the blank off
    ("text NOT NULL", pa.string(), None, "postgres.value.null"),
    ("date", pa.date32(), 2_145_042_906, "postgres.value.range"),
    ("date", pa.date32(), -2_440_589, "postgres.value.range"),
    ("timestamp", pa.timestamp("us"), -210_866_803_200_000_001, "postgres.value.range"),
    ("timestamp", pa.timestamp("s"), 2**62, "postgres.value.range"),
    ("timestamp", pa.timestamp("ns"), 1_001, "postgres.value.range"),
    ("timestamp(0)", pa.timestamp("us"), 1, "postgres.value.range"),
    ("time", pa.time64("us"), 86_400_000_001, "postgres.value.range"),
    ("uuid", pa.string(), "not one", "postgres.value.refused"),
    ("jsonb", pa.string(), "{", "postgres.value.refused"),
    ("positive", pa.int32(), -1, "postgres.value.refused"),
    ("integer CHECK (v > 0)", pa.int32(), -1, "postgres.value.refused"),
    ("text[]", pa.list_(pa.string()), ["a\0b"], "postgres.value.refused"),
    ("jsonb", pa.struct([("a", pa.string())]), {"a": "\0"}, "postgres.value.refused"),
]
GOOD: dict[pa.DataType, Any] = {
    pa.string(): None,
    pa.int32(): 1,
    pa.list_(pa.string()): ["x"],
    pa.struct([("a", pa.string())]): {"a": "x"},
}


@pytest.mark.parametrize("mode", [APPEND, UPSERT])
@pytest.mark.parametrize("case", range(len(REFUSED)), ids=[f"{c[0]}-{c[3]}" for c in REFUSED])
def test_a_row_that_the_table_cannot_hold_comes_back_and_the_others_go_on(
    shared_target: PostgresTarget, shared_url: str, case: int, mode: WriteMode
) -> None:
    column, type, value, code = REFUSED[case]
    name = f"r_{case}_{mode}"
    query(shared_url, f"CREATE TABLE {name} (id bigint PRIMARY KEY, v {column})")
    stream = orders(name, v=type)
    shared_target.prepare(stream, mode)
    fine = ("" if column.startswith("text") else None) if pa.types.is_string(type) else GOOD.get(type, 0)
    cells = pa.array([fine, fine, value, fine, fine], type)
    rows = pa.RecordBatch.from_arrays([pa.array([1, 2, 3, 4, 5], pa.int64()), cells], schema=stream.schema)
    whole = Batch(stream.id, rows)
    (staged, rejects), (again, same) = (stage(shared_target, stream, mode, whole) for _ in range(2))
    shared_target.publish(stream, mode, [staged], token())
    assert staged.rows == again.rows == 4
    assert [(r.code, r.where["key"], r.stream) for r in rejects] == [(code, {"id": 3}, name)]
    assert same == rejects
    assert rejects[0].reason
    json.dumps(rejects[0].to_json())
    assert query(shared_url, f"SELECT id FROM {name} ORDER BY id") == [(1,), (2,), (4,), (5,)]


def test_null_keys_are_refused_and_their_rows_told_apart(target: PostgresTarget, postgres_url: str) -> None:
    target.prepare(orders(), UPSERT)
    rows: list[dict[str, Any]] = [
        {"id": None, "note": "a"},
        {"id": 1, "note": "b"},
        {"id": None, "note": "c"},
    ]
    staged, rejects = stage(target, orders(), UPSERT, batch(orders(), rows))
    target.publish(orders(), UPSERT, [staged], token())
    assert [r.code for r in rejects] == ["postgres.value.null_key"] * 2
    assert rejects[0].where != rejects[1].where
    assert table(postgres_url) == [(1, "b")]


def test_a_delete_is_not_refused_for_what_it_carries_besides_its_key(
    target: PostgresTarget, postgres_url: str
) -> None:
    load(target, orders(), UPSERT, [{"id": 1, "note": "a"}])
    staged, rejects = stage(target, orders(), UPSERT, batch(orders(), [{"id": 1, "note": "\0"}], [2]))
    target.publish(orders(), UPSERT, [staged], token(2))
    assert (rejects, table(postgres_url)) == ([], [])


def test_bad_rows_among_many_are_found_one_by_one(target: PostgresTarget, postgres_url: str) -> None:
    query(postgres_url, "CREATE TABLE orders (id bigint, note uuid)")
    stream = Stream(name="orders", schema=orders().schema)
    target.prepare(stream, APPEND)
    bad = {0, 1, 500, 777, 998, 999}
    rows = [{"id": n, "note": "bad" if n in bad else f"{n:032x}"} for n in range(1000)]
    staged, rejects = stage(target, stream, APPEND, batch(stream, rows))
    target.publish(stream, APPEND, [staged], token())
    assert [reject.row and dict(reject.row)["id"] for reject in rejects] == sorted(bad)  # type: ignore[arg-type]
    assert len({str(reject.where) for reject in rejects}) == len(bad)
    assert staged.rows == 994
    assert query(postgres_url, "SELECT count(*) FROM orders") == [(994,)]
