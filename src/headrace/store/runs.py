"""Runs: their states, which change along legal transitions only, and their logs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Row, Select, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from headrace.errors import ConflictError, NotFoundError
from headrace.model.run import (
    TRANSITIONS,
    Counts,
    ErrorReport,
    LogLine,
    Outcome,
    Run,
    RunFilter,
    RunOrder,
    RunStatus,
    StreamProgress,
    StreamStatus,
    Trigger,
)
from headrace.store.database import Database, taken
from headrace.store.leases import Lease, hold, refuse_foreign
from headrace.store.page import Page, read_page
from headrace.store.schema import attempts, leases, log_lines, pipelines, run_streams, runs

_WITH_TODAY = select(
    runs,
    func.coalesce(pipelines.c.name, runs.c.pipeline_name).label("name"),
    func.coalesce(pipelines.c.team, runs.c.team).label("owner"),
).outerjoin(pipelines, pipelines.c.id == runs.c.pipeline)
_ORDERS: Mapping[RunOrder, ColumnElement[Any]] = {
    RunOrder.ID: runs.c.id,
    RunOrder.PIPELINE: runs.c.pipeline,
    RunOrder.PIPELINE_NAME: func.coalesce(pipelines.c.name, runs.c.pipeline_name),
    RunOrder.STATUS: runs.c.status,
    RunOrder.COMMITTED: runs.c.committed,
    RunOrder.COMMITTED_BYTES: runs.c.committed_bytes,
    RunOrder.QUEUED: runs.c.queued_at,
    RunOrder.ENDED: runs.c.ended_at,
    RunOrder.DURATION: runs.c.duration_us,
}

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

    def queue(self, pipeline: str, trigger: Trigger = Trigger.MANUAL) -> Run:
        """A new run that waits for a worker.

        Raises ConflictError (`store.run_unfinished`) while another one of the pipeline waits or runs.
        """
        with self._database.write() as transaction:
            refuse_foreign(transaction, pipeline, self._workspace)
            return queue(transaction, self._workspace, pipeline, trigger)

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
        wanted = RunFilter(pipeline=pipeline, statuses=(status,) if status else ())
        query = self._query(wanted, teams).order_by(runs.c.queued_at.desc(), runs.c.id).limit(limit)
        with self._database.read() as transaction:
            return _runs(transaction, transaction.execute(query).all())

    def page(
        self,
        wanted: RunFilter,
        order: Sequence[tuple[RunOrder, bool]],
        offset: int,
        limit: int,
        *,
        teams: Collection[str] | None = None,
    ) -> Page[Run]:
        """One page; `order` is by what, and whether downwards; ids decide in the end."""
        query = self._query(wanted, teams).order_by(*(clause for by in order for clause in _sorted(*by)))
        with self._database.read() as transaction:
            rows, total = read_page(transaction, query.order_by(runs.c.id), offset, limit)
            return Page(_runs(transaction, rows), total)

    def outcomes(self, pipelines: Collection[str]) -> dict[str, Outcome]:
        """How each of them has gone so far; those that never finished a run are left out."""
        mine = self._mine, runs.c.pipeline.in_(pipelines)
        done = RunStatus.SUCCEEDED.value, RunStatus.FAILED.value
        last = (
            select(runs.c.pipeline, runs.c.status, runs.c.ended_at)
            .add_columns(func.row_number().over(
                partition_by=runs.c.pipeline, order_by=(runs.c.ended_at.desc(), runs.c.id)
            ).label("place"))
            .where(*mine, runs.c.status.in_(done))
            .subquery()
        )  # fmt: skip
        good = (
            select(runs.c.pipeline, func.max(runs.c.ended_at).label("at"))
            .where(*mine, runs.c.status == RunStatus.SUCCEEDED.value)
            .group_by(runs.c.pipeline)
        )
        with self._database.read() as transaction:
            succeeded = {row.pipeline: row.at for row in transaction.execute(good)}
            rows = transaction.execute(select(last.c.pipeline, last.c.status).where(last.c.place == 1))
            return {
                row.pipeline: Outcome(status=RunStatus(row.status), succeeded_at=succeeded.get(row.pipeline))
                for row in rows
            }

    def ask_to_end(self, id: str) -> Run:
        """What waits is cancelled at once; what runs is told so, and ends soon. May be repeated.

        Raises ConflictError (`store.run_ended`) for one that has ended.
        """
        now = datetime.now(UTC)
        with self._database.write() as transaction:
            self._row(transaction, id)
            row = lock_run(transaction, id)
            status = RunStatus(row.status)
            if status.ended:
                raise ConflictError(
                    "store.run_ended", f"run {id} has ended: {status}", remedy="Look at the run again."
                )
            leased = transaction.execute(
                select(leases.c.id).where(
                    leases.c.pipeline == row.pipeline, leases.c.expires_at > self._database.now(transaction)
                )
            ).one_or_none()
            values: dict[str, Any] = {"cancel_at": row.cancel_at or now, "updated_at": now}
            if status is RunStatus.QUEUED and leased is None:
                values |= _ended(row, RunStatus.CANCELLED, now, None)
            transaction.execute(update(runs).where(runs.c.id == id).values(values))
            return _runs(transaction, [self._row(transaction, id)])[0]

    def cancelling(self, id: str) -> bool:
        """Was it asked to end? False as well for a run that is gone."""
        query = select(runs.c.cancel_at).where(self._mine, runs.c.id == id)
        with self._database.read() as transaction:
            return transaction.execute(query).scalar_one_or_none() is not None

    def _query(self, wanted: RunFilter, teams: Collection[str] | None) -> Select[Any]:
        query = _WITH_TODAY.where(self._mine)
        if wanted.pipeline is not None:
            query = query.where(runs.c.pipeline == wanted.pipeline)
        if wanted.statuses:
            query = query.where(runs.c.status.in_([status.value for status in wanted.statuses]))
        if wanted.after is not None:
            query = query.where(runs.c.queued_at >= wanted.after)
        if wanted.before is not None:
            query = query.where(runs.c.queued_at < wanted.before)
        if teams is not None:
            owner = func.coalesce(pipelines.c.team, runs.c.team)
            query = query.where(or_(owner.is_(None), owner.in_(teams)))
        return query

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
                values |= _ended(row, status, now, report)
            transaction.execute(update(runs).where(runs.c.id == id).values(values))
            if status is not RunStatus.RUNNING:
                # An attempt whose process died could not end itself.
                mine = attempts.c.run == id, attempts.c.ended_at.is_(None)
                transaction.execute(update(attempts).where(*mine).values(ended_at=now, error=report))
            return _runs(transaction, [self._row(transaction, id)])[0]

    def _row(self, transaction: Connection, id: str) -> Row[Any]:
        row = transaction.execute(_WITH_TODAY.where(self._mine, runs.c.id == id)).one_or_none()
        if row is None:
            raise _missing(id)
        return row


def queue(transaction: Connection, workspace: str, pipeline: str, trigger: Trigger) -> Run:
    """As `Runs.queue`, within a transaction that knows the pipeline to be there."""
    run = Run(
        id=str(uuid4()),
        pipeline=pipeline,
        status=RunStatus.QUEUED,
        trigger=trigger,
        queued_at=datetime.now(UTC),
    )
    values = {
        "id": run.id,
        "workspace": workspace,
        "pipeline": pipeline,
        "status": run.status.value,
        "trigger": trigger.value,
        "attempt": run.attempt,
        "queued_at": run.queued_at,
        "updated_at": run.queued_at,
    }
    try:
        with transaction.begin_nested():
            transaction.execute(insert(runs).values(values))
    except IntegrityError as error:
        if not taken(error, runs.c.pipeline):
            raise
        raise ConflictError(
            "store.run_unfinished",
            f"a run of pipeline {pipeline} waits or runs already",
            remedy="Wait for it to end, or cancel it.",
        ) from None
    name = transaction.execute(select(pipelines.c.name).where(pipelines.c.id == pipeline)).scalar_one()
    return replace(run, pipeline_name=name)


def _ended(
    row: Row[Any], status: RunStatus, now: datetime, error: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The values of a run that ends now: what it committed is known for good, and may be nothing."""
    return {
        "status": status.value,
        "ended_at": now,
        "duration_us": (now - row.queued_at) // timedelta(microseconds=1),
        "committed": row.committed or 0,
        "committed_bytes": row.committed_bytes or 0,
        "error": error,
    }


def _sorted(by: RunOrder, down: bool) -> Iterator[ColumnElement[Any]]:
    column = _ORDERS[by]
    yield column.is_(None)
    yield column.desc() if down else column.asc()


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
                committed=row.committed,
                committed_bytes=row.committed_bytes,
                expected=row.expected,
                error=_report(row.error),
            )
        )
    return [
        Run(
            id=row.id,
            pipeline=row.pipeline,
            pipeline_name=row.name or "",
            team=row.owner,
            status=RunStatus(row.status),
            trigger=Trigger(row.trigger),
            attempt=row.attempt,
            queued_at=row.queued_at,
            started_at=row.started_at,
            ended_at=row.ended_at,
            cancelling=row.cancel_at is not None and row.ended_at is None,
            committed=row.committed,
            committed_bytes=row.committed_bytes,
            error=_report(row.error),
            streams=tuple(streams.get(row.id, ())),
        )
        for row in rows
    ]


def _report(data: dict[str, Any] | None) -> ErrorReport | None:
    return ErrorReport(**data) if data else None
