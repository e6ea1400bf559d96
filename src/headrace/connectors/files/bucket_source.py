"""Reads one bucket as files are read, and tells errors in the settings of its own connector."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from headrace.connector import EVERYTHING, Event, Position, Selection, Slice, Stream, StreamRead
from headrace.connectors.files.buckets import BucketConfig
from headrace.connectors.files.source import FilesSource
from headrace.errors import HeadraceError


class BucketSource(FilesSource):
    """`config` are the settings that the files source has for the same bucket."""

    def __init__(self, config: BucketConfig):
        super().__init__(config.files())
        self._bucket = config

    def check(self) -> None:
        with self._named():
            super().check()

    def discover(self, selection: Selection = EVERYTHING) -> Iterable[Stream]:
        with self._named():
            return super().discover(selection)

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> Iterable[Slice]:
        with self._named():
            return super().slices(reads, since)

    def read(self, slice: Slice, since: Position) -> Iterator[Event]:
        with self._named():
            yield from super().read(slice, since)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except HeadraceError as error:
            error.field = self._bucket.field_of(error.code, error.field)
            raise
