"""json and json lines: objects with their nested ones flattened, types by every value of the file."""

from __future__ import annotations

import json
from collections import Counter
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
_LOOKED_AT = 1 << 20
"""Bytes in which names that stand twice are looked for."""


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
    warnings = warn_of(errors, first)
    if (repeated := _repeated(upload)) is not None:
        warnings.append(f"objects have two members {repeated!r}, of which the last one counts")
    return profiler.finish(schema, profiler.firsts, warnings=tuple(warnings))


def read(upload: Opened, schema: pa.Schema) -> Iterator[Part]:
    """The rows as `schema`, which has columns of the file."""
    text = _open(upload)
    for part in documents.read(cast(IO[bytes], text), upload.name, schema, lines=_lines(upload)):
        if text.too_large:
            yield Part(part.rows[:0], text.take_too_large())
        yield part
    if text.too_large:
        yield Part(pa.RecordBatch.from_pylist([], schema), text.take_too_large())


def _repeated(upload: Opened) -> str | None:
    """A name that stands twice in one object, if there is such in the first of them."""
    found: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> None:
        names = Counter(name for name, _ in pairs)
        found.extend(name for name, times in names.items() if times > 1)

    decoder = json.JSONDecoder(object_pairs_hook=look)
    text = _open(upload).read(_LOOKED_AT).decode(errors="replace")
    at = text.find("{")
    try:
        while at >= 0 and not found:
            _, end = decoder.raw_decode(text, at)
            at = text.find("{", end)
    except (ValueError, RecursionError):
        pass  # cut off, or broken: what comes of that is told elsewhere
    return found[0] if found else None


def _open(upload: Opened) -> Text:
    encoding = upload.options.encoding or mark_of(upload.file, upload.kind) or "utf-8"
    return Text(upload.file, upload.kind, encoding, lines=_lines(upload))


def _lines(upload: Opened) -> bool:
    return upload.kind.format == "jsonl"
