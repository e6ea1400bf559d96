"""The tables of the generator: each cell is a pure function of seed, row number and version."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

MONEY = pa.decimal128(12, 2)
ZONED = pa.timestamp("us", "UTC")
LOCAL = pa.timestamp("us")
LINES_PER_ORDER = 3
ORDERS_PER_CUSTOMER = 5

_START = int(datetime(2021, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
_DAY = 86_400_000_000
_ODD = np.uint64(0x9E3779B97F4A7C15)

_FIRST = pa.array(["Ada", "Björn", "Chloé", "Đorđe", "Eirīks", "فاطمة", "Gül", "花子", "Иван", "O'Neil"])
_LAST = pa.array(["Lovelace", "Ångström", "Müller", "Nguyễn", "Kowalski", "Ωmega", "van der Berg", "山田"])
_COUNTRIES = pa.array(["AT", "BR", "DE", "FR", "IN", "JP", "KE", "US"])
_NOTES = pa.array(
    [
        "",
        "leave at the door",
        'ring "twice"',
        "two\nlines",
        "tab\there",
        "back\\slash",
        "naïve café",
        "🎁 gift",
        "'; --",
    ]
)
_STATUS = pa.array(["new", "paid", "packed", "sent", "returned"])
_PRODUCTS = pa.array(["kettle", "lamp", "Stuhl", "piñata", "茶碗", "mug, blue", "rope 10 m", "ταμπλό"])
_TAX_RATES = pa.array([0.0, 0.055, 0.07, 0.1, 0.19, 0.25])
_KINDS = pa.array(["view", "click", "search", "purchase", "logout"])


class Cells:
    """The noise of a block of rows; each call gives the next column's, so the order of calls is fixed."""

    def __init__(self, salt: int, numbers: Ints, versions: Ints):
        apart = _mix(np.array([salt], np.uint64))
        start = _mix(numbers.astype(np.uint64) * _ODD + apart)
        self._noise = start ^ _mix(versions.astype(np.uint64) * _ODD)
        self._column = 0

    def bits(self) -> Bits:
        self._column += 1
        step = self._column * 0xD1342543DE82EF95 & (1 << 64) - 1
        return _mix(self._noise + np.uint64(step))

    def below(self, bound: int) -> Ints:
        return (self.bits() % np.uint64(bound)).astype(np.int64)

    def now_and_then(self, one_in: int) -> Mask:
        chosen: Mask = self.below(one_in) == 0
        return chosen

    def pick(self, words: pa.Array, null_one_in: int = 0) -> pa.Array:
        at = self.below(len(words))
        mask = self.now_and_then(null_one_in) if null_one_in else None
        return words.take(pa.array(at, mask=mask))

    def money(self, cents: int, null_one_in: int = 0) -> pa.Array:
        """A decimal between -`cents` / 10 and `cents`."""
        value = self.below(cents + cents // 10) - cents // 10
        wide = np.stack([value, value >> 63], axis=1)
        array = pa.Array.from_buffers(MONEY, len(value), [None, pa.py_buffer(wide)])
        return self._some_null(array, null_one_in)

    def double(self) -> pa.Array:
        value = (self.bits() >> np.uint64(11)) * 2.0**-53
        value[self.now_and_then(50)] = np.nan
        return self._some_null(pa.array(value, from_pandas=False), 20)

    def bool(self, null_one_in: int = 0) -> pa.Array:
        return self._some_null(pa.array(self.below(2) == 1), null_one_in)

    def date(self, days: int, null_one_in: int = 0) -> pa.Array:
        """A date up to `days` before 2030."""
        value = (21_914 - self.below(days)).astype(np.int32)
        return self._some_null(pa.array(value).view(pa.date32()), null_one_in)

    def time(self, type: pa.DataType, null_one_in: int = 0) -> pa.Array:
        """A time from 2021 to 2026, in microseconds."""
        value = _START + self.below(5 * 365 * _DAY)
        return self._some_null(pa.array(value).view(type), null_one_in)

    def _some_null(self, array: pa.Array, one_in: int) -> pa.Array:
        if not one_in:
            return array
        return pc.if_else(pa.array(self.now_and_then(one_in)), pa.scalar(None, array.type), array)


def _mix(x: Bits) -> Bits:
    """The finaliser of SplitMix64: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _text(*parts: Any) -> pa.Array:
    """The parts joined row by row; numbers are written out."""
    written = [p if isinstance(p, str) else p.cast(pa.string()) for p in parts]
    return pc.binary_join_element_wise(*written, "")


def _customers(cells: Cells, number: Ints) -> list[pa.Array]:
    id = pa.array(number)
    return [
        id,
        _text(cells.pick(_FIRST), " ", cells.pick(_LAST)),
        _text("c", id, "@example.com"),
        cells.pick(_COUNTRIES, null_one_in=30),
        cells.money(1_000_000, null_one_in=10),
        cells.date(40_000, null_one_in=15),
        cells.bool(),
        cells.time(ZONED),
        _text('{"tier": ', pa.array(cells.below(5)), ', "tags": ["', cells.pick(_STATUS), '"]}'),
    ]


def _orders(cells: Cells, number: Ints) -> list[pa.Array]:
    return [
        pa.array(number),
        pa.array((number - 1) // ORDERS_PER_CUSTOMER + 1),
        cells.pick(_STATUS),
        cells.money(500_000),
        cells.double(),
        cells.pick(_NOTES, null_one_in=4),
        cells.bool(null_one_in=12),
        cells.date(3_000, null_one_in=5),
        cells.time(ZONED),
        cells.time(LOCAL, null_one_in=25),
    ]


def _order_lines(cells: Cells, number: Ints) -> list[pa.Array]:
    return [
        pa.array((number - 1) // LINES_PER_ORDER + 1),
        pa.array(((number - 1) % LINES_PER_ORDER + 1).astype(np.int32)),
        cells.pick(_PRODUCTS),
        pa.array((cells.below(20) + 1).astype(np.int32)),
        cells.money(20_000),
        cells.pick(_TAX_RATES),
        cells.time(LOCAL, null_one_in=8),
    ]


def _events(cells: Cells, number: Ints) -> list[pa.Array]:
    page = _text("/", cells.pick(_PRODUCTS), "/", pa.array(cells.below(10_000)))
    return [
        pa.array(number),
        cells.pick(_KINDS),
        pa.array(cells.below(100_000)),
        cells.time(ZONED),
        cells.double(),
        page,
        _text('{"page": "', page, '", "ms": ', pa.array(cells.below(5_000)), "}"),
        cells.bool(null_one_in=3),
    ]


@dataclass(frozen=True, slots=True)
class Table:
    """A stream's shape; the first `keys` columns are its primary key."""

    schema: pa.Schema
    keys: int
    columns: Callable[[Cells, Ints], list[pa.Array]]

    @property
    def primary_key(self) -> tuple[str, ...]:
        return tuple(self.schema.names[: self.keys])


def _table(keys: int, columns: Callable[[Cells, Ints], list[pa.Array]], **types: pa.DataType) -> Table:
    fields = [pa.field(name, type, nullable=at >= keys) for at, (name, type) in enumerate(types.items())]
    return Table(pa.schema(fields), keys, columns)


TABLES = {
    "customers": _table(
        1,
        _customers,
        id=pa.int64(),
        name=pa.string(),
        email=pa.string(),
        country=pa.string(),
        credit_limit=MONEY,
        birthday=pa.date32(),
        active=pa.bool_(),
        created_at=ZONED,
        profile=pa.string(),
    ),
    "orders": _table(
        1,
        _orders,
        id=pa.int64(),
        customer_id=pa.int64(),
        status=pa.string(),
        total=MONEY,
        discount=pa.float64(),
        note=pa.string(),
        paid=pa.bool_(),
        deliver_on=pa.date32(),
        placed_at=ZONED,
        picked_at=LOCAL,
    ),
    "order_lines": _table(
        2,
        _order_lines,
        order_id=pa.int64(),
        line=pa.int32(),
        product=pa.string(),
        quantity=pa.int32(),
        price=MONEY,
        tax_rate=pa.float64(),
        picked_at=LOCAL,
    ),
    "events": _table(
        1,
        _events,
        id=pa.int64(),
        kind=pa.string(),
        user_id=pa.int64(),
        at=ZONED,
        score=pa.float64(),
        page=pa.string(),
        payload=pa.string(),
        first_visit=pa.bool_(),
    ),
}


def make_rows(name: str, seed: int, numbers: Ints, versions: Ints | None = None) -> pa.RecordBatch:
    """The rows of those numbers (from 1) in table `name`; version 0 is the row as it was loaded."""
    table = TABLES[name]
    if versions is None:
        versions = np.zeros(len(numbers), np.int64)
    cells = Cells(_salt(name, seed), numbers, versions)
    return pa.RecordBatch.from_arrays(table.columns(cells, numbers), schema=table.schema)


def noise(name: str, seed: int, numbers: Ints) -> Cells:
    """Noise of the change events of those numbers, independent of the rows'."""
    return Cells(_salt(name + ":changes", seed), numbers, np.zeros(len(numbers), np.int64))


def _salt(name: str, seed: int) -> int:
    return (zlib.crc32(name.encode()) << 32) ^ seed
