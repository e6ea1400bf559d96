"""A source that plays a script and a target in memory, for tests of the engine and of connectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from headrace.connector import (
    EVERYTHING,
    Batch,
    Capability,
    Change,
    Checkpoint,
    Config,
    ConnectorSpec,
    Event,
    Position,
    Reject,
    Selection,
    Slice,
    Source,
    Staged,
    Stream,
    StreamRead,
    Target,
    Token,
    WriteMode,
    Writer,
)
from headrace.errors import PositionLost

Step = Callable[[str], None]
"""Called at every durable step of a scripted part; a test raises in it, as a crash would."""


class NoSettings(Config):
    """A scripted part has no settings."""


class ScriptedSource(Source[NoSettings]):
    """Plays a list of events as one slice; callables among them are called as they are passed.

    It truly forgets: reading from before an acknowledged position raises PositionLost. The position
    at a Checkpoint of the script is found by equality, so positions in a script must differ.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        script: Sequence[Event | Callable[[], None]],
        step: Step = lambda name: None,
    ):
        super().__init__(NoSettings())
        self.streams = streams
        self.script = script
        self.step = step
        self.acknowledged: Position = {}

    def check(self) -> None:
        """Always ready."""

    def discover(self, selection: Selection = EVERYTHING) -> Iterable[Stream]:
        return [stream for stream in self.streams if stream.id in selection]

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> Iterable[Slice]:
        return [Slice(key="script", reads=tuple(reads))]

    def read(self, slice: Slice, since: Position) -> Iterator[Event]:
        if self.acknowledged and (not since or self.order(since) < self.order(self.acknowledged)):
            raise PositionLost("script.forgotten", f"{since} was forgotten at {self.acknowledged}")
        passed = not since
        wanted = {read.stream.id for read in slice.reads}
        for event in self.script:
            if isinstance(event, Checkpoint):
                if passed:
                    yield event
                passed = passed or event.position == since
            elif passed and not isinstance(event, Batch | Checkpoint) and callable(event):
                event()
            elif passed and event.stream in wanted:  # type: ignore[union-attr]
                yield event  # type: ignore[misc]

    def acknowledge(self, slice: Slice, position: Position) -> None:
        self.acknowledged = position
        self.step("acknowledge")


@dataclass
class MemoryTable:
    """Rows as dicts, in order, with the tokens that were published with them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    tokens: dict[str, Token] = field(default_factory=dict)
    schema: pa.Schema | None = None


class MemoryTarget(Target[NoSettings]):
    """A target in this process's memory that keeps every rule of the contract; `tables` outlives a crash."""

    def __init__(self, tables: dict[str, MemoryTable] | None = None, step: Step = lambda name: None):
        super().__init__(NoSettings())
        self.tables = {} if tables is None else tables
        self.step = step

    def check(self) -> None:
        """Always ready."""

    def image(self, stream: Stream) -> pa.Schema:
        return stream.schema

    def describe(self, stream: Stream) -> pa.Schema | None:
        table = self.tables.get(stream.id)
        return table.schema if table else None

    def prepare(self, stream: Stream, mode: WriteMode) -> None:
        table = self.tables.setdefault(stream.id, MemoryTable())
        schemas = [stream.schema] if table.schema is None else [table.schema, stream.schema]
        table.schema = pa.unify_schemas(schemas, promote_options="permissive")

    def open(self, stream: Stream, mode: WriteMode, slice: Slice) -> MemoryWriter:
        return MemoryWriter(stream)

    def publish(self, stream: Stream, mode: WriteMode, staged: Sequence[Staged], token: Token) -> None:
        self.step("before publish")
        table = self.tables.setdefault(stream.id, MemoryTable())
        if not token.supersedes(table.tokens.get(token.pipeline)):
            return
        rows = [] if mode is WriteMode.REPLACE else list(table.rows)
        for piece in staged:
            if piece.truncates:
                rows = []
            for change, unchanged, row in piece.detail["rows"]:
                rows = _applied(
                    rows, stream.primary_key if mode is WriteMode.UPSERT else (), change, unchanged, row
                )
        table.rows, table.tokens[token.pipeline] = rows, token
        self.step("publish")

    def committed(self, stream: Stream, pipeline: str) -> Token | None:
        table = self.tables.get(stream.id)
        return table.tokens.get(pipeline) if table else None


def _applied(
    rows: list[dict[str, Any]], key: Sequence[str], change: int, unchanged: Sequence[str], row: dict[str, Any]
) -> list[dict[str, Any]]:
    """The table after one event; without a key it is appended."""
    if not key:
        return [*rows, row]
    same = [old for old in rows if all(old[k] == row[k] for k in key)]
    if same and unchanged:
        row = {**row, **{name: same[0][name] for name in unchanged}}
    rest = [old for old in rows if not all(old[k] == row[k] for k in key)]
    return rest if change == Change.DELETE else [*rest, row]


class MemoryWriter(Writer):
    """Holds rows until they are staged."""

    def __init__(self, stream: Stream):
        self._stream = stream
        self._rows: list[tuple[int, list[str], dict[str, Any]]] = []
        self._truncates = False

    def write(self, batch: Batch) -> Sequence[Reject]:
        changes = batch.changes.to_pylist() if batch.changes is not None else [0] * batch.rows.num_rows
        masks = {name: mask.to_pylist() for name, mask in (batch.unchanged or {}).items()}
        for at, row in enumerate(batch.rows.to_pylist()):
            self._rows.append((changes[at], [name for name, mask in masks.items() if mask[at]], row))
        return ()

    def change_schema(self, stream: Stream) -> None:
        self._stream = stream

    def truncate(self) -> None:
        self._rows = []
        self._truncates = True

    def stage(self) -> Staged:
        return Staged(rows=len(self._rows), truncates=self._truncates, detail={"rows": self._rows})

    def close(self) -> None:
        """Nothing to let go of."""


SCRIPT = ConnectorSpec(
    name="script",
    title="Script",
    version="1",
    config=NoSettings,
    capabilities=frozenset({Capability.FULL, Capability.INCREMENTAL, Capability.CHANGES}),
)
MEMORY = ConnectorSpec(
    name="memory",
    title="Memory",
    version="1",
    config=NoSettings,
    capabilities=frozenset({Capability.APPEND, Capability.UPSERT, Capability.REPLACE, Capability.UNCHANGED}),
)
