"""Reads files into streams: one stream a pattern, new and changed files since a position."""

from __future__ import annotations

import difflib
import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import pyarrow as pa

from headrace.connector import (
    EVERYTHING,
    Batch,
    Event,
    Position,
    ReadMode,
    Reject,
    Selection,
    Slice,
    Source,
    Stream,
    StreamRead,
)
from headrace.connector.files import Object, formats
from headrace.connector.files.options import Format, Options
from headrace.connector.files.part import Part, Sample
from headrace.connector.files.values import TIMESTAMP_TZ, named_type, union
from headrace.connectors.files.config import FilesConfig
from headrace.connectors.files.place import Place, places
from headrace.connectors.files.position import Seen, fingerprint
from headrace.errors import ConfigError, DataError, HeadraceError, NotFoundError, TransientError

_SAMPLED = 100  # files of a stream that are looked into for its columns
_LEAST_SAMPLE = 64 << 10
_SLICE_BYTES = 128 << 20
_SLICE_FILES = 500
_METADATA = {"_file": pa.string(), "_modified": TIMESTAMP_TZ}


class FilesSource(Source[FilesConfig]):
    """Files are read whole: one that changed is read again from its start.

    A slice is a group of files, and holds as long as each of them is the same. Rows of a file come in
    its order; files come in the order of their keys.
    """

    def __init__(self, config: FilesConfig):
        super().__init__(config)
        self._options = Options(config.format, config.csv)
        self._types = {column: named_type(text) for column, text in config.types.items()}
        self._listed: dict[str, dict[str, Object]] = {}
        self._schemas: dict[str, pa.Schema] = {}
        self._interrupted = threading.Event()

    @cached_property
    def _places(self) -> Mapping[str, Place]:
        """By stream id."""
        return {_stream(place.name).id: place for place in places(self.config)}

    def check(self) -> None:
        for place in self._places.values():
            first = next(place.files(), None)
            if first is None:
                raise place.missing()
            formats.inspect(place.storage, first, self._options, _LEAST_SAMPLE)

    def discover(self, selection: Selection = EVERYTHING) -> Iterable[Stream]:
        """A stream that can't be made out is left out, unless no other is there either: then its error."""
        found, first_error = [], None
        for id, place in self._places.items():
            if id not in selection:
                continue
            try:
                found.append(self._described(place))
            except HeadraceError as error:
                first_error = first_error or error
        if first_error and not found:
            raise first_error
        return found

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> Iterable[Slice]:
        """A full read takes all files, an incremental one those new or changed since the position."""
        slices: list[Slice] = []
        for read in reads:
            id = read.stream.id
            files = self._list(self._place(id))
            self._listed[id] = {file.key: file for file in files}
            self._schemas[id] = read.stream.schema
            start = since.get(id, {})
            seen = Seen.of(start)
            settled = [f for f in files if f.modified <= self._settled_at()]
            wanted = settled if read.mode is ReadMode.FULL else seen.new(settled)
            if wanted:
                until = seen.after(wanted, files, read.look_back)
                slices += [self._slice(read, group, until) for group in _groups(wanted)]
        return slices

    def holds(self, slice: Slice, rows: int) -> bool:
        id = slice.read.stream.id
        listed = self._listed.get(id, {})
        return (
            slice.bounds["settings"] == self._fingerprint
            and slice.read.stream.schema == self._schemas.get(id)
            and all(listed.get(file.key) == file for file in _files(slice))
        )

    def read(self, slice: Slice, since: Position) -> Iterator[Event]:
        stream = slice.read.stream
        place = self._place(stream.id)
        schema = stream.schema
        if self.config.include_metadata:
            schema = pa.schema([f for f in schema if f.name not in _METADATA])
        for file in _files(slice):
            empty = True
            for part in formats.read(place.storage, file, self._options, schema):
                if self._interrupted.is_set():
                    raise TransientError("files.interrupted", f"reading {file.key} was interrupted")
                if part.rows.num_rows or part.errors:
                    empty = False
                    yield self._batch(stream, file, part)
            if empty:
                yield Batch(stream.id, pa.RecordBatch.from_pylist([], stream.schema))

    def interrupt(self) -> None:
        self._interrupted.set()

    def order(self, position: Position) -> tuple[Any, ...]:
        return (position.get("sequence", 0),)

    @cached_property
    def _fingerprint(self) -> str:
        """Other when the same files would be read otherwise."""
        settings = self.config.model_dump_json(
            include={"url", "streams", "format", "csv", "include_metadata"}
        )
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    def _place(self, id: str) -> Place:
        if id not in self._places:
            raise NotFoundError(
                "files.no_stream",
                f"there is no stream {id!r}",
                field="streams",
                remedy=f"The streams are: {', '.join(self._places)}.",
            )
        return self._places[id]

    def _list(self, place: Place) -> list[Object]:
        files = sorted(place.files(), key=lambda file: file.key)
        if not files:
            raise place.missing()
        return files

    def _settled_at(self) -> datetime:
        if not self.config.settle_seconds:
            return datetime.max.replace(tzinfo=UTC)
        return datetime.now(UTC) - timedelta(seconds=self.config.settle_seconds)

    def _described(self, place: Place) -> Stream:
        files = self._list(place)
        sampled = _spread(sorted(files, key=lambda file: file.modified))
        limit = max(_LEAST_SAMPLE, self.config.sample_bytes // len(sampled))

        def sample(file: Object) -> Sample:
            return formats.inspect(place.storage, file, self._options, limit)

        with ThreadPoolExecutor(4, "headrace-sample") as pool:
            samples = list(pool.map(sample, sampled))
        schema = self._typed(union([s.schema for s in samples]), place)
        size = sum(file.size for file in files)
        return replace(_stream(place.name), schema=schema, rows=_estimate(sampled, samples, size), bytes=size)

    def _typed(self, schema: pa.Schema, place: Place) -> pa.Schema:
        if not schema.names:
            raise DataError(
                "files.no_columns",
                f"the files of {place.name} hold no column",
                field="url",
                remedy="Bring a file with a header or a row, or check the format.",
            )
        for column in self._types:
            if column not in schema.names and len(self._places) == 1:
                near = difflib.get_close_matches(column, schema.names, n=1)
                raise ConfigError(
                    "files.unknown_column",
                    f"types names the column {column!r}, which the files don't have",
                    field="types",
                    remedy=f"Did you mean {near[0]!r}?" if near else f"They have: {', '.join(schema.names)}.",
                )
        fields = [pa.field(f.name, self._types.get(f.name, f.type)) for f in schema]
        if self.config.include_metadata:
            if taken := [name for name in _METADATA if name in schema.names]:
                raise ConfigError(
                    "files.metadata_column",
                    f"the files of {place.name} have a column {taken[0]!r} of their own",
                    field="include_metadata",
                    remedy="Switch include_metadata off, or rename the column in the files.",
                )
            fields += [pa.field(name, type) for name, type in _METADATA.items()]
        return pa.schema(fields)

    def _slice(self, read: StreamRead, files: Sequence[Object], until: Position) -> Slice:
        digest = hashlib.sha256(b"".join(map(fingerprint, files))).hexdigest()[:16]
        listed = [[f.key, f.size, f.modified.isoformat(), f.etag] for f in files]
        return Slice(
            key=f"{read.stream.id}:{digest}",
            reads=(read,),
            bounds={"files": listed, "settings": self._fingerprint},
            until=until,
        )

    def _batch(self, stream: Stream, file: Object, part: Part) -> Batch:
        rows = part.rows
        if self.config.include_metadata:
            constants = {"_file": file.key, "_modified": file.modified}
            columns = [
                pa.repeat(pa.scalar(constants[f.name], f.type), rows.num_rows)
                if f.name in constants
                else rows.column(f.name)
                for f in stream.schema
            ]
            rows = pa.RecordBatch.from_arrays(columns, schema=stream.schema)
        unit = "row" if self._format(file) is Format.PARQUET else "line"
        rejects = tuple(
            Reject(
                stream=stream.id,
                code=error.code,
                reason=error.reason,
                where={"file": file.key, unit: error.line},
                row=error.row,
            )
            for error in part.errors
        )
        return Batch(stream.id, rows, rejects=rejects)

    def _format(self, file: Object) -> Format | None:
        return self._options.format or formats.format_of(file.key)


def _stream(name: str) -> Stream:
    return Stream(name=name, schema=pa.schema([]), default_cursor="_modified", kind="files")


def _files(slice: Slice) -> Iterator[Object]:
    for key, size, modified, etag in slice.bounds["files"]:
        yield Object(key, size, datetime.fromisoformat(modified), etag)


def _spread(files: Sequence[Object]) -> list[Object]:
    """The first, the last and others evenly between them."""
    if len(files) <= _SAMPLED:
        return list(files)
    step = (len(files) - 1) / (_SAMPLED - 1)
    return [files[round(number * step)] for number in range(_SAMPLED)]


def _estimate(files: Sequence[Object], samples: Sequence[Sample], size: int) -> int | None:
    """Rows of all files by those of the samples; of packed text the sample knows only the unpacked size."""
    rows = sum(
        s.rows if s.whole else s.rows * f.size // max(s.bytes, 1) for f, s in zip(files, samples, strict=True)
    )
    known = sum(file.size for file in files)
    return rows * size // known if known else rows


def _groups(files: Iterable[Object]) -> Iterator[list[Object]]:
    """Files in the order of their keys, in groups of a good size for one slice."""
    group: list[Object] = []
    size = 0
    for file in files:
        if group and (size + file.size > _SLICE_BYTES or len(group) == _SLICE_FILES):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group
