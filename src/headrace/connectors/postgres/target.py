"""Writes tables: COPY into staging tables, then one transaction for the rows and the token."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.pq import TransactionStatus

from headrace.connector import Slice, Staged, Stream, Target, Token, WriteMode, Writer
from headrace.connectors.postgres import ledger
from headrace.connectors.postgres.config import PostgresConfig
from headrace.connectors.postgres.image import columns_of, fit, image_of
from headrace.connectors.postgres.merge import discard, merge
from headrace.connectors.postgres.session import Session, connect, translate, translated
from headrace.connectors.postgres.stage import StagingWriter, sweep
from headrace.connectors.postgres.table import (
    Place,
    create_table,
    fitted_key,
    grow_table,
    read_table,
    require_table,
    takes,
)
from headrace.errors import AuthError, ConfigError, OutcomeUnknown

# whatever the server's default: after waiting for a lock we must see what its holder committed
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# the source forgets what we report as published, so the server must not report it before it is safe
_DURABLE = """
SELECT pg_catalog.set_config('synchronous_commit', 'on', true)
WHERE pg_catalog.current_setting('synchronous_commit') = 'off'
"""


class PostgresTarget(Target[PostgresConfig]):
    """One database.

    A stream stands in the schema of its namespace, or in `config.schema`. What was published is in
    the table `_headrace_ledger` beside it. `patience` bounds every wait for another session's lock.
    """

    def __init__(self, config: PostgresConfig, *, patience: timedelta = timedelta(seconds=30)):
        super().__init__(config)
        self.patience = patience
        self._session: Session | None = None
        self._turn = threading.RLock()

    def check(self) -> None:
        query = """
        SELECT pg_catalog.pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
               (SELECT pg_catalog.has_schema_privilege(oid, 'CREATE')
                       AND pg_catalog.has_schema_privilege(oid, 'USAGE')
                FROM pg_catalog.pg_namespace WHERE nspname = %s),
               pg_catalog.has_database_privilege(current_database(), 'CREATE')
        """
        schema = fit(self.config.schema)
        with self._transaction() as session:
            found = session.execute(query, (schema,)).fetchone()
        read_only, may_create_table, may_create_schema = found or (False, None, False)
        if read_only:
            raise ConfigError(
                "postgres.read_only",
                f"{self.config.host}:{self.config.port} takes no writes: it is a standby or read-only",
                field="host",
                remedy="Give the address of the primary server.",
            )
        role = f"role {self.config.username!r}"
        if may_create_table is False:
            raise AuthError(
                "postgres.schema_denied",
                f"{role} may not create tables in schema {schema!r}",
                field="schema",
                remedy=f'Let its owner run: GRANT USAGE, CREATE ON SCHEMA "{schema}" TO the role.',
            )
        if may_create_table is None and not may_create_schema:
            raise AuthError(
                "postgres.database_denied",
                f"there is no schema {schema!r}, and {role} may not create it",
                field="schema",
                remedy="Create the schema, or name one that is there.",
            )

    def image(self, stream: Stream) -> pa.Schema:
        self._place(stream)
        return image_of(stream)

    def describe(self, stream: Stream) -> pa.Schema | None:
        """A column that can hold the stream's values as it stands is described as the stream's image."""
        place, wanted = self._place(stream), columns_of(stream)
        with self._transaction() as session:
            table = read_table(session, place)
        if table is None:
            return None
        names = {target: name for name, (target, _) in wanted.items()}
        fields = []
        for column in table.columns.values():
            name = names.get(column.name, column.name)
            held = name in wanted and takes(column, wanted[name][1])
            fields.append(pa.field(name, wanted[name][1].image if held else column.type.image))
        return pa.schema(fields)

    def prepare(self, stream: Stream, mode: WriteMode) -> None:
        place = self._place(stream)
        key = self._key(stream) if mode is WriteMode.UPSERT else []
        with self._transaction() as session:
            ledger.bound_locks(session, self.patience)
            # two that find nothing there must not both make it
            session.execute("SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('headrace'), 0)")
            if not session.execute(
                "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", (place.schema,)
            ).rowcount:
                session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(place.schema)))
            ledger.ensure(session, place)
            table = read_table(session, place)
            if table is None:
                create_table(session, place, stream, key)
                ledger.forget(session, place)
            else:
                grow_table(session, place, table, stream, mode)
            sweep(session, place)

    def open(self, stream: Stream, mode: WriteMode, slice: Slice) -> Writer:
        if mode is WriteMode.UPSERT:
            self._key(stream)
        return StagingWriter(self.config, self._place(stream), stream, mode)

    def publish(self, stream: Stream, mode: WriteMode, staged: Sequence[Staged], token: Token) -> None:
        place = self._place(stream)
        with self._transaction(place, publishes=True) as session:
            session.execute(_DURABLE)
            ledger.wait_for_publish(session, place, token.pipeline, self.patience)
            table = require_table(session, place)
            if ledger.advance(session, place, token):
                merge(session, place, table, mode, staged, fitted_key(stream))
            discard(session, place, staged)

    def committed(self, stream: Stream, pipeline: str) -> Token | None:
        """None also when the table is gone and only the ledger is left: nothing of it is there then."""
        place = self._place(stream)
        with self._transaction(place) as session:
            ledger.wait_for_publish(session, place, pipeline, self.patience)
            if not all(ledger.stands(session, place, table) for table in (place.table, ledger.LEDGER)):
                return None
            return ledger.read(session, place, pipeline)

    def discard(self, stream: Stream, staged: Sequence[Staged]) -> None:
        place = self._place(stream)
        with self._transaction(place) as session:
            ledger.bound_locks(session, self.patience)
            discard(session, place, staged)

    def close(self) -> None:
        with self._turn:
            if self._session is not None:
                self._session.close()
                self._session = None

    def _place(self, stream: Stream) -> Place:
        return Place.of(stream, self.config.schema)

    def _key(self, stream: Stream) -> list[str]:
        for name in stream.primary_key:
            if name not in stream.schema.names:
                raise ConfigError(
                    "postgres.key_missing",
                    f"the key column {name!r} is not among the columns of {stream.id}",
                    field="key",
                    remedy=f"Choose the key among: {', '.join(stream.schema.names)}.",
                )
        if not stream.primary_key:
            raise ConfigError(
                "postgres.no_key",
                f"{stream.id} has no key, and mode upsert needs one",
                field="key",
                remedy="Name the columns that identify a row, or use mode append or replace.",
            )
        return fitted_key(stream)

    @contextlib.contextmanager
    def _transaction(self, place: Place | None = None, *, publishes: bool = False) -> Iterator[Session]:
        """The target's own session, one user at a time, in a transaction that ends with the block."""
        with self._turn:
            session = self._begin()
            table = f"{place.schema}.{place.table}" if place else None
            try:
                yield session
            except BaseException as error:
                self._give_up(session)
                if isinstance(error, psycopg.Error):
                    raise translate(error, self.config, table=table) from None
                raise
            try:
                session.execute("COMMIT")
            except BaseException as error:
                # a live session says that the server refused; a dead one says nothing
                unknown = publishes and session.closed
                self._give_up(session)
                if not isinstance(error, psycopg.Error):
                    raise
                if unknown:
                    raise OutcomeUnknown(
                        "postgres.commit_unknown",
                        f"the connection was lost while a publish into {table} was being committed",
                        remedy="Nothing to do: the ledger in the database tells whether it was.",
                    ) from None
                raise translate(error, self.config, table=table) from None

    def _begin(self) -> Session:
        """The session, in a transaction; a new one if the old one was lost while nobody used it."""
        if self._session is not None:
            try:
                self._session.execute(_BEGIN)
                return self._session
            except psycopg.Error:
                self.close()
        session = self._session = connect(self.config)
        with translated(self.config):
            session.execute(_BEGIN)
        return session

    def _give_up(self, session: Session) -> None:
        """Roll back; a session that can't is of no more use."""
        with contextlib.suppress(psycopg.Error):
            if not session.closed and session.info.transaction_status != TransactionStatus.ACTIVE:
                session.execute("ROLLBACK")
        if session.closed or session.info.transaction_status != TransactionStatus.IDLE:
            session.close()
            self._session = None
