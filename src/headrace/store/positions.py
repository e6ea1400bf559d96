"""Where pipelines stand and what they could not deliver: what people look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from headrace.connector.target import Token
from headrace.model.event import Reject
from headrace.model.stream import Position
from headrace.store.schema import checkpoint_tokens, checkpoints, rejects


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


def read_checkpoints(transaction: Connection, pipeline: str) -> list[SliceCheckpoint]:
    tokens: dict[str, dict[str, Token]] = {}
    table = checkpoint_tokens
    for row in transaction.execute(
        select(table).where(table.c.pipeline == pipeline).order_by(table.c.stream)
    ):
        tokens.setdefault(row.slice, {})[row.stream] = Token(
            pipeline=pipeline, epoch=row.epoch, sequence=row.sequence, position=row.position
        )
    rows = transaction.execute(
        select(checkpoints).where(checkpoints.c.pipeline == pipeline).order_by(checkpoints.c.slice)
    )
    return [
        SliceCheckpoint(
            slice=row.slice, position=row.position, tokens=tokens.get(row.slice, {}), saved_at=row.updated_at
        )
        for row in rows
    ]


def read_rejects(transaction: Connection, pipeline: str, stream: str | None, limit: int) -> list[DeadLetter]:
    query = select(rejects).where(rejects.c.pipeline == pipeline).order_by(rejects.c.id.desc()).limit(limit)
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


def count_rejects(transaction: Connection, pipeline: str) -> dict[str, int]:
    rows = transaction.execute(
        select(rejects.c.stream, func.count().label("rows"))
        .where(rejects.c.pipeline == pipeline)
        .group_by(rejects.c.stream)
        .order_by(rejects.c.stream)
    )
    return {row.stream: row.rows for row in rows}
