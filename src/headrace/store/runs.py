"""Runs: their states, which change along legal transitions only, and their logs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Row, func, insert, or_, select, update

from headrace.errors import ConflictError, NotFoundError
from headrace.model.run import (
    TRANSITIONS,
    Counts,
    ErrorReport,
    LogLine,
    Run,
    RunStatus,
    StreamProgress,
    StreamStatus,
)
from headrace.store.database import Database
from headrace.store.leases import Lease, hold, refuse_foreign
from headrace.store.schema import attempts, log_lines, pipelines, run_streams, runs

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAttempt:
    """One attempt of a run, also one that is not over; `epoch` is that of its lease."""

    number: int
    epoch: int
    started_at: datetime
    ended_at: datetime | None
    error: ErrorReport | None


class Runs:
    """Those of one workspace.

    Where `lease` may be given, a worker that lost it changes nothing: Fenced (`store.lease_lost`).
    """

    def __init__(self, database: Database, workspace: str):
        self._database = database
        self._workspace = workspace
        self._mine = runs.c.workspace == workspace

    def queue(self, pipeline: str) -> Run:
        run = Run(id=str(uuid4()), pipeline=pipeline, status=RunStatus.QUEUED, queued_at=datetime.now(UTC))
        with self._database.write() as transaction:
            refuse_foreign(transaction, pipeline, self._workspace)
            transaction.execute(
                insert(runs).values(
                    id=run.id,
                    workspace=self._workspace,
                    pipeline=pipeline,
                    status=run.status.value,
                    attempt=run.attempt,
                    queued_at=run.queued_at,
                    updated_at=run.queued_at,
                )
            )
        return run

    def start(self, id: str, lease: Lease) -> Run:
        """queued → running, under the lease of its pipeline; `started_at` is that of the first attempt."""
        return self._move(id, RunStatus.RUNNING, lease)

    def finish(
        self, id: str, status: RunStatus, error: ErrorReport | None = None, *, lease: Lease | None = None
    ) -> Run:
        """running → succeeded, failed or cancelled; queued → cancelled."""
        if not status.ended:
            raise ValueError(f"{status} is no end of a run")
        return self._move(id, status, lease, error)

    def requeue(self, id: str, *, lease: Lease | None = None) -> Run:
        """running → queued for the next attempt: an error that may pass, or a worker that died."""
        return self._move(id, RunStatus.QUEUED, lease)

    def get(self, id: str) -> Run:
        with self._database.read() as transaction:
            return _runs(transaction, [self._row(transaction, id)])[0]

    def logs(self, id: str, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """The lines that follow line `after`, the oldest first."""
        with self._database.read() as transaction:
            rows = transaction.execute(
                select(log_lines)
                .join(runs)
                .where(self._mine, log_lines.c.run == id, log_lines.c.line > after)
                .order_by(log_lines.c.line)
                .limit(limit)
            )
            return [LogLine(**row._mapping) for row in rows]

    def log(self, id: str, level: str, message: str, stream: str | None, *, lease: Lease) -> None:
        """One line more, whether the run has ended or not; what an attempt says goes through that."""
        line = {"at": datetime.now(UTC), "level": level, "message": one_line(message), "stream": stream}
        with self._database.write() as transaction:
            hold(transaction, lease)
            add_lines(transaction, id, [line])

    def attempts(self, id: str) -> Sequence[PastAttempt]:
        """The first one first."""
        with self._database.read() as transaction:
            rows = transaction.execute(
                select(attempts)
                .join(runs)
                .where(self._mine, attempts.c.run == id)
                .order_by(attempts.c.number)
            ).all()
        return [
            PastAttempt(
                number=row.number,
                epoch=row.epoch,
                started_at=row.started_at,
                ended_at=row.ended_at,
                error=_report(row.error),
            )
            for row in rows
        ]

    def list(
        self,
        pipeline: str | None = None,
        limit: int = 50,
        *,
        status: RunStatus | None = None,
        teams: Collection[str] | None = None,
    ) -> list[Run]:
        """The newest first; `teams` leaves those of pipelines that are theirs or nobody's."""
        query = select(runs).where(self._mine).order_by(runs.c.queued_at.desc(), runs.c.id).limit(limit)
        if pipeline is not None:
            query = query.where(runs.c.pipeline == pipeline)
        if teams is not None:
            theirs = or_(pipelines.c.team.is_(None), pipelines.c.team.in_(teams))
            query = query.join(pipelines, pipelines.c.id == runs.c.pipeline).where(theirs)
        if status is not None:
            query = query.where(runs.c.status == status.value)
        with self._database.read() as transaction:
            return _runs(transaction, transaction.execute(query).all())

    def _move(self, id: str, status: RunStatus, lease: Lease | None, error: ErrorReport | None = None) -> Run:
        now = datetime.now(UTC)
        report = asdict(error) if error else None
        with self._database.write() as transaction:
            if lease is not None:
                hold(transaction, lease)
            self._row(transaction, id)
            row = lock_run(transaction, id, lease)
            if status not in TRANSITIONS[RunStatus(row.status)]:
                raise ConflictError(
                    "store.run_state",
                    f"run {id} is {row.status} and can't become {status.value}",
                    remedy="Look at the run again: somebody else has moved it on.",
                )
            values: dict[str, Any] = {"status": status.value, "updated_at": now, "error": report}
            if status is RunStatus.RUNNING:
                values["started_at"] = row.started_at or now
            elif status is RunStatus.QUEUED:
                values["attempt"] = row.attempt + 1
            else:
                values["ended_at"] = now
            transaction.execute(update(runs).where(runs.c.id == id).values(values))
            if status is not RunStatus.RUNNING:
                # An attempt whose process died could not end itself.
                mine = attempts.c.run == id, attempts.c.ended_at.is_(None)
                transaction.execute(update(attempts).where(*mine).values(ended_at=now, error=report))
            return _runs(transaction, [self._row(transaction, id)])[0]

    def _row(self, transaction: Connection, id: str) -> Row[Any]:
        row = _row(transaction, id)
        if row.workspace != self._workspace:
            raise _missing(id)
        return row


def add_lines(transaction: Connection, run: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add to a run's log; whoever else does waits, so that no number is given twice."""
    if not lines:
        return
    # no stronger a lock than that: rows that refer to the run hold a weaker one already
    transaction.execute(select(runs.c.id).where(runs.c.id == run).with_for_update(key_share=True))
    last = transaction.execute(select(func.max(log_lines.c.line)).where(log_lines.c.run == run)).scalar_one()
    rows = [{"run": run, "line": number, **line} for number, line in enumerate(lines, (last or 0) + 1)]
    transaction.execute(insert(log_lines), rows)


def one_line(text: str) -> str:
    """The text with control characters spelled out: a row's content can't forge a line of the log."""
    text = _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text.encode("utf-8", "backslashreplace").decode()


def lock_run(transaction: Connection, id: str, lease: Lease | None = None) -> Row[Any]:
    """Keep the run to this transaction; the lease, if it matters, is to be held before."""
    row = _row(transaction, id, lock=True)
    if lease is not None and lease.pipeline != row.pipeline:
        raise ValueError(f"run {id} is of pipeline {row.pipeline}, the lease of {lease.pipeline}")
    return row


def _row(transaction: Connection, id: str, *, lock: bool = False) -> Row[Any]:
    query = select(runs).where(runs.c.id == id)
    row = transaction.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise _missing(id)
    return row


def _missing(id: str) -> NotFoundError:
    return NotFoundError("store.no_run", f"there is no run {id}", remedy="List the runs, and check the id.")


def _runs(transaction: Connection, rows: Sequence[Row[Any]]) -> list[Run]:
    streams: dict[str, list[StreamProgress]] = {}
    mine = run_streams.c.run.in_([row.id for row in rows])
    for row in transaction.execute(select(run_streams).where(mine).order_by(run_streams.c.stream)):
        streams.setdefault(row.run, []).append(
            StreamProgress(
                stream=row.stream,
                status=StreamStatus(row.status),
                counts=Counts.from_json(row.counts),
                expected=row.expected,
                error=_report(row.error),
            )
        )
    return [
        Run(
            id=row.id,
            pipeline=row.pipeline,
            status=RunStatus(row.status),
            attempt=row.attempt,
            queued_at=row.queued_at,
            started_at=row.started_at,
            ended_at=row.ended_at,
            error=_report(row.error),
            streams=tuple(streams.get(row.id, ())),
        )
        for row in rows
    ]


def _report(data: dict[str, Any] | None) -> ErrorReport | None:
    return ErrorReport(**data) if data else None
