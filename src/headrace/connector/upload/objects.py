"""json and json lines: objects with their nested ones flattened, types by every value of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, cast

import pyarrow as pa

from headrace.connector.files import documents
from headrace.connector.files.part import Part
from headrace.connector.upload.opened import Opened, no_columns, settled, warn_of
from headrace.connector.upload.profile import Profiler
from headrace.connector.upload.text import Text, mark_of
from headrace.model.file import FileProfile

_EVERYTHING = 1 << 62


def profile(upload: Opened) -> FileProfile:
    """Two passes: the first for columns and types, the second for everything else."""
    sample = documents.inspect(
        cast(IO[bytes], _open(upload)), upload.name, lines=_lines(upload), limit=_EVERYTHING
    )
    schema = settled(sample.schema)
    if not schema.names:
        raise no_columns(upload.name)
    profiler = Profiler(schema)
    errors, first = 0, None
    for part in read(upload, schema):
        profiler.add(part)
        errors += len(part.errors)
        first = first or next(iter(part.errors), None)
    return profiler.finish(schema, profiler.firsts, warnings=tuple(warn_of(errors, first)))


def read(upload: Opened, schema: pa.Schema) -> Iterator[Part]:
    """The rows as `schema`, which has columns of the file."""
    text = _open(upload)
    for part in documents.read(cast(IO[bytes], text), upload.name, schema, lines=_lines(upload)):
        if text.too_large:
            yield Part(part.rows[:0], text.take_too_large())
        yield part
    if text.too_large:
        yield Part(pa.RecordBatch.from_pylist([], schema), text.take_too_large())


def _open(upload: Opened) -> Text:
    encoding = upload.options.encoding or mark_of(upload.file, upload.kind) or "utf-8"
    return Text(upload.file, upload.kind, encoding, lines=_lines(upload))


def _lines(upload: Opened) -> bool:
    return upload.kind.format == "jsonl"
