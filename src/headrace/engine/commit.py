"""Publish rows with their token, then remember, then let the source forget: the only place that does so.

The order is the whole point. `tests/crash` kills a run at every step of it, and shows that each other
order loses rows, or asks the source for rows that it was told to forget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from headrace.connector import Position, Slice, Source, Staged, Target, Token
from headrace.engine.failpoint import hit
from headrace.engine.plan import PlannedStream, position_of
from headrace.engine.state import Saved, State
from headrace.errors import OutcomeUnknown, TransientError
from headrace.model.run import Counts

_LOOKS = 5  # times that we look for our own token after a lost reply
_LOOK_DELAY = 0.2  # seconds before the second look, doubling


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a token's position holds: the source's own position, and which run put it there.

    `done` says that the run had nothing more to read of the stream, so that a later attempt of the
    same run does not read it again; `counts` are the stream's counts in that run so far.
    """

    at: Position
    run: str
    done: bool
    counts: Counts

    def to_json(self) -> dict[str, Any]:
        return {"at": self.at, "run": self.run, "done": self.done, "counts": self.counts.to_json()}

    @classmethod
    def of(cls, token: Token | None) -> Mark | None:
        if token is None:
            return None
        data = token.position
        return cls(at=data["at"], run=data["run"], done=data["done"], counts=Counts.from_json(data["counts"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One stream's part of a commit."""

    stream: PlannedStream
    staged: Sequence[Staged]
    token: Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One commit: `key` is the slice (or, for a load, the stream) whose checkpoint moves to `position`.

    `tokens` says where each stream of the slice stands then, also those with nothing to publish.
    """

    key: str
    position: Position
    publications: Sequence[Publication]
    tokens: Mapping[str, Token]
    slices: Sequence[Slice]
    source: Source[Any]
    target: Target[Any]
    state: State


def publish(work: Work) -> None:
    """Rows and token become visible, stream by stream."""
    for publication in work.publications:
        _publish(work, publication)


def save(work: Work) -> None:
    """Our own store remembers; raises ConflictError when the lease is lost."""
    marks = {stream: Mark.of(token) for stream, token in work.tokens.items()}
    committed = {stream: mark.counts for stream, mark in marks.items() if mark and mark.run == work.state.run}
    work.state.save(work.key, work.position, work.tokens, committed)
    for publication in work.publications:
        work.state.drop_staged(publication.stream.id)
    hit("after_save")


def acknowledge(work: Work) -> None:
    """Only now may the source forget."""
    hit("before_ack")
    for slice in work.slices:
        work.source.acknowledge(slice, work.position)


Step = Callable[[Work], None]
STEPS: Sequence[Step] = (publish, save, acknowledge)


def commit(work: Work, steps: Sequence[Step] = STEPS) -> None:
    """Take one commit through its steps, in order. `steps` is there for the test of the order alone."""
    for step in steps:
        step(work)


def _publish(work: Work, publication: Publication) -> None:
    """Publish once. When the reply is lost, look for our own token before deciding anything.

    Raises OutcomeUnknown when nothing is to be seen. Those rows may land later, so what follows has a
    newer epoch: it can't be taken for them, nor they for it.
    """
    target, stream, token = work.target, publication.stream, publication.token
    for look in range(_LOOKS):
        hit("before_publish")
        try:
            target.publish(stream.landed, stream.write, publication.staged, token)
            hit("after_publish")
            return
        except OutcomeUnknown as error:
            unknown = error
        time.sleep(_LOOK_DELAY * 2**look)
        try:
            last = target.committed(stream.landed, token.pipeline)
        except TransientError:
            continue  # publishing the same token again is safe: the target compares it first
        if last is not None and (last.epoch, last.sequence) == (token.epoch, token.sequence):
            return
    with suppress(TransientError):
        work.state.raise_epoch(token.epoch + 1)
    raise unknown


def standing(token: Token | None, saved: Saved | None, stream: str) -> Position:
    """Where a stream stands: its target has the last word, our store knows of quiet progress since.

    When both remember the same publish, what we saved may be further on (nothing to publish came in
    between). When they differ, the save was lost or the target was restored: the target wins.
    """
    known = saved.tokens.get(stream) if saved else None
    if known is None:
        return position_of(token)
    if token is None:
        return position_of(known) if known.sequence == 0 else {}
    same = (known.epoch, known.sequence) == (token.epoch, token.sequence)
    return position_of(known if same else token)


def start(positions: Mapping[str, Position], source: Source[Any]) -> Position:
    """Where to start reading a slice whose streams stand at `positions`: at the last of them."""
    if any(not position for position in positions.values()):
        return {}
    return min(positions.values(), key=source.order)
