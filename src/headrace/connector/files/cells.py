"""The quick way from text to columns: cells of csv and json lines, by the compiled kernels.

What the kernels don't take for plainly right they refuse, and the careful readers decide. The structs are
those of csv.c, json.c and column.c in native. No kernel holds the interpreter lock.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from ctypes import Structure, byref, c_int32, c_int64, c_void_p
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from headrace.connector.files.objects import DEPTH
from headrace.connector.files.part import MAX_COLUMNS
from headrace.connector.files.values import MAX_DIGITS, TIME, TIMESTAMP, TIMESTAMP_TZ

_KINDS: Mapping[pa.DataType, int] = {
    pa.bool_(): 0, pa.int64(): 1, pa.float64(): 2, pa.date32(): 4, TIMESTAMP: 5, TIMESTAMP_TZ: 6, TIME: 7,
    pa.string(): 8,
}  # fmt: skip
_DECIMAL, _TEXT = 3, 8
_LARGEST = (1 << 31) - 1  # bytes that the offsets of a text column reach
_MEMBERS = 2 * MAX_COLUMNS
_ROOM = 1 << 20  # cells of json that are found in one go
_AGAIN = re.compile(r"(.+)_\d+", re.DOTALL)
_CELL = np.dtype([("start", np.uint32), ("end", np.uint32)])
_MEMBER = np.dtype(
    [("key", "i8"), *((n, "i4") for n in ("size", "column", "first", "next", "guess", "seen"))]
)
_BOOL, _INTEGER, _SCALED, _DOUBLE, _OTHER = 1, 2, 4, 8, 16


class Extent(Structure):
    """What `scan` found: the records and newlines up to `end`, behind the last whole record."""

    _fields_ = [
        ("records", c_int64), ("end", c_int64), ("lines", c_int64), ("wrong", c_int64),
        ("odd", c_int32), ("ascii", c_int32),
    ]  # fmt: skip


class _Misfit(Structure):
    _fields_ = [("record", c_int64), ("start", c_int64), ("end", c_int64), ("fields", c_int64)]


class _Column(Structure):
    _fields_ = [
        ("kind", c_int32), ("precision", c_int32), ("scale", c_int32), ("quote", c_int32),
        ("words", c_int32), ("pad", c_int32), ("null_text", c_void_p), ("null_ends", c_void_p),
        ("valid", c_void_p), ("values", c_void_p), ("bytes", c_void_p),
        ("nulls", c_int64), ("size", c_int64), ("bad", c_int64),
    ]  # fmt: skip


class _Progress(Structure):
    _fields_ = [("at", c_int64), ("rows", c_int64), ("stopped", c_int32)]


class _Seen(Structure):
    _fields_ = [("seen", c_int32), ("scale", c_int32)]


class Nulls(NamedTuple):
    """The words that mean null, laid out for the kernel."""

    text: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, words: Iterable[str]) -> Nulls:
        encoded = [word.encode() for word in words]
        text = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(text, np.cumsum([len(word) for word in encoded], dtype=np.int32))


_NONE = Nulls.of(())


class _Rooms(threading.local):
    cells = np.empty(0, _CELL)


_rooms = _Rooms()


def _room(count: int) -> np.ndarray:
    """Room for cells, the same again and again: the system clears fresh memory page by page."""
    if len(_rooms.cells) < count:
        _rooms.cells = np.empty(count + count // 8, _CELL)
    return _rooms.cells[:count]


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of `data`, a row of them for each record; `quote` is 0 for json.

    They hold until the same thread looks for others.
    """

    library: ctypes.CDLL
    data: bytes
    at: np.ndarray
    quote: int
    nulls: Nulls = _NONE

    @property
    def rows(self) -> int:
        return len(self.at)

    def first(self, rows: int) -> Cells:
        return replace(self, at=self.at[:rows])

    def column(self, number: int, type: pa.DataType, refused: np.ndarray | None = None) -> pa.Array | None:
        """The column as `type`; None if a value is not plainly of it.

        With `refused`, a byte for each row, such values are null instead, and their rows marked.
        """
        column = _Column(quote=self.quote)
        if pa.types.is_decimal128(type):
            column.kind, column.precision, column.scale = _DECIMAL, type.precision, type.scale
        elif type in _KINDS:
            column.kind = _KINDS[type]
        else:
            return None
        column.words = len(self.nulls.ends)
        column.null_text = self.nulls.text.ctypes.data
        column.null_ends = self.nulls.ends.ctypes.data
        cells = (c_void_p(self.at.ctypes.data + number * _CELL.itemsize), c_int64(self.rows))
        stride = c_int64(self.at.shape[1])
        sizes = [(self.rows + 7) // 8, (self.rows * _bits(type) + 7) // 8]
        if column.kind == _TEXT:
            room = c_int64()
            self.library.headrace_room(self.data, *cells, stride, byref(room))
            if room.value > _LARGEST:
                return None
            sizes = [sizes[0], 4 * (self.rows + 1), room.value]
        buffers = [pa.allocate_buffer(max(size, 1), resizable=True) for size in sizes]
        column.valid, column.values = buffers[0].address, buffers[1].address
        column.bytes = buffers[2].address if column.kind == _TEXT else None
        mark = c_void_p(None if refused is None else refused.ctypes.data)
        self.library.headrace_column(self.data, *cells, stride, byref(column), mark)
        if column.bad and refused is None:
            return None
        if column.kind == _TEXT:
            buffers[2] = buffers[2].slice(0, column.size)
        buffers[0] = buffers[0] if column.nulls else None
        return pa.Array.from_buffers(type, self.rows, buffers, column.nulls)


def _bits(type: pa.DataType) -> int:
    return 32 if pa.types.is_string(type) else int(type.bit_width)


def scan(library: ctypes.CDLL, data: bytes, delimiter: str, quote: str, last: bool) -> Extent:
    """Where the last whole record of csv ends; `last` says that all of the data is here."""
    found = Extent()
    library.headrace_csv(
        data, c_int64(len(data)), ord(delimiter), ord(quote), int(last),
        0, None, c_int64(0), None, c_int64(0), byref(found),
    )  # fmt: skip
    return found


Wrong = list[tuple[int, str, int]]


def csv(
    library: ctypes.CDLL, data: bytes, delimiter: str, quote: str, fields: int, nulls: Nulls
) -> tuple[Cells, Wrong] | None:
    """The cells of whole records in UTF-8, and the records with another number of fields.

    Such a record is given by its number (from 0, blank ones not counted), its text and its number of
    fields. None if quotes are not where they belong, or if too many records are wrong.
    """
    cells = _room(len(data) + 1)  # memory that is not touched is not taken
    wrong, found = (_Misfit * 256)(), Extent()
    short = library.headrace_csv(
        data, c_int64(len(data)), ord(delimiter), ord(quote), 1,
        fields, c_void_p(cells.ctypes.data), c_int64(len(cells)), wrong, c_int64(len(wrong)), byref(found),
    )  # fmt: skip
    if short or found.odd or found.wrong > len(wrong):
        return None
    at = cells[: found.records * fields].reshape(found.records, fields)
    misfits = [(w.record, data[w.start : w.end].decode(), w.fields) for w in wrong[: found.wrong]]
    return Cells(library, data, at, ord(quote), nulls), misfits


class Stop(IntEnum):
    """Before which lines `Members.find` stops: before none, one with unknown members, or any it refuses."""

    NEVER = 0
    REFUSED = 1
    UNKNOWN = 2


class Lines(NamedTuple):
    """Lines of json: their cells, where each begins, those refused, where to go on, and why it stopped."""

    cells: Cells
    starts: np.ndarray
    refused: np.ndarray
    end: int
    stopped: Stop


class Members:
    """The members of json objects, by the path to each; they are learnt from objects. Safe for threads.

    With `columns` only these have cells; without, each member gets one, in order of appearance.
    """

    def __init__(self, columns: Sequence[str] | None = None):
        self.columns: list[str] = list(columns or ())
        self._grows = columns is None
        for name in self.columns:  # a name told apart by a number is a matter of both
            while (found := _AGAIN.fullmatch(name)) and (name := found[1]) not in self.columns:
                self.columns.append(name)
        self._number = {name: number for number, name in enumerate(self.columns)}
        self._children: list[dict[bytes, int]] = [{}]
        self._table = np.zeros(64, _MEMBER)
        self._names = bytearray()
        self._lock = threading.Lock()

    def learn(self, value: Mapping[str, Any]) -> None:
        with self._lock:
            self._learn(0, value, "", 1)

    def _learn(self, parent: int, value: Mapping[str, Any], prefix: str, depth: int) -> None:
        for key, inner in value.items():
            name, raw = prefix + key, key.encode(errors="surrogatepass")
            at = self._children[parent].get(raw)
            if at is None:
                if self.full:
                    return
                at = self._added(parent, raw, name)
            if isinstance(inner, dict) and inner and depth < DEPTH:
                self._learn(at, inner, name + "_", depth + 1)
            elif self._grows and self._table[at]["column"] < 0:
                self._table[at]["column"] = self._number.setdefault(name, len(self.columns))
                self.columns += [name] * (len(self._number) > len(self.columns))

    def _added(self, parent: int, key: bytes, name: str) -> int:
        at, siblings = len(self._children), self._children[parent]
        if at == len(self._table):
            self._table = np.concatenate([self._table, np.zeros(at, _MEMBER)])
        column = self._number.get(name, -2 if self._grows else -1)
        self._table[at] = (len(self._names), len(key), column, 0, 0, 0, 0)
        if siblings:
            self._table[next(reversed(siblings.values()))]["next"] = at
        else:
            self._table[parent]["first"] = at
        self._names += key
        self._children.append({})
        siblings[key] = at
        return at

    @property
    def full(self) -> bool:
        return len(self._children) > _MEMBERS

    def find(
        self, library: ctypes.CDLL, data: bytes, at: int, most: int, *, ascii_only: bool, stop: Stop
    ) -> Lines:
        """The cells of at most `most` lines from `at` on; blank lines don't count."""
        with self._lock:  # the kernel writes into the table
            table, names, columns = self._table.copy(), bytes(self._names), len(self.columns)
            count = len(self._children)
        most = min(most, max(1, _ROOM // max(columns, 1)))
        cells = _room(most * columns).reshape(most, columns)
        starts, refused = np.empty(most, np.int64), np.empty(most, np.uint8)
        progress = _Progress(at=at)
        library.headrace_json(
            data, c_int64(len(data)), c_void_p(table.ctypes.data), names, count, columns,
            int(ascii_only), int(stop), c_int64(most), c_void_p(cells.ctypes.data),
            c_void_p(starts.ctypes.data), c_void_p(refused.ctypes.data), byref(progress),
        )  # fmt: skip
        rows = progress.rows
        found = Cells(library, data, cells[:rows], 0)
        return Lines(found, starts[:rows], refused[:rows], progress.at, Stop(progress.stopped))


class Kinds:
    """What values the columns of json hold, over many cells."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def add(self, cells: Cells) -> None:
        for number in range(cells.at.shape[1]):
            cells.library.headrace_kinds(
                cells.data, c_void_p(cells.at.ctypes.data + number * _CELL.itemsize), c_int64(cells.rows),
                c_int64(cells.at.shape[1]), byref(self._seen.setdefault(number, _Seen())),
            )  # fmt: skip

    def type(self, number: int) -> pa.DataType:
        """The narrowest type that holds all of the column's values; null if there are none."""
        seen = self._seen.get(number, _Seen())
        if seen.seen == 0:
            return pa.null()
        if seen.seen & _OTHER or (seen.seen & _BOOL and seen.seen != _BOOL):
            return pa.string()
        if seen.seen & _DOUBLE:
            return pa.float64()
        if seen.seen & _SCALED:
            return pa.decimal128(MAX_DIGITS, seen.scale)
        return pa.bool_() if seen.seen & _BOOL else pa.int64()
