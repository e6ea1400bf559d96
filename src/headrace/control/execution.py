"""One run, attempt after attempt until it ends, under the lease of its pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from headrace.control.upkeep import Caretaker
from headrace.control.watch import Watched, Watcher
from headrace.engine.plan import Job
from headrace.engine.retry import again, delay, report
from headrace.engine.run import execute
from headrace.engine.stop import Stop
from headrace.errors import ConflictError, Fenced, HeadraceError, TransientError
from headrace.model.run import ErrorReport, Run, RunStatus, StreamProgress, StreamStatus
from headrace.store import Lease, Store

LOOK = 1.0
"""Seconds between two looks whether somebody cancels the run."""
GENTLE = 10.0
"""Seconds that a cancelled run has to end at a checkpoint, before it is interrupted."""

_POLL = 0.2  # seconds between two looks at the stop signal while waiting
_AGAIN = 1.0  # seconds before the store, which was away, is asked again

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What a run needs to be carried out. `hands_over` is for workers: a run that was told to stop, but
    not by who cancelled it, waits for another worker then, in place of ending."""

    store: Store
    job: Job
    lease: Lease
    stop: Stop
    watcher: Watcher
    hands_over: bool = False

    def to_the_end(self, run: Run) -> Run:
        """Run what waits; gives how it ended, or that it waits again.

        Raises Fenced when somebody took the pipeline over, TransientError when the store stays away, and
        a bug, which is the run's failure too.
        """

        def log(level: str, message: str, stream: str | None) -> None:
            self.store.runs.log(run.id, level, message, stream, lease=self.lease)
            self.watcher.log(level, message, stream)

        with Caretaker(self.store, self.job, self.lease, self.stop, log) as caretaker:
            with _obeying(self.store, run.id, self.stop):
                ended = self._attempts(run, caretaker)
            caretaker.finish()
            return ended

    def _attempts(self, run: Run, caretaker: Caretaker) -> Run:
        tried = 0
        while True:
            tried += 1
            run = self._move(run, RunStatus.RUNNING)
            try:
                wait, status, error = self._attempt(run, tried, caretaker)
            except Fenced:
                raise
            except TransientError as away:  # the store's own: it knows of this attempt what it was told
                wait, status, error = self._next(away, tried), self._given_up(), ErrorReport.of(away)
            except Exception as bug:
                self._finish(run, RunStatus.FAILED, ErrorReport.of(report(bug)))
                raise
            if wait is None:
                return self._finish(run, status, error)
            run = self._move(run, RunStatus.QUEUED)
            _wait(wait, self.stop)
            if self.stop.draining:
                return self._finish(run, RunStatus.CANCELLED, error)

    def _attempt(
        self, run: Run, tried: int, caretaker: Caretaker
    ) -> tuple[float | None, RunStatus, ErrorReport | None]:
        """The seconds to wait for the next attempt, or None and how the run ends."""
        error: HeadraceError | None = None
        streams: Sequence[StreamProgress] = ()
        with self.store.attempt(run.id, self.lease) as attempt:
            state = Watched(attempt, self.watcher)
            state.log("info", f"attempt {run.attempt} of run {run.id} starts, epoch {state.epoch}")
            try:
                streams = execute(self.job, state, self.stop, caretaker.published)
            except Fenced:
                raise
            except HeadraceError as raised:
                error = raised
            shown = ErrorReport.of(error) if error else None
            fault = error or _passing(streams)
            wait = self._next(fault, tried) if fault else None
            if fault and wait is not None:
                state.log("warning", f"{fault.code}: {fault.message}; trying again in {wait:.1f} s")
            elif error:
                state.log("error", f"{error.code}: {error.message}")
            for stream in streams:
                state.log("info", _account(stream), stream.stream)
            attempt.close(shown)
        if not error and all(s.status is StreamStatus.SUCCEEDED for s in streams):
            return wait, RunStatus.SUCCEEDED, None
        lasting = (error and not isinstance(error, TransientError)) or any(
            s.error and not _passes(s.error) for s in streams
        )
        return wait, RunStatus.FAILED if lasting else self._given_up(), shown

    def _given_up(self) -> RunStatus:
        """What a run is that nothing but time was missing for."""
        return RunStatus.CANCELLED if self.stop.draining else RunStatus.FAILED

    def _next(self, fault: HeadraceError, tried: int) -> float | None:
        """The seconds to the next attempt, if another one is worth it."""
        tuning = self.job.pipeline.tuning
        if self.stop.draining or not again(fault, tried, tuning):
            return None
        return delay(tuning, tried).total_seconds()

    def _finish(self, run: Run, status: RunStatus, error: ErrorReport | None) -> Run:
        early = self.hands_over and status is RunStatus.CANCELLED
        if early and not self._patiently(lambda: self.store.runs.cancelling(run.id)):
            return run if run.status is RunStatus.QUEUED else self._move(run, RunStatus.QUEUED)
        return self._move(run, status, error)

    def _move(self, run: Run, status: RunStatus, error: ErrorReport | None = None) -> Run:
        """Change the run's state once, also when the store goes away before it has answered."""
        runs, asked = self.store.runs, 0

        def move() -> Run:
            nonlocal asked
            asked += 1
            try:
                if status is RunStatus.RUNNING:
                    return runs.start(run.id, self.lease)
                if status is RunStatus.QUEUED:
                    return runs.requeue(run.id, lease=self.lease)
                return runs.finish(run.id, status, error, lease=self.lease)
            except Fenced:
                raise
            except ConflictError:
                found = runs.get(run.id)
                if asked == 1 or found.status is not status:
                    raise
                return found

        return self._patiently(move)

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call it until the store answers. Raises TransientError once the lease is taken for lost."""
        while True:
            try:
                return call()
            except TransientError:
                if self.stop.aborted:
                    raise
            time.sleep(_AGAIN)


@contextmanager
def _obeying(store: Store, run: str, stop: Stop) -> Iterator[None]:
    """Meanwhile, somebody may cancel the run."""
    done = threading.Event()

    def look() -> None:
        while not _cancelled(store, run):
            if done.wait(LOOK):
                return
        stop.drain()
        if not done.wait(GENTLE):
            stop.abort()

    eye = threading.Thread(target=look, name="cancel", daemon=True)
    eye.start()
    try:
        yield
    finally:
        done.set()
        eye.join()


def _cancelled(store: Store, run: str) -> bool:
    try:
        return store.runs.cancelling(run)
    except HeadraceError:  # the store is away: it is asked again
        return False


def _account(stream: StreamProgress) -> str:
    counts = stream.counts
    parts = [f"{counts.read} read", f"{counts.written} written", f"{counts.rejected} rejected"]
    parts += [f"{rows} skipped ({rule})" for rule, rows in counts.skipped.items()]
    return f"{stream.status}: {', '.join(parts)}"


def _passing(streams: Sequence[StreamProgress]) -> TransientError | None:
    """The fault of a stream that may be gone by the next attempt."""
    for stream in streams:
        if stream.error and _passes(stream.error):
            return TransientError(stream.error.code, stream.error.message)
    return None


def _passes(error: ErrorReport) -> bool:
    return error.exit_code == TransientError.exit_code


def _wait(seconds: float, stop: Stop) -> None:
    clock = threading.Event()
    while seconds > 0 and not stop.draining:
        clock.wait(min(seconds, _POLL))
        seconds -= _POLL
