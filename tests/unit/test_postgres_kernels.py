"""The compiled decode against the one by numpy, on bytes as no server would send them too."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import native
from headrace.connectors.postgres import compiled, decode, receive
from headrace.connectors.postgres.decode import Block, Garbled
from headrace.connectors.postgres.types import Image, Kind

HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END = b"\xff\xff"
DAY = 86_400_000_000
EXTREMES = [0, 1, -1, DAY, 2**63 - 1, -(2**63), 2**63 - 1 - 946_684_800_000_000, 2**63 - 2]


@st.composite
def numerics(draw: st.DrawFn) -> bytes:
    sign = draw(st.sampled_from([0, 0, 0, 0x4000, 0x4000, 0xC000, 0xD000, 0xF000]))
    digits = draw(
        st.lists(st.sampled_from([0, 1, 10, 4500, 9999]), max_size=draw(st.sampled_from([3, 9, 21])))
    )
    weight = draw(st.integers(-3, 20) | st.sampled_from([-32768, 32767]))
    if not draw(st.integers(0, 2)):
        weight = len(digits) - 1
    scale = draw(st.integers(0, 40))
    return struct.pack(f">HhHH{len(digits)}H", len(digits), weight, sign, scale, *digits)


def numbers(form: str) -> st.SearchStrategy[bytes]:
    width = struct.calcsize(form)
    edges = [n for n in EXTREMES if -(1 << 8 * width - 1) <= n < 1 << 8 * width - 1]
    return st.binary(min_size=width, max_size=width) | st.sampled_from(edges).map(
        lambda n: struct.pack(form, n)
    )


texts = st.text(max_size=20).map(lambda t: t.encode("utf8", "surrogatepass")) | st.binary(max_size=6)

VALUES: dict[Kind, tuple[pa.DataType, st.SearchStrategy[bytes]]] = {
    Kind.BOOL: (pa.bool_(), st.sampled_from([b"\0", b"\1", b"\xff"])),
    Kind.INT2: (pa.int16(), numbers(">h")),
    Kind.INT4: (pa.int32(), numbers(">i")),
    Kind.INT8: (pa.int64(), numbers(">q")),
    Kind.OID: (pa.int64(), numbers(">i")),
    Kind.FLOAT4: (pa.float32(), numbers(">i")),
    Kind.FLOAT8: (pa.float64(), numbers(">q")),
    Kind.DATE: (pa.date32(), numbers(">i") | st.sampled_from([b"\x7f\xff\xff\xff", b"\x80\0\0\0"])),
    Kind.TIME: (pa.time64("us"), st.sampled_from([0, DAY - 1, DAY]).map(lambda n: struct.pack(">q", n))),
    Kind.TIMESTAMP: (pa.timestamp("us"), numbers(">q")),
    Kind.TEXT: (pa.string(), texts),
    Kind.BYTES: (pa.binary(), st.binary(max_size=150)),
    Kind.JSONB: (pa.string(), texts.map(lambda t: b"\1" + t)),
    Kind.UUID: (pa.string(), st.binary(min_size=16, max_size=16)),
}
SCALARS = [(Image(type, kind), values) for kind, (type, values) in VALUES.items()] + [
    (Image(type, Kind.NUMERIC), numerics())
    for type in (
        pa.decimal128(12, 2), pa.decimal128(18, 0), pa.decimal128(19, 19), pa.decimal128(38, 7),
        pa.decimal128(38, 38), pa.decimal256(39, 3), pa.decimal256(76, 31), pa.decimal256(76, 0),
    )
]  # fmt: skip


def field(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else struct.pack(">i", len(value)) + value


def array(values: list[bytes | None]) -> bytes:
    return struct.pack(">iiIii", 1, 1, 25, len(values), 1) + b"".join(map(field, values))


EMPTY, SQUARE = struct.pack(">iiI", 0, 0, 25), struct.pack(">iiIiiii", 2, 0, 25, 1, 1, 1, 1) + field(b"a")
LISTS = [
    (
        Image(pa.list_(image.arrow), Kind.LIST, "", image),
        st.lists(st.none() | values, max_size=4).map(array) | st.sampled_from([EMPTY, EMPTY, SQUARE]),
    )
    for image, values in SCALARS
]


@st.composite
def copies(draw: st.DrawFn) -> tuple[list[Image], list[bytes]]:
    """Columns, and rows of them."""
    columns = draw(st.lists(st.sampled_from([*SCALARS, *LISTS]), max_size=6))
    row = st.tuples(*(st.none() | values for _, values in columns))
    head = struct.pack(">h", len(columns))
    rows = draw(st.lists(row, max_size=9))
    return [image for image, _ in columns], [head + b"".join(map(field, r)) for r in rows]


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True) if a < b]


def by_numpy(images: list[Image], pieces: list[bytes], size: int) -> list[Block | None]:
    return list(decode.decoded(pieces, [f"c{n}" for n in range(len(images))], images))


def by_kernels(images: list[Image], pieces: list[bytes], size: int) -> list[Block | None]:
    library = native.library()
    assert library is not None, native.missing()
    names = [f"c{n}" for n in range(len(images))]
    found = []
    for block in compiled.decoded(library, receive.joined(pieces), names, images, size=size):
        assert block is not None
        found.append(block._replace(data=block.data.copy(), starts=block.starts.copy()))
    return found


Way = Callable[[list[Image], list[bytes], int], list[Block | None]]


def read(way: Way, images: list[Image], pieces: list[bytes], size: int = 64) -> Any:
    """Everything that a way makes of a copy, comparable; None when it finds the copy garbled."""
    try:
        blocks = way(images, pieces, size)
    except Garbled:
        return None
    rows, bad, raw = 0, set(), b""
    for block in blocks:
        assert block is not None
        block.rows.validate(full=True)
        assert list(block.bad) == sorted(block.bad, key=lambda b: (b.column, b.row))
        bad |= {(rows + b.row, *b[1:]) for b in block.bad}
        for start, end in zip(block.starts, [*block.starts[1:], len(block.data)], strict=True):
            raw += bytes(block.data[start:end])
        rows += block.rows.num_rows
    columns = [
        [value for block in blocks for value in plain(block.rows.column(number))]
        for number in range(len(images))
    ]
    return rows, bad, raw, columns


def plain(column: pa.Array) -> list[Any]:
    """Values as they are compared: bits of floats and times, which Python's own types can't all hold."""
    if pa.types.is_list(column.type):
        values, lengths = plain(column.flatten()), column.value_lengths().to_pylist()
        return [None if n is None else [values.pop(0) for _ in range(n)] for n in lengths]
    if pa.types.is_temporal(column.type) or pa.types.is_floating(column.type):
        return column.view(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_pylist()
    return column.to_pylist()


@settings(max_examples=300)
@given(copies(), st.data())
def test_the_kernels_decode_as_numpy_does(copy: tuple[list[Image], list[bytes]], data: st.DataObject) -> None:
    images, rows = copy
    expected = read(by_numpy, images, [HEAD, *rows, END])
    assert expected is not None and expected[0] == len(rows) and expected[2] == b"".join(rows)
    assert read(by_kernels, images, data.draw(cut(HEAD + b"".join(rows) + END))) == expected
    assert read(by_kernels, images, [HEAD, *rows, END], 1 << 16) == expected


@settings(max_examples=300)
@given(copies(), st.data())
def test_garbled_copies_are_refused_or_read_alike(
    copy: tuple[list[Image], list[bytes]], data: st.DataObject
) -> None:
    images, rows = copy
    stream = bytearray(HEAD + b"".join(rows) + END)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(stream) - 1))
        stream[place] = data.draw(st.sampled_from([0, 1, 2, 4, 20, 127, 128, 255]) | st.integers(0, 255))
    end = data.draw(st.just(len(stream)) | st.integers(0, len(stream)))
    pieces = [bytes(stream[:end])]
    assert read(by_kernels, images, pieces) == read(by_numpy, images, pieces)


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"", "not binary"),
        (b"id,name\n1,a\n", "not binary"),
        (HEAD, "middle of a row"),
        (HEAD + b"\0\1\0\0\0\4\0\0\0", "middle of a row"),
        (HEAD + b"\0\2\0\0\0\4\0\0\0\1\xff\xff\xff\xff" + END, "number of fields"),
        (HEAD + b"\0\1\0\0\0\2\0\1" + END, "not as long"),
        (HEAD + b"\0\1\x7f\xff\xff\xff\0\1" + END, "a length that there is not"),
        (HEAD + b"\0\1\xff\xff\xff\xfe\0\1" + END, "a length that there is not"),
        (HEAD + END + b"\0", "behind its end"),
    ],
)
def test_bytes_that_are_not_rows_of_these_columns_are_refused(stream: bytes, why: str) -> None:
    with pytest.raises(Garbled, match=why):
        by_kernels([Image(pa.int32(), Kind.INT4)], [stream], 64)


@pytest.mark.parametrize("way", [by_numpy, by_kernels])
def test_a_number_with_a_digit_that_is_none_is_garbled_even_where_it_has_too_many(way: Way) -> None:
    value = struct.pack(">HhHH9H", 9, 0, 0, 40, *[9999] * 8, 10_000)
    with pytest.raises(Garbled, match="none of its type"):
        way([Image(pa.decimal128(12, 2), Kind.NUMERIC)], [HEAD, struct.pack(">h", 1) + field(value), END], 64)


def test_an_empty_copy_has_no_rows_however_it_is_framed() -> None:
    for pieces in ([HEAD + END], [HEAD, END], [HEAD[:5], HEAD[5:], END]):
        assert by_kernels([Image(pa.int32(), Kind.INT4)], pieces, 64) == []


def test_a_row_that_is_longer_than_a_block_is_read() -> None:
    value = bytes(range(256)) * 40
    row = struct.pack(">h", 1) + field(value)
    images = [Image(pa.binary(), Kind.BYTES)]
    assert read(by_kernels, images, [HEAD, row, row, END])[3] == [[value, value]]


def test_more_values_can_be_refused_than_there_was_room_for() -> None:
    row = struct.pack(">h", 1) + field(struct.pack(">HhHH", 0, 0, 0xC000, 0))
    rows, bad, _, _ = read(
        by_kernels, [Image(pa.decimal128(5, 2), Kind.NUMERIC)], [HEAD, *[row] * 500, END], 1 << 16
    )
    assert (rows, len(bad)) == (500, 500)


@pytest.mark.parametrize(
    ("digits", "weight", "sign", "scale", "text"),
    [
        ([1234, 5600], 0, 0x4000, 2, "-1234.56"),
        ([1], 2, 0, 0, "100000000"),
        ([12], -2, 0, 9, "0.000000120"),
        ([7, 0, 5000], 1, 0, 1, "70000.5"),
        ([], 0, 0, 3, "0.000"),
    ],
)
def test_a_refused_number_is_shown_as_the_server_writes_it(
    digits: list[int], weight: int, sign: int, scale: int, text: str
) -> None:
    raw = struct.pack(f">HhHH{len(digits)}H", len(digits), weight, sign, scale, *digits)
    assert decode.number_text(raw) == text


def test_silence_is_passed_on() -> None:
    library = native.library()
    assert library is not None
    pieces = [None, HEAD[:9], None, HEAD[9:], None, END]
    assert list(compiled.decoded(library, receive.joined(pieces), [], [])) == [None, None, None]


def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    native._load.cache_clear()
    monkeypatch.setattr(native, "ABI", -1)
    assert (native.library(), native.missing()) == (None, "compiled from other sources than these")
    native._load.cache_clear()
    monkeypatch.setattr(native, "PATH", native.PATH.with_name("none"))
    assert native.library() is None and "no C compiler" in str(native.missing())
    native._load.cache_clear()
