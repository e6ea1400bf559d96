"""Keys as sorted numbers, so that the rows with a key are found by binary search.

A key of one whole number, date or time is its own number. Any other (text, bytes, decimals, several
columns) is hashed, and the keys themselves are kept beside the numbers and compared at a match: two keys
of one hash are never taken for each other. A key with a null in it matches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Numbers = np.ndarray[Any, np.dtype[Any]]
NO_ROWS: Numbers = np.empty(0, np.int64)

_SEED, _TIMES = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFF51AFD7ED558CCD)
_WORD = 8


@dataclass(frozen=True, slots=True)
class Keys:
    """Numbers in ascending order, the row that each is of, and the keys by row where a number may lie."""

    codes: Numbers
    rows: Numbers
    values: tuple[pa.Array, ...] = ()

    @classmethod
    def of(cls, columns: Sequence[pa.ChunkedArray]) -> Keys:
        """The keys whose columns are given, as `key_column` makes them."""
        plain = [_plain(column) for column in columns]
        rows = np.arange(len(plain[0]), dtype=np.int32 if len(plain[0]) < 2**31 else np.int64)
        if any(column.null_count for column in plain):
            whole = np.ones(len(rows), bool)
            for column in plain:
                whole &= column.is_valid().to_numpy(zero_copy_only=False)
            rows = rows[whole]
        exact = len(plain) == 1 and pa.types.is_int64(plain[0].type)
        codes = _numbers(plain[0]) if exact else _hash(plain)
        codes = codes[rows] if len(rows) < len(codes) else codes
        if not bool(np.all(codes[:-1] <= codes[1:])):
            order = np.argsort(codes, kind="stable")
            codes, rows = codes[order], rows[order]
        return cls(codes, rows, () if exact else tuple(plain))

    @property
    def nbytes(self) -> int:
        return int(self.codes.nbytes + self.rows.nbytes + sum(value.nbytes for value in self.values))

    def rows_in(self, wanted: Keys) -> Numbers:
        """Our rows, ascending, whose key is among `wanted`."""
        if not len(self.codes) or not len(wanted.codes):
            return NO_ROWS
        ours, theirs = _within(self.codes, wanted.codes), _within(wanted.codes, self.codes)
        mine, other = self.codes[ours], wanted.codes[theirs]
        if len(mine) < len(other):
            at, to = _pairs(mine, other)
        else:
            to, at = _pairs(other, mine)
        rows, others = self.rows[ours][at], wanted.rows[theirs][to]
        for column, theirs_too in zip(self.values, wanted.values, strict=True):
            same = pc.equal(column.take(pa.array(rows)), theirs_too.take(pa.array(others)))
            kept = same.to_numpy(zero_copy_only=False)
            rows, others = rows[kept], others[kept]
        return np.unique(rows).astype(np.int64)


def _within(codes: Numbers, span: Numbers) -> slice:
    """Where sorted `codes` may meet the sorted numbers of `span`."""
    low = int(np.searchsorted(codes, span[0], "left"))
    return slice(low, int(np.searchsorted(codes, span[-1], "right")))


def _pairs(few: Numbers, many: Numbers) -> tuple[Numbers, Numbers]:
    """All places at which the two hold the same number."""
    low = np.searchsorted(many, few, "left")
    high = np.searchsorted(many, few, "right") if len(many) else low
    found = np.flatnonzero(high > low)
    counts = (high - low)[found]
    if not counts.size:
        return found, found
    step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(found, counts), np.repeat(low[found], counts) + step


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Whole numbers, or bytes."""
    kind = column.type
    if isinstance(column, pa.ChunkedArray):
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            column = column.cast(pa.large_binary())  # so that more than 2 GiB of keys can be one array
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_date32(kind):
        return column.view(pa.int32()).cast(pa.int64())
    if pa.types.is_time64(kind) or pa.types.is_timestamp(kind):
        return column.view(pa.int64())
    if pa.types.is_floating(kind):
        return column.cast(pa.float64()).view(pa.int64())
    if pa.types.is_decimal(kind):
        return column.view(pa.binary(kind.byte_width)).cast(pa.large_binary())
    return column.cast(pa.large_binary())


def _numbers(column: pa.Array) -> Numbers:
    filled = pc.fill_null(column, 0) if column.null_count else column
    return np.asarray(filled.to_numpy(zero_copy_only=False)).view(np.uint64)


def _hash(columns: Sequence[pa.Array]) -> Numbers:
    state = np.full(len(columns[0]), _SEED)
    for column in columns:
        if pa.types.is_int64(column.type):
            state = _mix(state ^ _numbers(column))
        else:
            _add_bytes(state, column)
    return state


def _add_bytes(state: Numbers, column: pa.Array) -> None:
    """Mix the bytes of each value into its state, eight at a time; the length last."""
    _, places, data = column.buffers()
    offsets = np.frombuffer(places, np.int64)[column.offset : column.offset + len(column) + 1]
    first = int(offsets[0]) if len(offsets) else 0
    size = int(offsets[-1]) - first if len(offsets) else 0
    padded = np.zeros(size + _WORD, np.uint8)
    if size:
        padded[:size] = np.frombuffer(data, np.uint8, size, first)
    words = np.lib.stride_tricks.as_strided(padded.view(), (size + 1, _WORD), (1, 1))
    starts, lengths = offsets[:-1] - first, np.diff(offsets)
    longest = int(lengths.max()) if len(lengths) else 0
    for at in range(0, longest, _WORD):
        going = np.flatnonzero(lengths > at)
        word = words[starts[going] + at].view(np.uint64).reshape(-1)
        left = np.minimum(lengths[going] - at, _WORD).astype(np.uint64) * np.uint64(8)
        mask = np.where(left == 64, ~np.uint64(0), (np.uint64(1) << (left % np.uint64(64))) - np.uint64(1))
        state[going] = _mix(state[going] ^ (word & mask))
    state[:] = _mix(state ^ lengths.astype(np.uint64))


def _mix(bits: Numbers) -> Numbers:
    bits = (bits ^ (bits >> np.uint64(33))) * _TIMES
    bits = (bits ^ (bits >> np.uint64(29))) * _SEED
    mixed: Numbers = bits ^ (bits >> np.uint64(32))
    return mixed
