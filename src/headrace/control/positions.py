"""Where pipelines stand: the target's truth, our memory of it, dead letters, and the one way back."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.connector import Position
from headrace.control.lease import held
from headrace.engine.plan import Job
from headrace.engine.retry import report
from headrace.engine.rewind import Rewound, rewind
from headrace.engine.stop import Stop
from headrace.model.run import ErrorReport, RunStatus
from headrace.store import DeadLetter, SliceCheckpoint, Store


class Positions:
    def __init__(self, store: Store):
        self._store = store

    def checkpoints(self, pipeline: str) -> Sequence[SliceCheckpoint]:
        """What we remember; the token in the target is the truth."""
        return self._store.checkpoints(pipeline)

    def rejects(self, pipeline: str, stream: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Dead letters, the newest first."""
        return self._store.rejects(pipeline, stream, limit)

    def rewind(self, job: Job, stream: str, position: Position) -> Rewound:
        """Make the next run of a remembered pipeline read `stream` from `position`; `{}` is the start.

        It is kept as a run of its own, so that the history shows it. Raises ConflictError while
        somebody works on the pipeline.
        """
        store = self._store
        with held(store, job.pipeline.id, Stop()) as lease:
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
