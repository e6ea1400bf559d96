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
from headrace.store.database import Database, taken
from headrace.store.leases import refuse_leased
from headrace.store.schema import connections, pipelines

_PIPELINE = TypeAdapter(Pipeline)
_COLUMNS = ("id", "name", "source", "target", "paused", "team", "version")


class Pipelines:
    """Those of one workspace. Every save is a compare-and-set on `version`, 0 for one never saved."""

    def __init__(self, database: Database, workspace: str):
        self._database = database
        self._workspace = workspace
        self._mine = pipelines.c.workspace == workspace

    def save(self, pipeline: Pipeline) -> Pipeline:
        """Store the pipeline; gives it back with its next version.

        Raises ConflictError when it was changed meanwhile (`store.changed`) or its name is another
        one's (`store.name_taken`), NotFoundError when its source or target is no connection.
        """
        saved = replace(pipeline, version=pipeline.version + 1)
        plain = _PIPELINE.dump_python(saved, mode="json")
        values = {name: plain.pop(name) for name in _COLUMNS}
        now = datetime.now(UTC)
        values |= {"definition": plain, "updated_at": now}
        with self._database.write() as transaction:
            self._refuse_foreign_ends(transaction, saved)
            try:
                if pipeline.version == 0:
                    new = insert(pipelines).values(workspace=self._workspace, created_at=now, **values)
                    transaction.execute(new)
                    return saved
                same = pipelines.c.id == saved.id, pipelines.c.version == pipeline.version
                if transaction.execute(update(pipelines).where(self._mine, *same).values(values)).rowcount:
                    return saved
            except IntegrityError as error:
                if taken(error, pipelines.c.workspace, pipelines.c.name):
                    raise ConflictError(
                        "store.name_taken",
                        f"there is a pipeline {saved.name!r} already",
                        field="name",
                        remedy="Choose another name.",
                    ) from None
            raise ConflictError(
                "store.changed",
                f"pipeline {saved.name!r} was changed or deleted by somebody else meanwhile",
                remedy="Read it again, then repeat the change.",
            )

    def get(self, id: str) -> Pipeline:
        return self._one(pipelines.c.id == id, id)

    def by_name(self, name: str) -> Pipeline:
        return self._one(pipelines.c.name == name, repr(name))

    def list(self) -> list[Pipeline]:
        """All of them, by name."""
        query = select(pipelines).where(self._mine).order_by(pipelines.c.name)
        with self._database.read() as transaction:
            return [_read(row) for row in transaction.execute(query)]

    def delete(self, id: str) -> None:
        """Forget the pipeline with its runs, checkpoints and rejects.

        Raises ConflictError (`store.leased`) while a worker holds it.
        """
        with self._database.write() as transaction:
            mine = self._mine, pipelines.c.id == id
            if transaction.execute(select(pipelines.c.id).where(*mine)).one_or_none() is None:
                raise _missing(id)
            refuse_leased(self._database, transaction, id)
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
            row = transaction.execute(select(pipelines).where(self._mine, condition)).one_or_none()
        if row is None:
            raise _missing(label)
        return _read(row)


def _read(row: Row[Any]) -> Pipeline:
    return _PIPELINE.validate_python(
        row.definition | {name: getattr(row, name) for name in _COLUMNS}, strict=False
    )


def _missing(label: str) -> NotFoundError:
    return NotFoundError(
        "store.no_pipeline", f"there is no pipeline {label}", remedy="List the pipelines, and check the name."
    )
