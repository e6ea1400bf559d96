"""Turns binary COPY into record batches by the compiled kernels: what decode.py does, many times faster.

The structs are those of native/pgcopy.c. Nothing here holds the interpreter lock while it works on bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_uint64, c_void_p
from enum import Enum, auto
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.connectors.postgres.decode import (
    END,
    REFUSED,
    Bad,
    Block,
    Bytes,
    Garbled,
    head_size,
    number_text,
)
from headrace.connectors.postgres.types import Image, Kind


class Flow(Enum):
    MORE = auto()  # the buffer is full
    QUIET = auto()  # nothing came for a while
    ENDED = auto()


Fill = Callable[[Bytes, int], tuple[int, Flow]]
"""Puts bytes of a copy into a buffer from a place on, and says how far it is filled now."""

_KINDS = (
    Kind.BOOL, Kind.INT2, Kind.INT4, Kind.INT8, Kind.OID, Kind.FLOAT4, Kind.FLOAT8, Kind.NUMERIC,
    Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.TEXT, Kind.BYTES, Kind.JSONB, Kind.UUID, Kind.LIST,
)  # fmt: skip
_REASONS = ("NaN", "Infinity", "-Infinity", "digits", "midnight", "late", "encoding", "dimensions")
_WIDTHS = {
    Kind.BOOL: 1, Kind.INT2: 2, Kind.INT4: 4, Kind.INT8: 8, Kind.OID: 4, Kind.FLOAT4: 4, Kind.FLOAT8: 8,
    Kind.DATE: 4, Kind.TIME: 8, Kind.TIMESTAMP: 8, Kind.UUID: 16,
}  # fmt: skip
_WRONG = (
    "",
    "a row has another number of fields",
    "a field has a length that there is not",
    "a value is not as long as its kind",
    "an array does not fill its field",
    "a value is none of its type",
)
_UUID_TEXT = 36
_LARGEST = (1 << 31) - 1  # bytes that the offsets of a batch reach


class _Column(Structure):
    pass


_Column._fields_ = [
    ("kind", c_int32),
    ("width", c_int32),
    ("scale", c_int32),
    ("words", c_int32),
    ("limit", c_uint64 * 4),
    ("element", POINTER(_Column)),
    ("valid", c_void_p),
    ("values", c_void_p),
    ("bytes", c_void_p),
    ("count", c_int64),
    ("size", c_int64),
    ("nulls", c_int64),
    ("done", c_int64),
]


class _Extent(Structure):
    _fields_ = [("rows", c_int64), ("end", c_int64), ("ended", c_int32), ("column", c_int32)]


class _Refusal(Structure):
    _fields_ = [
        ("row", c_int64), ("at", c_int64), ("length", c_int64), ("column", c_int32), ("reason", c_int32),
    ]  # fmt: skip


class _Refusals(Structure):
    _fields_ = [("list", POINTER(_Refusal)), ("room", c_int64), ("count", c_int64)]


def decoded(
    library: ctypes.CDLL, fill: Fill, names: Sequence[str], images: Sequence[Image], *, size: int = 4 << 20
) -> Iterator[Block | None]:
    """The rows of a copy, and None when none came for a while. A block's bytes are good until the next.

    `size` bounds a block, unless a single row is longer. Raises Garbled when the copy is not what was
    asked for.
    """
    rows = _Rows(library, names, images)
    buffer = np.empty(size, np.uint8)
    used, at, begun, ended = 0, 0, False, False
    while True:
        used, flow = fill(buffer, used)
        if flow is Flow.QUIET:
            yield None
            continue
        if not begun and (first_row := head_size(buffer[:used])) is not None:
            at, begun = first_row, True
        while begun and not ended:
            found = rows.measure(buffer[at:used])
            if found.rows:
                yield rows.block(buffer[at : at + found.end])
            ended = bool(found.ended)
            at += found.end + len(END) * ended
            if found.rows < rows.most:
                break
        rest = used - at
        if ended and rest:
            raise Garbled("the copy goes on behind its end")
        if flow is Flow.ENDED:
            break
        if rest == len(buffer):
            buffer = _longer(buffer)
        elif at:
            buffer[:rest] = buffer[at:used].copy()
        used, at = rest, 0
    if not begun:
        raise Garbled("this is not binary COPY")
    if not ended:
        raise Garbled("the copy ended in the middle of a row")


def _longer(buffer: Bytes) -> Bytes:
    if len(buffer) == _LARGEST:
        raise Garbled("a row is too long")
    longer = np.empty(min(2 * len(buffer), _LARGEST), np.uint8)
    longer[: len(buffer)] = buffer
    return longer


class _Rows:
    """The rows at the beginning of a buffer, for one copy. `measure` comes before each `block`."""

    def __init__(self, library: ctypes.CDLL, names: Sequence[str], images: Sequence[Image]):
        self._library, self._names, self._images = library, names, images
        self._elements = (_Column * max(len(images), 1))()
        self._columns = (_Column * max(len(images), 1))()
        for column, element, image in zip(self._columns, self._elements, images, strict=False):
            _describe(column, image)
            if image.element is not None:
                _describe(element, image.element)
                column.element = ctypes.pointer(element)
        self.most = 1 << 17
        self._starts = np.empty(self.most, np.int64)
        self._extent = _Extent()

    def measure(self, data: Bytes) -> _Extent:
        wrong = self._library.headrace_measure(
            c_void_p(data.ctypes.data),
            c_int64(len(data)),
            self._columns,
            c_int32(len(self._images)),
            c_void_p(self._starts.ctypes.data),
            c_int64(self.most),
            byref(self._extent),
        )
        if wrong:
            raise Garbled(_WRONG[wrong])
        return self._extent

    def block(self, data: Bytes) -> Block:
        rows = self._extent.rows
        starts = self._starts[:rows]
        if not self._images:
            none = pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
            return Block(data, starts, none, [])
        buffers = []
        for column, image in zip(self._columns, self._images, strict=False):
            column.count = rows
            inner = _allocate(column.element[0], image.element) if image.element else []
            buffers.append((_allocate(column, image), inner))
        refusals = self._fill(data, starts)
        arrays = []
        for column, image, (own, inner) in zip(self._columns, self._images, buffers, strict=False):
            children = [_wrap(column.element[0], image.element, inner, [])] if image.element else []
            arrays.append(_wrap(column, image, own, children))
        bad = sorted((self._bad(data, r) for r in refusals), key=lambda b: (b.column, b.row))
        return Block(data, starts, pa.RecordBatch.from_arrays(arrays, names=list(self._names)), bad)

    def _fill(self, data: Bytes, starts: Any) -> list[_Refusal]:
        room = 64
        while True:
            found = (_Refusal * room)()
            refusals = _Refusals(found, room, 0)
            wrong = self._library.headrace_fill(
                c_void_p(data.ctypes.data),
                c_void_p(starts.ctypes.data),
                c_int64(len(starts)),
                self._columns,
                c_int32(len(self._images)),
                byref(refusals),
            )
            if wrong:
                raise Garbled(_WRONG[wrong])
            if refusals.count <= room:
                return list(found[: refusals.count])
            room = refusals.count

    def _bad(self, data: Bytes, refusal: _Refusal) -> Bad:
        reason = _REASONS[refusal.reason]
        code, why, text = REFUSED[reason]
        if reason == "digits" and self._images[refusal.column].kind is Kind.NUMERIC:
            text = number_text(data[refusal.at : refusal.at + refusal.length].tobytes())
        return Bad(refusal.row, refusal.column, code, why, text)


def _describe(column: _Column, image: Image) -> None:
    column.kind = _KINDS.index(image.kind)
    column.width = _WIDTHS.get(image.kind, -1)
    if image.kind is Kind.NUMERIC:
        column.scale, column.words = image.arrow.scale, image.arrow.bit_width // 64
        limit = 10**image.arrow.precision
        column.limit[:] = [limit >> 64 * word & (1 << 64) - 1 for word in range(4)]


def _allocate(column: _Column, image: Image) -> list[pa.Buffer]:
    """The buffers of a column of `count` values: validity, then what Arrow's layout has."""
    count, kind = column.count, image.kind
    if kind not in _WIDTHS or kind is Kind.UUID:
        sizes = [8 * column.words * count if kind is Kind.NUMERIC else 4 * (count + 1)]
        if kind not in (Kind.LIST, Kind.NUMERIC):
            sizes.append(_UUID_TEXT * count if kind is Kind.UUID else column.size)
    else:
        sizes = [(count * image.arrow.bit_width + 7) // 8]
    if kind is not Kind.NUMERIC and sizes[-1] > _LARGEST:
        raise Garbled("a row is too long")
    buffers = [pa.allocate_buffer(max(size, 1)) for size in [(count + 7) // 8, *sizes]]
    column.valid, column.values = buffers[0].address, buffers[1].address
    column.bytes = buffers[2].address if len(buffers) > 2 else None
    return buffers


def _wrap(column: _Column, image: Image, buffers: list[pa.Buffer], children: list[pa.Array]) -> pa.Array:
    valid = buffers[0] if column.nulls else None
    return pa.Array.from_buffers(
        image.arrow, column.count, [valid, *buffers[1:]], column.nulls, children=children or None
    )
