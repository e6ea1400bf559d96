"""Schedules that are due, of all workspaces: each moment of them makes one run, whoever looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select, update

from headrace.errors import ConflictError
from headrace.model.run import Run, Trigger
from headrace.store.database import Database
from headrace.store.runs import add_lines, queue
from headrace.store.schema import UNFINISHED, pipelines, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A pipeline whose schedule asked for a run at `at`."""

    pipeline: str
    workspace: str
    schedule: str
    at: datetime


class Schedules:
    """Of the whole store: for the clocks, of which there may be several."""

    def __init__(self, database: Database):
        self._database = database

    def due(self, limit: int = 100) -> list[Due]:
        """The oldest first, by the clock of the database."""
        with self._database.read() as transaction:
            query = (
                select(pipelines)
                .where(pipelines.c.next_at <= self._database.now(transaction), pipelines.c.paused.is_(False))
                .order_by(pipelines.c.next_at, pipelines.c.id)
                .limit(limit)
            )
            return [
                Due(pipeline=row.id, workspace=row.workspace, schedule=row.schedule, at=row.next_at)
                for row in transaction.execute(query)
                if row.schedule is not None
            ]

    def fire(self, due: Due, following: Callable[[datetime], datetime | None]) -> Run | str | None:
        """Queue the run and set the next moment, or do neither: None when another clock was first, or the
        schedule was changed.

        `following` gives the next moment after one; those before now are left out. While a run of the
        pipeline waits or runs, no other is queued: its log says so, and its id is given.
        """
        with self._database.write() as transaction:
            # never before the moment itself: clocks of several machines differ
            next_at = following(max(self._database.now(transaction), due.at))
            mine = (
                pipelines.c.id == due.pipeline,
                pipelines.c.next_at == due.at,
                pipelines.c.schedule == due.schedule,
                pipelines.c.paused.is_(False),
            )
            if not transaction.execute(update(pipelines).where(*mine).values(next_at=next_at)).rowcount:
                return None
            try:
                return queue(transaction, due.workspace, due.pipeline, Trigger.SCHEDULE)
            except ConflictError:
                open_runs = select(runs.c.id).where(runs.c.pipeline == due.pipeline, UNFINISHED)
                busy: str | None = transaction.execute(open_runs).scalar()
                if busy is not None:
                    moment = f"{due.at:%Y-%m-%d %H:%M} UTC"
                    told = f"the run scheduled for {moment} is skipped: this one has not ended"
                    line = {"at": datetime.now(UTC), "level": "warning", "stream": None, "message": told}
                    add_lines(transaction, busy, [line])
                return busy
