"""One process that runs one pipeline, to be killed: started by the tests of this folder."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from headrace import catalog
from headrace.connector import Capability, ReadMode
from headrace.control.access import OPERATOR
from headrace.control.outcome import exit_code
from headrace.control.runs import Runs
from headrace.engine import failpoint
from headrace.engine.plan import Job
from headrace.engine.run import Stop
from headrace.errors import HeadraceError
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice, Tuning, Upkeep, WriteMode
from headrace.store import MasterKeys, Store
from tests.waiting import HANGS

KILLED = -9

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(
    ["tests.crash.worker", "pyiceberg.catalog.sql", "pyiceberg.io.pyarrow", "psycopg", "obstore"]
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pipeline of one stream, as plain data. `failpoint` is armed in the process that runs it.

    `file_bytes` is the most that this process may write into one file, as on a disk that is full.
    """

    folder: Path
    source: tuple[str, Mapping[str, Any]]
    target: tuple[str, Mapping[str, Any]]
    stream: str
    read: ReadMode = ReadMode.FULL
    write: WriteMode = WriteMode.APPEND
    cursor: str | None = None
    id: str = "p"
    failpoint: str = ""
    file_bytes: int | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)
    maintenance: Upkeep = field(default_factory=Upkeep)

    def pipeline(self) -> Pipeline:
        choice = StreamChoice(stream=self.stream, read=self.read, write=self.write, cursor=self.cursor)
        tuning = Tuning(
            **{
                "commit_interval": timedelta(),
                "max_retries": 0,
                "parallelism": 1,
                **self.tuning,
            }
        )
        return Pipeline(
            id=self.id, name=self.id, source="s", target="t", streams=(choice,), tuning=tuning,
            maintenance=self.maintenance,
        )  # fmt: skip

    def job(self) -> Job:
        return Job(
            pipeline=self.pipeline(),
            source_spec=catalog.connector(self.source[0]),
            target_spec=catalog.connector(self.target[0]),
            source=lambda: catalog.source(*self.source),
            target=lambda: catalog.target(*self.target),
            transform=catalog.transform,
        )

    def able(self, capability: Capability) -> bool:
        return capability in catalog.connector(self.target[0]).capabilities

    def open_store(self) -> Store:
        self.folder.mkdir(parents=True, exist_ok=True)
        return Store.open(f"sqlite:///{self.folder}/store.db", keys=MasterKeys.load(self.folder, {}))


class Silent:
    """Watches a run without a word."""

    def started(self, run: Any) -> None: ...

    def progress(self, progress: Any) -> None: ...

    def log(self, level: str, message: str, stream: str | None) -> None: ...


def run_here(case: Case) -> int:
    """Run the case's pipeline in this process; gives the exit code a command would end with."""
    with case.open_store() as store:
        known = {connection.id for connection in store.connections.list()}
        for id, (connector, _) in (("s", case.source), ("t", case.target)):
            if id not in known:
                store.connections.save(Connection(id=id, name=id, connector=connector))
        if case.id not in {pipeline.id for pipeline in store.pipelines.list()}:
            store.pipelines.save(case.pipeline())
        return exit_code(Runs(store).run(OPERATOR, case.job(), Stop(), Silent()))


def _main(case: Case) -> None:
    failpoint.arm(case.failpoint)
    if case.file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails with EFBIG instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.file_bytes, case.file_bytes))
    try:
        code = run_here(case)
    except HeadraceError as error:
        code = error.exit_code
    raise SystemExit(code)


def start(case: Case) -> multiprocessing.process.BaseProcess:
    """The case in a process of its own, running."""
    process = _fork.Process(target=_main, args=(case,))
    process.start()
    return process


def run(case: Case) -> int:
    """The case in a process of its own, to its end; -9 when it was killed."""
    process = start(case)
    process.join(HANGS)
    if process.is_alive():
        process.kill()
        raise AssertionError("the run hangs")
    code = process.exitcode
    assert code is not None
    return code
