"""Reads tables: in full by page ranges under one snapshot, or what is new by a cursor."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import psycopg

from headrace.connector import (
    EVERYTHING,
    Checkpoint,
    Event,
    Position,
    ReadMode,
    Selection,
    Slice,
    Source,
    Stream,
    StreamRead,
)
from headrace.connectors.postgres import discover, incremental, load
from headrace.connectors.postgres.config import PostgresConfig
from headrace.connectors.postgres.incremental import Reader
from headrace.connectors.postgres.load import Bounds, Snapshot
from headrace.connectors.postgres.rows import Selected
from headrace.connectors.postgres.session import Session, connect, translated
from headrace.connectors.postgres.wire import QUIET
from headrace.errors import AuthError, ConfigError, HeadraceError, NotFoundError, TransientError
from headrace.model.stream import split_name

_OLDEST_SERVER = 120_000


class PostgresSource(Source[PostgresConfig]):
    """`slices` opens a session that holds the snapshot of its loads until `close`."""

    def __init__(self, config: PostgresConfig):
        super().__init__(config)
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._busy: set[Session] = set()
        self._holding: list[tuple[Session, Snapshot]] = []
        self._refused: dict[str, HeadraceError] = {}

    def check(self) -> None:
        with self._session() as session, translated(self.config):
            version = session.info.server_version
            if version < _OLDEST_SERVER:
                raise ConfigError(
                    "postgres.version",
                    f"the server is PostgreSQL {version // 10_000}, and 12 is the oldest that can be read",
                    field="host",
                    remedy="Upgrade the server.",
                )
            rows = session.execute(
                "SELECT nspname::text, pg_catalog.has_schema_privilege(oid, 'USAGE')"
                " FROM pg_catalog.pg_namespace"
            ).fetchall()
            self._check_schemas(dict(rows))
            tables = session.execute(
                "SELECT count(*),"
                " count(*) FILTER (WHERE pg_catalog.has_any_column_privilege(c.oid, 'SELECT'))"
                " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
                " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema'"
                " AND n.nspname !~ '^pg_' AND (%(s)s::text[] IS NULL OR n.nspname = ANY (%(s)s::text[]))",
                {"s": list(self.config.schemas) or None},
            ).fetchone()
            if tables and tables[0] and not tables[1]:
                schema = self.config.schemas[0] if self.config.schemas else "public"
                raise AuthError(
                    "postgres.permission",
                    f"role {self.config.username!r} may read none of the {tables[0]} tables",
                    field="username",
                    remedy=f'Their owner runs: GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" '
                    f'TO "{self.config.username}".',
                )

    def _check_schemas(self, usable: Mapping[str, bool]) -> None:
        for schema in self.config.schemas:
            if schema not in usable:
                known = sorted(s for s in usable if not s.startswith("pg_") and s != "information_schema")
                raise NotFoundError(
                    "postgres.schema_missing",
                    f"there is no schema {schema!r}",
                    field="schemas",
                    remedy=f"The database has: {', '.join(known)}.",
                )
            if not usable[schema]:
                raise AuthError(
                    "postgres.permission",
                    f"role {self.config.username!r} may not use schema {schema!r}",
                    field="schemas",
                    remedy=f'Its owner runs: GRANT USAGE ON SCHEMA "{schema}" TO "{self.config.username}".',
                )

    def discover(self, selection: Selection = EVERYTHING) -> Iterator[Stream]:
        with self._session() as session, translated(self.config):
            for table in discover.tables(session, self.config.schemas, selection):
                yield table.stream()

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> list[Slice]:
        """A stream that can't be planned gets a slice that raises when read, so that it fails alone."""
        for read in reads:
            self._refused.pop(read.stream.id, None)
        loads: list[StreamRead] = []
        found: list[Slice] = []
        for read in reads:
            if read.mode is ReadMode.FULL or not since.get(read.stream.id):
                loads.append(read)
            else:
                found.append(Slice(key=read.stream.id, reads=(read,)))
        return found + self._cut(loads, alone=len(reads) == 1) if loads else found

    def _cut(self, reads: Sequence[StreamRead], *, alone: bool) -> list[Slice]:
        """The slices of loads, all under one snapshot."""
        found: list[Slice] = []
        session = connect(self.config)
        with contextlib.ExitStack() as undo, translated(self.config):
            undo.callback(session.close)
            snapshot = load.export(session)
            names = [_name(read.stream) for read in reads]
            tables = discover.named(session, names)
            leaves = load.leaves(session, list(tables.values()))
            for read, name in zip(reads, names, strict=True):
                try:
                    with translated(self.config, table=read.stream.id, filter=read.filter):
                        if name not in tables:
                            raise discover.missing(session, *name)
                        selected = Selected.of(tables[name], read)
                        until: Position = {"snapshot": snapshot.name}
                        if read.mode is ReadMode.INCREMENTAL:
                            with session.transaction():  # an error leaves the snapshot to the others
                                until = Reader(session, snapshot, selected, {}).position()
                        pieces = load.cut(session, snapshot, selected, leaves[selected.table.oid], until)
                        found += list(pieces)
                except HeadraceError as error:
                    if alone or session.closed:
                        raise
                    self._refused[read.stream.id] = error
                    found.append(Slice(key=read.stream.id, reads=(read,)))
            undo.pop_all()
        self._holding.append((session, snapshot))
        return found

    def holds(self, slice: Slice, rows: int) -> bool:
        if not self._holding:
            return False
        session, snapshot = self._holding[-1]
        read = slice.read
        try:
            with translated(self.config), session.transaction():
                tables = discover.named(session, [_name(read.stream)])
                if not tables:
                    return False
                selected = Selected.of(tables[_name(read.stream)], read)
                return load.unchanged(session, snapshot, selected, Bounds(**slice.bounds), rows)
        except (HeadraceError, TypeError):
            return False

    def read(self, slice: Slice, since: Position) -> Iterator[Event]:
        read = slice.read
        if slice.key in self._refused:
            raise self._refused[slice.key]
        with self._session() as session, translated(self.config, table=read.stream.id, filter=read.filter):
            if slice.until is not None:
                yield from self._load(session, slice)
            else:
                yield from self._follow(session, read, since)

    def _load(self, session: Session, slice: Slice) -> Iterator[Event]:
        bounds = Bounds(**slice.bounds)
        try:
            load.begin(session, bounds.snapshot)
        except (
            psycopg.errors.UndefinedObject,
            psycopg.errors.InvalidParameterValue,
            psycopg.errors.ObjectNotInPrerequisiteState,
        ):
            raise TransientError(
                "postgres.snapshot_gone",
                f"the snapshot of {slice.key} is gone, because the session that held it has ended",
                remedy="Nothing to do: the next attempt reads under a new snapshot what is missing.",
            ) from None
        selected = self._selected(session, slice.read)
        yield from selected.batches(session, load.query(session, selected, bounds))

    def _follow(self, session: Session, read: StreamRead, since: Position) -> Iterator[Event]:
        load.begin(session)
        reader = Reader(session, load.current(session), self._selected(session, read), since)
        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(reader.position)
            try:
                while not wait([looking], QUIET).done:
                    yield Checkpoint(since)
            finally:
                if not looking.done():
                    _end(session)
            until = looking.result()
        query = reader.query(until)
        if query is not None:
            yield from reader.selected.batches(session, query)
        yield Checkpoint(until)

    def _selected(self, session: Session, read: StreamRead) -> Selected:
        name = _name(read.stream)
        tables = discover.named(session, [name])
        if name not in tables:
            raise discover.missing(session, *name)
        return Selected.of(tables[name], read)

    def unreadable(self, name: str) -> HeadraceError | None:
        parts = split_name(name)
        if len(parts) != 2:
            return None
        with translated(self.config), self._session() as session:
            why = discover.missing(session, *parts)
        return why if isinstance(why, AuthError) else None

    def order(self, position: Position) -> tuple[Any, ...]:
        return incremental.order(position)

    def interrupt(self) -> None:
        with self._lock:
            busy = list(self._busy)
        for session in busy:
            _end(session)

    def close(self) -> None:
        self.interrupt()
        with self._lock:
            sessions = [*self._idle, *(session for session, _ in self._holding)]
            self._idle.clear()
            self._holding.clear()
        for session in sessions:
            session.close()

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        """A session for one piece of work, taken from those that earlier work gave back."""
        with self._lock:
            session = self._idle.pop() if self._idle else None
        session = session or connect(self.config)
        with self._lock:
            self._busy.add(session)
        fit = False
        try:
            yield session
            with contextlib.suppress(psycopg.Error):
                session.rollback()  # fails on a session that broke after the work was done: it is not kept
                fit = True
        finally:
            with self._lock:
                self._busy.discard(session)
                if fit:
                    self._idle.append(session)
            if not fit:
                session.close()


def _end(session: Session) -> None:
    """Make what another thread waits for on this session end now; a server that is away hears no cancel."""
    with contextlib.suppress(psycopg.Error, OSError):
        session.cancel_safe(timeout=1)
    _shut(session)


def _shut(session: Session) -> None:
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(session.fileno())) as end,
    ):
        end.shutdown(socket.SHUT_RDWR)


def _name(stream: Stream) -> tuple[str, str]:
    return stream.namespace or "public", stream.name
