"""parquet: types from the footer, one row group in memory at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.connector.files import values
from headrace.connector.files.part import Part, RowError, Sample, check_width, shorten
from headrace.errors import DataError

_ROWS = 65_536
_PAGES = 1 << 20


def inspect(file: IO[bytes], name: str, size: int) -> Sample:
    """Columns from the footer; `size` is that of the file."""
    with _translated(name):
        parquet = pq.ParquetFile(file, coerce_int96_timestamp_unit="us")
    schema = parquet.schema_arrow
    check_width(len(schema.names), name)
    if len(set(schema.names)) < len(schema.names):
        raise DataError(
            "files.repeated_column",
            f"{name} has two columns of one name",
            remedy="Write the file with a name of its own for each column.",
        )
    typed = pa.schema([(f.name, values.normal(f.type)) for f in schema])
    return Sample(typed, parquet.metadata.num_rows, size)


def read(file: IO[bytes], name: str, schema: pa.Schema, *, ahead: bool = True) -> Iterator[Part]:
    """The rows as `schema`; its columns that the file lacks are null, others of the file are left out.

    Without `ahead` a column is read page by page, not as much of it as a row group has: for files that are
    near, and little memory.
    """
    with _translated(name):
        parquet = pq.ParquetFile(
            file,
            pre_buffer=ahead,
            buffer_size=0 if ahead else _PAGES,
            page_checksum_verification=True,
            coerce_int96_timestamp_unit="us",  # nanoseconds do not reach far years
        )
    wanted = [n for n in schema.names if n in parquet.schema_arrow.names]
    first = 1
    for group in range(parquet.num_row_groups):
        batches = parquet.iter_batches(_ROWS, row_groups=[group], columns=wanted)
        while True:
            with _translated(name):
                batch = next(batches, None)
            if batch is None:
                break
            yield part(batch, schema, first)
            first += batch.num_rows


def part(batch: pa.RecordBatch, schema: pa.Schema, first: int) -> Part:
    """Typed rows as `schema`; those with a value that does not fit are errors, counted from `first`."""
    present = set(batch.schema.names)
    bad: dict[str, np.ndarray] = {}
    columns = []
    for field in schema:
        if field.name not in present:
            columns.append(pa.nulls(batch.num_rows, field.type))
            continue
        array, mask = values.cast(batch.column(field.name), field.type)
        columns.append(array)
        if mask is not None:
            bad[field.name] = mask.to_numpy(zero_copy_only=False)
    rows = pa.RecordBatch.from_arrays(columns, schema=schema)
    if not bad:
        return Part(rows, [])
    any_bad = np.logical_or.reduce(list(bad.values()))
    errors = []
    for row in np.flatnonzero(any_bad).tolist():
        column = next(c for c, mask in bad.items() if mask[row])
        shown = {c: shorten(str(v[0])) for c, v in batch.slice(row, 1).to_pydict().items()}
        reason = f"{column}: {shown[column][:60]} is no {values.describe(schema.field(column).type)}"
        errors.append(RowError(first + row, "TYPE_MISMATCH", reason, shown))
    return Part(rows.filter(pa.array(~any_bad)), errors)


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError):
        raise DataError(
            "files.corrupt",
            f"{name} is no parquet file that can be read: it is damaged, cut off or encrypted",
            field="format",
            remedy="Check that the file is parquet, is whole, and is not encrypted.",
        ) from None
