"""csv and tsv: every row is there, typed, or rejected with the line that an editor would show."""

import csv
import gzip
import io
import os
import tracemalloc
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connector.files import delimited, records
from headrace.connector.files.options import CsvOptions
from headrace.connector.files.part import RowError
from headrace.connector.files.values import union
from headrace.errors import DataError


def load(
    data: bytes, schema: pa.Schema | None = None, **options: Any
) -> tuple[list[dict[str, Any]], list[RowError]]:
    parsed = CsvOptions.parse(options)
    if schema is None:
        schema = union([delimited.inspect(io.BytesIO(data), "f", parsed, 1 << 20).schema])
    rows, errors = [], []
    for part in delimited.read(io.BytesIO(data), "f", parsed, schema):
        assert part.rows.schema == schema
        part.rows.validate(full=True)
        rows += part.rows.to_pylist()
        errors += part.errors
    return rows, errors


def names(data: bytes, **options: Any) -> list[str]:
    return delimited.inspect(io.BytesIO(data), "f", CsvOptions.parse(options), 1 << 20).schema.names


def test_types_nulls_and_empty_strings_are_told_apart() -> None:
    rows, errors = load(b'id,name,amount\n1,"",1.10\n2,,\n007,x,2\n')
    assert errors == []
    assert rows[0] == {"id": "1", "name": "", "amount": Decimal("1.10")}
    assert rows[1] == {"id": "2", "name": None, "amount": None}
    assert rows[2]["id"] == "007"


def test_lines_are_right_after_line_breaks_in_quotes_and_blank_lines() -> None:
    data = b'a,b\n1,"x\ny\n\nz"\n\n2\n3,ok\n\r\n"m\nm",5\n4,fine\n'
    schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
    rows, errors = load(data, schema)
    assert [r["a"] for r in rows] == [1, 3, 4]
    assert [(e.line, e.code) for e in errors] == [(7, "COLUMN_COUNT"), (10, "TYPE_MISMATCH")]
    assert errors[1].row == {"a": "m\nm", "b": "5"}
    assert rows[0]["b"] == "x\ny\n\nz"


def test_lines_are_right_in_later_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BLOCK", 1000)
    lines = ["id,note"]
    for i in range(3000):
        lines += [f'{i},"two\nlines"'] if i % 7 == 0 else [f"bad{i},x"] if i % 501 == 100 else [f"{i},x"]
    data = "\n".join(lines).encode()
    physical = data.decode().split("\n")
    splitter = CsvOptions()
    schema = pa.schema([("id", pa.int64()), ("note", pa.string())])
    errors = [e for p in delimited.read(io.BytesIO(data), "f", splitter, schema) for e in p.errors]
    assert [physical[e.line - 1] for e in errors] == [
        f"bad{i},x" for i in range(3000) if i % 501 == 100 and i % 7
    ]
    assert len(errors) > 3


def test_stray_quotes_cost_only_their_own_row() -> None:
    data = b'id,n\n1,"abc\n2,"def"\n3,5" pipe\n5,"q"z\n6,"multi\nline"\n7,8,9\n8,"open\n9,last\n'
    rows, errors = load(data)
    assert [(r["id"], r["n"]) for r in rows] == [
        (2, "def"),
        (3, '5" pipe'),
        (5, "qz"),
        (6, "multi\nline"),
        (9, "last"),
    ]
    assert [(e.line, e.code) for e in errors] == [
        (2, "UNTERMINATED_QUOTE"),
        (8, "COLUMN_COUNT"),
        (9, "UNTERMINATED_QUOTE"),
    ]


def test_a_nul_byte_rejects_its_row() -> None:
    rows, errors = load(b"id,n\n1,a\0b\n2,def\n")
    assert rows == [{"id": 2, "n": "def"}]
    assert [(e.line, e.code) for e in errors] == [(2, "NUL_BYTE")]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@settings(max_examples=150)
@given(st.lists(st.lists(TEXT, min_size=3, max_size=3), min_size=1, max_size=30), st.sampled_from(",;\t|"))
def test_what_the_csv_module_writes_is_read_back(rows: list[list[str]], delimiter: str) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b", "c"])
    writer.writerows(rows)
    schema = pa.schema([(n, pa.string()) for n in "abc"])
    found, errors = load(out.getvalue().encode(), schema, delimiter=delimiter, header=True)
    assert errors == []
    assert [list(r.values()) for r in found] == rows


@settings(max_examples=300)
@given(st.text('ab,"\n\r1', max_size=60))
def test_any_text_is_accounted_for_in_small_blocks_as_in_one(data: str) -> None:
    """Rows and rejects don't depend on where blocks end, and nothing raises."""
    raw = b"x,y\n" + data.encode()
    schema = pa.schema([("x", pa.string()), ("y", pa.string())])
    options = {"header": True, "delimiter": ","}
    whole = load(raw, schema, **options)
    splitter = delimited.Splitter.__init__

    def small(self: Any, *args: Any, **kwargs: Any) -> None:
        splitter(self, *args, **{**kwargs, "first": 7})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK", 5)
        patch.setattr(records.Splitter, "__init__", small)
        if "\r" not in data:  # a file of bare returns is known by its first piece
            assert load(raw, schema, **options) == whole


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("id,n\n1,é\n".encode("cp1252"), "é"),
        ("id,n\n1,é\n".encode("utf-16"), "é"),
        ("id,n\n1,é\n".encode("utf-8-sig"), "é"),
        ("id,n\n1,é\n".encode(), "é"),
        (b"id,n\n1,\x80\x81\n", "€\x81"),
    ],
)
def test_the_encoding_is_found(data: bytes, expected: str) -> None:
    assert load(data) == ([{"id": 1, "n": expected}], [])


def test_windows_1252_is_found_late_and_broken_utf_8_is_rejected() -> None:
    plain = b"".join(b"%d,x\n" % i for i in range(300_000))
    rows, errors = load(b"id,n\n" + plain + b"9,\xe9\n", pa.schema([("n", pa.string())]))
    assert (len(rows), rows[-1]["n"], errors) == (300_001, "é", [])
    rows, errors = load(b"id,n\n1,\xc3\xa9\n2,\xe9\n3,x\n", encoding="utf-8")
    assert [r["id"] for r in rows] == [1, 3]
    assert [(e.line, e.code) for e in errors] == [(3, "BAD_ENCODING")]
    assert load("id,n\n1,日本\n".encode("shift_jis"), encoding="shift_jis")[0][0]["n"] == "日本"


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        (b"a;b\n1;2,5\n", {}, ["a", "b"]),
        (b"a\tb,c\td\n1\t2,5\t6\n7\t8\t9\n", {}, ["a", "b,c", "d"]),
        (b"a|b\n1|2\n", {}, ["a", "b"]),
        (b"a\n1\n", {}, ["a"]),
        (b'"x, y";z\n"1, 2";3\n', {}, ["x, y", "z"]),
        (b"1,2024-01-01\n2,2024-01-02\n", {}, ["column_1", "column_2"]),
        (b"1,2\n3,4\n", {"header": True}, ["1", "2"]),
        (b"a,b\nc,d\n", {"header": False}, ["column_1", "column_2"]),
        (b",A,a,A\n1,2,3,4\n", {}, ["column_1", "A", "a_2", "A_3"]),
        (b"junk\nmore junk\na,b\n1,2\n", {"skip_lines": 2}, ["a", "b"]),
        (b"\n\na,b\n1,2\n", {}, ["a", "b"]),
        (b"a,b\rx,1\ry,2\r", {}, ["a", "b"]),
        (b"", {}, []),
    ],
)
def test_delimiter_and_header_are_found(data: bytes, options: dict[str, Any], expected: list[str]) -> None:
    assert names(data, **options) == expected


def test_empty_and_header_only_files_have_no_rows() -> None:
    schema = pa.schema([("a", pa.int64())])
    for data in (b"", b"\n\n", b"a,b\n", b"a,b", b"\xef\xbb\xbf"):
        assert load(data, schema) == ([], [])


def test_a_file_without_a_column_gives_nulls_for_it_and_keeps_its_rows() -> None:
    schema = pa.schema([("z", pa.float64()), ("b", pa.int64())])
    assert load(b"a,b\n1,2\n", schema)[0] == [{"z": None, "b": 2}]
    assert load(b"a,c\n1,2\n3,4\n5\n", schema)[0] == [{"z": None, "b": None}] * 2


def test_three_hundred_columns_and_a_block_of_only_bad_rows() -> None:
    head = ",".join(f"c{i}" for i in range(300))
    row = ",".join(str(i) for i in range(300))
    rows, errors = load(f"{head}\n{row}\n{row}\n".encode())
    assert len(rows) == 2 and rows[1]["c299"] == 299 and errors == []
    rows, errors = load(b"a,b\n1\n2\n3\n", pa.schema([("a", pa.int64()), ("b", pa.int64())]))
    assert rows == [] and [e.line for e in errors] == [2, 3, 4]


def test_a_header_of_endless_columns_is_a_named_stop() -> None:
    for data in (b"," * (5 << 20), b"x," * 2001 + b"\n1\n"):
        with pytest.raises(DataError) as caught:
            names(data)
        assert caught.value.code == "files.too_many_columns"


def test_words_for_null_and_own_delimiter_and_quote() -> None:
    rows, _ = load(b"a~b\nNULL~'NULL'\n'x~y'~1\n", delimiter="~", quote="'", null_values=["NULL"])
    assert rows == [{"a": None, "b": "NULL"}, {"a": "x~y", "b": "1"}]


def test_packed_files_are_known_by_content_and_broken_ones_stop() -> None:
    packed = gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n")
    assert [r["a"] for r in load(packed)[0]] == [1, 3]
    zstd = pa.compress(b"a,b\n1,2\n", "zstd", asbytes=True)
    assert load(zstd + zstd)[0] == [{"a": "1", "b": "2"}, {"a": "a", "b": "b"}, {"a": "1", "b": "2"}]
    big = gzip.compress(b"a,b\n" + b"1,2\n" * 100_000)
    random = pa.compress(os.urandom(3 << 20), "zstd", asbytes=True)
    for broken in (big[:-300], big[:200] + b"x" * 50 + big[250:], random[:-100]):
        with pytest.raises(DataError) as caught:
            load(broken, pa.schema([("a", pa.int64())]))
        assert caught.value.code == "files.corrupt"


@pytest.mark.parametrize("start", [b"a,b\n1,", b'a,b\n1,"'])
def test_a_bomb_of_one_endless_line_stops_in_bounded_memory(start: bytes) -> None:
    bomb = gzip.compress(start + b"x" * (130 << 20), compresslevel=1)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            load(bomb, pa.schema([("a", pa.int64())]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "files.line_too_long"
    assert "line 2" in str(caught.value)
    assert peak < 300 << 20


def test_a_byte_order_mark_within_a_file_is_text() -> None:
    rows, errors = load(b"\xef\xbb\xbfa\n\xef\xbb\xbf\n\xef\xbb\xbf1\n", pa.schema([("a", pa.string())]))
    assert ([r["a"] for r in rows], errors) == (["\ufeff", "\ufeff1"], [])


def test_an_open_quote_in_a_large_file_is_given_up_and_reading_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records.text, "LINE_LIMIT", 10_000)
    monkeypatch.setattr(records, "BLOCK", 1000)
    data = b'a,b\n0,"open\n' + b"".join(b"%d,x\n" % i for i in range(1, 5000))
    rows, errors = load(data, pa.schema([("a", pa.int64())]))
    assert [r["a"] for r in rows] == list(range(1, 5000))
    assert [(e.line, e.code) for e in errors] == [(2, "UNTERMINATED_QUOTE")]
