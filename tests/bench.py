"""A place to run a scripted source into a memory target through the engine, over a real store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from headrace import catalog
from headrace.connector import Source, Stream, Target
from headrace.connector.testing import MEMORY, SCRIPT, MemoryTable, MemoryTarget, ScriptedSource
from headrace.control.access import OPERATOR
from headrace.control.runs import Runs
from headrace.engine.plan import Job
from headrace.engine.stop import Stop
from headrace.model.connection import Connection
from headrace.model.connector import ConnectorSpec
from headrace.model.pipeline import Pipeline, StreamChoice, Tuning
from headrace.model.run import Run, StreamProgress
from headrace.store import MasterKeys, Store


@dataclass
class Bench:
    """What outlives a run: the store in `folder`, and the memory tables."""

    folder: Path
    tables: dict[str, MemoryTable] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    progressed: list[StreamProgress] = field(default_factory=list)
    stop: Stop = field(default_factory=Stop)
    source_spec: ConnectorSpec = SCRIPT
    target_spec: ConnectorSpec = MEMORY

    def __post_init__(self) -> None:
        self.store = Store.open(f"sqlite:///{self.folder}/store.db", keys=MasterKeys.load(self.folder, {}))
        for id in ("s", "t"):
            self.store.connections.save(Connection(id=id, name=id, connector="script"))

    def started(self, run: Run) -> None: ...

    def progress(self, progress: StreamProgress) -> None:
        self.progressed.append(progress)

    def log(self, level: str, message: str, stream: str | None) -> None:
        self.lines.append(message)

    def pipeline(
        self, choices: Sequence[StreamChoice], tuning: Mapping[str, Any] | None = None, **rest: Any
    ) -> Pipeline:
        """Commits at every checkpoint and tries once, unless `tuning` says otherwise."""
        quick = {"commit_interval": timedelta(), "max_retries": 0, **(tuning or {})}
        return Pipeline(
            id="p", name="p", source="s", target="t", streams=tuple(choices), tuning=Tuning(**quick), **rest
        )

    def job(self, pipeline: Pipeline, source: Source[Any], target: Target[Any] | None = None) -> Job:
        return Job(
            pipeline=pipeline,
            source_spec=self.source_spec,
            target_spec=self.target_spec,
            source=lambda: source,
            target=lambda: target or MemoryTarget(self.tables),
            transform=catalog.transform,
        )

    def run(
        self, pipeline: Pipeline, source: Source[Any], target: Target[Any] | None = None
    ) -> dict[str, StreamProgress]:
        """Run to the end; every stream's end by its id."""
        if not self.store.pipelines.list():
            self.store.pipelines.save(pipeline)
        done = Runs(self.store).run(OPERATOR, self.job(pipeline, source, target), self.stop, self)
        self.last = done
        return {stream.stream: stream for stream in done.streams}

    def play(
        self, streams: Sequence[Stream], script: Sequence[Any], choices: Sequence[StreamChoice], **rest: Any
    ) -> dict[str, StreamProgress]:
        """Run a script into memory."""
        return self.run(self.pipeline(choices, **rest), ScriptedSource(streams, script))

    def rows(self, table: str) -> list[dict[str, Any]]:
        return self.tables[table].rows
