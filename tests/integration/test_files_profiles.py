"""What one pass over a whole file tells: types by every value, the exact number of rows, what looks odd."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.control.platform import Platform
from headrace.errors import DataError, HeadraceError
from headrace.model.file import FileStatus
from tests.integration.uploads import Person
from tests.integration.workbooks import CLOCK, DATE, MOMENT, styled, workbook

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform.open(tmp_path_factory.mktemp("files") / "data", {})
    yield platform
    platform.close()


@pytest.fixture(scope="module")
def ann(platform: Platform) -> Person:
    return Person(platform)


def column(*values: str) -> bytes:
    return "\n".join(["c", *values, ""]).encode()


KINDS = [
    (["true", "NO", "T", "yes", "f"], "BOOLEAN"),
    (["0", "1", "1"], "INTEGER"),  # counts more often than truths
    (["-5", "+7", "9223372036854775807"], "INTEGER"),
    (["1", "007"], "STRING"),
    (["9223372036854775808"], "DECIMAL"),
    (["1", "1.10"], "DECIMAL"),
    (["1.5", "1e3"], "DOUBLE"),
    (["NaN", "-Inf"], "DOUBLE"),
    (["2024-01-02"], "DATE"),
    (["2024-01-02", "2024-01-02 03:04:05"], "TIMESTAMP"),
    (["2024-01-02T03:04:05.123456"], "TIMESTAMP"),
    (["2024-01-02T03:04:05Z", "2024-01-02 03:04:05+02:00"], "TIMESTAMP_TZ"),
    (["2024-01-02T03:04:05Z", "2024-01-02T03:04:05"], "STRING"),
    (["10:30", "10:30:00.5"], "TIME"),
    (["03/04/2024"], "STRING"),
    (["1,000"], "STRING"),
    (["true", "1"], "STRING"),
]


def test_a_type_holds_only_if_every_value_fits(ann: Person) -> None:
    """A column for each case, all in one file; short ones end in nulls."""
    rows = [[f"c{n}" for n in range(len(KINDS))]]
    for at in range(max(len(values) for values, _ in KINDS)):
        rows.append([f'"{values[at]}"' if at < len(values) else "" for values, _ in KINDS])
    data = "\n".join(",".join(row) for row in rows) + "\n"
    found = ann.types("a.csv", data.encode())
    assert list(zip((values for values, _ in KINDS), found.values(), strict=True)) == KINDS


def test_the_documented_preview(ann: Person) -> None:
    data = b"order_id,customer_name,amount\n1001,Alice,150.00\n1002,Bob,299.50\n1003,,1\n"
    found = ann.profile("sales_2024.csv", data)
    assert [(c.name, c.type, c.nullable, c.samples) for c in found.columns] == [
        ("order_id", "INTEGER", False, ("1001", "1002", "1003")),
        ("customer_name", "STRING", True, ("Alice", "Bob")),
        ("amount", "DECIMAL", False, ("150.00", "299.50", "1")),
    ]
    assert found.rows == 3
    assert found.preview[0] == '{"order_id": 1001, "customer_name": "Alice", "amount": 150.00}'
    assert found.warnings == ()


def test_a_value_at_the_very_end_of_a_large_file_decides(ann: Person) -> None:
    data = column(*map(str, range(1_000_000)), "1.5")
    found = ann.profile("a.csv", data)
    assert found.rows == 1_000_001
    assert found.columns[0].type == "DECIMAL"
    assert len(found.preview) == 1000
    assert found.preview[1] == '{"c": 1.0}'


def test_a_preview_has_its_bounds(ann: Person) -> None:
    found = ann.profile(
        "a.jsonl", (b'{"a": "' + b"x" * 50_000 + b'", "l": [' + b"1," * 9_000 + b"1]}\n") * 600
    )
    assert found.rows == 600
    row = json.loads(found.preview[0])
    assert len(row["a"]) == 2000
    assert sum(map(len, found.preview)) < 3 << 20


def test_digits_before_and_after_the_point_that_no_decimal_holds_make_a_double(ann: Person) -> None:
    assert ann.types("a.csv", column("1" * 36, "0.12345")) == {"c": "DOUBLE"}


def test_empty_is_null_and_quoted_empty_is_text_or_null(ann: Person) -> None:
    found = ann.profile("a.csv", b'n,s\n1,""\n"",x\n')
    assert [(c.type, c.nullable) for c in found.columns] == [("INTEGER", True), ("STRING", False)]
    assert found.preview == ('{"n": 1, "s": ""}', '{"n": null, "s": "x"}')


@pytest.mark.parametrize("delimiter", [",", "\t", "|", ";"])
def test_the_delimiter_is_found_with_respect_to_quotes(ann: Person, delimiter: str) -> None:
    data = f'a{delimiter}b\n"x,|;\t\n y"{delimiter}2\n3{delimiter}4\n'.encode()
    assert list(ann.types("a.txt", data)) == ["a", "b"]


def test_names_of_columns_are_made_where_there_are_none(ann: Person) -> None:
    assert list(ann.types("a.csv", b"id,,ID,name\n1,2,3,4\n")) == ["id", "column_2", "ID_2", "name"]
    assert list(ann.types("a.csv", b"1,2024-01-02\n3,x\n")) == ["column_1", "column_2"]
    assert list(ann.types("a.tsv", b"a,b\tc\n1\t2\n")) == ["a,b", "c"]


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("\ufeffnäme\nü\n".encode(), "utf-8"),
        ("näme\nü\n".encode("utf-16"), "utf-16-le"),
        ("näme\nü\n".encode("cp1252"), "windows-1252"),
        ("näme\nü\n".encode("cp1252") + b"\x81\n", "latin-1"),
        ("näme\n".encode() + b"ok\n" * 10 + "é\n".encode("cp1252"), "windows-1252"),
    ],
)
def test_the_encoding_is_that_of_the_whole_file(ann: Person, data: bytes, encoding: str) -> None:
    found = ann.profile("a.csv", data)
    assert found.dialect["encoding"] == encoding
    assert bool(found.warnings) == (encoding in ("windows-1252", "latin-1"))
    if not data.startswith("näme".encode()):
        assert found.columns[0].name == "näme"
        assert found.preview[0] == '{"näme": "ü"}'


def test_how_a_file_is_read_can_be_said(ann: Person) -> None:
    data = b"# made by hand\n'it\\'s';NULL\n'x;y';2\n"
    found = ann.profile(
        "a.csv", data, delimiter=";", quote="'", escape="\\", header=False, null_values=("NULL",), skip_rows=1
    )
    assert found.preview == (
        '{"column_1": "it\'s", "column_2": null}', '{"column_1": "x;y", "column_2": 2}',
    )  # fmt: skip
    assert ann.profile("a.csv", "ä\nö\n".encode("cp1250"), encoding="cp1250").preview == ('{"ä": "ö"}',)


def test_an_odd_value_that_spoils_a_column_is_told_with_its_line(ann: Person) -> None:
    data = column(*(["7"] * 500), '"n\na"', *(["8"] * 500))
    found = ann.profile("a.csv", data)
    assert found.columns[0].type == "STRING"
    assert found.warnings == ("1 value keeps c from being integer; the first at line 502",)


def test_rows_that_can_not_be_read_count(ann: Person) -> None:
    found = ann.profile("a.csv", b'a,b\n1,2\n3\n4,5,6\n7,"8\n9,0\n')
    assert found.rows == 5
    assert found.columns[0].type == "INTEGER"
    assert found.warnings[0].startswith("3 rows can't be read, the first at line 3")


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_packed_text_is_unpacked(ann: Person, packed: str) -> None:
    data = b"a,b\n1,2\n"
    out = gzip.compress(data) if packed == "gz" else pa.compress(data, "zstd", asbytes=True)
    assert ann.types(f"a.csv.{packed}", out) == {"a": "INTEGER", "b": "INTEGER"}


def test_objects_are_flattened_and_numbers_keep_their_digits(ann: Person) -> None:
    rows = [
        '{"id": 1, "o": {"a": 1.10, "b": {"c": "x"}}, "l": [1, 2.50], "m": 1, "d": "2024-01-02"}',
        '{"id": 12345678901234567890, "o_a": 3, "m": "text", "e": 1e3}',
    ]
    for name, data in (
        ("a.jsonl", "\n\n".join(rows)),
        ("a.json", f"[{','.join(rows)}]"),
        ("a.json", "".join(rows)),
    ):
        found = ann.profile(name, data.encode())
        assert found.rows == 2
        kinds = {c.name: c.type for c in found.columns}
        assert kinds["id"] == "DECIMAL"
        assert kinds["o_b_c"] == kinds["l"] == kinds["m"] == "STRING"
        assert kinds["e"] == "DOUBLE"
        first = json.loads(found.preview[0])
        assert first["l"] == "[1, 2.50]"
        assert first["o_b_c"] == "x"
        assert "12345678901234567890" in found.preview[1]


def test_a_member_that_stands_twice_is_told(ann: Person) -> None:
    for name, data in (("a.json", b'[{"b": 1}, {"a": 1, "a": 2}]'), ("a.jsonl", b'{"a": 1, "a": 2}\n')):
        found = ann.profile(name, data)
        assert found.warnings == ("objects have two members 'a', of which the last one counts",)
        assert '"a": 2' in found.preview[-1]


def test_a_single_object_is_one_row(ann: Person) -> None:
    assert ann.profile("a.json", b'{"a": 1, "b": null}').rows == 1


@pytest.mark.parametrize("data", [b"[1, 2]", b'"text"', b"42", b'[{"a": 1}', b"not json"])
def test_json_that_is_no_rows_is_unreadable_or_has_no_columns(ann: Person, data: bytes) -> None:
    file = ann.upload("a.json", data)
    with pytest.raises(HeadraceError) as raised:
        ann.platform.files.preview(ann.actor, file.id)
    found = ann.platform.files.get(ann.actor, file.id)
    assert found.status is FileStatus.FAILED
    assert found.error is not None and found.error.code == raised.value.code


FORMULA = b'<c r="@"><f>1+1</f><v>2</v></c>'
UNSTORED = b'<c r="@"><f>1+1</f></c>'


def test_a_workbook_keeps_the_types_of_its_cells(ann: Person) -> None:
    rows = [
        [],
        ["id", "code", "day", "at", "clock", "amount", "ok", "sum"],
        [1, "007", styled(45293, DATE), styled(45293.5, MOMENT), styled(0.4375, CLOCK), 1.5, True, FORMULA],
        [],
        [2, "x", styled(45294, DATE), styled(45294.25, MOMENT), styled(0.5, CLOCK), 2, False, UNSTORED],
        [3, None, None, None, None, b'<c r="@" t="e"><v>#DIV/0!</v></c>', None, None],
    ]  # fmt: skip
    found = ann.profile(
        "a.xlsx", workbook({"Empty": [], "Secret": [["x"], [1]], "Data": rows}, hidden=["Secret"])
    )
    assert {c.name: c.type for c in found.columns} == {
        "id": "INTEGER", "code": "STRING", "day": "DATE", "at": "TIMESTAMP", "clock": "TIME",
        "amount": "DOUBLE",
        "ok": "BOOLEAN", "sum": "INTEGER",
    }  # fmt: skip
    assert found.rows == 3
    assert json.loads(found.preview[0]) == {
        "id": 1, "code": "007", "day": "2024-01-02", "at": "2024-01-02T12:00:00", "clock": "10:30:00",
        "amount": 1.5, "ok": True, "sum": 2,
    }  # fmt: skip
    assert found.sheets == ("Empty", "Secret", "Data")
    assert found.dialect["sheet"] == "Data"
    assert found.warnings == (
        "1 cells hold an error; they are null", "1 formulas have no stored result; they are null",
    )  # fmt: skip


def test_a_sheet_can_be_chosen(ann: Person) -> None:
    data = workbook({"One": [["a"], [1]], "Two": [["b"], ["x"]]})
    assert ann.types("a.xlsx", data, sheet="Two") == {"b": "STRING"}
    with pytest.raises(HeadraceError) as raised:
        ann.types("a.xlsx", data, sheet="Three")
    assert raised.value.code == "upload.sheet"


def test_an_old_workbook_is_read(ann: Person) -> None:
    assert ann.types("days.xls", (DATA / "days.xls").read_bytes()) == {
        "id": "INTEGER", "code": "STRING", "day": "DATE", "at": "TIMESTAMP", "amount": "DOUBLE",
    }  # fmt: skip


def test_a_workbook_with_a_password_is_told_as_that(ann: Person) -> None:
    with pytest.raises(DataError) as raised:
        ann.profile("a.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(5000))
    assert raised.value.code == "upload.password"


def parquet(table: pa.Table, **more: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **more)
    return out.getvalue()


def test_parquet_brings_its_own_types(ann: Person) -> None:
    table = pa.table(
        {
            "u": pa.array([2**64 - 1, None], pa.uint64()),
            "ns": pa.array([1, 2], pa.timestamp("ns")),
            "tz": pa.array([0, 1], pa.timestamp("ms", "Europe/Berlin")),
            "nested": pa.array([{"a": 1, "b": [1, 2]}, None]),
            "wide": pa.array([Decimal("1.5"), None], pa.decimal256(60, 2)),
            "raw": pa.array([b"x", b"y"]),
            "all": pa.array([1, 2], pa.int32()),
        }
    )
    found = ann.profile("a.parquet", parquet(table, version="2.6"))
    assert {c.name: (c.type, c.nullable) for c in found.columns} == {
        "u": ("DECIMAL", True), "ns": ("TIMESTAMP", False), "tz": ("TIMESTAMP_TZ", False),
        "nested": ("JSON", True),
        "wide": ("STRING", True), "raw": ("BINARY", False), "all": ("INTEGER", False),
    }  # fmt: skip
    assert found.rows == 2
    assert found.warnings == ("ns has nanoseconds, which are cut to microseconds",)
    assert '"u": 18446744073709551615' in found.preview[0]


def test_timestamps_of_far_years_in_96_bits_are_read(ann: Person) -> None:
    table = pa.table({"t": pa.array([datetime(3000, 1, 1)], pa.timestamp("us"))})
    found = ann.profile("a.parquet", parquet(table, use_deprecated_int96_timestamps=True))
    assert found.preview == ('{"t": "3000-01-01T00:00:00"}',)


def test_damaged_parquet_is_unreadable(ann: Person) -> None:
    data = parquet(pa.table({"a": [1]}))
    for broken in (data[:-20], b"PARE" + data[4:-4] + b"PARE"):
        with pytest.raises(DataError):
            ann.profile("a.parquet", broken)


SCHEMA = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "maybe", "type": ["null", "string"]},
        {"name": "either", "type": ["int", "string"]},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "clock", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["A", "B"]}},
        {"name": "tags", "type": {"type": "map", "values": "int"}},
        {"name": "again", "type": ["null", "R"]},
    ],
}  # fmt: skip


def avro(rows: list[dict[str, Any]], codec: str = "deflate") -> bytes:
    out = io.BytesIO()
    fastavro.writer(
        out, fastavro.parse_schema(SCHEMA), rows, codec="null" if codec in ("snappy", "zstandard") else codec
    )
    return out.getvalue() if codec in ("null", "deflate") else packed(out.getvalue(), codec)


def packed(data: bytes, codec: str) -> bytes:
    """The same with its one block packed, as other writers do it."""
    marker = data[-16:]
    head, body = data[: data.index(marker) + 16], data[data.index(marker) + 16 : -16]
    count, size = body[:1], 2 if body[1] > 127 else 1
    rows = body[1 + size :]
    if codec == "snappy":
        rows = pa.compress(rows, "snappy", asbytes=True) + zlib.crc32(rows).to_bytes(4, "big")
    else:
        rows = pa.compress(rows, "zstd", asbytes=True)
    head = head.replace(b"avro.codec\x08null", b"avro.codec" + bytes([len(codec) * 2]) + codec.encode())
    return head + count + avro_number(len(rows)) + rows + marker


def avro_number(number: int) -> bytes:
    number, out = number << 1, b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def avro_row(id: int) -> dict[str, Any]:
    return {
        "id": id, "maybe": None, "either": id if id % 2 else str(id), "price": Decimal("1.50"),
        "at": datetime(2024, 1, 2, tzinfo=UTC), "clock": time(10, 30), "kind": "A", "tags": {"x": 1},
        "again": None,
    }  # fmt: skip


@pytest.mark.parametrize("codec", ["null", "deflate", "snappy", "zstandard"])
def test_avro_brings_its_own_types(ann: Person, codec: str) -> None:
    found = ann.profile("a.avro", avro([avro_row(n) for n in range(3)], codec))
    assert {c.name: c.type for c in found.columns} == {
        "id": "INTEGER", "maybe": "STRING", "either": "JSON", "price": "DECIMAL", "at": "TIMESTAMP_TZ",
        "clock": "TIME",
        "kind": "STRING", "tags": "JSON", "again": "JSON",
    }  # fmt: skip
    assert found.rows == 3
    assert '"price": 1.50' in found.preview[0]
    assert '"either": "\\"0\\""' in found.preview[0]


def test_a_damaged_block_of_avro_is_told_with_its_place(ann: Person) -> None:
    data = avro([avro_row(n) for n in range(3)])
    with pytest.raises(DataError) as raised:
        ann.profile("a.avro", data[:-30])
    assert raised.value.code == "upload.damaged_avro"
    assert "block at byte" in raised.value.message
