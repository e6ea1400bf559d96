"""Objects out of json text, with all digits of their numbers and nested ones flattened, one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from headrace.connector.files import text
from headrace.connector.files.part import RowError, shorten
from headrace.errors import DataError

ROWS = 10_000
DEPTH = 10
_SPACE = re.compile(r"[ \t\r\n]*+")
_LINE_OBJECT = re.compile(r"\n(?=\{)")
ABSENT = object()
TOO_DEEP = "it is nested too deep"

Row = dict[str, Any]
Found = tuple[list[tuple[int, Row]], list[RowError], int]
"""Rows with their lines, what is wrong with others, and the size of the text they were in."""


class Exponent(float):
    """A number written with an exponent; `text` is how."""

    text: str


def _number(written: str) -> Decimal | Exponent:
    if "e" not in written and "E" not in written:
        return Decimal(written)
    value = Exponent(written)
    value.text = written
    return value


def _integer(written: str) -> int | Decimal:
    return int(written) if len(written) < 1000 else Decimal(written)


_DECODER = json.JSONDecoder(parse_float=_number)
_CAREFUL = json.JSONDecoder(parse_float=_number, parse_int=_integer)


class NotARow(Exception):
    def __init__(self, code: str, reason: str):
        super().__init__(reason)
        self.code = code


def decode_lines(block: bytes, line: int) -> tuple[list[tuple[int, Row]], list[RowError]]:
    found: list[tuple[int, Row]] = []
    errors: list[RowError] = []
    for number, raw in enumerate(block.split(b"\n"), line):
        if not raw.strip():
            continue
        try:
            found.append((number, as_row(loads(raw.decode()))))
        except UnicodeDecodeError:
            shown = shorten(raw.decode(errors="backslashreplace"))
            errors.append(RowError(number, "BAD_ENCODING", "the line is not UTF-8", shown))
        except NotARow as error:
            errors.append(RowError(number, error.code, str(error), shorten(raw.decode())))
    return found, errors


def loads(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise NotARow("BAD_JSON", f"{error.msg} at column {error.colno}") from None
    except RecursionError:
        raise NotARow("BAD_JSON", TOO_DEEP) from None
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


def as_row(value: Any) -> Row:
    if not isinstance(value, dict):
        raise NotARow("NOT_AN_OBJECT", "not an object")
    if not any(isinstance(v, dict) for v in value.values()):
        return value
    row: Row = {}
    _flatten(value, "", row, 1)
    return row


def _flatten(value: Mapping[str, Any], prefix: str, row: Row, depth: int) -> None:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner and depth < DEPTH:
            _flatten(inner, f"{prefix}{key}_", row, depth + 1)
            continue
        name, again = prefix + key, 2
        while name in row:
            name, again = f"{prefix}{key}_{again}", again + 1
        row[name] = inner


def objects(source: text.TextSource, name: str, size: int) -> Iterator[Found]:
    """An array of objects, one object, or objects one after the other, in pieces of about `size`."""
    documents = _Documents(source, name, size)
    while documents.more():
        found: list[tuple[int, Row]] = []
        errors: list[RowError] = []
        start = documents.taken
        while len(found) < ROWS and documents.taken - start < size:
            line = documents.line()
            try:
                value = documents.next()
                if value is ABSENT:
                    break
                found.append((line, as_row(value)))
            except NotARow as error:
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
        """The next value; `ABSENT` after the last. Raises NotARow for one that can be stepped over."""
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
        return ABSENT

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
                raise self._broken(TOO_DEEP) from None
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
        raise NotARow("BAD_JSON", why)

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
