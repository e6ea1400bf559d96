"""Reads the generated tables as a load, as rows that were added, or as a log of changes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import pyarrow as pa

from headrace.connector import (
    EVERYTHING,
    Batch,
    Checkpoint,
    Event,
    Position,
    ReadMode,
    Selection,
    Slice,
    Source,
    Stream,
    StreamRead,
)
from headrace.connectors.generator import GeneratorConfig
from headrace.connectors.generator.changes import blocks, change_rows, history
from headrace.connectors.generator.tables import TABLES
from headrace.errors import NotFoundError, PositionLost, TransientError


class GeneratorSource(Source[GeneratorConfig]):
    """Positions: `{"row": n}` covers the rows up to number n, `{"event": n}` the first n changes.

    A stream without a position is loaded; with one, it is read onward from there. So a pipeline that
    reads changes loads in its first run and follows the log in the next.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__(config)
        self._stop = threading.Event()

    def check(self) -> None:
        """Nothing can be away."""

    def discover(self, selection: Selection = EVERYTHING) -> Iterable[Stream]:
        return [
            Stream(
                name=name,
                schema=TABLES[name].schema,
                primary_key=TABLES[name].primary_key,
                cursors=TABLES[name].primary_key[:1],
                rows=self.config.rows,
            )
            for name in self.config.streams
            if name in selection
        ]

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> Iterable[Slice]:
        for read in reads:
            id = read.stream.id
            if id not in self.config.streams:
                raise NotFoundError(
                    "generator.no_stream",
                    f"the generator has no stream {id!r}",
                    field="streams",
                    remedy=f"Choose from {', '.join(self.config.streams)}.",
                )
            position = since.get(id) or {}
            if read.mode is ReadMode.FULL or not position:
                yield from self._load(read)
            elif read.mode is ReadMode.CHANGES:
                self._known(id, position, "event", self.config.changes)
                yield Slice(key=f"{id}:changes", reads=(read,), bounds={"kind": "changes"})
            else:
                self._known(id, position, "row", self.config.rows)
                yield Slice(key=f"{id}:rows", reads=(read,), bounds={"kind": "rows"})

    def _load(self, read: StreamRead) -> Iterator[Slice]:
        until: Position = {"event": 0} if read.mode is ReadMode.CHANGES else {"row": self.config.rows}
        count = self.config.slices
        edges = [self.config.rows * at // count for at in range(count + 1)]
        for at, (first, last) in enumerate(pairwise(edges)):
            yield Slice(
                key=f"{read.stream.id}:{at}:{first}-{last}",  # another one when the settings were changed
                reads=(read,),
                bounds={
                    "kind": "load",
                    "first": first + 1,
                    "last": last,
                    "seed": self.config.seed,
                },
                until=until,
            )

    def _known(self, stream: str, position: Position, name: str, newest: int) -> None:
        if name not in position or position[name] > newest:
            raise PositionLost(
                "generator.position_lost",
                f"{stream} has no position {position}: there are {newest} {name}s",
                remedy="Restore the setting that was made smaller, or rewind the stream and load it again.",
            )

    def holds(self, slice: Slice, rows: int) -> bool:
        bounds = slice.bounds
        return (
            bounds.get("kind") == "load"
            and bounds["seed"] == self.config.seed
            and bounds["last"] <= self.config.rows
            and rows == bounds["last"] - bounds["first"] + 1
        )

    def read(self, slice: Slice, since: Position) -> Iterator[Event]:
        match slice.bounds["kind"]:
            case "load":
                for rows in blocks(
                    self.config, slice.read.stream.id, slice.bounds["first"], slice.bounds["last"]
                ):
                    yield self._batch(slice, rows)
            case "rows":
                yield from self._read_rows(slice, since.get("row", 0))
            case _:
                yield from self._read_changes(slice, since.get("event", 0))

    def _read_rows(self, slice: Slice, done: int) -> Iterator[Event]:
        stream, every = slice.read.stream.id, self.config.checkpoint_every
        while done < self.config.rows:
            last = min((done // every + 1) * every, self.config.rows)
            for rows in blocks(self.config, stream, done + 1, last):
                yield self._batch(slice, rows)
            done = last
            yield Checkpoint({"row": done})

    def _read_changes(self, slice: Slice, done: int) -> Iterator[Event]:
        stream, every = slice.read.stream.id, self.config.checkpoint_every
        past = history(self.config, stream, self.config.changes)
        while done < self.config.changes:
            edge = (done // every + 1) * every
            last = min(done + self.config.batch_rows, edge, self.config.changes)
            kinds = pa.array(past.kinds[done:last], pa.int8())
            yield self._batch(slice, change_rows(self.config, stream, past, done, last), kinds)
            done = last
            if done in (edge, self.config.changes):
                yield Checkpoint({"event": done})

    def _batch(self, slice: Slice, rows: pa.RecordBatch, changes: pa.Array | None = None) -> Batch:
        if self._stop.wait(self.config.delay):
            raise TransientError(
                "generator.interrupted", "the read was interrupted", remedy="Start the run again."
            )
        return Batch(slice.read.stream.id, rows.select(slice.read.stream.schema.names), changes)

    def interrupt(self) -> None:
        self._stop.set()
