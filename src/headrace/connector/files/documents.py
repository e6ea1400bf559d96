"""json and json lines: objects become rows, nested ones flattened, numbers with all of their digits.

Lines go through the compiled kernels, and those that the kernels refuse through Python's own decoder, so
that a bad row costs itself only. Any other json is read object by object, as are lines without kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import IO

import numpy as np
import pyarrow as pa

from headrace import native
from headrace.connector.files import text, values
from headrace.connector.files.ahead import ahead
from headrace.connector.files.cells import Kinds, Lines, Members, Stop
from headrace.connector.files.fitting import part_of, type_of
from headrace.connector.files.objects import ROWS, NotARow, as_row, decode_lines, loads, objects
from headrace.connector.files.part import Part, Sample, check_width

_BLOCK = 4 << 20
_LINES = 32_768  # that the kernels look at in one go
_STOPS = 50  # for new members in a block; where there is no end of them, Python's decoder is as quick


def inspect(file: IO[bytes], name: str, *, lines: bool, limit: int) -> Sample:
    """Columns and types by the first `limit` bytes of text."""
    source = text.TextSource(file, name)
    types: dict[str, pa.DataType] = {}
    rows = size = 0
    whole = True
    look = _looked_at if lines else _walked
    for found, taken in look(source, name, types, limit):
        check_width(len(types), name)
        rows, size = rows + found, size + taken
        if size >= limit:
            whole = False
            break
    return Sample(pa.schema(list(types.items())), rows, size, whole)


def _walked(
    source: text.TextSource, name: str, types: dict[str, pa.DataType], size: int
) -> Iterator[tuple[int, int]]:
    for found, _, taken in objects(source, name, size):
        for _, row in found:
            _widen(types, row)
        yield len(found), taken


def _looked_at(
    source: text.TextSource, name: str, types: dict[str, pa.DataType], size: int
) -> Iterator[tuple[int, int]]:
    """Rows and bytes of each block of lines, and into `types` the columns in order of appearance."""
    library = native.library()
    members, kinds = Members(), Kinds()
    for block, line in _blocks(source, name, size):
        rows = at = 0
        while library is not None and at < len(block):
            found = members.find(library, block, at, _LINES, ascii_only=not _utf8(block), stop=Stop.REFUSED)
            kinds.add(found.cells)
            rows, at = rows + found.cells.rows, found.end
            if found.stopped:
                end = _line_end(block, at)
                rows += _decoded(block[at:end], line, types)
                _learn(members, block[at:end])
                check_width(len(types), name)
                at = end
        if library is None:
            rows = _decoded(block, line, types)
        for number, column in enumerate(members.columns):
            types[column] = values.widen(types[column], kinds.type(number))
        yield rows, len(block)


def _decoded(block: bytes, line: int, types: dict[str, pa.DataType]) -> int:
    found, _ = decode_lines(block, line)
    for _, row in found:
        _widen(types, row)
    return len(found)


def _widen(types: dict[str, pa.DataType], row: dict[str, object]) -> None:
    for column, value in row.items():
        types[column] = values.widen(types.get(column, pa.null()), type_of(value))


def _learn(members: Members, line: bytes) -> None:
    try:
        value = loads(line.decode())
        as_row(value)
    except (NotARow, UnicodeDecodeError):
        return
    members.learn(value)


def read(file: IO[bytes], name: str, schema: pa.Schema, *, lines: bool) -> Iterator[Part]:
    """The rows as `schema`; what they lack is null, other members are left out."""
    source = text.TextSource(file, name)
    if not lines:
        for found, errors, _ in objects(source, name, _BLOCK):
            yield part_of(found, errors, schema)
        return
    library, members = native.library(), Members(schema.names)

    def parts(block: tuple[bytes, int]) -> list[Part]:
        if library is None or not schema.names:
            return _careful(*block, schema)
        return _quick(library, members, *block, schema)

    for found_parts in ahead(_blocks(source, name, _BLOCK), parts, threads=2):
        yield from found_parts


def _blocks(source: text.TextSource, name: str, size: int) -> Iterator[tuple[bytes, int]]:
    """Whole lines, and the number of the first."""
    rest, line = b"", 1
    while chunk := source.read(max(size, min(len(rest), text.LINE_LIMIT - len(rest)))):
        data = rest + chunk
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) > text.LINE_LIMIT:
            raise text.line_too_long(name, line)
        if end:
            yield data[:end], line
            line += data.count(b"\n", 0, end)
        rest = data[end:]
    if rest:
        yield rest, line


def _line_end(block: bytes, at: int) -> int:
    return block.find(b"\n", at) + 1 or len(block)


def _utf8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode())
    except UnicodeDecodeError:
        return False


def _quick(library: ctypes.CDLL, members: Members, block: bytes, line: int, schema: pa.Schema) -> list[Part]:
    parts = []
    ascii_only, at, stops = not _utf8(block), 0, 0
    while at < len(block):
        stop = Stop.NEVER if members.full or stops == _STOPS else Stop.UNKNOWN
        found = members.find(library, block, at, _LINES, ascii_only=ascii_only, stop=stop)
        parts.append(_fitted(found, line, schema))
        at = found.end
        if found.stopped:
            stops += 1
            _learn(members, block[at : _line_end(block, at)])
            found = members.find(library, block, at, 1, ascii_only=ascii_only, stop=Stop.NEVER)
            parts.append(_fitted(found, line, schema))
            at = found.end
    return [part for part in parts if part.rows.num_rows or part.errors]


def _fitted(found: Lines, line: int, schema: pa.Schema) -> Part:
    """The rows by the kernels, and in their midst those of the lines that these refused."""
    arrays = []
    for number, field in enumerate(schema):
        array = found.cells.column(number, field.type, found.refused)
        if array is None:
            found.refused[:] = 1
            array = pa.nulls(found.cells.rows, field.type)
        arrays.append(array)
    rows = pa.RecordBatch.from_arrays(arrays, schema=schema)
    if not found.refused.any():
        return Part(rows, [])
    block, before = found.cells.data, 0
    refused, errors = [], []
    place = {}
    for number in np.flatnonzero(found.refused).tolist():
        start = int(found.starts[number])
        line += block.count(b"\n", before, start)
        before = start
        decoded, wrong = decode_lines(block[start : _line_end(block, start)], line)
        refused += decoded
        errors += wrong
        place[line] = number
    mended = part_of(refused, errors, schema)
    dropped = {error.line for error in mended.errors}
    places = [place[number] for number, _ in refused if number not in dropped]
    taken = np.flatnonzero(found.refused == 0)
    order = np.argsort(np.concatenate([taken, np.array(places, np.int64)]), kind="stable")
    both = pa.concat_batches([rows.take(pa.array(taken)), mended.rows])
    return Part(both.take(pa.array(order)), mended.errors)


def _careful(block: bytes, line: int, schema: pa.Schema) -> list[Part]:
    found, errors = decode_lines(block, line)
    return [
        part_of(found[start : start + ROWS], errors if start == 0 else [], schema)
        for start in range(0, max(len(found), 1), ROWS)
    ]
