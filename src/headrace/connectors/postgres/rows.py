"""Runs one COPY and turns it into batches, with the rows that can't be held told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import sql

from headrace.connector import Batch, Reject, StreamRead
from headrace.connectors.postgres.condition import parenthesised
from headrace.connectors.postgres.decode import Block, Garbled
from headrace.connectors.postgres.discover import Column, Table
from headrace.connectors.postgres.receive import blocks
from headrace.connectors.postgres.session import Session
from headrace.connectors.postgres.types import Image, Kind
from headrace.errors import TransientError

# kinds with values that their image can't hold
_PARTIAL = frozenset({Kind.NUMERIC, Kind.TIME, Kind.TIMESTAMP, Kind.LIST})
_PLACE = "ctid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """What is read of a table: the chosen columns and the filter."""

    table: Table
    read: StreamRead
    columns: tuple[Column, ...]

    @classmethod
    def of(cls, table: Table, read: StreamRead) -> Selected:
        """Raises NotFoundError for a column that went away, TransientError for one that has changed."""
        columns = table.chosen(read.stream.schema.names)
        for column in columns:
            planned = read.stream.schema.field(column.name).type
            if column.image.arrow != planned:
                raise TransientError(
                    "postgres.column_changed",
                    f"{table.id}.{column.name} was {planned} when the run began, and is {column.image.arrow}",
                    remedy="Nothing to do: the next attempt looks at the table anew.",
                )
        return cls(table=table, read=read, columns=columns)

    @property
    def filter(self) -> sql.Composable:
        """The filter in parentheses; TRUE without one."""
        return sql.SQL(parenthesised(self.read.filter) if self.read.filter else "TRUE")

    @property
    def relation(self) -> sql.Composable:
        return sql.Identifier(self.table.namespace, self.table.name)

    @property
    def placed(self) -> bool:
        """Does a row that must be rejected need its place in the table to be told apart?"""
        return (
            self.table.whole
            and self.table.kind in "rpm"
            and not self._key
            and any(column.image.kind in _PARTIAL for column in self.columns)
        )

    @property
    def _key(self) -> tuple[str, ...]:
        chosen = {column.name for column in self.columns}
        return self.table.key if chosen.issuperset(self.table.key) else ()

    @property
    def outputs(self) -> list[sql.Composable]:
        """The expressions to copy."""
        found: list[sql.Composable] = [output(column) for column in self.columns]
        return [*found, sql.SQL("ctid::pg_catalog.text")] if self.placed else found

    def batches(self, session: Session, query: sql.Composable) -> Iterator[Batch]:
        """Copy the rows of `query`, which selects `outputs`."""
        names = [column.name for column in self.columns]
        images = [column.image for column in self.columns]
        if self.placed:
            names, images = [*names, _PLACE], [*images, Image(pa.string(), Kind.TEXT)]
        command = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query).as_bytes(session)
        if session.info.parameter_status("server_encoding") == "SQL_ASCII":
            # such a database holds any bytes, and would fail the whole copy for one that is not UTF-8
            session.execute("SET LOCAL client_encoding TO 'SQL_ASCII'")
        try:
            for block in blocks(session, command, names, images):
                yield self._batch(block) if block else Batch.of(self.read.stream, ())  # or a sign of life
        except Garbled as error:
            raise TransientError(
                "postgres.copy_garbled",
                f"{self.table.id}: what came are not the rows that were asked for: {error}",
                remedy="If this comes again, look at what lies between Headrace and the server.",
            ) from None

    def _batch(self, block: Block) -> Batch:
        data, starts, rows, bad = block
        chosen = rows.columns[: len(self.columns)]
        schema = self.read.stream.schema
        good = pa.RecordBatch.from_arrays(chosen, schema=schema) if chosen else rows
        if not bad:
            return Batch(self.read.stream.id, good)
        kept = np.ones(rows.num_rows, bool)
        rejects: dict[int, Reject] = {}
        texts = {(b.row, b.column): b.text for b in bad}
        for b in bad:
            kept[b.row] = False
            if b.row not in rejects:
                name = self.columns[b.column].name
                shown = {
                    column.name: texts.get((b.row, number)) or _shown(rows.column(number)[b.row])
                    for number, column in enumerate(self.columns)
                }
                end = starts[b.row + 1] if b.row + 1 < len(starts) else len(data)
                where = self._where(rows, b.row, data[starts[b.row] : end].tobytes())
                reason = f"{name} is {b.text}: {b.reason}"
                rejects[b.row] = Reject(
                    stream=self.read.stream.id, code=b.code, reason=reason, where=where, row=shown
                )
        return Batch(self.read.stream.id, good.filter(pa.array(kept)), rejects=tuple(rejects.values()))

    def _where(self, rows: pa.RecordBatch, row: int, raw: bytes) -> dict[str, Any]:
        if self._key:
            names = [column.name for column in self.columns]
            return {"key": {name: _shown(rows.column(names.index(name))[row]) for name in self._key}}
        if self.placed:
            return {"ctid": rows.column(len(self.columns))[row].as_py(), "content": _digest(raw)}
        return {"content": _digest(raw)}


def output(column: Column) -> sql.Composable:
    """A column as it is copied."""
    return sql.SQL("{}" + column.image.cast).format(sql.Identifier(column.name))


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _shown(value: Any) -> str | None:
    """A value as text, for people."""
    if not value.is_valid:
        return None
    try:
        return str(value.as_py())
    except (ValueError, OverflowError):  # beyond what Python's dates hold
        return str(value.value)
