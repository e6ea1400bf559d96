"""json and json lines: objects become rows, nested ones flattened, numbers with all of their digits.

Lines of flat objects are read by pyarrow where its answer is known to be the same; any block that it
does not take goes through Python's own decoder, so that a bad row costs itself only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from types import NoneType
from typing import IO, Any

import pyarrow as pa
import pyarrow.json as pajson

from headrace.connector.files import text, values
from headrace.connector.files.part import Part, RowError, Sample, check_width, shorten
from headrace.errors import DataError

_BLOCK = 4 << 20
_ROWS = 10_000
_DEPTH = 10
_SPACE = re.compile(r"[ \t\r\n]*+")
_LINE_OBJECT = re.compile(r"\n(?=\{)")
_ABSENT = object()
_TOO_DEEP = "it is nested too deep"
_WRITTEN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class _Exponent(float):
    """A number written with an exponent; `text` is how."""

    text: str


def _number(written: str) -> Decimal | _Exponent:
    if "e" not in written and "E" not in written:
        return Decimal(written)
    value = _Exponent(written)
    value.text = written
    return value


def _integer(written: str) -> int | Decimal:
    return int(written) if len(written) < 1000 else Decimal(written)


_DECODER = json.JSONDecoder(parse_float=_number)
_CAREFUL = json.JSONDecoder(parse_float=_number, parse_int=_integer)

_NATURAL: Mapping[int, frozenset[Any]] = {
    pa.string().id: frozenset({str, NoneType}),
    pa.bool_().id: frozenset({bool, NoneType}),
    pa.int64().id: frozenset({int, NoneType}),
    pa.float64().id: frozenset({_Exponent, NoneType}),
    pa.decimal128(38, 0).id: frozenset({int, Decimal, NoneType}),
}

Row = dict[str, Any]


def inspect(file: IO[bytes], name: str, *, lines: bool, limit: int) -> Sample:
    """Columns and types by the first `limit` bytes of text."""
    source = text.TextSource(file, name)
    types: dict[str, pa.DataType] = {}
    rows = size = 0
    whole = True
    for found, _, taken in (_lines if lines else _objects)(source, name, limit):
        for _, row in found:
            for column, value in row.items():
                types[column] = values.widen(types.get(column, pa.null()), _type(value))
        check_width(len(types), name)
        rows, size = rows + len(found), size + taken
        if size >= limit:
            whole = False
            break
    return Sample(pa.schema(list(types.items())), rows, size, whole)


def read(file: IO[bytes], name: str, schema: pa.Schema, *, lines: bool) -> Iterator[Part]:
    """The rows as `schema`; what they lack is null, other members are left out."""
    source = text.TextSource(file, name)
    if lines:
        yield from _read_lines(source, name, schema)
        return
    for found, errors, _ in _objects(source, name, _BLOCK):
        yield _part(found, errors, schema)


Found = tuple[list[tuple[int, Row]], list[RowError], int]
"""Rows with their lines, what is wrong with others, and the size of the text they were in."""


def _read_lines(source: text.TextSource, name: str, schema: pa.Schema) -> Iterator[Part]:
    fast = pa.schema([(f.name, f.type) for f in schema if _simple(f.type)])
    for block, line in _blocks(source, name, _BLOCK):
        rows = _flat(block, fast) if len(fast) == len(schema) else None
        if rows is not None:
            yield Part(rows, [])
            continue
        found, errors = _decode_lines(block, line)
        for start in range(0, max(len(found), 1), _ROWS):
            yield _part(found[start : start + _ROWS], errors if start == 0 else [], schema)


def _lines(source: text.TextSource, name: str, size: int) -> Iterator[Found]:
    for block, line in _blocks(source, name, size):
        found, errors = _decode_lines(block, line)
        yield found, errors, len(block)


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


def _simple(type: pa.DataType) -> bool:
    return bool(type in (pa.int64(), pa.float64(), pa.string(), pa.bool_()) or pa.types.is_decimal128(type))


def _flat(block: bytes, schema: pa.Schema) -> pa.RecordBatch | None:
    """The rows by pyarrow, if every line is one object without another inside and it takes them all.

    It is strict then: a value of another type, a repeated member, a number too large, bad characters
    are all errors, never other values.
    """
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    starts = block.count(b"\n{") + block.startswith(b"{")
    if not schema.names or not starts == block.count(b"{") == lines:
        return None
    try:
        table = pajson.read_json(
            pa.BufferReader(block),
            read_options=pajson.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        ).combine_chunks()
        table.validate(full=True)
    except pa.ArrowInvalid:
        return None
    if table.num_rows != lines:
        return None
    return table.select(schema.names).to_batches()[0]


def _decode_lines(block: bytes, line: int) -> tuple[list[tuple[int, Row]], list[RowError]]:
    found: list[tuple[int, Row]] = []
    errors: list[RowError] = []
    for number, raw in enumerate(block.split(b"\n"), line):
        if not raw.strip():
            continue
        try:
            found.append((number, _row(_loads(raw.decode()))))
        except UnicodeDecodeError:
            shown = shorten(raw.decode(errors="backslashreplace"))
            errors.append(RowError(number, "BAD_ENCODING", "the line is not UTF-8", shown))
        except _NotARow as error:
            errors.append(RowError(number, error.code, str(error), shorten(raw.decode())))
    return found, errors


class _NotARow(Exception):
    def __init__(self, code: str, reason: str):
        super().__init__(reason)
        self.code = code


def _loads(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise _NotARow("BAD_JSON", f"{error.msg} at column {error.colno}") from None
    except RecursionError:
        raise _NotARow("BAD_JSON", _TOO_DEEP) from None
    except ValueError:
        return _CAREFUL.decode(line)


def _raw_decode(text: str, at: int) -> tuple[Any, int]:
    """The value at `at` and where it ends. Raises JSONDecodeError and RecursionError."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python reads by itself
        return _CAREFUL.raw_decode(text, at)


def _objects(source: text.TextSource, name: str, size: int) -> Iterator[Found]:
    """An array of objects, one object, or objects one after the other, in pieces of about `size`."""
    documents = _Documents(source, name, size)
    while documents.more():
        found: list[tuple[int, Row]] = []
        errors: list[RowError] = []
        start = documents.taken
        while len(found) < _ROWS and documents.taken - start < size:
            line = documents.line()
            try:
                value = documents.next()
                if value is _ABSENT:
                    break
                found.append((line, _row(value)))
            except _NotARow as error:
                errors.append(RowError(line, error.code, str(error), documents.shown))
        yield found, errors, documents.taken - start


class _Documents:
    """Walks over the values of a text that is read piece by piece."""

    def __init__(self, source: text.TextSource, name: str, size: int):
        self._source, self._name, self._size = source, name, size
        self._text, self._at, self._end, self._undecoded = "", 0, False, b""
        self._line, self._counted = 1, 0
        self._array: bool | None = None
        self._done = self._first = False
        self.taken = 0
        self.shown = ""

    def more(self) -> bool:
        return not self._done

    def line(self) -> int:
        """The line of the next value."""
        self._skip_space()
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def next(self) -> Any:
        """The next value; `_ABSENT` after the last. Raises _NotARow for one that can be stepped over."""
        if self._array is None:
            self._skip_space()
            if self._peek() not in ("[", "{", ""):
                raise text.not_text(self._name, "it holds neither objects nor an array of them")
            self._array = self._first = self._peek() == "["
            self._at += self._array
        self._skip_space()
        if self._array and not self._first_or_comma():
            return self._finish()
        if self._peek() == "":
            if self._array:
                raise self._broken("it ends within the array")
            return self._finish()
        return self._value()

    def _first_or_comma(self) -> bool:
        """Step to the array's next element; False at its end."""
        if self._peek() == "]":
            self._at += 1
            self._skip_space()
            if self._peek():
                raise self._broken("something follows the array")
            return False
        if self._first:
            self._first = False
        elif self._peek() == ",":
            self._at += 1
            self._skip_space()
        elif self._peek():
            raise self._broken("a comma is missing")
        return True

    def _finish(self) -> Any:
        self._done = True
        return _ABSENT

    def _value(self) -> Any:
        start = self._at
        while True:
            try:
                value, end = _raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                certain = error.pos < len(self._text) - 16 and not error.msg.startswith("Unterminated string")
                if self._end or certain:
                    return self._step_over(error.msg)
            except RecursionError:
                raise self._broken(_TOO_DEEP) from None
            else:
                if end < len(self._text) or self._end or self._text[end - 1] in "}]":
                    self.shown = shorten(self._text[self._at : min(end, self._at + 5000)])
                    self._at = end
                    self.taken += end - start
                    return value
            self._grow()
            start = self._at

    def _step_over(self, why: str) -> Any:
        """In a row of objects the next one at the start of a line is where to go on."""
        if self._array:
            raise self._broken(why)
        start = self._at
        while (found := _LINE_OBJECT.search(self._text, self._at)) is None and not self._end:
            self._grow()
            start = self._at
        stop = found.end() if found else len(self._text)
        self.shown = shorten(self._text[start : start + 5000].split("\n")[0])
        self.taken += stop - start
        self._at = stop
        raise _NotARow("BAD_JSON", why)

    def _broken(self, why: str) -> DataError:
        return DataError(
            "files.broken_json",
            f"{self._name} can't be read past line {self.line()}: {why}",
            field="format",
            remedy="Bring the file again, or use json lines, where a bad row costs itself only.",
        )

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip_space(self) -> None:
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text) or self._end:
                return
            self._grow()

    def _grow(self) -> None:
        """Read on; what lies behind is dropped."""
        self._line += self._text.count("\n", self._counted, self._at)
        kept = self._text[self._at :]
        self._at = self._counted = 0
        if len(kept) > text.LINE_LIMIT:
            raise text.line_too_long(self._name, self._line)
        data = self._source.read(max(self._size, len(kept)))
        self._end = not data
        self._text = kept + self._decoded(data)

    def _decoded(self, data: bytes) -> str:
        data = self._undecoded + data
        try:
            self._undecoded = b""
            return data.decode()
        except UnicodeDecodeError as error:
            if error.start < len(data) - 3 or not data or self._end:
                raise DataError(
                    "files.encoding",
                    f"{self._name} is not UTF-8",
                    field="encoding",
                    remedy="Set the file's real encoding.",
                ) from None
            self._undecoded = data[error.start :]
            return data[: error.start].decode()


def _row(value: Any) -> Row:
    if not isinstance(value, dict):
        raise _NotARow("NOT_AN_OBJECT", "not an object")
    if not any(isinstance(v, dict) for v in value.values()):
        return value
    row: Row = {}
    _flatten(value, "", row, 1)
    return row


def _flatten(value: Mapping[str, Any], prefix: str, row: Row, depth: int) -> None:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner and depth < _DEPTH:
            _flatten(inner, f"{prefix}{key}_", row, depth + 1)
            continue
        name, again = prefix + key, 2
        while name in row:
            name, again = f"{prefix}{key}_{again}", again + 1
        row[name] = inner


def _type(value: Any) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(2**63) <= value < 2**63 else _decimal_type(Decimal(value))
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, Decimal):
        return _decimal_type(value)
    return pa.string()


def _decimal_type(value: Decimal) -> pa.DataType:
    _, digits, exponent = value.as_tuple()
    scale = max(0, -int(exponent))
    whole = max(len(digits) - scale, 1)
    return pa.decimal128(values.MAX_DIGITS, scale) if whole + scale <= values.MAX_DIGITS else pa.string()


def _part(found: Sequence[tuple[int, Row]], errors: list[RowError], schema: pa.Schema) -> Part:
    """Columns from rows; a value that does not fit rejects its row."""
    bad: dict[int, RowError] = {}
    columns = []
    for field in schema:
        column: list[Any] = [row.get(field.name) for _, row in found]
        if (array := _at_once(column, field.type)) is not None:
            columns.append(array)
            continue
        fit, why = _fitting(field.type)
        column = []
        for number, (line, row) in enumerate(found):
            value = row.get(field.name)
            if value is not None:
                value = fit(value)
                if value is _ABSENT:
                    bad.setdefault(number, _misfit(line, field, row, why))
                    value = None
            column.append(value)
        columns.append(pa.array(column, field.type))
    rows = pa.RecordBatch.from_arrays(columns, schema=schema)
    if bad:
        rows = rows.filter(pa.array([n not in bad for n in range(len(found))]))
        errors = sorted([*errors, *bad.values()], key=lambda e: e.line)
    return Part(rows, errors)


def _at_once(column: list[Any], type: pa.DataType) -> pa.Array | None:
    """The array, if all values are of the one kind that pyarrow takes as they are."""
    if not {v.__class__ for v in column} <= _NATURAL.get(type.id, frozenset()):
        return None
    try:
        return pa.array(column, type)
    except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
        return None


def _misfit(line: int, field: pa.Field, row: Row, why: str) -> RowError:
    value = row[field.name]
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    code = "OUT_OF_RANGE" if number and why == "number" else "TYPE_MISMATCH"
    shown = _text(value)[:60]
    reason = f"{field.name}: {shown} is no {values.describe(field.type)}"
    return RowError(line, code, reason, {k: shorten(_plain(v)) for k, v in row.items()})


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | bool | int) else _text(value)


def _text(value: Any) -> str:
    try:
        return values.to_json(value)
    except RecursionError:
        return _TOO_DEEP


def _fitting(type: pa.DataType) -> tuple[Any, str]:
    """A function that makes a value fit or gives `_ABSENT`, and what kind of type it is for."""
    if pa.types.is_string(type):
        return _as_text, "text"
    if pa.types.is_boolean(type):
        return (lambda v: v if isinstance(v, bool) else _ABSENT), "boolean"
    if pa.types.is_integer(type):
        limit = 2 ** (type.bit_width - 1)
        return (
            lambda v: v if isinstance(v, int) and not isinstance(v, bool) and -limit <= v < limit else _ABSENT
        ), "number"
    if pa.types.is_floating(type):
        return _double, "number"
    if pa.types.is_decimal(type):
        return (lambda v: _decimal(v, type)), "number"

    def by_text(value: Any) -> Any:
        if not isinstance(value, str):
            return _ABSENT
        array, bad = values.convert(pa.array([value]), type)
        return _ABSENT if bad is not None else array[0].as_py()

    return by_text, "text"


def _as_text(value: Any) -> Any:
    text = value if isinstance(value, str) else _text(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return _ABSENT
    return _ABSENT if text is _TOO_DEEP else text


def _double(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return _ABSENT
    try:
        number = float(value)
    except OverflowError:
        return _ABSENT
    written = getattr(value, "text", "")
    return _ABSENT if number in (float("inf"), float("-inf")) and written else number


def _decimal(value: Any, type: pa.DataType) -> Any:
    """Also from a text or a number with an exponent, as long as no digit is lost; so does pyarrow."""
    value = getattr(value, "text", value)
    if isinstance(value, bool) or not (
        isinstance(value, int | Decimal) or (isinstance(value, str) and _WRITTEN.fullmatch(value))
    ):
        return _ABSENT
    exact = Decimal(value)
    _, digits, exponent = exact.as_tuple()
    places = int(exponent)
    if -places > type.scale or len(digits) + places > type.precision - type.scale:
        return _ABSENT
    return exact
