"""Run a pipeline in this process: under its lease, attempt after attempt, with every state remembered."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from headrace.control.access import Actor, Guarded, Permission, needs, of_team, refuse_other_teams
from headrace.control.lease import held
from headrace.control.upkeep import Caretaker
from headrace.control.watch import Watched, Watcher
from headrace.engine.plan import Job
from headrace.engine.retry import again, delay, report
from headrace.engine.run import execute
from headrace.engine.stop import Stop
from headrace.errors import Fenced, HeadraceError, TransientError
from headrace.model.run import (
    ErrorReport,
    LogLine,
    Outcome,
    Run,
    RunFilter,
    RunOrder,
    RunStatus,
    StreamProgress,
    StreamStatus,
)
from headrace.store import Lease, Page, Store

EVERY = RunFilter()
_LOOK = 0.2  # seconds between two looks at the stop signal while waiting


class Runs(Guarded):
    @needs(Permission.RUN_READ)
    def get(self, actor: Actor, id: str) -> Run:
        """Raises NotFoundError, and AuthError for a run of a team that the actor is not in."""
        run = self._in(actor).runs.get(id)
        refuse_other_teams(actor, run.team, change=False)
        return run

    @needs(Permission.RUN_READ)
    def list(self, actor: Actor, pipeline: str | None = None, limit: int = 20) -> Sequence[Run]:
        """The newest first, of what the actor may see."""
        teams = None if actor.sees_all_teams else actor.teams
        return self._in(actor).runs.list(pipeline, limit, teams=teams)

    @needs(Permission.RUN_READ)
    def logs(self, actor: Actor, id: str, after: int = 0) -> Sequence[LogLine]:
        """The lines after line `after`, the oldest first; not always all of them at once.

        Raises what `get` raises.
        """
        if not actor.sees_all_teams:
            self.get(actor, id)
        return self._in(actor).runs.logs(id, after)

    @needs(Permission.RUN_READ)
    def page(
        self,
        actor: Actor,
        wanted: RunFilter = EVERY,
        order: Sequence[tuple[RunOrder, bool]] = ((RunOrder.QUEUED, True),),
        offset: int = 0,
        limit: int = 50,
    ) -> Page[Run]:
        """One page of what the actor may see; `order` is by what, and whether downwards."""
        teams = None if actor.sees_all_teams else actor.teams
        return self._in(actor).runs.page(wanted, order, offset, limit, teams=teams)

    @needs(Permission.RUN_READ)
    def outcomes(self, actor: Actor, pipelines: Collection[str]) -> Mapping[str, Outcome]:
        """How pipelines that the actor may see have gone so far, by id; those without a finished run
        are left out."""
        return self._in(actor).runs.outcomes(tuple(pipelines))

    @needs(Permission.RUN_WRITE, changes=True)
    def trigger(self, actor: Actor, pipeline: str) -> Run:
        """A run that the next free worker takes up. Raises NotFoundError, ConflictError
        (`store.run_unfinished`) while another one waits or runs."""
        store = self._in(actor)
        of_team(store, actor, pipeline, change=True)
        return store.runs.queue(pipeline)

    @needs(Permission.RUN_WRITE, changes=True)
    def cancel(self, actor: Actor, id: str) -> Run:
        """What waits ends at once, what runs soon: nothing half committed. May be repeated meanwhile.

        Raises NotFoundError, ConflictError (`store.run_ended`).
        """
        store = self._in(actor)
        of_team(store, actor, store.runs.get(id).pipeline, change=True)
        return store.runs.ask_to_end(id)

    @needs(Permission.RUN_WRITE)
    def run(self, actor: Actor, job: Job, stop: Stop, watcher: Watcher) -> Run:
        """Run a remembered pipeline to its end, again and again while its faults may pass.

        A run that died half-way is carried on rather than begun anew. Raises ConflictError when
        somebody else works on the pipeline, Fenced when somebody took it over; what else goes wrong
        is in the run. A bug is remembered as the run's failure, and raised.
        """
        store = self._in(actor)
        of_team(store, actor, job.pipeline.id, change=True)
        with held(store, job.pipeline.id, stop) as lease:
            run = _carried_on(store, job.pipeline.id, lease) or store.runs.queue(job.pipeline.id)
            watcher.started(run)

            def log(level: str, message: str, stream: str | None) -> None:
                store.runs.log(run.id, level, message, stream, lease=lease)
                watcher.log(level, message, stream)

            with Caretaker(store, job, lease, stop, log) as caretaker:
                ended = _Running(store, job, stop, watcher, lease, caretaker).to_the_end(run)
                caretaker.finish()
                return ended


def unfinished(store: Store, pipeline: str) -> Sequence[Run]:
    """The run of the pipeline that waits or runs, if there is one."""
    wanted = RunFilter(pipeline=pipeline, statuses=(RunStatus.QUEUED, RunStatus.RUNNING))
    return store.runs.page(wanted, (), 0, 1).items


def _carried_on(store: Store, pipeline: str, lease: Lease) -> Run | None:
    """What waits for a worker, or was left by one that died: the lease, which is ours now, says so."""
    for run in unfinished(store, pipeline):
        return store.runs.requeue(run.id, lease=lease) if run.status is RunStatus.RUNNING else run
    return None


@dataclass(frozen=True)
class _Running:
    store: Store
    job: Job
    stop: Stop
    watcher: Watcher
    lease: Lease
    caretaker: Caretaker

    def to_the_end(self, run: Run) -> Run:
        tried = 0
        while True:
            tried += 1
            run = self.store.runs.start(run.id, self.lease)
            try:
                wait, status, error = self._attempt(run, tried)
            except Fenced:
                raise
            except Exception as bug:
                self._finish(run, RunStatus.FAILED, ErrorReport.of(report(bug)))
                raise
            if wait is None:
                return self._finish(run, status, error)
            run = self.store.runs.requeue(run.id, lease=self.lease)
            _wait(wait, self.stop)
            if self.stop.draining:
                return self._finish(run, RunStatus.CANCELLED, error)

    def _attempt(self, run: Run, tried: int) -> tuple[float | None, RunStatus, ErrorReport | None]:
        """The seconds to wait for the next attempt, or None and how the run ends."""
        error: HeadraceError | None = None
        streams: Sequence[StreamProgress] = ()
        with self.store.attempt(run.id, self.lease) as attempt:
            state = Watched(attempt, self.watcher)
            state.log("info", f"attempt {run.attempt} of run {run.id} starts, epoch {state.epoch}")
            try:
                streams = execute(self.job, state, self.stop, self.caretaker.published)
            except Fenced:
                raise
            except HeadraceError as raised:
                error = raised
            shown = ErrorReport.of(error) if error else None
            fault = error or _passing(streams)
            tuning = self.job.pipeline.tuning
            wait = None
            if fault and again(fault, tried, tuning) and not self.stop.draining:
                wait = delay(tuning, tried).total_seconds()
                state.log("warning", f"{fault.code}: {fault.message}; trying again in {wait:.1f} s")
            elif error:
                state.log("error", f"{error.code}: {error.message}")
            for stream in streams:
                state.log("info", _account(stream), stream.stream)
            attempt.close(shown)
        if not error and all(s.status is StreamStatus.SUCCEEDED for s in streams):
            return wait, RunStatus.SUCCEEDED, None
        if self.stop.draining and not error and not any(s.error for s in streams):
            return wait, RunStatus.CANCELLED, None
        return wait, RunStatus.FAILED, shown

    def _finish(self, run: Run, status: RunStatus, error: ErrorReport | None) -> Run:
        return self.store.runs.finish(run.id, status, error, lease=self.lease)


def _account(stream: StreamProgress) -> str:
    counts = stream.counts
    parts = [f"{counts.read} read", f"{counts.written} written", f"{counts.rejected} rejected"]
    parts += [f"{rows} skipped ({rule})" for rule, rows in counts.skipped.items()]
    return f"{stream.status}: {', '.join(parts)}"


def _passing(streams: Sequence[StreamProgress]) -> TransientError | None:
    """The fault of a stream that may be gone by the next attempt."""
    for stream in streams:
        if stream.error and stream.error.exit_code == TransientError.exit_code:
            return TransientError(stream.error.code, stream.error.message)
    return None


def _wait(seconds: float, stop: Stop) -> None:
    clock = threading.Event()
    while seconds > 0 and not stop.draining:
        clock.wait(min(seconds, _LOOK))
        seconds -= _LOOK
