"""Arrow arrays as engines hand them out reach PostgreSQL as their values, whatever lies in their buffers.

Arrow leaves undefined what stands under a null, before an offset and behind the end: bytes that are no
UTF-8, lists with elements, dictionary indices beyond the dictionary. Here all of that is filled by chance.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import native
from headrace.connectors.postgres import encode
from headrace.connectors.postgres.image import type_of
from headrace.connectors.postgres.outgoing import encoded, encodes
from servers.postgres import PostgresServer
from tests.integration.postgres_target import kept

Dice = random.Random
Values = Sequence[Any]
"""As `to_pylist` gives them, None for a null."""

UTC = dt.UTC
PLAIN: dict[pa.DataType, list[Any]] = {
    pa.bool_(): [True, False],
    pa.int8(): [-128, 0, 127],
    pa.uint16(): [0, 65_535],
    pa.int32(): [-(2**31), 7, 2**31 - 1],
    pa.uint32(): [0, 2**32 - 1],
    pa.int64(): [-(2**63), -1, 2**63 - 1],
    pa.uint64(): [0, 2**64 - 1],
    pa.float32(): [0.25, -0.0, float("inf")],
    pa.float64(): [0.1, 1e-300, float("-inf")],
    pa.decimal128(12, 2): [Decimal("-0.01"), Decimal("9999999999.99")],
    pa.decimal128(5, -3): [Decimal("-12000"), Decimal("99999000")],
    pa.decimal256(60, 4): [Decimal(10**55), Decimal("-0.0001")],
    pa.date32(): [dt.date(1, 1, 1), dt.date(2024, 2, 29)],
    pa.date64(): [dt.date(1969, 12, 31), dt.date(2024, 2, 29)],
    pa.time32("ms"): [dt.time(23, 59, 59, 999_000)],
    pa.time64("us"): [dt.time(0), dt.time(23, 59, 59, 999_999)],
    pa.timestamp("us"): [dt.datetime(1066, 10, 14), dt.datetime(9999, 12, 31, 23, 59, 59)],
    pa.timestamp("s", "UTC"): [dt.datetime(1969, 12, 31, 23, tzinfo=UTC)],
    pa.string(): ["", "a", "ä\U0010ffff", 'q"\\,{}'],
    pa.large_string(): ["", "ä" * 50, "NULL"],
    pa.binary(): [b"", b"\xff\x00"],
    pa.large_binary(): [b"", b"\\x"],
    pa.binary(3): [b"abc", b"\x00\xff\x00"],
}


def bits(flags: Sequence[bool]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array(flags, bool), bitorder="little").tobytes())


def raw(of: pa.DataType, values: Values, dice: Dice) -> pa.Array:
    """The values in an array whose buffers hold anything where Arrow lets them."""
    before, behind = dice.randrange(12), dice.randrange(4)
    others = [draw(of, dice) for _ in range(before + behind)]
    cells = [*others[:before], *values, *others[before:]]
    return whole(of, cells, dice).slice(before, len(values))


def whole(of: pa.DataType, cells: Values, dice: Dice) -> pa.Array:
    valid = bits([cell is not None for cell in cells])
    full = [some(of, dice) if cell is None else cell for cell in cells]  # under a null: lists with elements
    if pa.types.is_dictionary(of):
        known = [*PLAIN[of.value_type], None]
        codes = np.array([dice.randrange(-128, 128) if c is None else known.index(c) for c in cells], np.int8)
        codes = pa.Array.from_buffers(pa.int8(), len(cells), [valid, pa.py_buffer(codes.tobytes())])
        return pa.DictionaryArray.from_arrays(codes, raw(of.value_type, known, dice), safe=False)
    if pa.types.is_struct(of):
        parts = [raw(field.type, [cell[field.name] for cell in full], dice) for field in of]
        return pa.Array.from_buffers(of, len(cells), [valid], children=parts)
    if pa.types.is_fixed_size_list(of):
        inside = raw(of.value_type, [one for cell in full for one in cell], dice)
        return pa.Array.from_buffers(of, len(cells), [valid], children=[inside])
    if pa.types.is_map(of):
        pairs = [pair for cell in full for pair in cell]
        keys = pa.array([key for key, _ in pairs], of.key_type)
        items = raw(of.item_type, [item for _, item in pairs], dice)
        inside = pa.StructArray.from_arrays([keys, items], fields=list(of.field(0).type))
        offsets = np.cumsum([0, *map(len, full)]).astype(np.int32).tobytes()
        return pa.Array.from_buffers(of, len(cells), [valid, pa.py_buffer(offsets)], children=[inside])
    if pa.types.is_list(of) or pa.types.is_large_list(of):
        start = dice.randrange(3)
        offsets = (start + np.cumsum([0, *map(len, full)])).astype(_offset(of)).tobytes()
        elements = [
            *(draw(of.value_type, dice) for _ in range(start)),
            *(one for cell in full for one in cell),
        ]
        inside = raw(of.value_type, elements, dice)
        return pa.Array.from_buffers(of, len(cells), [valid, pa.py_buffer(offsets)], children=[inside])
    if pa.types.is_boolean(of):
        return pa.Array.from_buffers(of, len(cells), [valid, bits(full)])
    buffers = pa.array(full, of).buffers()
    if len(buffers) == 3:
        junk = [
            b"\xff\x00\xfe" if cell is None else cell.encode() if isinstance(cell, str) else cell
            for cell in cells
        ]
        offsets = np.cumsum([0, *map(len, junk)]).astype(_offset(of)).tobytes()
        return pa.Array.from_buffers(
            of, len(cells), [valid, pa.py_buffer(offsets), pa.py_buffer(b"".join(junk))]
        )
    width = of.bit_width // 8
    data = bytearray(buffers[1].to_pybytes()[: width * len(cells)])
    for at, cell in enumerate(cells):
        if cell is None:
            data[at * width : (at + 1) * width] = dice.randbytes(width)
    return pa.Array.from_buffers(of, len(cells), [valid, pa.py_buffer(bytes(data))])


def _offset(of: pa.DataType) -> type[np.signedinteger[Any]]:
    large = pa.types.is_large_list(of) or pa.types.is_large_string(of) or pa.types.is_large_binary(of)
    return np.int64 if large else np.int32


def some(of: pa.DataType, dice: Dice) -> Any:
    """A value of the type, and no null but inside it."""
    if pa.types.is_dictionary(of):
        return dice.choice(PLAIN[of.value_type])
    if pa.types.is_struct(of):
        return {field.name: draw(field.type, dice) for field in of}
    if pa.types.is_map(of):
        return [(key, draw(of.item_type, dice)) for key in dice.sample(PLAIN[of.key_type], dice.randrange(3))]
    if pa.types.is_nested(of):
        count = of.list_size if pa.types.is_fixed_size_list(of) else dice.randrange(4)
        return [draw(of.value_type, dice) for _ in range(count)]
    return dice.choice(PLAIN[of])


def draw(of: pa.DataType, dice: Dice) -> Any:
    return None if dice.random() < 0.4 else some(of, dice)


def types(depth: int) -> st.SearchStrategy[pa.DataType]:
    plain = st.sampled_from(list(PLAIN))
    coded = st.sampled_from([pa.string(), pa.int32(), pa.large_string()]).map(
        lambda t: pa.dictionary(pa.int8(), t)
    )
    if not depth:
        return plain | coded
    inner = types(depth - 1)
    return st.one_of(
        inner,
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda t: pa.list_(t, 2)),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda found: pa.struct([(f'f"{n}', t) for n, t in enumerate(found)])
        ),
        inner.map(lambda t: pa.map_(pa.string(), t)),
    )


@pytest.fixture(scope="module")
def session(postgres_server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with postgres_server.database("outgoing_raw") as url, psycopg.connect(url, autocommit=True) as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


@settings(max_examples=150, deadline=None)
@given(st.lists(types(2), min_size=1, max_size=5), st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_server_holds_the_values_whatever_lies_beside_them(
    session: psycopg.Connection[Any], kinds: list[pa.DataType], count: int, dice: Dice
) -> None:
    library = native.library()
    assert library is not None
    kinds = [of for of in kinds if (type := type_of(of)) and encodes(of, type)]
    columns = [[draw(of, dice) for _ in range(count)] for of in kinds]
    arrays = [raw(of, values, dice) for of, values in zip(kinds, columns, strict=True)]
    for array, values in zip(arrays, columns, strict=True):
        array.validate()
        assert array.to_pylist() == values
    clean = [pa.array(values, of) for of, values in zip(kinds, columns, strict=True)]
    found = [type_of(of) for of in kinds]
    if not found:
        return
    declared = [str(type) for type in found]
    by_text = kept(session, "csv", iter([encode.to_csv(clean, found)]), declared)
    assert kept(session, "binary", encoded(library, arrays, found), declared) == by_text
    assert len(by_text) == count


def test_a_null_struct_needs_nothing_of_the_dictionary_inside_it() -> None:
    of = pa.struct([("a", pa.dictionary(pa.int8(), pa.string()))])
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array([], pa.string()), safe=False)
    array = pa.Array.from_buffers(of, 2, [bits([False, False])], children=[codes])
    assert encode.to_json(array).to_pylist() == [None, None]
