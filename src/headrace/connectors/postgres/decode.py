"""Turns binary COPY into record batches by numpy: where there are no kernels, and as their second opinion.

The form of a tuple is in the PostgreSQL manual under COPY, "Binary Format"; the form of a value is what
the type's send function writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.connectors.postgres.types import Image, Kind

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
END = b"\xff\xff"
_EPOCH_DAYS = 10_957  # 1970-01-01 to 2000-01-01, where the server's time begins
_EPOCH_US = _EPOCH_DAYS * 86_400_000_000
_DAY_US = 86_400_000_000
# what stands for 'infinity' and '-infinity': the last and first that readers everywhere can hold
_LAST_DAY, _FIRST_DAY = 2_932_896, -719_162
_LAST_US, _FIRST_US = (_LAST_DAY + 1) * _DAY_US - 1, _FIRST_DAY * _DAY_US
_I8, _I4 = np.iinfo(np.int64), np.iinfo(np.int32)
_POWERS = 10 ** np.arange(19, dtype=np.int64)
_BILLION = np.uint64(10**9)
_HEX = np.frombuffer(b"".join(b"%02x" % i for i in range(256)), np.uint8).reshape(256, 2)
_SIGNS = (0, 0x4000, 0xC000, 0xD000, 0xF000)
_UUID_DIGITS = np.delete(np.arange(36), [8, 13, 18, 23])
_LONGEST = (1 << 30) - 1  # what a server allocates for a value at most
_LONG = 96  # bytes a value above which copying slices beats gathering bytes


REFUSED = {
    "NaN": ("postgres.value.not_a_number", "a decimal can't hold it", "NaN"),
    "Infinity": ("postgres.value.not_a_number", "a decimal can't hold it", "Infinity"),
    "-Infinity": ("postgres.value.not_a_number", "a decimal can't hold it", "-Infinity"),
    "digits": ("postgres.value.digits", "its column's type has fewer digits", "a number of many digits"),
    "midnight": ("postgres.value.time", "a time of day can't hold it", "24:00:00"),
    "late": (
        "postgres.value.timestamp",
        "64 bits of microseconds since 1970 end in January 294247",
        "a timestamp after 294247-01-10 04:00:54.775807",
    ),
    "encoding": ("postgres.value.encoding", "the text is not UTF-8", "bytes in another encoding"),
    "dimensions": ("postgres.value.array", "a list can't hold an array of several dimensions", "an array"),
}
"""Why a value can't be held: code, reason, and what is shown in its place."""


class Garbled(ValueError):
    """Bytes that are not the rows that were asked for."""


class Bad(NamedTuple):
    """A value that its column's image can't hold; `text` is the value as far as it can be told."""

    row: int
    column: int
    code: str
    reason: str
    text: str


class Block(NamedTuple):
    """Rows as they came, where each begins, and as Arrow; values that can't be held are null there."""

    data: Bytes
    starts: Ints
    rows: pa.RecordBatch
    bad: Sequence[Bad]


@dataclass(frozen=True, slots=True)
class Cells:
    """Values of one kind in a block: where each begins, how long it is, and which are there."""

    block: Bytes
    at: Ints
    length: Ints
    valid: Mask
    bad: list[tuple[int, str, str, str]] = field(default_factory=list)  # index, code, reason, text

    def __len__(self) -> int:
        return len(self.at)

    def get(self, form: str, offset: int = 0) -> npt.NDArray[Any]:
        """A number of numpy form `form` at each value's beginning; anything where there is no value."""
        return _gather(self.block, np.where(self.valid, self.at + offset, 0), form)

    def refuse(self, mask: Mask, why: str) -> None:
        for index in np.flatnonzero(mask & self.valid):
            self.valid[index] = False
            self.bad.append((int(index), *REFUSED[why]))


def decoded(messages: Iterable[Any], names: Sequence[str], images: Sequence[Image]) -> Iterator[Block | None]:
    """The rows of a copy, and None where a message is None. Raises Garbled for what is no such copy."""
    for found in blocks(messages, len(images)):
        if found is None:
            yield None
        else:
            rows, bad = decode(*found, names, images)
            yield Block(np.frombuffer(found[0], np.uint8), found[1], rows, bad)


def decode(
    block: bytes, starts: Ints, names: Sequence[str], images: Sequence[Image]
) -> tuple[pa.RecordBatch, list[Bad]]:
    """The rows of a block, given where each begins, and the values that can't be held (null in the batch).

    `block` holds whole rows and nothing else. Raises Garbled when it does not.
    """
    data = np.frombuffer(block.ljust(16, b"\0"), np.uint8)
    at, length = _fields(data, len(block), starts, len(images))
    columns, bad = [], []
    for number, image in enumerate(images):
        cells = Cells(data, at[number], np.maximum(length[number], 0), length[number] >= 0)
        try:
            columns.append(_column(cells, image))
        except IndexError:
            raise Garbled("a value reaches beyond the block") from None
        bad += [Bad(row, number, code, reason, text) for row, code, reason, text in sorted(cells.bad)]
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(starts), pa.struct([]))), bad
    return pa.RecordBatch.from_arrays(columns, names=list(names)), bad


def blocks(
    messages: Iterable[Any], fields: int, *, rows: int = 65_536, size: int = 8 << 20
) -> Iterator[tuple[bytes, Ints] | None]:
    """Join the messages of a binary COPY to blocks of whole rows; gives block and row starts.

    A message that is None, the sign that nothing came for a while, is passed on.

    The server sends a row a message, which is checked; should something between us and it cut the stream
    elsewhere, the rows are found by walking.
    """
    source = iter(messages)
    head = b""
    while (first_row := head_size(head)) is None:
        message = next(source, b"")
        if message is None:
            yield None
        elif not message:
            raise Garbled("this is not binary COPY")
        else:
            head += bytes(message)
    parts, held = [head[first_row:]], 0
    for message in source:
        if message is None:
            yield None
            continue
        parts.append(message)
        held += len(message)
        if len(parts) >= rows or held >= size:
            block, starts, rest = _whole_rows(parts, fields)
            parts, held = [rest] if rest else [], len(rest)
            if len(starts):
                yield block, starts
    block, starts, rest = _whole_rows(parts, fields)
    if rest != END:
        raise Garbled("the copy ended in the middle of a row")
    if len(starts):
        yield block, starts


def head_size(data: bytes | Bytes) -> int | None:
    """Where the rows begin in a copy; None when more of it is needed to tell. Raises Garbled."""
    head = bytes(data[:19])
    if not _SIGNATURE.startswith(head[:11]):
        raise Garbled("this is not binary COPY")
    if len(head) < 19:
        return None
    (extension,) = struct.unpack_from(">i", head, 15)
    if extension < 0:
        raise Garbled("this is not binary COPY")
    size: int = 19 + extension
    return size if size <= len(data) else None


def number_text(value: bytes) -> str:
    """A numeric as the server writes it."""
    count, weight, sign, scale = struct.unpack_from(">HhHH", value)
    digits = struct.unpack_from(f">{count}H", value, 8)
    whole = "".join(f"{d:04}" for d in (*digits, *(0,) * (weight + 1 - count))[: max(weight + 1, 0)])
    rest = "".join(f"{d:04}" for d in ((0,) * -(weight + 1) + digits[max(weight + 1, 0) :]))
    text = (whole.lstrip("0") or "0") + (f".{rest[:scale]:0<{scale}}" if scale else "")
    return f"-{text}" if sign == 0x4000 else text


def _whole_rows(parts: list[Any], fields: int) -> tuple[bytes, Ints, bytes]:
    """Block, row starts and what is left over, the end mark included."""
    rest = b""
    if parts and bytes(parts[-1][:2]) == END:
        rest = bytes(parts.pop())
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    starts = np.cumsum(lengths) - lengths
    starts = starts[lengths > 0]
    block = b"".join(parts)
    try:
        _fields(np.frombuffer(block.ljust(16, b"\0"), np.uint8), len(block), starts, fields)
    except Garbled:
        found, end = _walk(block + rest, fields)
        whole = block + rest
        return whole[:end], np.array(found, np.int64), whole[end:]
    return block, starts, rest


def _walk(block: bytes, fields: int) -> tuple[list[int], int]:
    """Row starts found field by field, and where the last whole row ends."""
    starts: list[int] = []
    at = 0
    while at + 2 <= len(block):
        (count,) = struct.unpack_from(">h", block, at)
        if count == -1:
            break
        if count != fields:
            raise Garbled(f"a row of {count} fields where {fields} were asked for")
        end = at + 2
        for _ in range(fields):
            if end + 4 > len(block):
                return starts, at
            (length,) = struct.unpack_from(">i", block, end)
            if not -1 <= length <= _LONGEST:
                raise Garbled("a field has a length that there is not")
            end += 4 + max(length, 0)
        if end > len(block):
            return starts, at
        starts.append(at)
        at = end
    return starts, at


def _fields(data: Bytes, size: int, starts: Ints, fields: int) -> tuple[list[Ints], list[Ints]]:
    """Where each field of each row begins and how long it is (-1 for null)."""
    position, at, lengths = starts + 2, [], []
    try:
        if not np.all(_gather(data, starts, ">i2") == fields):
            raise Garbled("a row has another number of fields")
        for _ in range(fields):
            length = _gather(data, position, ">i4").astype(np.int64)
            if np.any((length < -1) | (length > _LONGEST)):
                raise Garbled("a field has a length that there is not")
            at.append(position + 4)
            lengths.append(length)
            position = position + 4 + np.maximum(length, 0)
    except IndexError:
        raise Garbled("a field reaches beyond the block") from None
    if not np.array_equal(position, np.append(starts[1:], size)[: len(starts)]):
        raise Garbled("rows don't end where the next ones begin")
    return at, lengths


def _gather(data: Bytes, at: Ints, form: str) -> npt.NDArray[Any]:
    width = np.dtype(form).itemsize
    window = np.ndarray((len(data) - width + 1,), form, data, strides=(1,))
    return window[at]


def _array(type: pa.DataType, cells: Cells, *buffers: Any) -> pa.Array:
    nulls = len(cells) - int(cells.valid.sum())
    bits = pa.py_buffer(np.packbits(cells.valid, bitorder="little")) if nulls else None
    return pa.Array.from_buffers(type, len(cells), [bits, *map(pa.py_buffer, buffers)], nulls)


_WIDTHS = {Kind.BOOL: 1, Kind.DATE: 4, Kind.TIME: 8, Kind.TIMESTAMP: 8, Kind.UUID: 16}
_PLAIN = {
    Kind.INT2: (">i2", np.int16),
    Kind.INT4: (">i4", np.int32),
    Kind.INT8: (">i8", np.int64),
    Kind.OID: (">u4", np.int64),
    Kind.FLOAT4: (">f4", np.float32),
    Kind.FLOAT8: (">f8", np.float64),
}


def _column(cells: Cells, image: Image) -> pa.Array:
    kind = image.kind
    width = np.dtype(_PLAIN[kind][0]).itemsize if kind in _PLAIN else _WIDTHS.get(kind)
    if width and not np.all(cells.length[cells.valid] == width):
        raise Garbled(f"a value of kind {kind} is not {width} bytes long")
    if kind in _PLAIN:
        form, native = _PLAIN[kind]
        return _array(image.arrow, cells, cells.get(form).astype(native))
    if kind is Kind.BOOL:
        return _array(image.arrow, cells, np.packbits(cells.get("u1") != 0, bitorder="little"))
    if kind is Kind.DATE:
        return _array(image.arrow, cells, _dates(cells))
    if kind is Kind.TIMESTAMP:
        return _array(image.arrow, cells, _timestamps(cells))
    if kind is Kind.TIME:
        times = cells.get(">i8").astype(np.int64)
        if np.any(cells.valid & ((times < 0) | (times > _DAY_US))):
            raise Garbled("a value is none of its type")
        cells.refuse(times == _DAY_US, "midnight")
        return _array(image.arrow, cells, times)
    if kind is Kind.NUMERIC:
        return _array(image.arrow, cells, _decimals(cells, image.arrow))
    if kind is Kind.UUID:
        return _uuids(cells)
    if kind is Kind.LIST:
        assert image.element is not None
        return _lists(cells, image.arrow, image.element)
    return _texts(cells, image.arrow, skip=1 if kind is Kind.JSONB else 0)


def _dates(cells: Cells) -> npt.NDArray[np.int32]:
    days = cells.get(">i4").astype(np.int64)
    shifted = days + _EPOCH_DAYS
    shifted[days == _I4.max] = _LAST_DAY
    shifted[days == _I4.min] = _FIRST_DAY
    return shifted.astype(np.int32)


def _timestamps(cells: Cells) -> Ints:
    us = cells.get(">i8").astype(np.int64)
    forever, ever = us == _I8.max, us == _I8.min
    cells.refuse((us > _I8.max - _EPOCH_US) & ~forever, "late")
    us = np.minimum(us, _I8.max - _EPOCH_US) + _EPOCH_US
    us[forever], us[ever] = _LAST_US, _FIRST_US
    return us


def _decimals(cells: Cells, type: pa.DataType) -> npt.NDArray[Any]:
    """Digits of base 10,000 to little-endian two's complement of 128 or 256 bits."""
    count, weight, sign = (
        cells.get(form, at).astype(np.int64) for form, at in ((">u2", 0), (">i2", 2), (">u2", 4))
    )
    count[~cells.valid] = 0
    if np.any(cells.valid & ((cells.length != 8 + 2 * count) | ~np.isin(sign, _SIGNS))):
        raise Garbled("a value is none of its type")
    for mark, text in ((0xC000, "NaN"), (0xD000, "Infinity"), (0xF000, "-Infinity")):
        cells.refuse(sign == mark, text)
    count[~cells.valid] = 0
    top, more = divmod(type.precision, 9)
    chunks = np.zeros((top + 2, len(cells)), np.int64)  # base 10^9, lowest first
    beyond = np.zeros(len(cells), bool)
    for number in range(int(count.max(initial=0))):
        rows = np.flatnonzero(count > number)
        digit = _gather(cells.block, cells.at[rows] + 8 + 2 * number, ">u2").astype(np.int64)
        if np.any(digit > 9999):
            raise Garbled("a value is none of its type")
        exponent = 4 * (weight[rows] - number) + type.scale
        # the last digit may reach below the scale, with zeros only
        digit, lost = np.divmod(digit, np.where(exponent < 0, _POWERS[np.clip(-exponent, 0, 4)], 1))
        place, shift = np.divmod(np.maximum(exponent, 0), 9)
        beyond[rows] |= (lost != 0) | ((place > top) & (digit != 0))
        value = digit * _POWERS[shift]
        place = np.minimum(place, top)
        chunks[place, rows] += value % 10**9
        chunks[place + 1, rows] += value // 10**9
    beyond |= (chunks[top] >= 10**more) | (chunks[top + 1] > 0)
    for index in np.flatnonzero(beyond & cells.valid):
        start = cells.at[index]
        cells.valid[index] = False
        text = number_text(cells.block[start : start + cells.length[index]].tobytes())
        cells.bad.append((int(index), *REFUSED["digits"][:2], text))
    words = np.zeros((type.bit_width // 32, len(cells)), np.uint64)
    for chunk in chunks[::-1]:
        carry = chunk.astype(np.uint64)
        for word in words:
            carry += word * _BILLION
            word[:] = carry & 0xFFFFFFFF
            carry >>= np.uint64(32)
    negative = sign == 0x4000
    if negative.any():
        carry = np.ones(int(negative.sum()), np.uint64)
        for word in words:
            carry += word[negative] ^ 0xFFFFFFFF
            word[negative] = carry & 0xFFFFFFFF
            carry >>= np.uint64(32)
    return np.ascontiguousarray(words.T.astype("<u4"))


def _uuids(cells: Cells) -> pa.Array:
    there = cells.at[cells.valid]
    text = np.full((len(there), 36), ord("-"), np.uint8)
    text[:, _UUID_DIGITS] = _HEX[cells.block[there[:, None] + np.arange(16)]].reshape(len(there), 32)
    return _array(pa.string(), cells, _offsets(cells.valid * 36), text)


def _texts(cells: Cells, type: pa.DataType, skip: int) -> pa.Array:
    at, lengths = cells.at + skip, np.where(cells.valid, cells.length - skip, 0)
    offsets = _offsets(lengths)
    total = int(offsets[-1])
    if total > _LONG * max(len(cells), 1):
        view = cells.block.data
        body: Any = b"".join([view[a:b] for a, b in zip(at.tolist(), (at + lengths).tolist(), strict=True)])
    else:
        body = cells.block[np.repeat(at - offsets[:-1], lengths) + np.arange(total)]
    array = _array(type, cells, offsets, body)
    if pa.types.is_string(type) and not _is_utf8(array):
        wrong = np.array([v.is_valid and not _is_utf8(array[i : i + 1]) for i, v in enumerate(array)], bool)
        cells.refuse(wrong, "encoding")
        array = _array(type, cells, offsets, body)
    return array


def _is_utf8(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _offsets(lengths: Any) -> npt.NDArray[np.int32]:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _lists(cells: Cells, type: pa.DataType, element: Image) -> pa.Array:
    """Arrays of one dimension; the lower bound is not kept."""
    dimensions = cells.get(">i4")
    if np.any(cells.valid & ((dimensions < 0) | (cells.length < np.where(dimensions == 1, 20, 12)))):
        raise Garbled("an array does not fill its field")
    cells.refuse(dimensions > 1, "dimensions")
    filled = cells.valid & (dimensions == 1)
    counts = np.where(filled, _gather(cells.block, np.where(filled, cells.at + 12, 0), ">i4"), 0).astype(
        np.int64
    )
    if np.any((counts < 0) | (4 * counts > cells.length)):
        raise Garbled("an array does not fill its field")
    offsets = _offsets(counts)
    at, lengths = np.zeros(int(offsets[-1]), np.int64), np.zeros(int(offsets[-1]), np.int64)
    position = cells.at + 20
    for number in range(int(counts.max(initial=0))):
        rows = np.flatnonzero(counts > number)
        length = _gather(cells.block, position[rows], ">i4").astype(np.int64)
        at[offsets[rows] + number] = position[rows] + 4
        lengths[offsets[rows] + number] = length
        position[rows] += 4 + np.maximum(length, 0)
    ends = np.where(filled, position, cells.at + 12)
    if np.any(cells.valid & (ends != cells.at + cells.length)) or np.any(lengths < -1):
        raise Garbled("an array does not fill its field")
    inner = Cells(cells.block, at, np.maximum(lengths, 0), lengths >= 0)
    values = _column(inner, element)
    for index, code, reason, text in sorted(inner.bad):
        row = int(np.searchsorted(offsets, index, side="right")) - 1
        if cells.valid[row]:  # one reason a row
            cells.valid[row] = False
            shown = REFUSED["digits"][2] if code == REFUSED["digits"][0] else text
            cells.bad.append((row, code, reason, shown))
    nulls = len(cells) - int(cells.valid.sum())
    bits = pa.py_buffer(np.packbits(cells.valid, bitorder="little")) if nulls else None
    return pa.Array.from_buffers(type, len(cells), [bits, pa.py_buffer(offsets)], nulls, children=[values])
