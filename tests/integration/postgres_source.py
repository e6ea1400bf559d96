"""What the tests of the PostgreSQL source share: tables to read, and reads of them in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from headrace.connector import Batch, Event, Selection, Slice, StreamRead
from headrace.connectors.postgres.config import PostgresConfig
from headrace.connectors.postgres.source import PostgresSource

Db = psycopg.Connection[Any]
Make = Callable[..., PostgresSource]


@contextmanager
def sources(url: str) -> Iterator[Make]:
    """Makes sources on a database, with further settings; they are closed at the end."""
    made = []

    def one(**settings: Any) -> PostgresSource:
        raw = {**PostgresConfig.from_url(url), **settings}
        made.append(PostgresSource(PostgresConfig.parse(raw)))
        return made[-1]

    yield one
    for source in made:
        source.close()


def one(source: PostgresSource, name: str = "public.t", **read: Any) -> StreamRead:
    (stream,) = source.discover(Selection(include=(name,)))
    return StreamRead(stream=stream, **read)


def drain(events: Iterator[Event]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for event in events:
        assert isinstance(event, Batch)
        found += event.rows.to_pylist()
    return found


def rows(source: PostgresSource, slices: list[Slice]) -> list[dict[str, Any]]:
    return [row for piece in slices for row in drain(source.read(piece, {}))]


def everything(source: PostgresSource, name: str = "public.t", **read: Any) -> list[dict[str, Any]]:
    return rows(source, source.slices([one(source, name, **read)], {}))


def fill(db: Db, count: int = 4000, table: str = "t") -> None:
    db.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, note text)").format(sql.Identifier(table)))
    db.execute(
        sql.SQL("INSERT INTO {} SELECT n, repeat('x', 100) FROM generate_series(1, {}) n").format(
            sql.Identifier(table), count
        )
    )
