"""parquet: types and the number of rows from the footer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.connector.files import columnar
from headrace.connector.files.part import Part
from headrace.connector.upload.opened import Opened, no_columns
from headrace.connector.upload.profile import PREVIEW_ROWS, Profiler
from headrace.errors import DataError
from headrace.model.file import FileProfile

_FIRST_PARTS = 4
_DEPTH = 10


def profile(upload: Opened) -> FileProfile:
    """The footer and the first rows; columns of nanoseconds are read as a whole."""
    _refuse_encrypted(upload)
    schema = columnar.inspect(upload.file, upload.name, 0).schema
    if not schema.names:
        raise no_columns(upload.name)
    for field in schema:
        if _depth(field.type) > _DEPTH:
            raise DataError(
                "upload.too_deep",
                f"{field.name} is nested more than {_DEPTH} levels deep",
                field="file",
                remedy="Write it flatter, or as JSON text.",
            )
    upload.file.seek(0)
    profiler = Profiler(schema)
    for part in islice(read(upload, schema), _FIRST_PARTS):
        profiler.add(Part(part.rows[:PREVIEW_ROWS], []))
    upload.file.seek(0)
    parquet = pq.ParquetFile(upload.file, coerce_int96_timestamp_unit="us")
    profiler.rows = parquet.metadata.num_rows
    for at, name in enumerate(schema.names):
        if _has_nulls(parquet, name):
            profiler.nulls(at)
    return profiler.finish(schema, profiler.firsts, warnings=tuple(_cut(upload, parquet)))


def read(upload: Opened, schema: pa.Schema) -> Iterator[Part]:
    """The rows as `schema`, which has columns of the file."""
    _refuse_encrypted(upload)
    yield from columnar.read(upload.file, upload.name, schema, ahead=False)


def _depth(type: pa.DataType) -> int:
    if not pa.types.is_nested(type):
        return 0
    return 1 + max((_depth(type.field(n).type) for n in range(type.num_fields)), default=0)


def _refuse_encrypted(upload: Opened) -> None:
    head = upload.file.read(4)
    upload.file.seek(-4, 2)
    tail = upload.file.read(4)
    upload.file.seek(0)
    if b"PARE" in (head, tail):
        raise DataError(
            "upload.encrypted", "the parquet file is encrypted", field="file", remedy="Send it in the clear."
        )


def _has_nulls(parquet: pq.ParquetFile, name: str) -> bool:
    """By the counts in the footer; where there are none, whatever the schema allows."""
    field: pa.Field = parquet.schema_arrow.field(name)
    if not field.nullable:
        return False
    metadata = parquet.metadata
    paths = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
    if name not in paths:
        return True
    for group in range(metadata.num_row_groups):
        statistics: Any = metadata.row_group(group).column(paths[name]).statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            return True
    return False


def _cut(upload: Opened, parquet: pq.ParquetFile) -> Iterator[str]:
    """Warnings for nanoseconds that are no whole microseconds."""
    for field in parquet.schema_arrow:
        if not (pa.types.is_timestamp(field.type) or pa.types.is_time(field.type)) or field.type.unit != "ns":
            continue
        zone = field.type.tz if pa.types.is_timestamp(field.type) else None
        target = pa.timestamp("us", zone) if pa.types.is_timestamp(field.type) else pa.time64("us")
        upload.file.seek(0)
        for batch in pq.ParquetFile(upload.file).iter_batches(columns=[field.name]):
            try:
                batch.column(0).cast(target)
            except pa.ArrowInvalid:
                yield f"{field.name} has nanoseconds, which are cut to microseconds"
                break
