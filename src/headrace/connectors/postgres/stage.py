"""Takes rows into a staging table of its own, and gives back those that the server refuses."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql

from headrace.connector import Batch, Change, Reject, Staged, Stream, WriteMode, Writer, keep
from headrace.connectors.postgres import encode, outgoing
from headrace.connectors.postgres.config import PostgresConfig
from headrace.connectors.postgres.layout import BOOKKEEPING, CHANGE, UNCHANGED, Fault, Layout, keys_only
from headrace.connectors.postgres.session import Session, connect, translated
from headrace.connectors.postgres.table import Place, Table, identifiers, require_table
from headrace.errors import ConfigError

PREFIX = "_headrace_stage_"
LIFETIME = timedelta(days=7)
"""After which a staging table counts as forgotten: longer than any load, since a load's slices stay
staged until its last one is done."""

_REFUSALS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)


class StagingWriter(Writer):
    """One transaction that ends with `stage`, so that a writer which dies leaves nothing behind."""

    def __init__(self, config: PostgresConfig, place: Place, stream: Stream, mode: WriteMode):
        self._config = config
        self._place = place
        self._mode = mode
        self._table = f"{PREFIX}{uuid.uuid4().hex}"
        self._columns: dict[str, str] = {}  # those of the staging table, with their types
        self._rows = 0  # now in the staging table
        self._order = 0  # of the next event
        self._bytes = 0
        self._marks: set[str] = set()  # columns of which a cell was unchanged
        self._truncates = False
        self._session = connect(config)
        try:
            with self._translated():
                self._session.autocommit = False
                self._session.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
                # a slow source must not cost us what is staged so far
                self._session.execute("SET idle_in_transaction_session_timeout = 0")
                self._layout = self._arrange(stream)
        except BaseException:
            self._session.close()
            raise

    def write(self, batch: Batch) -> Sequence[Reject]:
        if batch.rows.num_rows == 0:
            return ()
        self._check_unchanged(batch)
        if self._layout.upsert:
            batch = keys_only(batch, self._layout.key)
        faults = self._layout.faults(batch)
        good = batch
        numbers = np.arange(batch.rows.num_rows)
        if faults:
            mask = np.ones(batch.rows.num_rows, np.bool_)
            mask[list(faults)] = False
            good, numbers = keep(batch, pa.array(mask)), numbers[mask]
        if good.rows.num_rows:
            with self._translated():
                for row, fault in self._copy(self._layout.staged(good, self._order)):
                    faults[int(numbers[row])] = fault
        self._order += good.rows.num_rows
        self._rows += batch.rows.num_rows - len(faults)
        order = sorted(faults)
        return (
            tuple(self._layout.rejects(batch.rows.take(order), [faults[row] for row in order]))
            if order
            else ()
        )

    def change_schema(self, stream: Stream) -> None:
        with self._translated():
            self._layout = self._arrange(stream)

    def truncate(self) -> None:
        with self._translated():
            self._session.execute(sql.SQL("TRUNCATE {}").format(self._name))
        self._rows = 0
        self._marks.clear()
        self._truncates = True

    def stage(self) -> Staged:
        detail: dict[str, Any] = {}
        with self._translated():
            if self._rows:
                self._session.commit()
                detail = {
                    "table": self._table,
                    "rows": self._rows,
                    "columns": [name for name in self._columns if name not in BOOKKEEPING],
                    "unchanged": sorted(self._marks),
                }
        self._session.close()
        return Staged(rows=self._rows, bytes=self._bytes, truncates=self._truncates, detail=detail)

    def close(self) -> None:
        self._session.close()  # the server rolls back what was not committed

    @property
    def _name(self) -> sql.Identifier:
        return self._place.beside(self._table)

    def _translated(self) -> Any:
        return translated(self._config, table=f"{self._place.schema}.{self._place.table}")

    def _arrange(self, stream: Stream) -> Layout:
        """Make the staging table, or add what it lacks, with the very types of the table it is for."""
        table = require_table(self._session, self._place)
        layout = Layout.of(stream, table, upsert=self._mode is WriteMode.UPSERT)
        wanted = {column.name: column.sql for column in layout.columns.values()}
        if layout.upsert:
            wanted |= {name: str(type) for name, type in BOOKKEEPING.items()}
        if not self._columns:
            self._create(layout, table, wanted)
        else:
            self._alter(wanted)
        self._columns |= wanted
        return layout

    def _create(self, layout: Layout, table: Table, wanted: dict[str, str]) -> None:
        # cells of deletes and unchanged cells are null here, whatever the table says
        spared = f" OR {CHANGE} = {Change.DELETE:d} OR {UNCHANGED} IS NOT NULL" if layout.upsert else ""
        parts: list[sql.Composable] = [_column(name, type) for name, type in wanted.items()]
        parts += [
            sql.SQL("CONSTRAINT {} CHECK {}").format(
                sql.Identifier(check.name), sql.SQL(f"(({check.condition}){spared})")
            )
            for check in table.checks
            if check.columns <= wanted.keys()
        ]
        self._session.execute(
            sql.SQL("CREATE UNLOGGED TABLE {} ({}) WITH (autovacuum_enabled = false)").format(
                self._name, sql.SQL(", ").join(parts)
            )
        )
        born = datetime.now(UTC).isoformat()
        self._session.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(self._name, sql.Literal(born)))

    def _alter(self, wanted: dict[str, str]) -> None:
        changes = [
            sql.SQL("ADD COLUMN {}").format(_column(name, type))
            if name not in self._columns
            else sql.SQL("ALTER COLUMN {} TYPE {}").format(sql.Identifier(name), sql.SQL(type))
            for name, type in wanted.items()
            if self._columns.get(name) != type
        ]
        if changes:
            self._session.execute(
                sql.SQL("ALTER TABLE {} {}").format(self._name, sql.SQL(", ").join(changes))
            )

    def _copy(self, rows: pa.RecordBatch) -> list[tuple[int, Fault]]:
        """COPY the rows but those that the server refuses, which come back with their place.

        Goes by text when there is no binary form, or when the server or the kernels refused it: that way
        the rows at fault are found, and the reason is the one for a text.
        """
        types = list(self._layout.types.values())
        library = outgoing.library_for(rows.schema.types, types)
        if library is not None:
            try:
                self._send("binary", rows.schema.names, outgoing.encoded(library, rows.columns, types))
                return []
            except (*_REFUSALS, outgoing.Unencodable):
                pass
        return self._copy_text(rows, 0)

    def _copy_text(self, rows: pa.RecordBatch, first: int) -> list[tuple[int, Fault]]:
        """A refused COPY is tried again in halves, until only the rows at fault are left out."""
        try:
            text = encode.to_csv(rows.columns, list(self._layout.types.values()))
            self._send("csv", rows.schema.names, [text])
        except _REFUSALS as error:
            if rows.num_rows == 1:
                reason = error.diag.message_primary or "the server refuses the row"
                fault = "postgres.value.refused", reason.replace(self._table, self._place.table)
                return [(first, fault)]
            half = rows.num_rows // 2
            return self._copy_text(rows.slice(0, half), first) + self._copy_text(
                rows.slice(half), first + half
            )
        return []

    def _send(self, form: str, columns: Sequence[str], pieces: Iterable[bytes | memoryview]) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
            self._name, identifiers(columns), sql.SQL(form)
        )
        sent = 0
        with self._session.transaction(), self._session.cursor().copy(statement) as copy:
            for piece in pieces:
                copy.write(piece)
                sent += len(piece)
        self._bytes += sent

    def _check_unchanged(self, batch: Batch) -> None:
        marked = {n for n, mask in (batch.unchanged or {}).items() if mask.true_count}
        if marked and not self._layout.upsert:
            raise ConfigError(
                "postgres.unchanged",
                f"{batch.stream} leaves out the cells that an update did not change, and mode {self._mode} "
                f"has no old row to take them from: {', '.join(sorted(marked))}",
                field="mode",
                remedy="Use mode upsert, or let the source send whole rows (REPLICA IDENTITY FULL).",
            )
        cells = self._layout.columns.keys() - set(self._layout.key)
        self._marks |= {self._layout.columns[name].name for name in marked & cells}


def _column(name: str, type: str) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(type))


def drop(session: Session, place: Place, tables: Sequence[str]) -> None:
    for table in tables:
        session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(place.beside(table)))


def sweep(session: Session, place: Place) -> None:
    """Drop the staging tables that nobody will publish any more. Leaves alone what is locked."""
    found = session.execute(
        "SELECT c.relname::text, pg_catalog.obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'r' AND pg_catalog.starts_with(c.relname::text, %s)",
        (place.schema, PREFIX),
    ).fetchall()
    for table, born in found:
        try:
            old = datetime.now(UTC) - datetime.fromisoformat(born or "") > LIFETIME
        except (ValueError, TypeError):
            continue  # not made by us, or its comment was changed
        if old:
            _drop_if_free(session, place, table)


def _drop_if_free(session: Session, place: Place, table: str) -> None:
    try:
        with session.transaction():
            session.execute("SET LOCAL lock_timeout = '100ms'")
            drop(session, place, [table])
    except (psycopg.errors.LockNotAvailable, psycopg.errors.InsufficientPrivilege):
        pass
