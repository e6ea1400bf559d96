"""Every format by one name: what a file holds, and its rows."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from headrace.connector.files import columnar, delimited, documents
from headrace.connector.files.options import CsvOptions, Format, Options
from headrace.connector.files.part import Part, Sample
from headrace.connector.files.storage import Object, Storage
from headrace.errors import ConfigError

_SUFFIXES = {
    "csv": Format.CSV,
    "txt": Format.CSV,
    "tsv": Format.TSV,
    "tab": Format.TSV,
    "json": Format.JSON,
    "jsonl": Format.JSONL,
    "ndjson": Format.JSONL,
    "parquet": Format.PARQUET,
    "pq": Format.PARQUET,
}
_PACKED = ("gz", "zst")


def format_of(key: str) -> Format | None:
    """The format that a file's name tells; the suffix of a compression may follow."""
    parts = key.rpartition("/")[2].lower().split(".")
    if len(parts) > 1 and parts[-1] in _PACKED:
        parts.pop()
    return _SUFFIXES.get(parts[-1]) if len(parts) > 1 else None


def inspect(storage: Storage, file: Object, options: Options, limit: int) -> Sample:
    """The columns of a file by about its first `limit` bytes of text.

    A column without any value has the type null. `Sample.bytes` are those of unpacked text, and those
    of the whole file for parquet.
    """
    format = _format(file.key, options)
    with storage.open(file) as opened:
        if format is Format.PARQUET:
            return columnar.inspect(opened, file.key, file.size)
        if format in (Format.CSV, Format.TSV):
            return delimited.inspect(opened, file.key, _csv(format, options), limit)
        return documents.inspect(opened, file.key, lines=format is Format.JSONL, limit=limit)


def read(storage: Storage, file: Object, options: Options, schema: pa.Schema) -> Iterator[Part]:
    """A file's rows in their order, in bounded memory, each part of exactly `schema`.

    Columns that the file lacks are null, and those that `schema` lacks are left out. Rows that can't
    be had come as errors with their line. Raises DataError for a file that is broken as a whole.
    """
    format = _format(file.key, options)
    with storage.open(file) as opened:
        if format is Format.PARQUET:
            yield from columnar.read(opened, file.key, schema)
        elif format in (Format.CSV, Format.TSV):
            yield from delimited.read(opened, file.key, _csv(format, options), schema)
        else:
            yield from documents.read(opened, file.key, schema, lines=format is Format.JSONL)


def _format(key: str, options: Options) -> Format:
    format = options.format or format_of(key)
    if format is None:
        raise ConfigError(
            "files.unknown_format",
            f"the name of {key} tells no format",
            field="format",
            remedy=f"Set format to one of {', '.join(Format)}.",
        )
    return format


def _csv(format: Format, options: Options) -> CsvOptions:
    if format is Format.TSV and options.csv.delimiter is None:
        return options.csv.model_copy(update={"delimiter": "\t"})
    return options.csv
