"""Where the slices of a load are staged: in threads of this process, or in processes beside it."""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

from headrace.connector import Reject, Slice, Source, Stream, Target, WriteMode
from headrace.engine.plan import PlannedStream
from headrace.engine.read import Aborted
from headrace.engine.retry import report
from headrace.engine.stop import Stop
from headrace.engine.transform import MakeTransform, steps_for
from headrace.engine.write import Piece, StagedResult, TooManyRejects, stage_piece
from headrace.errors import HeadraceError, TransientError
from headrace.model.pipeline import TransformStep, Tuning
from headrace.model.run import Counts

bugs = logging.getLogger("headrace.bugs")

Watch = Callable[[Counts], None]


class Executor(Protocol):
    """Stages pieces; `stage` blocks and is called from as many threads as the pipeline is parallel."""

    def stage(self, piece: Piece, stop: Stop, watch: Watch) -> StagedResult: ...

    def close(self) -> None: ...


class Threads:
    """Stages in the calling thread, over the run's own source and target."""

    def __init__(self, source: Source[Any], target: Target[Any]):
        self._source, self._target = source, target

    def stage(self, piece: Piece, stop: Stop, watch: Watch) -> StagedResult:
        return stage_piece(piece, self._source, self._target, stop, watch)

    def close(self) -> None:
        """Source and target belong to the run."""


class Processes:
    """Stages in worker processes that share nothing with this one but the piece and the files.

    `command` starts a worker (see `serve`); `hello` is its first line on stdin, with what it needs to
    open source and target: it may hold secrets, which is why it goes through a pipe and never through
    arguments or the environment. Pieces hold none.
    """

    def __init__(self, command: Sequence[str], hello: Mapping[str, Any]):
        self._command = list(command)
        self._hello = json.dumps(hello)
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        self._all: list[subprocess.Popen[str]] = []
        self._lock = threading.Lock()

    def stage(self, piece: Piece, stop: Stop, watch: Watch) -> StagedResult:
        worker = self._take()
        try:
            self._send(worker, json.dumps(piece_to_json(piece)))
            while True:
                answer = self._answer(worker, stop)
                if "counts" in answer:
                    watch(Counts.from_json(answer["counts"]))
                elif "result" in answer:
                    self._idle.put(worker)
                    return StagedResult.from_json(answer["result"])
                else:
                    self._idle.put(worker)
                    raise _error(answer["error"])
        except (BrokenPipeError, json.JSONDecodeError) as error:
            worker.kill()
            raise TransientError(
                "engine.worker_died",
                f"a worker process ended with {worker.wait()} in the middle of {piece.slice.key}",
                remedy="Often out of memory: lower parallelism or batch_rows.",
            ) from error

    def close(self) -> None:
        for worker in self._all:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe:
                    pipe.close()
        self._all.clear()

    def _take(self) -> subprocess.Popen[str]:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        worker = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with self._lock:
            self._all.append(worker)
        self._send(worker, self._hello)
        return worker

    @staticmethod
    def _send(worker: subprocess.Popen[str], line: str) -> None:
        assert worker.stdin is not None
        worker.stdin.write(line + "\n")
        worker.stdin.flush()

    @staticmethod
    def _answer(worker: subprocess.Popen[str], stop: Stop) -> dict[str, Any]:
        """The worker's next line; it says something at least every second, so a stop is noticed."""
        assert worker.stdout is not None
        if stop.aborted:
            worker.kill()
            raise Aborted
        answer: dict[str, Any] = json.loads(worker.stdout.readline())
        return answer


@dataclass(frozen=True)
class Opened:
    """What a worker process works with."""

    source: Source[Any]
    target: Target[Any]
    transforms: Sequence[TransformStep]
    transform: MakeTransform


def serve(lines: Any, answer: Callable[[dict[str, Any]], None], opened: Opened) -> None:
    """The worker's side of `Processes`: a piece a line in, counts and then a result or an error out."""
    for line in lines:
        piece = piece_from_json(json.loads(line), opened.transforms, opened.transform)
        counts = [Counts()]
        ended = threading.Event()

        def beat(counts: list[Counts] = counts, ended: threading.Event = ended) -> None:
            while not ended.wait(1.0):
                answer({"counts": counts[0].to_json()})

        def watch(now: Counts, counts: list[Counts] = counts) -> None:
            counts[0] = now

        heart = threading.Thread(target=beat, daemon=True)
        heart.start()
        try:
            result = stage_piece(piece, opened.source, opened.target, Stop(), watch)
            last: dict[str, Any] = {"result": result.to_json()}
        except HeadraceError as error:
            last = error_to_json(error)
        except Exception as error:  # or the run would take it for a worker that died, and try again
            bugs.exception("%s ended by a bug", piece.slice.key)
            last = error_to_json(report(error))
        ended.set()
        heart.join()
        answer(last)


def error_to_json(error: HeadraceError) -> dict[str, Any]:
    """A worker's answer that stands for an error."""
    rejects = [r.to_json() for r in error.rejects] if isinstance(error, TooManyRejects) else []
    return {"error": {**error.as_dict(), "class": type(error).__name__, "rejects": rejects}}


def _error(data: dict[str, Any]) -> HeadraceError:
    """The worker's error, of the same class as there."""
    classes = {HeadraceError.__name__: HeadraceError}
    pending = [HeadraceError]
    while pending:
        for kind in pending.pop().__subclasses__():
            classes[kind.__name__] = kind
            pending.append(kind)
    error = classes[data["class"]](data["code"], data["message"], field=data["field"], remedy=data["remedy"])
    if isinstance(error, TooManyRejects):
        error.rejects = tuple(Reject.from_json(reject) for reject in data["rejects"])
    return error


def piece_to_json(piece: Piece) -> dict[str, Any]:
    """A piece as plain data; it holds no secret, and so no transforms, whose settings may."""
    stream, tuning = piece.stream, piece.tuning
    return {
        "slice": piece.slice.to_json(),
        "landed": stream.landed.to_json(),
        "write": stream.write.value,
        "fingerprint": stream.fingerprint,
        "keeps_unchanged": piece.keeps_unchanged,
        "tuning": {
            "batch_rows": tuning.batch_rows,
            "queue_bytes": tuning.queue_bytes,
            "reject_limit": tuning.reject_limit,
            "stall_after": tuning.stall_after.total_seconds(),
        },
    }


def piece_from_json(
    data: Mapping[str, Any], transforms: Sequence[TransformStep], transform: MakeTransform
) -> Piece:
    """The piece that `piece_to_json` described; `transforms` are those of its pipeline."""
    slice = Slice.from_json(data["slice"])
    steps = steps_for(transforms, slice.read.stream.id)
    stream = PlannedStream(
        read=slice.read,
        landed=Stream.from_json(data["landed"]),
        write=WriteMode(data["write"]),
        steps=steps,
        transforms=tuple(transform(step.name, step.settings) for step in steps),
        fingerprint=data["fingerprint"],
    )
    tuning = replace(
        Tuning(), **{**data["tuning"], "stall_after": timedelta(seconds=data["tuning"]["stall_after"])}
    )
    return Piece(slice=slice, stream=stream, tuning=tuning, keeps_unchanged=data["keeps_unchanged"])
