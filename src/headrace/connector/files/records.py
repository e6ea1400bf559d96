"""Cuts a csv file into blocks of whole records, and finds out its delimiter and header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa

from headrace import native
from headrace.connector.files import cells, text, values
from headrace.connector.files.grammar import Grammar
from headrace.connector.files.options import CsvOptions
from headrace.connector.files.part import RowError, check_width, shorten

BLOCK = 4 << 20
_DELIMITERS = ",\t|;"
_NEWLINE, _RETURN = ord("\n"), ord("\r")


@dataclass(slots=True)
class Block:
    """Whole records, the first of them at `line`.

    `lines` gives the line of each record that is not blank, where some records were taken out.
    """

    data: bytes
    line: int
    lines: list[int] | None = None
    errors: list[RowError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the beginning of a file tells."""

    delimiter: str
    names: tuple[str, ...]


class Splitter(Iterator[Block]):
    """Cuts a file into blocks of whole records; `layout` is known from the first block on."""

    def __init__(self, file: IO[bytes], name: str, options: CsvOptions, first: int = 1 << 20):
        self._source = text.TextSource(file, name, options.encoding)
        self._name, self._options = name, options
        self._rest, self._line, self._end = b"", 1, False
        self._size = first
        self._encoding = "utf-8" if self._source.decoded else None
        self._returns = False
        self.layout: Layout | None = None

    def __next__(self) -> Block:
        while not self._end:
            rest = len(self._rest)
            wanted = max(self._size, min(rest, text.LINE_LIMIT - rest))  # a long record is not seen too often
            data = self._rest + self._unified(self._fill(wanted))
            if not data:
                break
            block, used, lines = self._cut(data)
            self._rest = data[used:]
            if used == 0 and not self._end:
                if len(data) > text.LINE_LIMIT:
                    raise text.line_too_long(self._name, self._line)
                continue
            self._line += lines
            self._size = BLOCK
            if self.layout is None:
                self._begin(block)
            if self.layout is not None:
                return block
        raise StopIteration

    def _fill(self, size: int) -> bytes:
        parts, count = [], 0
        while count < size and not self._end:
            parts.append(self._source.read(size - count))
            count += len(parts[-1])
            self._end = not parts[-1]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _unified(self, chunk: bytes) -> bytes:
        """Line ends of old Macs become newlines, in a file that has no other."""
        if self.layout is None and not self._rest:
            self._returns = b"\r" in chunk and b"\n" not in chunk
        return chunk.replace(b"\r", b"\n") if self._returns else chunk

    def _cut(self, data: bytes) -> tuple[Block, int, int]:
        """The whole records at the beginning, their size in the file, and the newlines in them."""
        delimiter = self.layout.delimiter if self.layout else self._options.delimiter
        if delimiter is None:
            delimiter = self._sniff(data)
        used, lines = self._tidy_records(data, delimiter)
        if used == 0:
            return Block(b"", self._line), 0, 0
        if used is not None and (decoded := self._utf8(data[:used])) is not None:
            return Block(decoded, self._line), used, lines
        block, used = self._careful(data, delimiter)
        return block, used, data.count(b"\n", 0, used)

    def _tidy_records(self, data: bytes, delimiter: str) -> tuple[int | None, int]:
        """Where the last whole record ends, None if something is out of place, and the newlines before."""
        quote = self._options.quote
        if library := native.library():
            found = cells.scan(library, data, delimiter, quote, self._end)
            return (None if found.odd else found.end), found.lines
        used = _end_of_records(data, delimiter, quote, self._end)
        if used and (b"\0" in data[:used] or data.count(b"\r", 0, used) != data.count(b"\r\n", 0, used)):
            return None, 0
        return used, data.count(b"\n", 0, used)

    def _utf8(self, data: bytes) -> bytes | None:
        """The data if it is UTF-8 or can be made so; None if some of it is broken.

        The file is taken for windows-1252 if the first bytes beyond ASCII are not UTF-8: whatever came
        before is the same in both, so that this is what a look at the whole file would have found.
        """
        if data.isascii():
            return data
        if self._encoding == "windows-1252":
            return text.windows_1252(data)
        try:
            data.decode()
        except UnicodeDecodeError:
            if self._encoding == "utf-8":
                return None
            self._encoding = "windows-1252"
            return text.windows_1252(data)
        self._encoding = "utf-8"
        return data

    def _careful(self, data: bytes, delimiter: str) -> tuple[Block, int]:
        """Record by record, for data with stray quotes, NUL or broken characters.

        A bad record costs itself only: a quote that is never closed, or closed in the midst of a later
        field, spoils its own line.
        """
        grammar = Grammar(delimiter, self._options.quote)
        good: list[bytes] = []
        lines: list[int] = []
        errors: list[RowError] = []
        at, line = 0, self._line
        too_long = len(data) > text.LINE_LIMIT
        while at < len(data):
            end, code = grammar.record(data, at, end=self._end, closed=at == 0 and too_long)
            if end == 0:
                break
            raw = data[at:end]
            decoded = self._utf8(raw)
            if code is None and b"\0" in raw:
                code = "NUL_BYTE"
            if code is None and decoded is None:
                code = "BAD_ENCODING"
            if code is None:
                assert decoded is not None
                ending = decoded.rstrip(b"\r\n")
                good.append(ending + b"\n")
                lines += [line] if ending else []
            else:
                shown = shorten(raw.rstrip(b"\r\n").decode(errors="backslashreplace"))
                errors.append(RowError(line, code, _REASONS[code], shown))
            line += raw.count(b"\n")
            at = end
        return Block(b"".join(good), self._line, lines, errors), at

    def _sniff(self, data: bytes) -> str:
        """The delimiter that gives most of the first 100 records one number of fields, more than one."""
        best, most = ",", 0
        for delimiter in _DELIMITERS:
            counts: dict[int, int] = {}
            grammar, at = Grammar(delimiter, self._options.quote), 0
            for _ in range(100):
                end, code = grammar.record(data, at, end=True)
                if end in (0, at):
                    break
                if code is None and data[at:end].strip():
                    fields = len(grammar.fields(data[at:end]))
                    counts[fields] = counts.get(fields, 0) + 1
                at = end
            counts.pop(1, None)
            if counts and max(counts.values()) > most:
                best, most = delimiter, max(counts.values())
        return best

    def _begin(self, block: Block) -> None:
        """Find names and types of the first row, and take what stands before the rows out of the block."""
        delimiter = self._options.delimiter or self._sniff(block.data)
        grammar = Grammar(delimiter, self._options.quote)
        at = taken = 0
        line = block.line
        skip = self._options.skip_lines
        first: list[str] = []
        while at < len(block.data):
            end, _ = grammar.record(block.data, at, end=True)
            raw = block.data[at:end]
            if skip == 0 and raw.strip(b"\r\n"):
                first = grammar.fields(raw)
                break
            skip -= skip > 0
            taken += bool(raw.strip(b"\r\n"))
            at, line = end, line + raw.count(b"\n")
        if not first and not self._end:
            block.data, block.line = b"", line
            return
        check_width(len(first), self._name)
        header = self._options.header
        if header is None:
            header = not any(_is_value(cell) for cell in first)
        self.layout = Layout(delimiter, _names(first, header))
        if header and first:
            taken, at, line = taken + 1, end, line + raw.count(b"\n")
        block.data = block.data[at:]
        block.line = line
        if block.lines is not None:
            block.lines = block.lines[taken:]


_REASONS = {
    "UNTERMINATED_QUOTE": "a quote is opened and not closed",
    "NUL_BYTE": "the row holds a NUL byte",
    "BAD_ENCODING": "the row is not UTF-8 as the rest of the file",
}


def _end_of_records(data: bytes, delimiter: str, quote: str, end: bool) -> int | None:
    """Where the last whole record ends, if all quotes are where they belong; None if not."""
    if quote.encode() not in data:
        return len(data) if end else data.rfind(b"\n") + 1
    array = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(array == ord(quote))
    fine = np.zeros(256, bool)
    fine[[ord(delimiter), ord(quote), _NEWLINE, _RETURN]] = True
    opening, closing = quotes[0::2], quotes[1::2]
    before = array[opening[opening > 0] - 1]
    after = array[closing[closing < len(data) - 1] + 1]
    if not (fine[before].all() and fine[after].all()):
        return None
    if end:
        return len(data) if len(quotes) % 2 == 0 else None
    at = data.rfind(b"\n")
    while at >= 0:
        passed = int(np.searchsorted(quotes, at))
        if passed % 2 == 0:
            return at + 1
        at = data.rfind(b"\n", 0, int(quotes[passed - 1]))
    return 0


def record_lines(block: Block, quote: str) -> list[int]:
    """The line of each record; blank ones don't count, as pyarrow passes over them."""
    if block.lines is not None:
        return block.lines
    data = np.frombuffer(block.data, np.uint8)
    breaks = np.flatnonzero(data == _NEWLINE)
    if len(data) and (len(breaks) == 0 or breaks[-1] != len(data) - 1):
        breaks = np.append(breaks, len(data))
    quotes = np.flatnonzero(data == ord(quote))
    ends = breaks[np.searchsorted(quotes, breaks) % 2 == 0]
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = np.where((ends > starts) & (data[np.maximum(ends - 1, 0)] == _RETURN), ends - 1, ends)
    filled: list[int] = (block.line + np.searchsorted(breaks, starts[last > starts])).tolist()
    return filled


def _is_value(cell: str) -> bool:
    """Is this a number, date or timestamp, and so hardly a column's name?"""
    type = values.infer(pa.array([cell], pa.string()))
    return not (pa.types.is_string(type) or pa.types.is_boolean(type) or pa.types.is_null(type))


def _names(first: Sequence[str], header: bool) -> tuple[str, ...]:
    """Names of the columns: empty ones by place, repeated ones (whatever their case) with a number."""
    taken: set[str] = set()
    names = []
    for number, cell in enumerate(first, 1):
        wanted = name = (cell.strip() if header else "") or f"column_{number}"
        again = 2
        while name.lower() in taken:
            name, again = f"{wanted}_{again}", again + 1
        taken.add(name.lower())
        names.append(name)
    return tuple(names)
