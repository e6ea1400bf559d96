"""Every PostgreSQL type: what the reference page says is what a server's rows become."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from headrace import native
from headrace.connector import Batch, Selection, StreamRead
from headrace.connectors.postgres.config import PostgresConfig
from headrace.connectors.postgres.source import PostgresSource

PAGE = (Path(__file__).parents[2] / "docs/postgres-types.md").read_text()
LINE = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \| (.+?) \|$", re.MULTILINE)


@pytest.fixture(autouse=True, params=["compiled", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test by the kernels and by numpy."""
    if request.param == "numpy":
        monkeypatch.setattr(native, "library", lambda: None)
    else:
        assert native.library() is not None, native.missing()


@pytest.fixture
def source(postgres_url: str) -> Iterator[PostgresSource]:
    found = PostgresSource(PostgresConfig.parse(PostgresConfig.from_url(postgres_url)))
    yield found
    found.close()


@pytest.fixture
def db(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def read(source: PostgresSource, name: str = "public.t") -> tuple[pa.Table, list[Any]]:
    (stream,) = source.discover(Selection(include=(name,)))
    batches, rejects = [], []
    for piece in source.slices([StreamRead(stream=stream)], {}):
        for event in source.read(piece, {}):
            assert isinstance(event, Batch)
            batches.append(event.rows)
            rejects += event.rejects
    return pa.Table.from_batches(batches, stream.schema), rejects


def shown(value: Any) -> str:
    """A value as the page writes it."""

    def plain(v: Any) -> Any:
        return str(v) if isinstance(v, Decimal) else v

    try:
        python = value.as_py()
    except (ValueError, OverflowError):
        return f"{'day' if pa.types.is_date(value.type) else 'microsecond'} `{value.value}`"
    if isinstance(python, list):
        return f"`{json.dumps([plain(v) for v in python], ensure_ascii=False)}`"
    if isinstance(python, bool):
        return f"`{str(python).lower()}`"
    return f"`{python.hex() if isinstance(python, bytes) else python}`"


def test_the_page_and_the_server_agree_on_every_type(db: Any, source: PostgresSource) -> None:
    for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL):
        db.execute(block)
    lines = LINE.findall(PAGE)
    assert len(lines) > 60
    columns = ", ".join(f"c{i} {type}" for i, (type, *_) in enumerate(lines))
    db.execute(f"CREATE TABLE t ({columns})")
    db.execute(f"INSERT INTO t VALUES ({', '.join(value for _, _, value, _ in lines)})")
    db.execute("INSERT INTO t DEFAULT VALUES")
    rows, rejects = read(source)
    assert not rejects
    said = [(type, arrow, image) for type, arrow, _, image in lines]
    found = [
        (type, str(rows.schema.field(i).type), shown(rows.column(i)[0])) for i, (type, *_) in enumerate(lines)
    ]
    assert found == said
    assert all(column[1].as_py() is None for column in rows.columns)


@pytest.mark.parametrize(
    ("type", "value", "code", "text"),
    [
        ("numeric(5,2)", "NaN", "postgres.value.not_a_number", "NaN"),
        ("numeric(50,2)", "NaN", "postgres.value.not_a_number", "NaN"),
        ("numeric(5,2)[]", "{1,NaN,NaN}", "postgres.value.not_a_number", "NaN"),
        ("time", "24:00:00", "postgres.value.time", "24:00:00"),
        ("timestamptz", "294276-12-31 UTC", "postgres.value.timestamp", "294247"),
        ("int[]", "{{1,2},{3,4}}", "postgres.value.array", "array"),
    ],
)
def test_a_value_without_an_image_rejects_its_row_alone(
    db: Any, source: PostgresSource, type: str, value: str, code: str, text: str
) -> None:
    db.execute(f"CREATE TABLE t (id int, v {type}, note text)")
    db.execute(
        "INSERT INTO t VALUES (1, NULL, 'a'), (2, %s, 'b'), (3, NULL, NULL), (4, %s, 'd')", (value, value)
    )
    rows, rejects = read(source)
    assert rows.column("id").to_pylist() == [1, 3]
    assert [r.code for r in rejects] == [code, code]
    assert text in rejects[0].reason and rejects[0].row["id"] == "2" and rejects[0].row["note"] == "b"
    assert rejects[0].where != rejects[1].where
    again = read(source)[1]
    assert [r.where for r in again] == [r.where for r in rejects]


def test_a_number_of_more_digits_than_its_column_now_has_is_rejected(db: Any, source: PostgresSource) -> None:
    db.execute("CREATE TABLE t (v numeric(60,4), l numeric(60,4)[])")
    db.execute("INSERT INTO t VALUES (12.34, '{1}'), (-12345.6, '{2}'), (0.125, '{3}'), (3, '{1.001}')")
    db.execute("SET allow_system_table_mods = on")
    db.execute(
        "UPDATE pg_attribute SET atttypmod = (5 << 16 | 2) + 4 WHERE attrelid = 't'::regclass AND attnum > 0"
    )
    rows, rejects = read(source)
    assert rows.to_pylist() == [{"v": Decimal("12.34"), "l": [Decimal("1.00")]}]
    assert {r.code for r in rejects} == {"postgres.value.digits"}
    assert [r.row["v"] for r in rejects] == ["-12345.6000", "0.1250", "3.00"]


def test_a_rejected_row_is_known_by_its_key(db: Any, source: PostgresSource) -> None:
    db.execute("CREATE TABLE t (a int, b text, v numeric(5,2), PRIMARY KEY (b, a))")
    db.execute("INSERT INTO t VALUES (1, 'x', 'NaN')")
    assert read(source)[1][0].where == {"key": {"b": "x", "a": "1"}}


def test_generated_columns_and_views_over_them_are_read_alike(db: Any, source: PostgresSource) -> None:
    db.execute("CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED, c numeric(4,1))")
    db.execute("CREATE VIEW v AS SELECT * FROM t")
    db.execute("INSERT INTO t (a, c) VALUES (4, 1.5)")
    expected = [{"a": 4, "b": 8, "c": Decimal("1.5")}]
    assert read(source)[0].to_pylist() == expected
    assert read(source, "public.v")[0].to_pylist() == expected


def test_text_that_is_not_utf8_is_rejected(postgres_server: Any) -> None:
    with postgres_server.connect() as admin:
        admin.execute("CREATE DATABASE raw ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        url = postgres_server.url("raw")
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("CREATE TABLE t (id int, v text)")
            db.execute(
                "INSERT INTO t VALUES (1, 'fine'), (2, convert_from('\\xff'::bytea, 'SQL_ASCII')), (3, NULL)"
            )
        with contextlib.closing(PostgresSource(PostgresConfig.parse(PostgresConfig.from_url(url)))) as source:
            rows, rejects = read(source)
        assert rows.column("id").to_pylist() == [1, 3]
        assert [r.code for r in rejects] == ["postgres.value.encoding"]
    finally:
        with postgres_server.connect() as admin:
            admin.execute("DROP DATABASE raw WITH (FORCE)")


def test_an_empty_table_and_a_table_without_columns_are_read(db: Any, source: PostgresSource) -> None:
    db.execute("CREATE TABLE t (a int); CREATE TABLE n (); INSERT INTO n DEFAULT VALUES")
    assert read(source)[0].num_rows == 0
    assert read(source, "public.n")[0].num_rows == 1


def test_long_texts_and_wide_rows_survive(db: Any, source: PostgresSource) -> None:
    db.execute("CREATE TABLE t (a text, b bytea, c text)")
    db.execute(
        "INSERT INTO t SELECT repeat('ü', n * 1000), repeat('x', n)::bytea FROM generate_series(0, 300) n"
    )
    rows = read(source)[0]
    assert sorted(len(v) for v in rows.column("a").to_pylist()) == [n * 1000 for n in range(301)]
    assert sorted(len(v) for v in rows.column("b").to_pylist()) == list(range(301))
    assert rows.column("c").null_count == 301


def test_dates_before_1900_are_exact(db: Any, source: PostgresSource) -> None:
    db.execute("CREATE TABLE t (d date)")
    db.execute(
        "INSERT INTO t SELECT d::date FROM generate_series('1582-10-01'::date, '1582-10-20', '1 day') d"
    )
    assert read(source)[0].column("d").to_pylist() == [dt.date(1582, 10, d) for d in range(1, 21)]
