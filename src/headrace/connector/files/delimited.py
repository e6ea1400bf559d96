"""csv and tsv: blocks of whole records are cut into fields and typed column by column.

Blocks are independent of each other, so that they are parsed in parallel. The compiled kernels take a
block if it is tidy, and each of its columns if all of its values are plainly of the column's type; what
they don't take is cut by pyarrow and typed by `values`, which is slower and decides what is rejected.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from headrace import native
from headrace.connector.files import cells, values
from headrace.connector.files.ahead import ahead
from headrace.connector.files.options import CsvOptions
from headrace.connector.files.part import Part, RowError, Sample, shorten
from headrace.connector.files.records import Block, Layout, Splitter, record_lines

_HEAD = 1000


def inspect(file: IO[bytes], name: str, options: CsvOptions, limit: int) -> Sample:
    """Columns and types by the first `limit` bytes of text."""
    blocks = Splitter(file, name, options, first=limit)
    block = next(blocks, None)
    if block is None or blocks.layout is None:
        return Sample(pa.schema([]))
    table = _table(block, blocks.layout, options)
    schema = pa.schema([(n, table.infer(n)) for n in blocks.layout.names])
    return Sample(schema, table.rows, len(block.data), whole=next(blocks, None) is None)


def read(file: IO[bytes], name: str, options: CsvOptions, schema: pa.Schema) -> Iterator[Part]:
    """The rows as `schema`; its columns that the file lacks are null, others of the file are left out."""
    blocks = Splitter(file, name, options)

    def parsed(block: Block) -> Part:
        assert blocks.layout is not None
        return _parse(block, blocks.layout, options, schema)

    # one thread of kernels outruns what encodes the rows: a second one would take turns with that
    return ahead(blocks, parsed, threads=1 if native.library() else 2)


class _Table(Protocol):
    """A block cut into fields.

    `wrong` are the records with another number of fields: each by its number (from 0, blank ones not
    counted), its text and its number of fields.
    """

    wrong: cells.Wrong

    @property
    def rows(self) -> int: ...

    def texts(self, name: str) -> pa.Array: ...

    def column(self, name: str, type: pa.DataType) -> tuple[pa.Array, pa.Array | None]:
        """The column as `type`, and a mask of the values that are not of it, if there are any."""

    def infer(self, name: str) -> pa.DataType: ...


def _table(block: Block, layout: Layout, options: CsvOptions) -> _Table:
    library = native.library()
    found = library and cells.csv(
        library,
        block.data,
        layout.delimiter,
        options.quote,
        len(layout.names),
        cells.Nulls.of(options.null_values),
    )
    return _ByKernels(layout.names, *found) if found else _ByPyarrow(block, layout, options)


class _ByKernels:
    def __init__(self, names: tuple[str, ...], found: cells.Cells, wrong: cells.Wrong):
        self._numbers = {name: number for number, name in enumerate(names)}
        self._cells, self.wrong = found, wrong

    @property
    def rows(self) -> int:
        return self._cells.rows

    def texts(self, name: str) -> pa.Array:
        return self._texts(self._cells, name)

    def column(self, name: str, type: pa.DataType) -> tuple[pa.Array, pa.Array | None]:
        array = self._cells.column(self._numbers[name], type)
        return values.convert(self.texts(name), type) if array is None else (array, None)

    def infer(self, name: str) -> pa.DataType:
        """As `values.infer` does, who looks at the first values before all: mostly those tell already."""
        head = self._texts(self._cells.first(_HEAD), name)
        found = values.infer(head)
        some = pc.any(pc.not_equal(head, "")).as_py()
        if not some or self._cells.column(self._numbers[name], found) is None:
            return values.infer(self.texts(name))
        return found

    def _texts(self, of: cells.Cells, name: str) -> pa.Array:
        array = of.column(self._numbers[name], pa.string())
        assert array is not None, "a block is smaller than the largest text column"
        return array


class _ByPyarrow:
    def __init__(self, block: Block, layout: Layout, options: CsvOptions):
        self._block, self._layout, self._options = block, layout, options
        self.wrong: cells.Wrong = []
        self._texts = self._cut()

    @property
    def rows(self) -> int:
        return int(self._texts.num_rows)

    def texts(self, name: str) -> pa.Array:
        return self._texts.column(self._layout.names.index(name))

    def column(self, name: str, type: pa.DataType) -> tuple[pa.Array, pa.Array | None]:
        return values.convert(self.texts(name), type)

    def infer(self, name: str) -> pa.DataType:
        return values.infer(self.texts(name))

    def _cut(self) -> pa.RecordBatch:
        data = self._block.data
        if data.startswith(codecs.BOM_UTF8):  # that of the file is gone already: this one is text
            data = b"\n" + data
        names = [str(n) for n in range(len(self._layout.names))]  # the names may mean something to pyarrow
        schema = pa.schema([(n, pa.string()) for n in names])
        if not data.strip(b"\r\n"):
            return pa.RecordBatch.from_pylist([], schema)
        table = pacsv.read_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(
                use_threads=False, block_size=max(len(data) + 1, 1024), column_names=names
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=self._layout.delimiter,
                quote_char=self._options.quote,
                newlines_in_values=True,
                invalid_row_handler=self._skip,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=schema,
                null_values=["", *self._options.null_values],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ).combine_chunks()
        columns = [c.chunk(0) if c.num_chunks else pa.array([], pa.string()) for c in table.columns]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _skip(self, row: Any) -> str:
        self.wrong.append((row.number - 1, row.text, row.actual_columns))
        return "skip"


def _parse(block: Block, layout: Layout, options: CsvOptions, schema: pa.Schema) -> Part:
    wanted = [n for n in schema.names if n in layout.names]
    table = _table(block, layout, options)
    converted: dict[str, pa.Array] = {}
    bad: dict[str, np.ndarray] = {}
    for name in wanted:
        converted[name], mask = table.column(name, schema.field(name).type)
        if mask is not None:
            bad[name] = mask.to_numpy(zero_copy_only=False)
    rows = pa.RecordBatch.from_arrays(
        [converted[f.name] if f.name in converted else pa.nulls(table.rows, f.type) for f in schema],
        schema=schema,
    )
    errors = list(block.errors)
    if table.wrong or bad:
        any_bad = np.logical_or.reduce(list(bad.values())) if bad else np.zeros(table.rows, bool)
        lines = record_lines(block, options.quote)
        for number, raw, actual in table.wrong:
            reason = f"{actual} fields where the header has {len(layout.names)}"
            errors.append(RowError(lines[number], "COLUMN_COUNT", reason, shorten(raw)))
        skipped = {number for number, _, _ in table.wrong}
        kept = [line for number, line in enumerate(lines) if number not in skipped]
        texts = {name: table.texts(name) for name in wanted} if bad else {}
        for row in np.flatnonzero(any_bad).tolist():
            name = next(n for n, mask in bad.items() if mask[row])
            found = {n: column[row].as_py() for n, column in texts.items()}
            code, why = values.why_not(found[name], schema.field(name).type)
            shown = {n: shorten(value) for n, value in found.items()}
            errors.append(RowError(kept[row], code, f"{name}: {why}", shown))
        rows = rows.filter(pa.array(~any_bad))
    return Part(rows, sorted(errors, key=lambda e: e.line))
