"""The compiled kernels answer as the careful readers do, value by value and reject by reject."""

import io
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import native
from headrace.connector.files import delimited, documents, records
from headrace.connector.files.options import CsvOptions
from headrace.connector.files.part import Part
from headrace.connector.files.values import TIME, TIMESTAMP, TIMESTAMP_TZ, union

pytestmark = pytest.mark.skipif(native.missing() is not None, reason="built without its kernels")

DIGITS = st.text("0123456789", min_size=1, max_size=21)
NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65).map(str),
    st.floats().map(repr),
    st.builds("{}{}.{}".format, st.sampled_from(["", "-", "+"]), DIGITS, DIGITS),
    st.builds("{}.{}e{}".format, st.integers(-99, 99), DIGITS, st.integers(-340, 340)),
    st.sampled_from(
        [
            "0", "-0", "00", "007", ".5", "5.", "1e5", "1E+5", "1e0", "1e", "-", "1e22", "nan", "-inf",
            "9223372036854775807", "-9223372036854775808", "99999999999999999999", "1e400", "-1e-400",
            "123456789012345678901234567890123456.12", "5e-324", "9007199254740993", "0.30000000000000004",
        ]
    ),
)  # fmt: skip
TIMES = st.one_of(
    st.datetimes().map(str),
    st.datetimes().map(lambda v: v.isoformat(timespec="minutes")),
    st.builds(
        "{}{}".format, st.datetimes(), st.sampled_from(["Z", "+02", "-0330", "+14:00", "+1", "+24:00"])
    ),
    st.dates().map(str),
    st.times().map(str),
    st.from_regex(
        r"[012]\d{3}-[01]\d-[0-3]\d([ T][0-2]\d:[0-6]\d(:[0-6]\d(\.\d{0,8})?)?)?Z?", fullmatch=True
    ),
)
WORDS = st.sampled_from(
    ["", "true", "False", "T", "no", "yEs", "tru", "NULL", " 1", "1 ", "é€😀", 'say "it"', "a\nb", ","]
)
TYPES = st.sampled_from(
    [
        pa.string(), pa.bool_(), pa.int64(), pa.float64(), pa.decimal128(38, 2), pa.decimal128(38, 18),
        pa.decimal128(7, 7), pa.decimal128(38, 38), pa.date32(), TIMESTAMP, TIMESTAMP_TZ, TIME,
    ]
)  # fmt: skip
COLUMN = st.one_of(
    *(st.lists(kind, min_size=1, max_size=6) for kind in (NUMBERS, TIMES, WORDS)),
    st.lists(st.one_of(NUMBERS, TIMES, WORDS, st.text(max_size=4)), min_size=1, max_size=6),
)


def careful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)


def read(data: bytes, options: CsvOptions, schema: pa.Schema, size: int | None = None) -> tuple[str, str]:
    """Rows and rejects, with the file cut into pieces of about `size` bytes."""
    begin = records.Splitter.__init__

    def small(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **{**kwargs, "first": size})

    with pytest.MonkeyPatch.context() as patch:
        if size:
            patch.setattr(records, "BLOCK", size)
            patch.setattr(records.Splitter, "__init__", small)
        parts = list(delimited.read(io.BytesIO(data), "f", options, schema))
    return everything(parts)


def everything(parts: Iterable[Part]) -> tuple[str, str]:
    rows, errors = [], []
    for part in parts:
        part.rows.validate(full=True)
        rows += part.rows.to_pylist()
        errors += part.errors
    return repr(rows), repr(errors)


def inspected(data: bytes, options: CsvOptions) -> Any:
    return delimited.inspect(io.BytesIO(data), "f", options, 1 << 20)


def both(see: Any) -> tuple[Any, Any]:
    quick = see()
    with pytest.MonkeyPatch.context() as patch:
        careful(patch)
        return quick, see()


def cell(value: str, quoted: bool) -> str:
    return f'"{value.replace(chr(34), chr(34) * 2)}"' if quoted or set(value) & set('",\r\n') else value


@settings(max_examples=400)
@given(
    st.lists(st.tuples(COLUMN, TYPES), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([[], ["NULL", "no"]]),
)
def test_csv_is_read_by_the_kernels_as_without_them(
    columns: list[tuple[list[str], pa.DataType]], quoted: bool, ending: str, nulls: list[str]
) -> None:
    count = max(len(column) for column, _ in columns)
    rows = [[cell(c[n % len(c)], quoted and n % 2 == 0) for c, _ in columns] for n in range(count)]
    lines = [",".join(f"c{n}" for n in range(len(columns))), *(",".join(row) for row in rows)]
    data = (ending.join(lines) + ending).replace("\0", "").encode(errors="replace")
    options = CsvOptions.parse({"header": True, "delimiter": ",", "null_values": nulls})
    schema = pa.schema([(f"c{n}", type) for n, (_, type) in enumerate(columns)])
    quick, slow = both(lambda: (read(data, options, schema), inspected(data, options)))
    assert quick == slow


PIECES = st.sampled_from(
    [
        b"a", b"1", b",", b'"', b'""', b'"a\n"', b"\n", b"\n", b"\r\n", b"\r", b"\0", b",1\n", b"\xe9",
        "é".encode(), b"\xef\xbb\xbf",
    ]
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=80).map(b"".join), st.booleans(), st.sampled_from(['"', "'", "a"]))
def test_any_csv_is_cut_by_the_kernels_as_without_them(data: bytes, header: bool, quote: str) -> None:
    options = CsvOptions.parse({"header": header, "delimiter": ",", "quote": quote})
    schema = pa.schema([("x", pa.string()), ("y", pa.int64()), ("column_1", pa.string())])
    quick, slow = both(lambda: read(b"x,y\n" + data, options, schema))
    assert quick == slow


@settings(max_examples=40)
@given(st.lists(PIECES, max_size=14).map(b"".join))
def test_csv_cut_at_any_byte_is_read_by_the_kernels_as_without_them(data: bytes) -> None:
    options = CsvOptions.parse({"header": True, "delimiter": ","})
    schema = pa.schema([("x", pa.string()), ("y", pa.int64())])
    for size in range(1, len(data) + 5):
        quick, slow = both(lambda size=size: read(b"x,y\n" + data, options, schema, size))
        assert quick == slow


@settings(max_examples=300)
@given(st.lists(st.floats(-1e30, 1e30), min_size=1), st.integers(0, 19))
def test_a_double_is_the_nearest_to_its_digits(numbers: list[float], places: int) -> None:
    written = [repr(n) for n in numbers] + [f"{n:.{places}f}" for n in numbers]
    data = "\n".join(["x", *written]).encode()
    rows, errors = read(
        data, CsvOptions.parse({"header": True, "delimiter": ","}), pa.schema([("x", pa.float64())])
    )
    assert errors == "[]" and rows == repr([{"x": float(text)} for text in written])


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**65), 2**65),
        st.floats(),
        st.text(max_size=6),
        st.datetimes().map(str),
        st.dates().map(str),
        st.times().map(str),
        st.decimals(-1000, 1000, places=2).map(str),
        st.sampled_from([0.0, -0.0, 1e-7, 1e22, 2**63, -(2**63), "", "\\", "/", "\x7f", "\ud800"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["b", "b_2", "c", 'q"', "é"]), inner, max_size=3)
    ),
    max_leaves=4,
)
OBJECT = st.dictionaries(st.sampled_from(["a", "b", "a_b", "a_b_2", "a_c", "é", "new"]), VALUES, max_size=4)
RAW = st.one_of(
    NUMBERS,
    st.text('{}[]:,"ab\\u0 1.e-\r\x01', max_size=14),
    st.sampled_from(
        [
            "{}", "[ ]", "[1 ,2]", '[{"x":1,"x":2}]', r'["\/"]', r'"\u00e9\ud83d\ude00"', r'"\ud83d"',
            "[0.0000001,1e5]", "0.000001", "-0", "-0.0", "[-0]", "1.50", "true ", "NaN", "\t1\t",
            '{"b": {"c": 1}}', "[[[]]]",
        ]
    ),
)  # fmt: skip
LINE = st.one_of(
    OBJECT.map(json.dumps),
    OBJECT.map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))),
    st.builds('{{"a":{},"b":{}}}'.format, RAW, RAW),
    st.builds('{{"a":{{"b":{0}}},"a_b":{1},"a":{1}}}'.format, RAW, RAW),
    st.builds('{{"a":{{"b":{0}}},"a_b":{1}}}'.format, RAW, RAW),
    st.text('{}[]:,"a1 \x0b', max_size=10),
)
LINES = st.lists(LINE, max_size=8)


def lines(data: bytes, schema: pa.Schema | None, size: int = 1 << 20) -> Any:
    """What was found out, rows and rejects, with the file cut into pieces of about `size` bytes."""
    found = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_BLOCK", size)
        if schema is None:
            found = documents.inspect(io.BytesIO(data), "f", lines=True, limit=size)
            schema = union([found.schema])
        return found, everything(documents.read(io.BytesIO(data), "f", schema, lines=True))


@settings(max_examples=600)
@given(
    LINES,
    st.dictionaries(st.sampled_from(["a", "b", "a_b", "a_b_2", "a_c", "é"]), TYPES, min_size=1, max_size=4),
)
def test_lines_of_json_are_read_by_the_kernels_as_without_them(
    texts: list[str], types: dict[str, pa.DataType]
) -> None:
    data = "\n".join(texts).encode(errors="surrogatepass")
    schema = pa.schema(list(types.items()))
    quick, slow = both(lambda: (lines(data, schema), lines(data, None)))
    assert quick == slow


@settings(max_examples=25)
@given(st.lists(LINE, max_size=4), st.sampled_from([b"", b"\xe9", b"\xef\xbb\xbf"]))
def test_lines_of_json_cut_at_any_byte_are_read_by_the_kernels_as_without_them(
    texts: list[str], odd: bytes
) -> None:
    data = ("\n".join(texts).encode(errors="surrogatepass") + odd)[:60]
    schema = pa.schema([("a", pa.string()), ("b", pa.float64()), ("a_b", pa.int64())])
    for size in range(1, len(data) + 2):
        quick, slow = both(lambda size=size: (lines(data, schema, size), lines(data, None, size)))
        assert quick == slow


@pytest.mark.parametrize("depth", [9, 10, 11, 31, 32, 33, 100_000])
@pytest.mark.parametrize(
    "shape", ['{{"a":{0}{1}}}', '{{"a":{2}1{3}}}', '{{"a":{2}{{}}{3}}}', '{{"b":1,"a":[{2}1{3}]}}']
)
def test_nested_lines_are_read_by_the_kernels_as_without_them(depth: int, shape: str) -> None:
    line = shape.format("[" * depth, "]" * depth, '{"a":' * depth, "}" * depth)
    schema = pa.schema([("a", pa.string()), ("b", pa.int64()), ("_".join("a" * 10), pa.string())])
    data = f'{{"b":1}}\n{line}\n{{"b":2}}\n'.encode()
    quick, slow = both(lambda: (lines(data, schema), lines(data, None)))
    assert quick == slow


def test_members_without_end_are_read_by_the_kernels_as_without_them() -> None:
    rows = [{"id": n, "by": {f"k{2 * n}": n, f"k{2 * n + 1}": {"x": n}}} for n in range(3000)]
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    schema = pa.schema([("id", pa.int64()), ("by_k7_x", pa.int64()), ("by_k5000", pa.string())])
    quick, slow = both(lambda: (lines(data, schema, 50_000), lines(data, schema)))
    assert quick == slow


def test_tidy_lines_are_all_taken_by_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = [
        {"id": n, "at": {"x": n / 4, "y": {"z": f"tü€{n}\n"}}, "tags": ["a", {"b": n}], "ok": n % 2 == 0}
        for n in range(5000)
    ]
    data = b"".join(json.dumps(value).encode() + b"\n" for value in objects)
    expected = lines(data, None)
    asked: list[int] = []
    decode = documents.decode_lines

    def watched(block: bytes, line: int) -> Any:
        asked.append(line)
        return decode(block, line)

    monkeypatch.setattr(documents, "decode_lines", watched)
    assert lines(data, None, 10_000)[1] == expected[1]
    assert asked == [1]


def test_tidy_csv_is_all_taken_by_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_ByPyarrow", None)
    monkeypatch.setattr(delimited.values, "convert", None)
    data = b"id,at,note,n\n" + b'1,2026-01-01 10:00:00.5,"say ""it"",\nthen go",1.50\r\n,,,\n' * 1000
    schema = pa.schema(
        [("id", pa.int64()), ("at", TIMESTAMP), ("note", pa.string()), ("n", pa.decimal128(38, 2))]
    )
    rows, errors = read(data, CsvOptions(), schema)
    assert errors == "[]" and rows.count('say "it",') == 1000
