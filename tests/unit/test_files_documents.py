"""json and json lines: numbers keep their digits, and a bad row costs itself only."""

import gzip
import io
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector.files import documents
from headrace.connector.files.part import RowError
from headrace.connector.files.values import TIMESTAMP_TZ, union
from headrace.errors import ConfigError, DataError


def load(
    data: bytes, schema: pa.Schema | None = None, *, lines: bool = False
) -> tuple[list[dict[str, Any]], list[RowError]]:
    if schema is None:
        schema = union([documents.inspect(io.BytesIO(data), "f", lines=lines, limit=1 << 20).schema])
    rows, errors = [], []
    for part in documents.read(io.BytesIO(data), "f", schema, lines=lines):
        assert part.rows.schema == schema
        part.rows.validate(full=True)
        rows += part.rows.to_pylist()
        errors += part.errors
    return rows, errors


def test_nested_objects_are_flattened_and_arrays_become_text() -> None:
    data = b'[{"a":1,"b":{"c":1.10,"d":[1,{"x":1.50}],"e":{}}},{"a":9223372036854775808}]'
    rows, errors = load(data)
    assert errors == []
    assert rows == [
        {"a": Decimal(1), "b_c": Decimal("1.10"), "b_d": '[1, {"x": 1.50}]', "b_e": "{}"},
        {"a": Decimal(9223372036854775808), "b_c": None, "b_d": None, "b_e": None},
    ]


def test_a_bad_line_costs_itself_only() -> None:
    data = b'{"a":1}\n{"a":tru}\n\n[1]\n{"a":"x"}\n{"a":2}\n{"a":1e5}\n{"a":\xff}\n{"a":3}'
    rows, errors = load(data, pa.schema([("a", pa.int64())]), lines=True)
    assert [r["a"] for r in rows] == [1, 2, 3]
    assert [(e.line, e.code) for e in errors] == [
        (2, "BAD_JSON"),
        (4, "NOT_AN_OBJECT"),
        (5, "TYPE_MISMATCH"),
        (7, "OUT_OF_RANGE"),
        (8, "BAD_ENCODING"),
    ]
    assert errors[2].row == {"a": "x"}


def test_roots_may_be_an_array_an_object_or_objects_in_a_row() -> None:
    for data in (b'[{"a":1},{"a":2}]', b'{"a":1}{"a":2}', b'\n{"a":1}\n\n{"a":\n2}\n'):
        assert load(data)[0] == [{"a": 1}, {"a": 2}]
    assert load(b'\xef\xbb\xbf{"a":\n 1}')[0] == [{"a": 1}]
    assert load(b"", pa.schema([("a", pa.int64())])) == ([], [])
    assert load(b" [ ] ", pa.schema([("a", pa.int64())])) == ([], [])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"5", "files.wrong_format"),
        (b'[{"a":1}', "files.broken_json"),
        (b'[{"a":1} {"a":2}]', "files.broken_json"),
        (b'[{"a":1},', "files.broken_json"),
        (b'[{"a":1}] x', "files.broken_json"),
        (b'[{"a":1},\n{"a":}]', "files.broken_json"),
        (b'{"a":' * 100_000, "files.broken_json"),
        (b'{"a":"\xff"}' + b" " * 100, "files.encoding"),
    ],
)
def test_what_can_not_be_read_on_is_a_named_stop(data: bytes, code: str) -> None:
    with pytest.raises((DataError, ConfigError)) as caught:
        load(data, pa.schema([("a", pa.int64())]))
    assert caught.value.code == code


def test_a_broken_object_in_a_row_of_them_is_stepped_over_with_its_line() -> None:
    rows, errors = load(b'{"a":1}\n{"a":2,}\n{"a":3}\n{"a":', pa.schema([("a", pa.int64())]))
    assert [r["a"] for r in rows] == [1, 3]
    assert [(e.line, e.code) for e in errors] == [(2, "BAD_JSON"), (4, "BAD_JSON")]


def test_deep_nesting_rejects_the_line_alone() -> None:
    deep = b'{"a":' + b"[" * 100_000 + b"\n"
    held = b'{"a":' + b"[" * 400 + b"]" * 400 + b"}\n"
    rows, errors = load(deep + held + b'{"a":"x"}\n', pa.schema([("a", pa.string())]), lines=True)
    assert rows[-1] == {"a": "x"}
    assert errors[0][:2] == (1, "BAD_JSON")
    assert len(rows) + len(errors) == 3


def test_kinds_mixed_in_a_column_become_text_and_half_characters_are_rejected() -> None:
    data = b'{"a":1.50}\n{"a":"x"}\n{"a":[true,null]}\n{"a":1e5}\n{"a":"\\ud800"}\n'
    rows, errors = load(data, lines=True)
    assert [r["a"] for r in rows] == ["1.50", "x", "[true, null]", "1e5"]
    assert [e.line for e in errors] == [5]
    json.dumps(errors[0].row).encode()


@pytest.mark.parametrize("lines", [True, False])
def test_an_integer_of_thousands_of_digits_is_out_of_range_or_kept_as_text(lines: bool) -> None:
    data = b'{"a":' + b"9" * 5000 + b"}\n"
    rows, errors = load(data, pa.schema([("a", pa.int64())]), lines=lines)
    assert (rows, [(e.line, e.code) for e in errors]) == ([], [(1, "OUT_OF_RANGE")])
    assert load(data, lines=lines)[0] == [{"a": "9" * 5000}]


@pytest.mark.parametrize("written", ["1e400", "1" * 400, "922827758974900322988898351380351556", "5.2e+36"])
def test_a_number_that_its_column_can_not_hold_is_rejected(written: str) -> None:
    schema = pa.schema([("a", pa.float64()), ("b", pa.decimal128(38, 4))])
    data = f'{{"a":1,"b":2}}\n{{"a":"{written}"}}\n{{"b":{written}}}\n'.encode()
    rows, errors = load(data, schema, lines=True)
    assert rows == [{"a": 1, "b": 2}]
    assert [(e.line, e.code) for e in errors] == [(2, "TYPE_MISMATCH"), (3, "OUT_OF_RANGE")]


def test_half_a_character_is_no_date() -> None:
    rows, errors = load(b'{"a":"\\ud83d"}\n', pa.schema([("a", TIMESTAMP_TZ)]), lines=True)
    assert (rows, [(e.line, e.code) for e in errors]) == ([], [(1, "TYPE_MISMATCH")])


def test_texts_become_times_only_when_asked_to() -> None:
    data = b'{"t":"2024-01-01T10:00Z"}\n{"t":"soon"}\n'
    assert load(data, lines=True)[0][0]["t"] == "2024-01-01T10:00Z"
    rows, errors = load(data, pa.schema([("t", TIMESTAMP_TZ)]), lines=True)
    assert rows[0]["t"].isoformat() == "2024-01-01T10:00:00+00:00"
    assert [(e.line, e.code) for e in errors] == [(2, "TYPE_MISMATCH")]


def test_members_without_end_are_a_named_stop() -> None:
    data = json.dumps([{f"user{n}": n} for n in range(3000)]).encode()
    with pytest.raises(DataError) as caught:
        load(data)
    assert caught.value.code == "files.too_many_columns"


def test_values_cut_by_the_end_of_a_piece_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_BLOCK", 7)
    objects = [{"n": i, "t": "tü€\\n" * (i % 3), "f": i / 8, "x": {"y": [i, {"z": True}]}} for i in range(50)]
    schema = pa.schema([("n", pa.int64()), ("t", pa.string()), ("f", pa.float64()), ("x_y", pa.string())])
    for data in (
        json.dumps(objects, ensure_ascii=False).encode(),
        json.dumps(objects, indent=2).encode(),
        "".join(map(json.dumps, objects)).encode(),
    ):
        rows, errors = load(data, schema)
        assert errors == []
        assert [(r["n"], r["t"], r["f"]) for r in rows] == [(o["n"], o["t"], o["f"]) for o in objects]
        assert rows[9]["x_y"] == '[9, {"z": true}]'


@pytest.mark.parametrize("lines", [True, False])
def test_a_bomb_of_one_endless_value_is_a_named_stop(lines: bool) -> None:
    bomb = gzip.compress(b'{"a":"' + b"x" * (130 << 20), compresslevel=1)
    with pytest.raises(DataError) as caught:
        load(bomb, pa.schema([("a", pa.string())]), lines=lines)
    assert caught.value.code == "files.line_too_long"
