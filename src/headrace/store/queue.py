"""The runs of all workspaces that no worker is at work on, as workers look for them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select

from headrace.model.run import RunStatus
from headrace.store.database import Database
from headrace.store.schema import UNFINISHED, leases, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A run that has not ended. `holder` has the live lease of its pipeline, if anybody has."""

    run: str
    workspace: str
    pipeline: str
    status: RunStatus
    cancelling: bool
    holder: str | None


class Queue:
    """Of the whole store: for workers, which act for all workspaces."""

    def __init__(self, database: Database):
        self._database = database

    def waiting(self, machine: str, limit: int = 200) -> list[Waiting]:
        """The oldest first: those without a live lease, and those whose holder's name begins with
        `machine`, for whoever can tell whether that holder still lives."""
        query = (
            select(runs, leases.c.holder, leases.c.expires_at)
            .outerjoin(leases, leases.c.pipeline == runs.c.pipeline)
            .where(UNFINISHED)
            .order_by(runs.c.queued_at, runs.c.id)
            .limit(limit)
        )
        with self._database.read() as transaction:
            now = self._database.now(transaction)
            free = or_(
                leases.c.expires_at.is_(None),
                leases.c.expires_at <= now,
                leases.c.holder.startswith(machine, autoescape=True),
            )
            return [
                Waiting(
                    run=row.id,
                    workspace=row.workspace,
                    pipeline=row.pipeline,
                    status=RunStatus(row.status),
                    cancelling=row.cancel_at is not None,
                    holder=row.holder if row.expires_at and row.expires_at > now else None,
                )
                for row in transaction.execute(query.where(free))
            ]

    def cancelling(self, ids: Collection[str]) -> dict[str, datetime]:
        """Which of these runs were asked to end and have not yet, and when that was."""
        query = select(runs.c.id, runs.c.cancel_at).where(
            UNFINISHED, runs.c.id.in_(ids), runs.c.cancel_at.is_not(None)
        )
        with self._database.read() as transaction:
            return {row.id: row.cancel_at for row in transaction.execute(query)}
