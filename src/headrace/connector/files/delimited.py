"""csv and tsv: blocks of whole records are found here, cut into fields by pyarrow and typed column by column.

Blocks are independent of each other, so that they are parsed in parallel, and each knows the line on
which it starts. Line numbers of rejects are counted from the block's own bytes, and only when there
is a reject: they are those that an editor shows, also after line breaks inside quotes.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from headrace.connector.files import text, values
from headrace.connector.files.options import CsvOptions
from headrace.connector.files.part import MAX_COLUMNS, Part, RowError, Sample, check_width, shorten

_BLOCK = 4 << 20
_THREADS = 2
_DELIMITERS = ",\t|;"
_NEWLINE, _RETURN = ord("\n"), ord("\r")


@dataclass(slots=True)
class _Block:
    """Whole records, the first of them at `line`.

    `lines` gives the line of each record that is not blank, where some records were taken out.
    """

    data: bytes
    line: int
    lines: list[int] | None = None
    errors: list[RowError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the beginning of a file tells."""

    delimiter: str
    names: tuple[str, ...]


def inspect(file: IO[bytes], name: str, options: CsvOptions, limit: int) -> Sample:
    """Columns and types by the first `limit` bytes of text."""
    blocks = _Splitter(file, name, options, first=limit)
    block = next(blocks, None)
    if block is None or blocks.layout is None:
        return Sample(pa.schema([]))
    layout = blocks.layout
    parsed, _, _ = _tokens(block, layout, options, layout.names)
    schema = pa.schema([(n, values.infer(c)) for n, c in zip(layout.names, parsed.columns, strict=True)])
    return Sample(schema, parsed.num_rows, len(block.data), whole=next(blocks, None) is None)


def read(file: IO[bytes], name: str, options: CsvOptions, schema: pa.Schema) -> Iterator[Part]:
    """The rows as `schema`; its columns that the file lacks are null, others of the file are left out."""
    blocks = _Splitter(file, name, options)
    waiting: deque[Future[Part]] = deque()
    with ThreadPoolExecutor(_THREADS, "headrace-csv") as pool:
        try:
            for block in blocks:
                assert blocks.layout is not None
                waiting.append(pool.submit(_parse, block, blocks.layout, options, schema))
                if len(waiting) > _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _tokens(
    block: _Block, layout: _Layout, options: CsvOptions, wanted: Sequence[str]
) -> tuple[pa.RecordBatch, list[tuple[int, str, int]], int]:
    """The wanted columns as texts, the records with a wrong number of fields, and the right number.

    A record is given by its number (from 0, blank ones not counted), its text and its number of fields.
    """
    wrong: list[tuple[int, str, int]] = []

    def skip(row: Any) -> str:
        wrong.append((row.number - 1, row.text, row.actual_columns))
        return "skip"

    count = len(layout.names)
    if not block.data.strip(b"\r\n"):
        return pa.RecordBatch.from_pylist([], pa.schema([(n, pa.string()) for n in wanted])), [], count
    names = [str(n) for n in range(count)]  # the names themselves may repeat what pyarrow gives a meaning
    numbers = [names[layout.names.index(n)] for n in wanted]
    table = pacsv.read_csv(
        pa.BufferReader(block.data),
        read_options=pacsv.ReadOptions(
            use_threads=False, block_size=max(len(block.data) + 1, 1024), column_names=names
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char=options.quote,
            newlines_in_values=True,
            invalid_row_handler=skip,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=numbers or names[:1],
            null_values=["", *options.null_values],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    ).combine_chunks()
    columns = [c.chunk(0) if c.num_chunks else pa.array([], pa.string()) for c in table.columns]
    schema = pa.schema([(n, pa.string()) for n in wanted])
    if not numbers:  # the file has none of the wanted columns, but its rows count
        return pa.RecordBatch.from_struct_array(pa.array([{}] * table.num_rows, pa.struct([]))), wrong, count
    return pa.RecordBatch.from_arrays(columns, schema=schema), wrong, count


def _parse(block: _Block, layout: _Layout, options: CsvOptions, schema: pa.Schema) -> Part:
    wanted = [n for n in schema.names if n in layout.names]
    tokens, wrong, count = _tokens(block, layout, options, wanted)
    errors = list(block.errors)
    converted: dict[str, pa.Array] = {}
    bad: dict[str, np.ndarray] = {}
    for column in wanted:
        array, mask = values.convert(tokens.column(column), schema.field(column).type)
        converted[column] = array
        if mask is not None:
            bad[column] = mask.to_numpy(zero_copy_only=False)
    rows = pa.RecordBatch.from_arrays(
        [converted[f.name] if f.name in converted else pa.nulls(tokens.num_rows, f.type) for f in schema],
        schema=schema,
    )
    if wrong or bad:
        lines = _record_lines(block, options.quote)
        for number, raw, actual in wrong:
            reason = f"{actual} fields where the header has {count}"
            errors.append(RowError(lines[number], "COLUMN_COUNT", reason, shorten(raw)))
        skipped = {number for number, _, _ in wrong}
        kept = [line for number, line in enumerate(lines) if number not in skipped]
        any_bad = np.logical_or.reduce(list(bad.values())) if bad else np.zeros(tokens.num_rows, bool)
        for row in np.flatnonzero(any_bad).tolist():
            column = next(c for c, mask in bad.items() if mask[row])
            value = tokens.column(column)[row].as_py()
            code, why = values.why_not(value, schema.field(column).type)
            found = {c: shorten(v[0]) for c, v in tokens.slice(row, 1).to_pydict().items()}
            errors.append(RowError(kept[row], code, f"{column}: {why}", found))
        rows = rows.filter(pa.array(~any_bad))
    return Part(rows, sorted(errors, key=lambda e: e.line))


def _record_lines(block: _Block, quote: str) -> list[int]:
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


class _Splitter(Iterator[_Block]):
    """Cuts a file into blocks of whole records; `layout` is known from the first block on."""

    def __init__(self, file: IO[bytes], name: str, options: CsvOptions, first: int = 1 << 20):
        self._source = text.TextSource(file, name, options.encoding)
        self._name, self._options = name, options
        self._rest, self._line, self._end = b"", 1, False
        self._size = first
        self._encoding = "utf-8" if self._source.decoded else None
        self._returns = False
        self.layout: _Layout | None = None

    def __next__(self) -> _Block:
        while not self._end:
            rest = len(self._rest)
            wanted = max(self._size, min(rest, text.LINE_LIMIT - rest))  # a long record is not seen too often
            data = self._rest + self._unified(self._fill(wanted))
            if not data:
                break
            block, used = self._cut(data)
            self._rest = data[used:]
            if used == 0 and not self._end:
                if len(data) > text.LINE_LIMIT:
                    raise text.line_too_long(self._name, self._line)
                continue
            self._line += data.count(b"\n", 0, used)
            self._size = _BLOCK
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

    def _cut(self, data: bytes) -> tuple[_Block, int]:
        delimiter = self.layout.delimiter if self.layout else self._options.delimiter
        if delimiter is None:
            delimiter = self._sniff(data)
        used = _end_of_records(data, delimiter, self._options.quote, self._end)
        if used == 0:
            return _Block(b"", self._line), 0
        if used is not None:
            whole = data[:used]
            if b"\0" not in whole and whole.count(b"\r") == whole.count(b"\r\n"):
                decoded = self._utf8(whole)
                if decoded is not None:
                    return _Block(decoded, self._line), used
        return self._careful(data, delimiter)

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

    def _careful(self, data: bytes, delimiter: str) -> tuple[_Block, int]:
        """Record by record, for data with stray quotes, NUL or broken characters.

        A bad record costs itself only: a quote that is never closed, or closed in the midst of a later
        field, spoils its own line.
        """
        grammar = _Grammar(delimiter, self._options.quote)
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
        return _Block(b"".join(good), self._line, lines, errors), at

    def _sniff(self, data: bytes) -> str:
        """The delimiter that gives most of the first 100 records one number of fields, more than one."""
        best, most = ",", 0
        for delimiter in _DELIMITERS:
            counts: dict[int, int] = {}
            grammar, at = _Grammar(delimiter, self._options.quote), 0
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

    def _begin(self, block: _Block) -> None:
        """Find names and types of the first row, and take what stands before the rows out of the block."""
        delimiter = self._options.delimiter or self._sniff(block.data)
        grammar = _Grammar(delimiter, self._options.quote)
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
        self.layout = _Layout(delimiter, _names(first, header))
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


class _Grammar:
    """Records and fields of RFC 4180, as pyarrow cuts them; text after a closing quote is let pass."""

    def __init__(self, delimiter: str, quote: str):
        d, q = re.escape(delimiter.encode()), re.escape(quote.encode())
        quoted = rb"%(q)s[^%(q)s]*+(?:%(q)s%(q)s[^%(q)s]*+)*+"
        strict = rb"(?:" + quoted + rb"%(q)s(?=[%(d)s\r\n]|\Z)|(?!%(q)s)[^%(d)s\r\n]*+)"
        loose = rb"(?:%(q)s(?:[^%(q)s\r\n]|%(q)s%(q)s)*+%(q)s[^%(d)s\r\n]*+|(?!%(q)s)[^%(d)s\r\n]*+)"
        end = rb"(?:\r\n|\n|\r|\Z)"

        def compiled(pattern: bytes) -> re.Pattern[bytes]:
            return re.compile(pattern.replace(b"%(q)s", q).replace(b"%(d)s", d))

        self._strict = compiled(strict + rb"(?:%(d)s" + strict + rb")*+" + end)
        self._loose = compiled(loose + rb"(?:%(d)s" + loose + rb")*+" + end)
        self._open = compiled(rb"(?:" + strict + rb"%(d)s)*+" + quoted + rb"\Z")
        self._line = re.compile(rb"[^\r\n]*+(?:\r\n|\n|\r|\Z)")
        self._field = compiled(rb"(" + loose.replace(rb"\r\n", b"") + rb")(?:%(d)s|\Z)")
        self._quote = quote.encode()

    def record(self, data: bytes, at: int, *, end: bool, closed: bool = False) -> tuple[int, str | None]:
        """Where the record that starts at `at` ends, 0 if that is yet to come; and what is wrong with it.

        `end` says that no more data will come, `closed` that no more will come for an open quote.
        """
        found = self._strict.match(data, at)
        if found is None and not (end or closed) and self._open.match(data, at):
            return 0, None
        code = None
        if found is None:
            found = self._loose.match(data, at)
        if found is None:
            found, code = self._line.match(data, at), "UNTERMINATED_QUOTE"
        assert found is not None
        if not end and found.end() == len(data) and data[-1] != _NEWLINE:
            return 0, None
        return found.end(), code

    def fields(self, record: bytes) -> list[str]:
        """The texts of a whole record, or enough of them to see that they are too many."""
        record = record.rstrip(b"\r\n")
        cells: list[bytes] = []
        at = 0
        while len(cells) <= MAX_COLUMNS:
            found = self._field.match(record, at)
            if found is None:
                cells.append(record[at:])
                break
            cells.append(found[1])
            if found.end() == found.end(1):
                break
            at = found.end()
        return [self._unquoted(cell).decode(errors="replace") for cell in cells]

    def _unquoted(self, cell: bytes) -> bytes:
        if not cell.startswith(self._quote):
            return cell
        inner, _, after = cell[1:].rpartition(self._quote)
        return inner.replace(self._quote * 2, self._quote) + after


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
