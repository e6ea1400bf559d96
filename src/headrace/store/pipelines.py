"""Pipelines: what people want moved, as they last said it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection as Transaction
from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from headrace.errors import ConflictError, NotFoundError
from headrace.model.pipeline import Pipeline
from headrace.store.connections import ambiguous
from headrace.store.database import Database
from headrace.store.leases import refuse_leased
from headrace.store.schema import connections, pipelines, runs

_PIPELINE = TypeAdapter(Pipeline)
_COLUMNS = ("id", "name", "source", "target", "paused", "schedule", "team", "version")
_MADE = ("created_at", "updated_at")


class Pipelines:
    """Those of one workspace. Every save is a compare-and-set on `version`, 0 for one never saved."""

    def __init__(self, database: Database, workspace: str):
        self._database = database
        self._workspace = workspace
        self._mine = pipelines.c.workspace == workspace

    def save(self, pipeline: Pipeline, next_at: datetime | None = None) -> Pipeline:
        """Store the pipeline; gives it back with its next version.

        `next_at` is when its schedule asks for a run next. Raises ConflictError when it was changed
        meanwhile (`store.changed`), NotFoundError when its source or target is no connection.
        """
        now = datetime.now(UTC)
        made = pipeline.created_at or now
        saved = replace(pipeline, version=pipeline.version + 1, created_at=made, updated_at=now)
        plain = _PIPELINE.dump_python(saved, mode="json", exclude=set(_MADE))
        values = {name: plain.pop(name) for name in _COLUMNS}
        values |= {"definition": plain, "next_at": next_at, "updated_at": now}
        with self._database.write() as transaction:
            self._refuse_foreign_ends(transaction, saved)
            try:
                if pipeline.version == 0:
                    new = insert(pipelines).values(workspace=self._workspace, created_at=made, **values)
                    transaction.execute(new)
                    return saved
                same = pipelines.c.id == saved.id, pipelines.c.version == pipeline.version
                if transaction.execute(update(pipelines).where(self._mine, *same).values(values)).rowcount:
                    return saved
            except IntegrityError:
                pass  # that id was given to another one
            raise ConflictError(
                "store.changed",
                f"pipeline {saved.name!r} was changed or deleted by somebody else meanwhile",
                remedy="Read it again, then repeat the change.",
            )

    def get(self, id: str) -> Pipeline:
        return self._one(pipelines.c.id == id, id)

    def by_name(self, name: str) -> Pipeline:
        """Raises ConflictError (`store.ambiguous`) where several are called so."""
        return self._one(pipelines.c.name == name, repr(name))

    def list(self) -> list[Pipeline]:
        """All of them, by name."""
        query = select(pipelines).where(self._mine).order_by(pipelines.c.name)
        with self._database.read() as transaction:
            return [_read(row) for row in transaction.execute(query)]

    def delete(self, id: str) -> None:
        """Forget the pipeline with its checkpoints and rejects; its finished runs stay, to be looked at.

        Raises ConflictError while a worker holds it (`store.leased`) or a run waits
        (`store.run_unfinished`).
        """
        with self._database.write() as transaction:
            mine = self._mine, pipelines.c.id == id
            found = transaction.execute(select(pipelines.c.name, pipelines.c.team).where(*mine)).one_or_none()
            if found is None:
                raise _missing(id)
            refuse_leased(self._database, transaction, id)
            waiting = runs.c.pipeline == id, runs.c.status.in_(("queued", "running"))
            if transaction.execute(select(runs.c.id).where(*waiting)).first():
                raise ConflictError(
                    "store.run_unfinished",
                    f"a run of pipeline {id} waits or runs",
                    remedy="Cancel it first.",
                )
            kept = {"pipeline_name": found.name, "team": found.team}
            transaction.execute(update(runs).where(runs.c.pipeline == id).values(kept))
            transaction.execute(delete(pipelines).where(*mine))

    def _refuse_foreign_ends(self, transaction: Transaction, pipeline: Pipeline) -> None:
        ends = {pipeline.source, pipeline.target}
        known = select(connections.c.id).where(
            connections.c.workspace == self._workspace, connections.c.id.in_(ends)
        )
        if set(transaction.scalars(known.with_for_update(read=True))) != ends:
            raise NotFoundError(
                "store.no_connection",
                f"pipeline {pipeline.name!r} names a source or target that is no connection",
                remedy="Save its connections first.",
            )

    def _one(self, condition: Any, label: str) -> Pipeline:
        with self._database.read() as transaction:
            rows = transaction.execute(select(pipelines).where(self._mine, condition).limit(2)).all()
        if not rows:
            raise _missing(label)
        if len(rows) > 1:
            raise ambiguous("pipeline", label)
        return _read(rows[0])


def _read(row: Row[Any]) -> Pipeline:
    return _PIPELINE.validate_python(
        row.definition | {name: getattr(row, name) for name in (*_COLUMNS, *_MADE)}, strict=False
    )


def _missing(label: str) -> NotFoundError:
    return NotFoundError(
        "store.no_pipeline", f"there is no pipeline {label}", remedy="List the pipelines, and check the name."
    )
