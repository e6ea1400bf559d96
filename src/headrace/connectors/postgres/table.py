"""Reads a table's shape from the server's catalog, makes it, and lets it grow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql

from headrace.connector import Stream, WriteMode
from headrace.connectors.postgres.image import Type, columns_of, fit
from headrace.connectors.postgres.session import Session
from headrace.errors import ConfigError, HeadraceError, NotFoundError

OURS = "Loaded by Headrace"
"""The comment on a table that we made, and whose indexes are ours to choose."""

# Types without an Arrow type of their own, by category: their values are taken as text.
_TEXTY_CATEGORIES = frozenset("EGIRTUV")
_TEXTY_NAMES = frozenset({"name", "bit", "varbit"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`sql` is the declared type, domains included; `type` is what is behind it."""

    name: str
    sql: str
    type: Type
    not_null: bool
    filled: bool  # by a default or an identity, when an insert leaves it out
    generated: bool


class Check(NamedTuple):
    """A CHECK of a table: the columns it looks at, and its condition in SQL."""

    name: str
    columns: frozenset[str]
    condition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that stands in the database; `unique` are the keys that an upsert can rely on."""

    name: sql.Identifier
    kind: str
    ours: bool
    columns: dict[str, Column]
    unique: tuple[frozenset[str], ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a stream stands: schema and table, as PostgreSQL can hold them."""

    schema: str
    table: str

    @classmethod
    def of(cls, stream: Stream, schema: str) -> Place:
        place = cls(schema=fit(stream.namespace or schema), table=fit(stream.name))
        if not place.table or "\0" in place.table + place.schema or place.table.startswith("_headrace_"):
            raise ConfigError(
                "postgres.table_name",
                f"a table in PostgreSQL can't be named {stream.name!r} in {place.schema!r}",
                field="target",
                remedy="Give the stream another target table.",
            )
        return place

    @property
    def name(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)

    def beside(self, table: str) -> sql.Identifier:
        """A table of that name in the same schema."""
        return sql.Identifier(self.schema, table)


_TABLE = """
SELECT c.oid, c.relkind::text, pg_catalog.obj_description(c.oid, 'pg_class')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
_COLUMNS = """
SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull OR t.typnotnull,
       a.attidentity <> '' OR (a.atthasdef AND a.attgenerated = ''), a.attgenerated <> '',
       coalesce(e.typname, b.typname)::text, coalesce(e.typcategory, b.typcategory)::text, e.oid IS NOT NULL,
       CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
LEFT JOIN pg_catalog.pg_type e ON b.typcategory = 'A' AND e.oid = b.typelem
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
# an index that ON CONFLICT may use: whole, without expressions, checked at once
_UNIQUE = """
SELECT (SELECT array_agg(a.attname::text) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
FROM pg_catalog.pg_index i
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
"""
_CHECKS = """
SELECT c.conname::text, (SELECT array_agg(a.attname::text) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)),
       pg_catalog.pg_get_expr(c.conbin, c.conrelid)
FROM pg_catalog.pg_constraint c WHERE c.conrelid = %s AND c.contype = 'c' AND NOT 0 = ANY (c.conkey)
"""


def read_table(session: Session, place: Place) -> Table | None:
    """The table that stands at `place` now, or None.

    Raises ConfigError if it is a view or something else that holds no rows of its own.
    """
    found = session.execute(_TABLE, (place.schema, place.table)).fetchone()
    if found is None:
        return None
    oid, kind, comment = found
    if kind not in ("r", "p"):
        raise ConfigError(
            "postgres.not_a_table",
            f"{place.schema}.{place.table} is no table, and rows can't be written into it",
            field="target",
            remedy="Give the stream another target table.",
        )
    columns = {
        row[0]: Column(
            name=row[0],
            sql=row[1],
            type=_type(*row[5:]),
            not_null=row[2],
            filled=row[3],
            generated=row[4],
        )
        for row in session.execute(_COLUMNS, (oid,))
    }
    return Table(
        name=place.name,
        kind=kind,
        ours=comment == OURS,
        columns=columns,
        unique=tuple(frozenset(row[0]) for row in session.execute(_UNIQUE, (oid,))),
        checks=tuple(
            Check(row[0], frozenset(row[1] or ()), row[2]) for row in session.execute(_CHECKS, (oid,))
        ),
    )


def _type(name: str, category: str, array: bool, modifier: int) -> Type:
    size = scale = None
    if modifier >= 0:
        if name == "numeric":
            size, scale = (modifier - 4) >> 16 & 0xFFFF, ((modifier - 4 & 0x7FF) ^ 0x400) - 0x400
        elif name in ("varchar", "bpchar"):
            size = modifier - 4
        elif name in ("time", "timestamp", "timestamptz"):
            size = modifier
    texty = category in _TEXTY_CATEGORIES and name != "bytea"
    spelled = category == "E" or name == "citext"
    return Type(name, size, scale, array, texty=texty or name in _TEXTY_NAMES, spelled=spelled)


def fitted_key(stream: Stream) -> list[str]:
    """The columns of the stream's key in the table's names."""
    return [fit(name) for name in stream.primary_key]


def require_table(session: Session, place: Place) -> Table:
    """The table, which `prepare` has made; raises NotFoundError if somebody dropped it since."""
    table = read_table(session, place)
    if table is None:
        raise NotFoundError(
            "postgres.target_gone",
            f"the table {place.schema}.{place.table} was there and is gone",
            field="target",
            remedy="Run again: it will be made anew, and filled from the start.",
        )
    return table


def create_table(session: Session, place: Place, stream: Stream, key: Iterable[str]) -> None:
    """Make the table for the stream; `key` are the columns of its primary key, in the table's names."""
    parts = [
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(str(type)))
        for name, type in columns_of(stream).values()
    ]
    if names := list(key):
        parts.append(sql.SQL("PRIMARY KEY ({})").format(identifiers(names)))
    session.execute(sql.SQL("CREATE TABLE {} ({})").format(place.name, sql.SQL(", ").join(parts)))
    session.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(place.name, sql.Literal(OURS)))


def grow_table(session: Session, place: Place, table: Table, stream: Stream, mode: WriteMode) -> None:
    """Add the columns that the stream has more, and widen those that are too narrow for it.

    Raises ConfigError `postgres.schema_mismatch` for what cannot be brought there.
    """
    changes = []
    for name, type in columns_of(stream).values():
        column = table.columns.get(name)
        if column is None:
            changes.append(sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(name), sql.SQL(str(type))))
        elif not takes(column, type):
            wide = None if column.generated else column.type.widened(type)
            if wide is None:
                raise mismatch(stream, column, type)
            changes.append(
                sql.SQL("ALTER COLUMN {} TYPE {}").format(sql.Identifier(name), sql.SQL(str(wide)))
            )
    check_required(table, stream)
    if changes:
        try:
            session.execute(sql.SQL("ALTER TABLE {} {}").format(place.name, sql.SQL(", ").join(changes)))
        except psycopg.errors.FeatureNotSupported as error:
            raise ConfigError(
                "postgres.schema_mismatch",
                f"the table of {stream.id} can't be altered to hold it: {error.diag.message_primary}",
                field="target",
                remedy="Drop the view or rule that depends on the column, then run again.",
            ) from None
    key = fitted_key(stream)
    if mode is WriteMode.UPSERT and table.ours and frozenset(key) not in table.unique:
        index_key(session, place, key)


def index_key(session: Session, place: Place, key: list[str]) -> None:
    """Let the key be unique from here on, if its values are; upserts are exact either way, only slower."""
    try:
        with session.transaction():
            session.execute(sql.SQL("CREATE UNIQUE INDEX ON {} ({})").format(place.name, identifiers(key)))
    except psycopg.errors.UniqueViolation:
        pass


def takes(column: Column, type: Type) -> bool:
    """May the column stand as it is for values of `type`?"""
    return not column.generated and column.type.holds(type)


def check_required(table: Table, stream: Stream) -> None:
    """Raise ConfigError if the table insists on a column that the stream lacks."""
    have = {name for name, _ in columns_of(stream).values()}
    for column in table.columns.values():
        if column.not_null and not column.filled and not column.generated and column.name not in have:
            raise ConfigError(
                "postgres.schema_mismatch",
                f"the table of {stream.id} has a column {column.name!r}, {column.sql} NOT NULL, "
                "that the stream lacks",
                field=column.name,
                remedy="Give the column a default or drop its NOT NULL, or write into another table.",
            )


def mismatch(stream: Stream, column: Column, type: Type) -> HeadraceError:
    return ConfigError(
        "postgres.schema_mismatch",
        f"the table of {stream.id} can't hold it: column {column.name!r} is "
        f"{'generated' if column.generated else column.sql} there, and the stream brings {type}",
        field=column.name,
        remedy="Cast or leave out the column in the pipeline, or write into another table.",
    )


def identifiers(names: Iterable[str], alias: str | None = None) -> sql.Composed:
    """The names, quoted, with commas between them."""
    return sql.SQL(", ").join(
        sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in names
    )
