"""Pipelines: what people want moved, as they last said it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from headrace.errors import ConflictError, NotFoundError
from headrace.model.pipeline import Pipeline
from headrace.store.database import Database, taken
from headrace.store.leases import refuse_leased
from headrace.store.schema import pipelines

_PIPELINE = TypeAdapter(Pipeline)
_COLUMNS = ("id", "name", "source", "target", "paused", "version")


class Pipelines:
    """Every save is a compare-and-set on `version`, which is 0 for a pipeline never saved."""

    def __init__(self, database: Database):
        self._database = database

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
            try:
                if pipeline.version == 0:
                    transaction.execute(insert(pipelines).values(created_at=now, **values))
                    return saved
                same = pipelines.c.id == saved.id, pipelines.c.version == pipeline.version
                if transaction.execute(update(pipelines).where(*same).values(values)).rowcount:
                    return saved
            except IntegrityError as error:
                if "foreign key" in str(error.orig).lower():
                    raise NotFoundError(
                        "store.no_connection",
                        f"pipeline {saved.name!r} names a source or target that is no connection",
                        remedy="Save its connections first.",
                    ) from None
                if taken(error, pipelines.c.name):
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
        with self._database.read() as transaction:
            return [_read(row) for row in transaction.execute(select(pipelines).order_by(pipelines.c.name))]

    def delete(self, id: str) -> None:
        """Forget the pipeline with its runs, checkpoints and rejects.

        Raises ConflictError (`store.leased`) while a worker holds it.
        """
        with self._database.write() as transaction:
            refuse_leased(self._database, transaction, id)
            if not transaction.execute(delete(pipelines).where(pipelines.c.id == id)).rowcount:
                raise _missing(id)

    def _one(self, condition: Any, label: str) -> Pipeline:
        with self._database.read() as transaction:
            row = transaction.execute(select(pipelines).where(condition)).one_or_none()
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
