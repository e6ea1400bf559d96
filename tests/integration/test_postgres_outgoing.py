"""Arrow as binary COPY: byte by byte against the manual, and on a server against rows sent as text."""

from __future__ import annotations

import ctypes
import datetime as dt
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from decimal import Context, Decimal
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import native
from headrace.connector import Stream
from headrace.connectors.postgres import encode, outgoing
from headrace.connectors.postgres.image import Type, type_of
from headrace.connectors.postgres.outgoing import Unencodable, encoded, encodes
from servers.postgres import PostgresServer
from tests.integration.postgres_target import (
    APPEND,
    UPSERT,
    batch,
    kept,
    load,
    orders,
    query,
    stage,
    table,
    target_at,
    token,
)

HEAD, END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
EPOCH_DAYS, DAY = 10_957, 86_400_000_000
WIDE = Context(prec=100)


class Sample(NamedTuple):
    """A type, values of it as its storage has them, and how the manual has one of them sent."""

    arrow: pa.DataType
    values: st.SearchStrategy[Any]
    send: Callable[[Any], bytes]
    storage: pa.DataType | None = None

    @property
    def type(self) -> Type:
        found = type_of(self.arrow)
        assert found is not None
        return found

    def array(self, values: Sequence[Any]) -> pa.Array:
        if pa.types.is_decimal(self.arrow):
            scale = self.arrow.scale
            values = [None if v is None else Decimal(v).scaleb(-scale, WIDE) for v in values]
        if self.storage is not None:
            return pa.array(values, self.storage).view(self.arrow)
        return pa.array(values, self.arrow)


def packed(form: str, shift: int = 0) -> Callable[[Any], bytes]:
    return lambda value: struct.pack(form, value - shift if shift else value)


def number(scale: int) -> Callable[[int], bytes]:
    """An unscaled number as the digits to base 10,000 that stand on both sides of its point."""

    def send(value: int) -> bytes:
        digits = str(abs(value) * 10 ** max(-scale, 0))
        shown = max(scale, 0)
        digits = digits.zfill(shown + 1)
        whole, rest = digits[: len(digits) - shown], digits[len(digits) - shown :]
        whole = whole.zfill(-(-len(whole) // 4) * 4)
        rest = rest.ljust(-(-len(rest) // 4) * 4, "0")
        groups = [int((whole + rest)[i : i + 4]) for i in range(0, len(whole + rest), 4)]
        weight = len(whole) // 4 - 1
        while groups and groups[0] == 0:
            groups, weight = groups[1:], weight - 1
        while groups and groups[-1] == 0:
            groups = groups[:-1]
        sign = 0x4000 if value < 0 else 0
        return struct.pack(f">HhHH{len(groups)}H", len(groups), weight if groups else 0, sign, shown, *groups)

    return send


def whole(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.integers(low, high) | st.sampled_from([low, high, 0, 1])


def unscaled(precision: int) -> st.SearchStrategy[int]:
    most = 10**precision - 1
    sizes = st.integers(0, precision).map(lambda n: 10**n)
    return st.integers(-most, most) | sizes.map(lambda n: min(n, most)) | sizes.map(lambda n: -min(n, most))


def text(value: str) -> bytes:
    return value.encode()


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
MOMENTS = st.integers(-210_866_803_200_000_000, 2**63 - 1) | st.sampled_from([0, -1, 2**63 - 1])
SCALARS = [
    Sample(pa.bool_(), st.booleans(), packed(">?")),
    Sample(pa.int8(), whole(8), packed(">h")),
    Sample(pa.int16(), whole(16), packed(">h")),
    Sample(pa.int32(), whole(32), packed(">i")),
    Sample(pa.int64(), whole(64), packed(">q")),
    Sample(pa.uint8(), whole(8, signed=False), packed(">h")),
    Sample(pa.uint16(), whole(16, signed=False), packed(">i")),
    Sample(pa.uint32(), whole(32, signed=False), packed(">q")),
    Sample(pa.uint64(), whole(64, signed=False), number(0)),
    Sample(pa.float32(), st.floats(width=32), packed(">f")),
    Sample(pa.float64(), st.floats(), packed(">d")),
    *(
        Sample(type, unscaled(type.precision), number(type.scale))
        for type in (
            pa.decimal128(12, 2), pa.decimal128(18, 18), pa.decimal128(38, 0), pa.decimal128(38, 7),
            pa.decimal128(38, 37), pa.decimal128(5, -3), pa.decimal256(60, 4), pa.decimal256(76, 0),
            pa.decimal256(76, 75),
        )
    ),
    Sample(pa.string(), TEXTS, text),
    Sample(pa.large_string(), TEXTS, text),
    Sample(pa.string_view(), TEXTS, text),
    Sample(pa.dictionary(pa.int8(), pa.string()), TEXTS, text),
    Sample(pa.binary(), st.binary(max_size=40), bytes),
    Sample(pa.large_binary(), st.binary(max_size=40), bytes),
    Sample(pa.binary(3), st.binary(min_size=3, max_size=3), bytes),
    Sample(pa.date32(), st.integers(-2_440_588, 2_145_042_905), packed(">i", EPOCH_DAYS), pa.int32()),
    Sample(pa.time32("s"), st.integers(0, 86_400), lambda v: struct.pack(">q", v * 10**6), pa.int32()),
    Sample(pa.time64("us"), st.integers(0, DAY), packed(">q"), pa.int64()),
    Sample(pa.timestamp("us"), MOMENTS, packed(">q", EPOCH_DAYS * DAY), pa.int64()),
    Sample(pa.timestamp("us", "Asia/Tokyo"), MOMENTS, packed(">q", EPOCH_DAYS * DAY), pa.int64()),
    Sample(
        pa.timestamp("ms"),
        st.integers(-(10**14), 10**14),
        lambda v: struct.pack(">q", v * 1000 - EPOCH_DAYS * DAY),
        pa.int64(),
    ),
]  # fmt: skip


def field(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else struct.pack(">i", len(value)) + value


OIDS = {
    "bool": 16, "bytea": 17, "int8": 20, "int2": 21, "int4": 23, "text": 25, "float4": 700, "float8": 701,
    "date": 1082, "time": 1083, "timestamp": 1114, "timestamptz": 1184, "numeric": 1700,
}  # fmt: skip


def listed(element: Sample) -> Sample:
    def send(values: list[Any]) -> bytes:
        head = struct.pack(">iiI", bool(values), None in values, OIDS[element.type.name])
        bounds = struct.pack(">ii", len(values), 1) if values else b""
        return head + bounds + b"".join(field(None if v is None else element.send(v)) for v in values)

    return Sample(pa.list_(element.arrow), st.lists(st.none() | element.values, max_size=4), send)


def array_of(sample: Sample, values: Sequence[Any], element: Sample | None) -> pa.Array:
    if element is None:
        return sample.array(values)
    offsets = [0]
    for value in values:
        offsets.append(offsets[-1] + len(value or ()))
    inner = element.array([one for value in values for one in value or ()])
    nulls = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, mask=nulls)


class Column(NamedTuple):
    array: pa.Array
    type: Type
    cells: list[bytes | None]


@st.composite
def columns(draw: st.DrawFn) -> list[Column]:
    """Columns of one length, some of them slices of longer ones."""
    count, found = draw(st.integers(0, 7)), []
    for element in draw(st.lists(st.sampled_from(SCALARS), min_size=1, max_size=6)):
        nested = draw(st.booleans()) and not pa.types.is_dictionary(element.arrow)
        sample = listed(element) if nested else element
        before, behind = draw(st.integers(0, 9)), draw(st.integers(0, 2))
        cell = draw(st.sampled_from([sample.values, st.none() | sample.values]))
        total = before + count + behind
        values = draw(st.lists(cell, min_size=total, max_size=total))
        array = array_of(sample, values, element if nested else None).slice(before, count)
        sent = [None if v is None else sample.send(v) for v in values[before : before + count]]
        found.append(Column(array, sample.type, sent))
    return found


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    library = native.library()
    assert library is not None, native.missing()
    return library


def sent(library: ctypes.CDLL, columns: Sequence[tuple[pa.Array, Type]], size: int = 1 << 20) -> bytes:
    arrays, types = zip(*((column[0], column[1]) for column in columns), strict=True)
    return b"".join(bytes(piece) for piece in encoded(library, arrays, types, size=size))


@settings(max_examples=300, deadline=None)
@given(columns(), st.sampled_from([1, 100, 300, 1 << 20]))
def test_rows_are_sent_as_the_manual_has_them(columns: list[Column], size: int) -> None:
    library = native.library()
    assert library is not None
    head = struct.pack(">h", len(columns))
    rows = zip(*(column.cells for column in columns), strict=True)
    expected = HEAD + b"".join(head + b"".join(map(field, row)) for row in rows) + END
    assert sent(library, [(c.array, c.type) for c in columns], size) == expected


@pytest.fixture(scope="module")
def session(postgres_server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with postgres_server.database("outgoing") as url, psycopg.connect(url, autocommit=True) as opened:
        opened.execute("SET TimeZone = 'UTC'")
        opened.execute("CREATE TYPE mood AS ENUM ('sad', 'so \"so\"')")
        opened.execute("CREATE DOMAIN short AS varchar(5) CHECK (VALUE <> 'no')")
        yield opened


@settings(max_examples=100, deadline=None)
@given(columns())
def test_the_server_makes_the_same_of_both_ways(
    session: psycopg.Connection[Any], columns: list[Column]
) -> None:
    library = native.library()
    assert library is not None
    arrays, types = [c.array for c in columns], [c.type for c in columns]
    declared = [str(type) for type in types]
    by_text = kept(session, "csv", iter([encode.to_csv(arrays, types)]), declared)
    assert kept(session, "binary", encoded(library, arrays, types), declared) == by_text
    assert len(by_text) == len(arrays[0])


# columns of tables that others made, with values that they can hold
OTHERS: list[tuple[str, Type, pa.Array]] = [
    ("bigint", Type("int8"), pa.array([1, None, -1], pa.int16())),
    ("numeric", Type("numeric"), pa.array([-(2**63), 0, 2**63 - 1])),
    ("numeric", Type("numeric"), pa.array([Decimal("1.10"), Decimal("-0.05"), None])),
    ("numeric(12,1)", Type("numeric", 12, 1), pa.array([2**31 - 1, None, 0], pa.int32())),
    ("double precision", Type("float8"), pa.array([1, -(2**31), None], pa.int32())),
    ("real", Type("float4"), pa.array([1, -(2**15), None], pa.int16())),
    ("varchar(5)", Type("varchar", 5), pa.array(["äöüß€", "", None])),
    ("short", Type("varchar", 5), pa.array(["yes", "", None])),
    ("character(4)", Type("bpchar", 4), pa.array(["ab", "abcd", ""])),
    ("json", Type("json"), pa.array(['{"a" : 1}', "null", None])),
    ("jsonb", Type("jsonb"), pa.array(['{"a" : 1}', "[]", None], pa.large_string())),
    ("jsonb", Type("jsonb"), pa.array([{"a": 1}, None, {"a": None}])),
    ("text", Type("text"), pa.array(['{"a" : 1}', "[]", None], pa.json_())),
    ("mood", Type("mood", texty=True, spelled=True), pa.array(["sad", None, 'so "so"'])),
    ("varchar(3)[]", Type("varchar", 3, array=True), pa.array([["a", None], [], None])),
    ("date[]", Type("date", array=True), pa.array([[dt.date(2020, 2, 29), None], [], None])),
    ("timestamp(3)", Type("timestamp", 3), pa.array([1_000, None, -2_000], pa.timestamp("us"))),
    ("text", Type("text"), pa.nulls(3)),
    (
        "uuid",
        Type("uuid", texty=True),
        pa.array(
            ["{00010203-0405-0607-0809-0A0B0C0D0E0F}", "0" * 32, "0001-0203-0405-0607-0809-0a0b-0c0d-0e0f"]
        ),
    ),
    (
        "uuid",
        Type("uuid"),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\1" * 16, None, b"\0" * 16], pa.binary(16))),
    ),
]


@pytest.mark.parametrize("case", range(len(OTHERS)), ids=[f"{c[0]}-{c[2].type}" for c in OTHERS])
def test_columns_of_other_types_hold_the_same_by_both_ways(
    kernels: ctypes.CDLL, session: psycopg.Connection[Any], case: int
) -> None:
    declared, type, array = OTHERS[case]
    assert encodes(array.type, type)
    by_text = kept(session, "csv", iter([encode.to_csv([array], [type])]), [declared])
    assert kept(session, "binary", encoded(kernels, [array], [type]), [declared]) == by_text


@pytest.mark.parametrize(
    ("arrow", "type"),
    [
        (pa.float32(), Type("float8")),  # 0.1 as a float is another double than 0.1
        (pa.list_(pa.float16()), Type("float8", array=True)),
        (pa.string(), Type("inet", texty=True)),
        (pa.list_(pa.string()), Type("mood", array=True, texty=True, spelled=True)),
    ],
)
def test_columns_whose_binary_form_is_not_that_of_their_text_are_sent_as_text(
    arrow: pa.DataType, type: Type
) -> None:
    assert not encodes(arrow, type)
    assert outgoing.library_for([pa.int64(), arrow], [Type("int8"), type]) is None


@pytest.mark.parametrize(
    ("array", "type"),
    [
        (pa.array(["0" * 31]), Type("uuid")),
        (pa.array(["{" + "0" * 32]), Type("uuid")),
        (pa.array(["0" * 31 + "g"]), Type("uuid")),
        (pa.array(["0" * 32 + "-"]), Type("uuid")),
        (pa.array([""]), Type("uuid")),
        (pa.array([-(2**31)], pa.int32()).view(pa.date32()), Type("date")),
        (pa.array([-(2**31) + EPOCH_DAYS], pa.int32()).view(pa.date32()), Type("date")),  # -infinity
        (pa.array([-(2**63) + EPOCH_DAYS * DAY]).view(pa.timestamp("us")), Type("timestamp")),  # -infinity
        (pa.array([2**62]).view(pa.timestamp("s")), Type("timestamp")),
    ],
)
def test_a_value_without_a_binary_form_is_left_to_the_text(
    kernels: ctypes.CDLL, array: pa.Array, type: Type
) -> None:
    with pytest.raises(Unencodable):
        sent(kernels, [(array, type)])
    with pytest.raises(Unencodable):
        sent(kernels, [(pa.ListArray.from_arrays([0, 1], array), Type(type.name, array=True))])


def test_rows_longer_than_a_block_are_sent(kernels: ctypes.CDLL) -> None:
    values = [b"x" * 5_000, b"", b"y" * 100_000]
    expected = HEAD + b"".join(struct.pack(">h", 1) + field(v) for v in values) + END
    assert sent(kernels, [(pa.array(values), Type("bytea"))], 64) == expected


def test_a_load_goes_by_binary_copy_and_without_kernels_by_text_to_the_same_table(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": 1, "note": 'a,"b"'}, {"id": 2, "note": None}, {"id": 3, "note": ""}]
    with closing(target_at(postgres_url)) as target:
        binary = load(target, orders(), APPEND, rows)
        monkeypatch.setattr(native, "library", lambda: None)
        text = load(target, orders("plain"), APPEND, rows)
    assert table(postgres_url) == table(postgres_url, "plain") == [(1, 'a,"b"'), (2, None), (3, "")]
    assert binary.bytes == len(HEAD + END) + 3 * (2 + 12 + 4) + len('a,"b"')
    assert text.bytes != binary.bytes


@pytest.mark.parametrize("kernels_there", [True, False])
def test_marks_of_unchanged_cells_are_sent_by_both_ways(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, kernels_there: bool
) -> None:
    if not kernels_there:
        monkeypatch.setattr(native, "library", lambda: None)
    names = ['a "b"\\', "c,{}"]
    stream = orders(**dict.fromkeys(names, pa.string()))
    with closing(target_at(postgres_url)) as target:
        load(target, stream, UPSERT, [{"id": 1, **dict.fromkeys(names, "old")}])
        marks = {names[0]: [True], names[1]: [False]}
        update = batch(stream, [{"id": 1, names[0]: None, names[1]: "new"}], [1], marks)
        staged, rejects = stage(target, stream, UPSERT, update)
        target.publish(stream, UPSERT, [staged], token(2))
    assert (rejects, table(postgres_url)) == ([], [(1, "old", "new")])


def test_rows_refused_in_binary_come_back_with_the_reason_for_their_text(postgres_url: str) -> None:
    query(postgres_url, "CREATE TABLE orders (id bigint, at uuid, note varchar(5) CHECK (note <> 'no'))")
    stream = Stream(
        name="orders", schema=pa.schema([("id", pa.int64()), ("at", pa.string()), ("note", pa.string())])
    )
    rows = [
        {"id": 1, "at": "f" * 32, "note": "yes"},
        {"id": 2, "at": "f" * 31, "note": "yes"},
        {"id": 3, "at": None, "note": "no"},
    ]
    with closing(target_at(postgres_url)) as target:
        target.prepare(stream, APPEND)
        staged, rejects = stage(target, stream, APPEND, batch(stream, rows))
        target.publish(stream, APPEND, [staged], token())
    assert [(r.code, r.row and dict(r.row)["id"]) for r in rejects] == [  # type: ignore[arg-type]
        ("postgres.value.refused", 2),
        ("postgres.value.refused", 3),
    ]
    assert "invalid input syntax for type uuid" in rejects[0].reason
    assert query(postgres_url, "SELECT id FROM orders") == [(1,)]
