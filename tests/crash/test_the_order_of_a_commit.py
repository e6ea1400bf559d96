"""Publish, save, acknowledge: a crash at any step loses nothing, and every other order is found out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import Batch, Checkpoint, Position, ReadMode, Stream, Token
from headrace.connector.testing import MEMORY, SCRIPT, MemoryTable, MemoryTarget, ScriptedSource
from headrace.engine import commit, follow
from headrace.engine.commit import STEPS, Mark
from headrace.engine.plan import Job
from headrace.engine.run import Stop, execute
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice, Tuning, WriteMode
from headrace.model.run import StreamStatus
from headrace.store import MasterKeys, Store

NUMBERS = Stream(name="numbers", schema=pa.schema([("n", pa.int64())]))
RARE = Stream(name="rare", schema=pa.schema([("n", pa.int64())]))
ROWS = 10


class Crash(BaseException):
    """The process ends here."""


class Steps:
    """Counts the durable steps of all parties, checks what must hold at each, crashes at one."""

    def __init__(self, crash_at: int | None):
        self.taken, self.crash_at = 0, crash_at
        self.check = lambda: None

    def __call__(self, name: str) -> None:
        self.taken += 1
        self.check()
        if self.taken == self.crash_at:
            raise Crash(name)


def script() -> list[Any]:
    """A checkpoint after every second number; a row of the rare stream with the third pair only."""
    events: list[Any] = []
    for n in range(0, ROWS, 2):
        events.append(Batch.of(NUMBERS, [{"n": n}, {"n": n + 1}]))
        if n == 4:
            events.append(Batch.of(RARE, [{"n": n}]))
        events.append(Checkpoint({"at": n + 2}))
    return events


class World:
    """What outlives a crash: the source (which truly forgets), the tables, the store."""

    def __init__(self, folder: Path, crash_at: int | None, *, watched: bool = True):
        self.steps = Steps(crash_at)
        if watched:
            self.steps.check = self.check
        self.tables: dict[str, MemoryTable] = {}
        self.source = ScriptedSource([NUMBERS, RARE], script(), self.steps)
        self.store = Store.open(f"sqlite:///{folder}/store.db", keys=MasterKeys.load(folder, {}))
        self.saved: Position = {}
        choices = tuple(
            StreamChoice(stream=s.id, read=ReadMode.CHANGES, write=WriteMode.APPEND) for s in (NUMBERS, RARE)
        )
        self.pipeline = Pipeline(
            id="p",
            name="p",
            source="s",
            target="t",
            streams=choices,
            tuning=Tuning(commit_interval=timedelta()),
        )
        for id in ("s", "t"):
            self.store.connections.save(Connection(id=id, name=id, connector="script"))
        self.store.pipelines.save(self.pipeline)
        self.run = self.store.runs.queue("p")

    def check(self) -> None:
        """What must hold at every step: acknowledged ≤ saved ≤ published."""
        published = max((Mark.of(t).at["at"] for t in self._tokens()), default=0)  # type: ignore[union-attr]
        saved = self.saved.get("at", 0)
        acknowledged = self.source.acknowledged.get("at", 0)
        assert acknowledged <= saved <= published

    def _tokens(self) -> Iterator[Token]:
        for table in self.tables.values():
            yield from table.tokens.values()

    def attempt(self) -> None:
        lease = self.store.leases.acquire("p", "test", timedelta(minutes=1))
        self.store.runs.start(self.run.id, lease)
        target = MemoryTarget(self.tables, self.steps)
        job = Job(
            pipeline=self.pipeline,
            source_spec=SCRIPT,
            target_spec=MEMORY,
            source=lambda: self.source,
            target=lambda: target,
            transform=lambda name, settings: lambda batch: batch,
        )
        with self.store.attempt(self.run.id, lease) as attempt:
            save = attempt.save

            def stepped(key: str, position: Position, tokens: Mapping[str, Token], *counts: Any) -> None:
                self.steps("before save")
                save(key, position, tokens, *counts)
                self.saved = position
                self.steps("save")

            attempt.save = stepped  # type: ignore[method-assign]
            try:
                ends = execute(job, attempt, Stop())
            finally:
                self.run = self.store.runs.requeue(self.run.id, lease=lease)
        for end in ends:
            assert end.status is StreamStatus.SUCCEEDED, end.error

    def rows(self) -> dict[str, list[int]]:
        return {name: sorted(row["n"] for row in table.rows) for name, table in self.tables.items()}

    def live(self) -> None:
        """Attempt after attempt, until one ends by itself."""
        while True:
            try:
                self.attempt()
                return
            except Crash:
                continue


@contextmanager
def ordered(steps: Sequence[commit.Step]) -> Iterator[None]:
    """Commits take these steps instead of the right ones."""
    right = follow.commit
    follow.commit = lambda work: commit.commit(work, steps)
    try:
        yield
    finally:
        follow.commit = right


def count_steps(folder: Path) -> int:
    world = World(folder, None)
    world.live()
    world.store.close()
    return world.steps.taken


def survives(folder: Path, crash_at: int, steps: Sequence[commit.Step] = STEPS) -> bool:
    """Crash once, live on to the end, and compare the tables. Wrong orders are judged by rows alone."""
    world = World(folder, crash_at, watched=steps is STEPS)
    try:
        with ordered(steps):
            world.live()
    except AssertionError:
        return False
    finally:
        world.store.close()
    return world.rows() == {"numbers": list(range(ROWS)), "rare": [4]}


def folder(tmp_path: Path, name: object) -> Path:
    made = tmp_path / str(name)
    made.mkdir()
    return made


def test_killed_at_any_step_it_resumes_without_loss_or_double(tmp_path: Path) -> None:
    steps = count_steps(folder(tmp_path, "count"))
    assert steps >= 4 * ROWS // 2
    for crash_at in range(1, steps + 1):
        assert survives(folder(tmp_path, crash_at), crash_at), f"crash at step {crash_at}"


WRONG = [order for order in permutations(STEPS) if order != tuple(STEPS)]


@pytest.mark.parametrize("order", WRONG, ids=[" ".join(s.__name__ for s in order) for order in WRONG])
def test_every_other_order_loses_or_repeats_rows(tmp_path: Path, order: Sequence[commit.Step]) -> None:
    steps = count_steps(folder(tmp_path, "count"))
    found = [n for n in range(1, steps + 1) if not survives(folder(tmp_path, n), n, order)]
    assert found
