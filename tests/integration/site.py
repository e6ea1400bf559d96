"""An installation of a test's own: its store, pipelines in it, and servers and workers as processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from headrace.control.access import OPERATOR
from headrace.control.platform import Platform, open_store
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice, Tuning, WriteMode
from headrace.model.run import Run, RunStatus
from tests.cli import Process
from tests.crash.truth import LOAD, STREAM
from tests.waiting import until

Settings = Mapping[str, Any]
Target = tuple[str, Settings]


class Site:
    """`url` is that of the store; processes get variables by name without HEADRACE_."""

    def __init__(self, folder: Path, url: str, undo: ExitStack):
        self.folder, self.undo = folder, undo
        self.environ = {
            "HEADRACE_DATA": str(folder / "data"),
            "HEADRACE_STORE": url,
            "HEADRACE_HOST": "127.0.0.1",
            "HEADRACE_LEASE_SECONDS": "30",
        }
        self.store = open_store(folder / "data", self.environ)
        undo.callback(self.store.close)
        self.platform = Platform(self.store, folder / "data", self.environ)

    def start(self, *arguments: str, **variables: str) -> Process:
        """A server or worker that has said that it is ready."""
        ours = {f"HEADRACE_{name}": value for name, value in variables.items()}
        process = Process(*arguments, folder=self.folder, **{**self.environ, **ours})
        self.undo.callback(kill, process)
        process.wait_for('"ready"')
        return process

    def pipeline(
        self, target: Target, source: Settings = LOAD, write: WriteMode = WriteMode.APPEND, **more: Any
    ) -> Pipeline:
        """Of one stream of the generator; it tries again without delay."""
        connections = self.platform.connections
        tuning = {"parallelism": 1, **more.pop("tuning", {})}
        ends = {
            "source": connections.create(
                OPERATOR, Connection(id="", name="s", connector="generator"), dict(source)
            ),
            "target": connections.create(
                OPERATOR, Connection(id="", name="t", connector=target[0]), dict(target[1])
            ),
        }
        return self.platform.pipelines.create(
            OPERATOR,
            Pipeline(
                id=str(uuid4()),
                name="p",
                source=ends["source"].id,
                target=ends["target"].id,
                streams=(StreamChoice(stream=STREAM, write=write),),
                tuning=Tuning(**tuning),
                **more,
            ),
        )

    def trigger(self, pipeline: Pipeline) -> str:
        return self.platform.runs.trigger(OPERATOR, pipeline.id).id

    def run(self, id: str) -> Run:
        return self.platform.runs.get(OPERATOR, id)

    def ended(self, id: str) -> Run:
        """The run, once it has ended."""
        until(lambda: self.run(id).status.ended, "the end of the run")
        return self.run(id)

    def running(self, id: str) -> Run:
        until(lambda: self.run(id).status is RunStatus.RUNNING, "the start of the run")
        return self.run(id)

    def log(self, id: str) -> list[str]:
        return [line.message for line in self.platform.runs.logs(OPERATOR, id)]


@contextmanager
def site(folder: Path, url: str) -> Iterator[Site]:
    with ExitStack() as undo:
        yield Site(folder, url, undo)


def kill(process: Process) -> None:
    """With the processes of its runs; as when the machine loses its power."""
    found = [process.pid, *children(process.pid)]
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.end()


def children(pid: int) -> list[int]:
    """The processes that it has started, and those that they have."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found
