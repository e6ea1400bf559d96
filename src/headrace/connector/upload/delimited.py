"""csv: types by every value of the file, and rows of those types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.connector.files import delimited, values
from headrace.connector.files.options import CsvOptions
from headrace.connector.files.part import Part
from headrace.connector.upload.opened import Opened, all_text, no_columns, warn_of
from headrace.connector.upload.profile import Profiler
from headrace.connector.upload.text import Text, encoding_of
from headrace.errors import ConfigError
from headrace.model.file import FileProfile

_FIRST = 1 << 20
_FEW = 10
"""So many odd values in a column are worth a warning; with more it is plainly text."""


def profile(upload: Opened) -> FileProfile:
    """Two passes, one for the encoding; a third one only to find the line of an odd value."""
    text, options = _open(upload)
    sample = delimited.inspect(cast(IO[bytes], text), upload.name, options, _FIRST)
    if not sample.schema.names:
        raise no_columns(upload.name)
    schema = all_text(sample.schema.names)
    profiler = Profiler(schema)
    columns = [_Column() for _ in schema]
    errors, first = 0, None
    for part in _parts(text, upload, options, schema):
        profiler.add(part)
        errors += len(part.errors)
        first = first or next(iter(part.errors), None)
        for column, texts in zip(columns, part.rows.columns, strict=True):
            column.add(texts)
    found = pa.schema([(n, c.final()) for n, c in zip(schema.names, columns, strict=True)])
    for at, column in enumerate(columns):
        if column.empty and not pa.types.is_string(found.field(at).type):
            profiler.nulls(at)
    firsts = [
        pa.RecordBatch.from_arrays(
            [values.convert(c, f.type)[0] for c, f in zip(batch.columns, found, strict=True)], schema=found
        )
        for batch in profiler.firsts
    ]
    warnings = warn_of(errors, first)
    if text.encoding != "utf-8" and not text.encoding.startswith("utf-16"):
        warnings.append(f"the text is not UTF-8; it was read as {text.encoding}")
    warnings += [
        _near_miss(upload, text, options, name, column)
        for name, column in zip(schema.names, columns, strict=True)
        if column.nearly
    ]
    dialect = {"encoding": text.encoding, "delimiter": options.delimiter, "quote": options.quote}
    return profiler.finish(found, firsts, warnings=tuple(warnings), dialect=dialect)


def read(upload: Opened, schema: pa.Schema) -> Iterator[Part]:
    """The rows as `schema`, which has columns of the file."""
    text, options = _open(upload)
    yield from _parts(text, upload, options, schema)


def _parts(text: Text, upload: Opened, options: CsvOptions, schema: pa.Schema) -> Iterator[Part]:
    text.seek(0)
    for part in delimited.read(cast(IO[bytes], text), upload.name, options, schema):
        if text.too_large:
            yield Part(part.rows[:0], text.take_too_large())
        yield part
    if text.too_large:
        yield Part(pa.RecordBatch.from_pylist([], schema), text.take_too_large())


def _open(upload: Opened) -> tuple[Text, CsvOptions]:
    given = upload.options
    delimiter = given.delimiter or ("\t" if upload.kind.tabs else None)
    quote = given.quote or '"'
    raw = {
        "delimiter": delimiter,
        "quote": quote,
        "header": given.header,
        "encoding": "utf-8",
        "null_values": given.null_values,
        "skip_lines": given.skip_rows,
    }
    options = CsvOptions.parse(raw)
    escape = None
    if given.escape and given.escape != quote:
        if len(given.escape) > 1 or not given.escape.isascii() or given.escape in "\r\n\0":
            raise ConfigError(
                "upload.escape",
                "escape must be one ASCII character",
                field="readOptions.escape",
                remedy="Give the character that stands before a quote within a field.",
            )
        escape = given.escape.encode(), quote.encode()
    encoding = given.encoding or encoding_of(upload.file, upload.kind)
    return Text(upload.file, upload.kind, encoding, escape=escape, lines=True), options


@dataclass
class _Column:
    """What the values of one column are so far. `odd` ones keep it from being of the type `nearly`."""

    type: pa.DataType = field(default_factory=pa.null)
    empty: bool = False
    whole: int = 0  # digits before the point
    nearly: pa.DataType | None = None
    odd: int = 0
    seen: int = 0

    def add(self, texts: pa.Array) -> None:
        present = pc.drop_null(texts)
        if len(present) == 0:
            return
        if pc.any(pc.equal(present, "")).as_py():
            self.empty = True
            present = present.filter(pc.not_equal(present, ""))
        if len(present) == 0:
            return
        self.seen += len(present)
        if not pa.types.is_string(self.type):
            found = values.infer(present)
            if pa.types.is_decimal(found):
                self._count_digits(present)
            wide = values.widen(self.type, found)
            if pa.types.is_string(wide):
                self.nearly = _most(present, self.type)
            self.type = wide
        if self.nearly is not None:
            self._look_for_odd(present)

    def final(self) -> pa.DataType:
        if pa.types.is_null(self.type):
            return pa.string()
        if pa.types.is_string(self.type):
            if not 0 < self.odd <= min(_FEW, self.seen // 20):
                self.nearly = None
        elif pa.types.is_decimal(self.type) and self.whole + self.type.scale > values.MAX_DIGITS:
            return pa.float64()
        elif pa.types.is_decimal(self.type):
            return pa.decimal128(values.MAX_DIGITS, self.type.scale)
        return self.type

    def _count_digits(self, present: pa.Array) -> None:
        point = pc.find_substring(present, ".")
        length = pc.utf8_length(present)
        before = pc.if_else(pc.greater_equal(point, 0), point, length)
        self.whole = max(self.whole, pc.max(before).as_py())

    def _look_for_odd(self, present: pa.Array) -> None:
        for part in (present[:1000], present[1000:]):
            _, bad = values.convert(part, self.nearly)
            self.odd += int(np.count_nonzero(bad)) if bad is not None else 0
            if self.odd > _FEW:
                self.nearly = None
                return


def _most(texts: pa.Array, before: pa.DataType) -> pa.DataType | None:
    """The type of most values, or that of all before; None for text."""
    if not pa.types.is_null(before):
        return before
    found = Counter(values.infer(texts[at : at + 1]) for at in range(min(len(texts), 100)))
    type, _ = found.most_common(1)[0]
    return None if pa.types.is_string(type) else type


def _near_miss(upload: Opened, text: Text, options: CsvOptions, name: str, column: _Column) -> str:
    assert column.nearly is not None
    line = _line_of(_parts(text, upload, options, pa.schema([(name, column.nearly)])))
    values_ = "1 value keeps" if column.odd == 1 else f"{column.odd} values keep"
    where = f"; the first at line {line}" if line else ""
    return f"{values_} {name} from being {values.describe(column.nearly)}{where}"


_MISFIT = ("TYPE_MISMATCH", "OUT_OF_RANGE")


def _line_of(parts: Iterator[Part]) -> int | None:
    for part in parts:
        for error in part.errors:
            if error.code in _MISFIT:
                return error.line
    return None
