"""Where pipelines stand and what they could not deliver: what people look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Table, func, select

from headrace.connector.target import Token
from headrace.model.event import Reject
from headrace.model.stream import Position
from headrace.store.schema import checkpoint_tokens, checkpoints, pipelines, rejects


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceCheckpoint:
    """A slice's saved position; `tokens` are those last published from it, by stream id."""

    slice: str
    position: Position
    tokens: Mapping[str, Token]
    saved_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A rejected row, and the run that met it first."""

    run: str
    reject: Reject
    at: datetime


def within(table: Table, pipeline: str, workspace: str) -> ColumnElement[bool]:
    """The rows of that pipeline, none when it is not of that workspace."""
    mine = select(pipelines.c.id).where(pipelines.c.id == pipeline, pipelines.c.workspace == workspace)
    return table.c.pipeline.in_(mine)


def read_checkpoints(transaction: Connection, pipeline: str, workspace: str) -> list[SliceCheckpoint]:
    tokens: dict[str, dict[str, Token]] = {}
    table = checkpoint_tokens
    for row in transaction.execute(
        select(table).where(within(table, pipeline, workspace)).order_by(table.c.stream)
    ):
        tokens.setdefault(row.slice, {})[row.stream] = Token(
            pipeline=pipeline, epoch=row.epoch, sequence=row.sequence, position=row.position
        )
    rows = transaction.execute(
        select(checkpoints).where(within(checkpoints, pipeline, workspace)).order_by(checkpoints.c.slice)
    )
    return [
        SliceCheckpoint(
            slice=row.slice, position=row.position, tokens=tokens.get(row.slice, {}), saved_at=row.updated_at
        )
        for row in rows
    ]


def read_rejects(
    transaction: Connection, pipeline: str, workspace: str, stream: str | None, limit: int
) -> list[DeadLetter]:
    mine = within(rejects, pipeline, workspace)
    query = select(rejects).where(mine).order_by(rejects.c.id.desc()).limit(limit)
    if stream is not None:
        query = query.where(rejects.c.stream == stream)
    return [
        DeadLetter(
            run=row.run,
            reject=Reject(
                stream=row.stream, code=row.code, reason=row.reason, where=row.where, row=row._mapping["row"]
            ),
            at=row.created_at,
        )
        for row in transaction.execute(query)
    ]


def count_rejects(transaction: Connection, pipeline: str, workspace: str) -> dict[str, int]:
    rows = transaction.execute(
        select(rejects.c.stream, func.count().label("rows"))
        .where(within(rejects, pipeline, workspace))
        .group_by(rejects.c.stream)
        .order_by(rejects.c.stream)
    )
    return {row.stream: row.rows for row in rows}
