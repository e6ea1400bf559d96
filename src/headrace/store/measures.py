"""What the store can tell an operator in numbers, over all workspaces."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from headrace.model.run import Counts, RunStatus
from headrace.store.database import Database
from headrace.store.schema import checkpoints, pipelines, rejects, run_streams, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineMeasure:
    """`status` is that of the newest run; `rejects` counts dead letters."""

    pipeline: str
    status: RunStatus | None
    succeeded_at: datetime | None
    checkpoint_at: datetime | None
    rejects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMeasure:
    """One stream of a run, as it stands."""

    run: str
    pipeline: str
    stream: str
    queued_at: datetime
    attempt: int
    ended: bool
    counts: Counts
    committed: int


class Measures:
    """Of the whole store."""

    def __init__(self, database: Database):
        self._database = database

    def answer(self) -> None:
        """Raises TransientError while the store is away."""
        with self._database.read() as transaction:
            transaction.execute(select(1))

    def unfinished(self) -> dict[RunStatus, int]:
        """How many runs wait, and how many run."""
        open_states = RunStatus.QUEUED, RunStatus.RUNNING
        query = (
            select(runs.c.status, func.count())
            .where(runs.c.status.in_([status.value for status in open_states]))
            .group_by(runs.c.status)
        )
        with self._database.read() as transaction:
            found = {RunStatus(status): count for status, count in transaction.execute(query)}
        return dict.fromkeys(open_states, 0) | found

    def pipelines(self, limit: int) -> list[PipelineMeasure]:
        """The first ones by age, so that they stay the same from look to look."""
        of_this = runs.c.pipeline == pipelines.c.id
        newest = select(runs.c.status).where(of_this).order_by(runs.c.queued_at.desc(), runs.c.id).limit(1)
        good = select(func.max(runs.c.ended_at)).where(of_this, runs.c.status == RunStatus.SUCCEEDED.value)
        last = select(func.max(checkpoints.c.updated_at)).where(checkpoints.c.pipeline == pipelines.c.id)
        dead = select(func.count()).where(rejects.c.pipeline == pipelines.c.id)
        query = (
            select(
                pipelines.c.id,
                newest.scalar_subquery().label("status"),
                good.scalar_subquery().label("succeeded_at"),
                last.scalar_subquery().label("checkpoint_at"),
                dead.scalar_subquery().label("rejects"),
            )
            .order_by(pipelines.c.created_at, pipelines.c.id)
            .limit(limit)
        )
        with self._database.read() as transaction:
            return [
                PipelineMeasure(
                    pipeline=row.id,
                    status=RunStatus(row.status) if row.status else None,
                    succeeded_at=row.succeeded_at,
                    checkpoint_at=row.checkpoint_at,
                    rejects=row.rejects,
                )
                for row in transaction.execute(query)
            ]

    def streams(self, since: datetime) -> list[StreamMeasure]:
        """Those of runs that have changed since then."""
        query = (
            select(run_streams, runs.c.pipeline, runs.c.queued_at, runs.c.attempt, runs.c.ended_at)
            .join(runs)
            .where(run_streams.c.updated_at >= since)
        )
        with self._database.read() as transaction:
            return [
                StreamMeasure(
                    run=row.run,
                    pipeline=row.pipeline,
                    stream=row.stream,
                    queued_at=row.queued_at,
                    attempt=row.attempt,
                    ended=row.ended_at is not None,
                    counts=Counts.from_json(row.counts),
                    committed=row.committed or 0,
                )
                for row in transaction.execute(query)
            ]
