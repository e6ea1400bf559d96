"""Where pipelines stand: the target's truth, our memory of it, dead letters, and the one way back."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.connector import Position
from headrace.control.access import Actor, Guarded, Permission, needs, of_team
from headrace.control.lease import held
from headrace.control.runs import unfinished
from headrace.engine.plan import Job
from headrace.engine.retry import report
from headrace.engine.rewind import Rewound, rewind
from headrace.engine.stop import Stop
from headrace.model.run import ErrorReport, RunStatus
from headrace.store import DeadLetter, SliceCheckpoint


class Positions(Guarded):
    """All raise NotFoundError, and AuthError for a pipeline of a team that the actor is not in."""

    @needs(Permission.POSITION_READ)
    def checkpoints(self, actor: Actor, pipeline: str) -> Sequence[SliceCheckpoint]:
        """What we remember; the token in the target is the truth."""
        store = self._in(actor)
        of_team(store, actor, pipeline)
        return store.checkpoints(pipeline)

    @needs(Permission.POSITION_READ)
    def rejects(
        self, actor: Actor, pipeline: str, stream: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]:
        """Dead letters, the newest first."""
        store = self._in(actor)
        of_team(store, actor, pipeline)
        return store.rejects(pipeline, stream, limit)

    @needs(Permission.POSITION_WRITE, changes=True)
    def rewind(self, actor: Actor, job: Job, stream: str, position: Position) -> Rewound:
        """Make the next run of a remembered pipeline read `stream` from `position`; `{}` is the start.

        It is kept as a run of its own, so that the history shows it. Raises ConflictError while
        somebody works on the pipeline.
        """
        store = self._in(actor)
        of_team(store, actor, job.pipeline.id, change=True)
        with held(store, job.pipeline.id, Stop()) as lease:
            for waiting in unfinished(store, job.pipeline.id):
                store.runs.finish(waiting.id, RunStatus.CANCELLED, lease=lease)
            run = store.runs.start(store.runs.queue(job.pipeline.id).id, lease)
            try:
                with store.attempt(run.id, lease) as attempt:
                    done = rewind(job, attempt, stream, position)
                    attempt.log(
                        "warning",
                        f"rewound from {done.before or 'the start'} to {position or 'the start'}",
                        stream,
                    )
            except Exception as error:
                store.runs.finish(run.id, RunStatus.FAILED, ErrorReport.of(report(error)), lease=lease)
                raise
            store.runs.finish(run.id, RunStatus.SUCCEEDED, lease=lease)
        return done
