"""What the tests of the PostgreSQL target share: a stream written in one call, a table read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from headrace.connector import Batch, Reject, Slice, Staged, Stream, StreamRead, Token, WriteMode
from headrace.connectors.postgres.config import PostgresConfig
from headrace.connectors.postgres.target import PostgresTarget

APPEND, UPSERT, REPLACE = WriteMode.APPEND, WriteMode.UPSERT, WriteMode.REPLACE


def target_at(url: str, *, patience: float = 30, **settings: Any) -> PostgresTarget:
    config = PostgresConfig.parse(PostgresConfig.from_url(url) | settings)
    return PostgresTarget(config, patience=timedelta(seconds=patience))


def orders(name: str = "orders", **columns: pa.DataType) -> Stream:
    """A stream with the key `id`; a column `note` unless others are given."""
    fields = {"id": pa.int64(), **(columns or {"note": pa.string()})}
    return Stream(name=name, schema=pa.schema(list(fields.items())), primary_key=("id",))


def token(sequence: int = 1, *, epoch: int = 1, pipeline: str = "p") -> Token:
    return Token(pipeline=pipeline, epoch=epoch, sequence=sequence, position={"lsn": sequence})


def batch(
    stream: Stream,
    rows: Sequence[Mapping[str, Any]],
    changes: Sequence[int] | None = None,
    unchanged: Mapping[str, Sequence[bool]] | None = None,
) -> Batch:
    return Batch(
        stream.id,
        pa.RecordBatch.from_pylist(list(rows), schema=stream.schema),
        None if changes is None else pa.array(changes, pa.int8()),
        None if unchanged is None else {name: pa.array(mask) for name, mask in unchanged.items()},
    )


def stage(
    target: PostgresTarget, stream: Stream, mode: WriteMode, *batches: Batch
) -> tuple[Staged, list[Reject]]:
    slice = Slice(key="s", reads=(StreamRead(stream=stream),))
    with closing(target.open(stream, mode, slice)) as writer:
        rejects = [reject for batch in batches for reject in writer.write(batch)]
        return writer.stage(), rejects


def load(
    target: PostgresTarget,
    stream: Stream,
    mode: WriteMode,
    rows: Iterable[Mapping[str, Any]],
    sequence: int = 1,
) -> Staged:
    """Prepare, stage and publish the rows in one go."""
    target.prepare(stream, mode)
    staged, rejects = stage(target, stream, mode, batch(stream, list(rows)))
    assert rejects == []
    target.publish(stream, mode, [staged], token(sequence))
    return staged


def query(url: str, text: str | sql.Composable, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as session:
        cursor = session.execute(text, values or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def table(url: str, name: str = "orders", order: str = "1") -> list[tuple[Any, ...]]:
    return query(
        url, sql.SQL("SELECT * FROM {} ORDER BY {}").format(sql.Identifier("public", name), sql.SQL(order))
    )


def leftovers(url: str) -> list[str]:
    """The staging tables that are there."""
    return [
        row[0]
        for row in query(url, "SELECT relname FROM pg_class WHERE relname LIKE '\\_headrace\\_stage\\_%'")
    ]


def kept(
    session: psycopg.Connection[Any], form: str, pieces: Iterator[Any], types: Sequence[str]
) -> list[tuple[Any, ...]]:
    """What a table of these types shows as text after a COPY."""
    names = [f"c{n}" for n in range(len(types))]
    declared = ", ".join(f"{name} {type}" for name, type in zip(names, types, strict=True))
    with session.transaction(force_rollback=True):
        session.execute(sql.SQL("CREATE TEMP TABLE kept (n serial, {})").format(sql.SQL(declared)))
        copy = sql.SQL("COPY kept ({}) FROM STDIN (FORMAT {})")
        with session.cursor().copy(copy.format(sql.SQL(", ".join(names)), sql.SQL(form))) as into:
            for piece in pieces:
                into.write(piece)
        shown = ", ".join(f"{name}::text" for name in names)
        return session.execute(sql.SQL(f"SELECT {shown} FROM kept ORDER BY n")).fetchall()
