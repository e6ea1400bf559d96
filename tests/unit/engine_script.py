"""Two streams and a source that loads them before it plays a script, for the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from headrace.connector import Batch, Position, ReadMode, Slice, Stream, StreamRead, WriteMode
from headrace.connector.testing import ScriptedSource
from headrace.model.pipeline import StreamChoice

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])
PEOPLE = Stream(name="people", schema=SCHEMA, primary_key=("id",))
PLACES = Stream(name="places", schema=SCHEMA, primary_key=("id",))


def choose(stream: Stream = PEOPLE, read: ReadMode = ReadMode.CHANGES, **rest: Any) -> StreamChoice:
    return StreamChoice(stream=stream.id, read=read, **{"write": WriteMode.APPEND, **rest})


def batch(*ids: int, stream: Stream = PEOPLE, **rest: Any) -> Batch:
    rows = pa.RecordBatch.from_pylist([{"id": i, "name": f"n{i}"} for i in ids], schema=SCHEMA)
    return Batch(stream.id, rows, **rest)


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(row["id"] for row in rows)


def once(error: Exception) -> Callable[[], None]:
    """A step of a script that raises the first time."""
    left = [error]

    def step() -> None:
        if left:
            raise left.pop()

    return step


class Loading(ScriptedSource):
    """Each stream is loaded first, in a slice for each list of `pieces`, then read from the script."""

    def __init__(self, streams: Sequence[Stream], pieces: Mapping[str, Sequence[Any]], script: Any = ()):
        super().__init__(streams, list(script))
        self.pieces = pieces
        self.until: Position = {"at": 0}

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> Iterable[Slice]:
        for read in reads:
            id = read.stream.id
            if since.get(id) and read.mode is not ReadMode.FULL:
                yield Slice(key=f"{id}:log", reads=(read,))
                continue
            for n in range(len(self.pieces[id])):
                yield Slice(key=f"{id}:{n}", reads=(read,), bounds={"piece": n}, until=self.until)

    def holds(self, slice: Slice, rows: int) -> bool:
        return True

    def read(self, slice: Slice, since: Position) -> Iterator[Any]:
        if slice.until is None:
            yield from super().read(slice, since)
            return
        for event in self.pieces[slice.read.stream.id][slice.bounds["piece"]]:
            if isinstance(event, Batch):
                yield event
            else:
                event()
