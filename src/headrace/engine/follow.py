"""Read a slice that publishes at its own checkpoints, one commit after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from headrace.connector import (
    Batch,
    Checkpoint,
    Event,
    Position,
    ReadMode,
    Remark,
    SchemaChange,
    Slice,
    Source,
    Staged,
    Target,
    Token,
    Truncate,
    WriteMode,
)
from headrace.engine.commit import Mark, Publication, Work, commit, standing, start
from headrace.engine.plan import PlannedStream
from headrace.engine.progress import Board
from headrace.engine.schema import land
from headrace.engine.state import Saved, State
from headrace.engine.stop import Stop
from headrace.engine.transform import CHANGE_COLUMN
from headrace.engine.write import Intake, check_limit, flow
from headrace.errors import PositionLost
from headrace.model.pipeline import Pipeline
from headrace.model.run import Counts

Published = Callable[[PlannedStream], None]
"""Told of each stream that was published into, from the thread that did it: must be quick."""


def nobody(stream: PlannedStream) -> None:
    """Nobody wants to know."""


PUBLISHED = "published"
"""Skip rule: rows at or before the position at which the stream's table stands already."""


@dataclass(kw_only=True)
class Shared:
    """What all parts of one attempt share. `publishing` lets one publish happen at a time.

    `tokens` are the targets' last ones by stream, `sequences` the last that our own store remembers:
    they are further on when a table was dropped or put back.
    """

    pipeline: Pipeline
    source: Source[Any]
    target: Target[Any]
    state: State
    stop: Stop
    board: Board
    keeps_unchanged: bool
    published: Published = nobody
    tokens: dict[str, Token | None] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    publishing: threading.Lock = field(default_factory=threading.Lock)

    def remember(self, saved: Saved | None) -> None:
        for stream, token in saved.tokens.items() if saved else ():
            self.sequences[stream] = max(token.sequence, self.sequences.get(stream, 0))

    def token(self, stream: str, position: Position, done: bool, counts: Counts) -> Token:
        """The token of the stream's next publish; its sequence follows all that anybody remembers."""
        last = self.tokens.get(stream)
        sequence = max(last.sequence if last else 0, self.sequences.get(stream, 0)) + 1
        mark = Mark(at=position, run=self.state.run, done=done, counts=counts)
        return Token(
            pipeline=self.pipeline.id,
            epoch=self.state.epoch,
            sequence=sequence,
            position=mark.to_json(),
        )


class Follower:
    """One slice without `until`, from where its streams stand to its end (or until told to stop)."""

    def __init__(self, shared: Shared, slice: Slice, streams: Mapping[str, PlannedStream]):
        self.shared = shared
        self.slice = slice
        self.streams = dict(streams)
        self.intakes: dict[str, Intake] = {}
        saved = shared.state.load(slice.key)
        shared.remember(saved)
        self.standing = {id: self._standing(stream, saved) for id, stream in self.streams.items()}
        self.position = start(self.standing, shared.source)
        self.committed = self.position
        self.behind = {id for id, at in self.standing.items() if at != self.position}
        self.held_since = time.monotonic()

    def _standing(self, stream: PlannedStream, saved: Saved | None) -> Position:
        token = self.shared.tokens[stream.id]
        if stream.read.mode is ReadMode.FULL:
            mark = Mark.of(token)  # everything, each time: only this very run's progress counts
            return mark.at if mark and mark.run == self.shared.state.run else {}
        return standing(token, saved, stream.id)

    def run(self) -> bool:
        """Read and commit; True at the end of the slice, False when told to stop before it."""
        shared, tuning = self.shared, self.shared.pipeline.tuning
        try:
            with flow(
                shared.source.read(self.slice, self.position), self.streams, tuning, shared.stop
            ) as events:
                for item in events:
                    self._take(item.event, item.rows, item.bytes)
                    if isinstance(item.event, Checkpoint) and shared.stop.draining:
                        self._commit(done=False)
                        return False
            self._commit(done=True)
            return True
        finally:
            for intake in self.intakes.values():
                intake.writer.close()

    def _take(self, event: Event, rows: int, bytes: int) -> None:
        match event:
            case Batch(stream=id):
                intake = self._intake(id)
                intake.write(event, rows, bytes)
                if id not in self.behind:
                    self._check_limit(id, intake)
                self.shared.board.live(id, self.slice.key, intake.tally.counts())
            case SchemaChange(id, schema):
                self._change_schema(id, schema)
            case Truncate(id):
                if self.streams[id].write is WriteMode.APPEND:
                    self.shared.state.log("warning", "the source was truncated; append keeps what it has", id)
                self._intake(id).truncate()
            case Checkpoint(position):
                self._checkpoint(position)
            case Remark(level, text):
                for id in self.streams:
                    self.shared.state.log(level, text, id)

    def _check_limit(self, id: str, intake: Intake) -> None:
        rejected = self.shared.board.counts(id).rejected + intake.tally.rejected
        check_limit(id, rejected, self.shared.pipeline.tuning.reject_limit, intake.rejects)

    def _intake(self, id: str) -> Intake:
        if id not in self.intakes:
            if not self.intakes:
                self.held_since = time.monotonic()
            stream = self.streams[id]
            writer = self.shared.target.open(stream.landed, stream.write, self.slice)
            self.intakes[id] = Intake(
                stream=stream, writer=writer, keeps_unchanged=self.shared.keeps_unchanged
            )
        return self.intakes[id]

    def _change_schema(self, id: str, schema: pa.Schema) -> None:
        stream = self.streams[id]
        if stream.names_changes:
            schema = schema.append(pa.field(CHANGE_COLUMN, pa.string()))
        landed, found, _ = land(
            self.shared.target,
            replace(stream.landed, schema=schema),
            stream.write,
            self.shared.pipeline.schema_policy,
            ours=True,
        )
        self.streams[id] = replace(stream, landed=landed)
        self.shared.state.log("info", f"the schema changed: {found}", id)
        if id in self.intakes:
            self.intakes[id].stream = self.streams[id]
            self.intakes[id].writer.change_schema(landed)

    def _checkpoint(self, position: Position) -> None:
        source = self.shared.source
        if self.position and source.order(position) < source.order(self.position):
            raise PositionLost(
                "engine.position_back",
                f"{self.slice.key}: the source went back from {self.position} to {position}",
                remedy="If the source was restored on purpose, tell where to read from: `headrace rewind`.",
            )
        self.position = position
        for id in sorted(self.behind):
            if source.order(position) <= source.order(self.standing[id]):
                self._skip(id)
            else:
                self.behind.discard(id)
                if id in self.intakes:
                    self._check_limit(id, self.intakes[id])
        if self._due():
            self._commit(done=False)

    def _skip(self, id: str) -> None:
        """What came since the last checkpoint is in the stream's table already."""
        intake = self.intakes.pop(id, None)
        if intake is None:
            return
        intake.writer.close()
        intake.tally.skip({PUBLISHED: intake.tally.written + intake.tally.rejected})
        intake.tally.written = intake.tally.rejected = 0
        self.shared.board.settle(id, self.slice.key, intake.tally.counts())

    def _due(self) -> bool:
        """Commit now? Never in the middle of a replace: its swap comes at the end."""
        if any(stream.write is WriteMode.REPLACE for stream in self.streams.values()):
            return False
        tuning = self.shared.pipeline.tuning
        rows = sum(intake.tally.written for intake in self.intakes.values())
        return rows >= tuning.commit_rows or (
            time.monotonic() - self.held_since >= tuning.commit_interval.total_seconds()
        )

    def _commit(self, done: bool) -> None:
        shared = self.shared
        replaces = done and [s.id for s in self.streams.values() if s.write is WriteMode.REPLACE]
        for id in replaces or ():
            self._intake(id)  # an empty source empties the table
        if any(s.write is WriteMode.REPLACE for s in self.streams.values()) and not done:
            return  # drained in mid-replace: the old rows stay, the next run starts over
        staged = {id: intake.stage() for id, intake in self.intakes.items()}
        for intake in self.intakes.values():
            shared.state.reject(intake.rejects)
        if staged or self.position != self.committed:
            self._publish(staged, done)
        for id, intake in self.intakes.items():
            intake.writer.close()
            shared.board.settle(id, self.slice.key, intake.tally.counts())
        self.intakes.clear()
        self.committed = self.position
        self.held_since = time.monotonic()

    def _known(self) -> dict[str, Token]:
        """Each stream's last token, with where the stream stands now.

        A table that was dropped or put back waits for its next publish: what was saved of it is newer.
        """
        shared, known = self.shared, {}
        for id in self.streams:
            at = self.standing[id] if id in self.behind else self.position
            last = shared.tokens[id]
            mark = Mark.of(last) or Mark(at=at, run=shared.state.run, done=False, counts=Counts())
            position = replace(mark, at=at).to_json()
            token = last or Token(
                pipeline=shared.pipeline.id, epoch=shared.state.epoch, sequence=0, position=position
            )
            if token.sequence >= shared.sequences.get(id, 0):
                known[id] = replace(token, position=position)
        return known

    def _publish(self, staged: Mapping[str, Staged], done: bool) -> None:
        shared = self.shared
        publications = []
        for id, piece in staged.items():
            stream = self.streams[id]
            if not (piece.rows or piece.truncates or stream.write is WriteMode.REPLACE):
                shared.target.discard(stream.landed, (piece,))
                continue
            counts = shared.board.counts(id) + self.intakes[id].tally.counts()
            token = shared.token(id, self.position, done, counts)
            publications.append(Publication(stream=stream, staged=(piece,), token=token))
        work = Work(
            key=self.slice.key,
            position=self.position,
            publications=publications,
            tokens=self._known() | {p.stream.id: p.token for p in publications},
            slices=(self.slice,),
            source=shared.source,
            target=shared.target,
            state=shared.state,
        )
        with shared.publishing:
            commit(work)
        for publication in publications:
            shared.tokens[publication.stream.id] = publication.token
            shared.published(publication.stream)
