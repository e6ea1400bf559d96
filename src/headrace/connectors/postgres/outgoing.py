"""Arrow arrays as binary COPY into PostgreSQL, by the compiled kernels; encode.py is the way without them.

The struct is that of native/pgencode.c. The interpreter lock is not held while rows are turned into bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_uint32, c_void_p
from enum import IntEnum

import numpy as np
import pyarrow as pa
from pyarrow import types as kind

from headrace import native
from headrace.connectors.postgres.encode import micros, plain, to_copy
from headrace.connectors.postgres.image import Type, is_binary, is_list

_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"


class Unencodable(ValueError):
    """A value has no binary form: the server shall read the rows as text, and say what it thinks of them."""


class _Form(IntEnum):
    BITS = 0
    TWO = 1
    FOUR = 2
    EIGHT = 3
    DAYS = 4
    MICROS = 5
    DECIMAL = 6
    BYTES = 7
    JSONB = 8
    UUID = 9
    LIST = 10


# by the type's internal name: the form, the type's oid as an element, the Arrow type of its numbers
_FORMS: dict[str, tuple[_Form, int, pa.DataType | None]] = {
    "bool": (_Form.BITS, 16, None),
    "int2": (_Form.TWO, 21, pa.int16()),
    "int4": (_Form.FOUR, 23, pa.int32()),
    "int8": (_Form.EIGHT, 20, pa.int64()),
    "float4": (_Form.FOUR, 700, pa.float32()),
    "float8": (_Form.EIGHT, 701, pa.float64()),
    "numeric": (_Form.DECIMAL, 1700, None),
    "text": (_Form.BYTES, 25, None),
    "varchar": (_Form.BYTES, 1043, None),
    "bpchar": (_Form.BYTES, 1042, None),
    "json": (_Form.BYTES, 114, None),
    "jsonb": (_Form.JSONB, 3802, None),
    "uuid": (_Form.UUID, 2950, None),
    "bytea": (_Form.BYTES, 17, None),
    "date": (_Form.DAYS, 1082, pa.date32()),
    "time": (_Form.EIGHT, 1083, None),
    "timestamp": (_Form.MICROS, 1114, None),
    "timestamptz": (_Form.MICROS, 1184, None),
}


class _Values(Structure):
    pass


_Values._fields_ = [
    ("form", c_int32),
    ("width", c_int32),
    ("scale", c_int32),
    ("type", c_uint32),
    ("valid", c_void_p),
    ("data", c_void_p),
    ("bytes", c_void_p),
    ("first", c_int64),
    ("base", c_int64),
    ("element", POINTER(_Values)),
]


def encodes(arrow: pa.DataType, type: Type) -> bool:
    """Can values of this Arrow type go into a column of this type, and become what their text would?"""
    if isinstance(arrow, pa.BaseExtensionType):
        return encodes(arrow.storage_type, type)
    if kind.is_dictionary(arrow):
        return encodes(arrow.value_type, type)
    if type.array:
        return is_list(arrow) and not type.spelled and encodes(arrow.value_type, type.element)
    if kind.is_decimal(arrow) and arrow.bit_width < 128:
        return False
    if type.name == "float8" and (kind.is_float16(arrow) or kind.is_float32(arrow)):
        return False  # its text has digits enough for a float of its own size: as a double it is another
    return type.spelled or type.name in _FORMS


def encoded(
    library: ctypes.CDLL, arrays: Sequence[pa.Array], types: Sequence[Type], *, size: int = 1 << 20
) -> Iterator[bytes | memoryview]:
    """The bytes of a COPY, about `size` of them at a time; each piece is good until the next.

    Every pair of array and type is one that `encodes`. Raises Unencodable.
    """
    try:
        columns = [_Encoded(array, type) for array, type in zip(arrays, types, strict=True)]
    except pa.ArrowInvalid:
        raise Unencodable from None
    inputs = (_Values * len(columns))(*(column.values for column in columns))
    rows, row = len(arrays[0]), c_int64(0)
    block = np.empty(size, np.uint8)
    yield _HEAD
    while row.value < rows:
        written = library.headrace_encode(
            inputs, c_int32(len(columns)), byref(row), c_int64(rows),
            c_void_p(block.ctypes.data), c_int64(len(block)),
        )  # fmt: skip
        if written < 0:
            raise Unencodable
        if written:
            yield block.data[:written]
        else:
            block = np.empty(2 * len(block), np.uint8)  # a row is longer
    yield _END


class _Encoded:
    """An array in a form that the kernels know; keeps its buffers alive."""

    def __init__(self, array: pa.Array, type: Type):
        form, _, arrow = (_Form.BYTES, 0, None) if type.spelled else _FORMS[type.name]
        self.values = values = _Values()
        self._element: _Encoded | None = None
        array = plain(array)
        if type.array:
            form = _Form.LIST
            values.type = _FORMS[type.name][1]
            start, end = (array.offsets[i].as_py() for i in (0, len(array)))
            values.base = start
            self._element = _Encoded(array.values.slice(start, end - start), type.element)
            values.element = ctypes.pointer(self._element.values)
        elif arrow is not None:
            array = array.cast(arrow)
        elif form is _Form.DECIMAL:
            array = _decimal(array)
            values.scale, values.width = array.type.scale, array.type.bit_width // 64
        elif kind.is_temporal(array.type):
            array = micros(array)
        elif form is _Form.UUID and is_binary(array.type):
            form = _Form.BYTES
        elif form in (_Form.BYTES, _Form.JSONB, _Form.UUID) and type.name != "bytea":
            array = to_copy(array, type)
        if form in (_Form.BYTES, _Form.JSONB, _Form.UUID):
            values.width = 8 if kind.is_large_string(array.type) or kind.is_large_binary(array.type) else 4
        values.form, values.first = form, array.offset
        self._buffers = array.buffers()
        valid, data, *rest = self._buffers
        values.valid = valid.address if valid and array.null_count else None
        values.data = data.address if data else None
        values.bytes = rest[0].address if values.width and rest and rest[0] else None


def _decimal(array: pa.Array) -> pa.Array:
    """Whole numbers as decimals, and none with a scale below zero."""
    if kind.is_integer(array.type):
        return array.cast(pa.decimal128(20, 0))
    if array.type.scale >= 0:
        return array
    precision = array.type.precision - array.type.scale
    return array.cast(pa.decimal128(precision, 0) if precision <= 38 else pa.decimal256(precision, 0))


def library_for(arrows: Sequence[pa.DataType], types: Sequence[Type]) -> ctypes.CDLL | None:
    """The kernels, if they are there and know all of these columns."""
    if all(encodes(arrow, type) for arrow, type in zip(arrows, types, strict=True)):
        return native.library()
    return None
