"""Reads the catalogue: which tables a role may read, how they look, how big they are.

Four queries for every few thousand tables; names that are asked for exactly are looked up alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from headrace.connector import EVERYTHING, Selection, Stream
from headrace.connectors.postgres.session import Session
from headrace.connectors.postgres.types import CURSORS, TIMES, Image, PgType, image, resolve
from headrace.errors import AuthError, ConfigError, HeadraceError, NotFoundError
from headrace.model.stream import join_name, split_name

_KEPT_FOR_CHANGES = {"updated_at", "modified_at", "last_modified", "last_updated"}
_KINDS = {"r": "table", "p": "table", "v": "view", "m": "view", "f": "table"}
_PAGE = 8192
_PART = 5_000  # tables whose details are fetched together

_RELATIONS = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.reltuples::float8,
       c.relpages::bigint, c.relhassubclass, pg_catalog.has_table_privilege(c.oid, 'SELECT')
FROM {source}
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY (%(schemas)s::text[]))
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
  AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
ORDER BY n.nspname, c.relname
"""
_ALL = "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
_NAMED = """
unnest(%(namespaces)s::name[], %(names)s::name[]) AS wanted (s, t)
JOIN pg_catalog.pg_namespace n ON n.nspname = s
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t
"""
_SIZES = """
WITH RECURSIVE tree AS (
    SELECT i.inhparent AS root, i.inhrelid AS leaf FROM pg_catalog.pg_inherits i
    WHERE i.inhparent = ANY (%(oids)s::oid[])
    UNION SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.leaf
)
SELECT tree.root::bigint, sum(greatest(c.reltuples, 0))::float8, sum(c.relpages)::bigint
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.leaf WHERE c.relkind <> 'p' GROUP BY tree.root
"""
_COLUMNS = """
SELECT a.attrelid::bigint, a.attnum::int, a.attname::text, a.atttypid::bigint, a.atttypmod,
       a.attndims::int, a.attnotnull
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
  AND (a.attrelid = ANY (%(whole)s::oid[])
       OR pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT'))
ORDER BY a.attrelid, a.attnum
"""
_KEYS = """
SELECT i.indrelid::bigint, i.indisprimary, i.indkey::int2[], i.indnkeyatts::int
FROM pg_catalog.pg_index i
WHERE i.indrelid = ANY (%(oids)s::oid[]) AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND NOT i.indisexclusion AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, i.indexrelid
"""
_TYPES = """
WITH RECURSIVE used AS (
    SELECT oid, typtype, typbasetype, typtypmod, typelem, typcategory
    FROM pg_catalog.pg_type WHERE oid = ANY (%s::oid[])
    UNION SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, t.typelem, t.typcategory
    FROM used JOIN pg_catalog.pg_type t ON t.oid = used.typbasetype OR t.oid = used.typelem
)
SELECT oid::bigint, typtype::text, typbasetype::bigint, typtypmod, typelem::bigint, typcategory::text
FROM used
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that the role may read. `oid` and `modifier` are of the type under any domain."""

    name: str
    number: int
    oid: int
    modifier: int
    not_null: bool
    image: Image

    @property
    def shape(self) -> list[int]:
        """Changes when another column takes the name, or the type changes."""
        return [self.number, self.oid, self.modifier]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A relation that is read as one stream. `kind` is that of pg_class.

    `whole` is false when the role may read some columns only: system columns are out of reach then.
    """

    oid: int
    namespace: str
    name: str
    kind: str
    parent: bool
    whole: bool
    rows: int | None
    bytes: int | None
    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return join_name(self.namespace, self.name)

    def stream(self) -> Stream:
        return Stream(
            name=self.name,
            namespace=self.namespace,
            schema=pa.schema([pa.field(c.name, c.image.arrow, not c.not_null) for c in self.columns]),
            primary_key=self.key,
            cursors=tuple(c.name for c in self.columns if c.oid in CURSORS),
            default_cursor=self.default_cursor,
            kind=_KINDS[self.kind],
            rows=self.rows,
            bytes=self.bytes,
        )

    @property
    def default_cursor(self) -> str | None:
        """The one column that applications keep for this, else `xmin` where there is one.

        A growing key alone would miss updates.
        """
        kept = [c.name for c in self.columns if c.not_null and c.oid in TIMES and c.name in _KEPT_FOR_CHANGES]
        if len(kept) == 1:
            return kept[0]
        return "xmin" if self.whole and self.kind in "rpm" else None

    def chosen(self, names: Sequence[str]) -> tuple[Column, ...]:
        """The columns of those names. Raises NotFoundError for one that is not there (any more)."""
        known = {column.name: column for column in self.columns}
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise NotFoundError(
                    "postgres.column_missing",
                    f"{self.id} has no column {name!r} that may be read",
                    field="columns",
                    remedy=f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(known)}.",
                )
        return tuple(known[name] for name in names)


@dataclass(slots=True)
class _Found:
    columns: dict[int, list[Column]] = field(default_factory=dict)
    keys: dict[int, tuple[str, ...]] = field(default_factory=dict)
    sizes: dict[int, tuple[float, int]] = field(default_factory=dict)


def tables(
    session: Session, schemas: Collection[str] = (), selection: Selection = EVERYTHING
) -> Iterator[Table]:
    """The tables that the role may read, by schema and name."""
    found = [t for t in _relations(session, schemas, _exact(selection)) if t.id in selection]
    return _described(session, found)


def named(session: Session, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Table]:
    """Those of the tables named, as schema and name, that are there and may be read."""
    return {(t.namespace, t.name): t for t in _described(session, _relations(session, (), names))}


def missing(session: Session, namespace: str, name: str) -> HeadraceError:
    """Why a table is not among those that may be read: NotFoundError with near names, or AuthError."""
    wanted = join_name(namespace, name)
    kinds = "('r', 'p', 'v', 'm', 'f')"
    others = session.execute(
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE c.relkind IN {kinds} AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
        " ORDER BY n.nspname <> %s, c.relname LIMIT 20000",
        (namespace,),
    ).fetchall()
    if (namespace, name) in others:
        (role,) = session.execute("SELECT current_user::text").fetchone() or ("",)
        schema, user = (f'"{part}"' for part in (namespace, role))
        return AuthError(
            "postgres.permission",
            f"role {role!r} may not read {wanted}",
            field="username",
            remedy=f"Its owner runs: GRANT USAGE ON SCHEMA {schema} TO {user}; "
            f'GRANT SELECT ON {schema}."{name}" TO {user};',
        )
    near = difflib.get_close_matches(wanted, [join_name(*row) for row in others], n=3)
    return NotFoundError(
        "postgres.table_missing",
        f"there is no table {wanted}",
        field="streams",
        remedy=f"Did you mean {' or '.join(near)}?"
        if near
        else "Run `headrace discover` to see what there is.",
    )


def _relations(
    session: Session, schemas: Collection[str], names: Sequence[tuple[str, str]] | None
) -> list[Table]:
    parameters = {
        "schemas": list(schemas) or None,
        "namespaces": None if names is None else [namespace for namespace, _ in names],
        "names": None if names is None else [name for _, name in names],
    }
    query = _RELATIONS.format(source=_ALL if names is None else _NAMED)
    return [_table(*row) for row in session.execute(query, parameters)]


def _described(session: Session, found: Sequence[Table]) -> Iterator[Table]:
    for start in range(0, len(found), _PART):
        part = found[start : start + _PART]
        details = _details(session, part)
        for table in part:
            rows, size = table.rows, table.bytes
            if table.oid in details.sizes:
                below, pages = details.sizes[table.oid]
                size = (size or 0) + pages * _PAGE
                if table.kind != "p" or rows is None:  # an analysed partitioned table knows the sum itself
                    rows = int((rows or 0) + below)
            columns = tuple(details.columns.get(table.oid, ()))
            key = details.keys.get(table.oid, ())
            readable = {column.name for column in columns}.issuperset(key)
            yield replace(table, rows=rows, bytes=size, columns=columns, key=key if readable else ())


def _exact(selection: Selection) -> list[tuple[str, str]] | None:
    """The names asked for, when all of them are exact."""
    pairs = []
    for name in selection.include:
        if any(c in name for c in "*?["):
            return None
        try:
            parts = split_name(name)
        except ConfigError:
            return None
        if len(parts) == 2:
            pairs.append((parts[0], parts[1]))
    return pairs if selection.include else None


def _table(*row: Any) -> Table:
    oid, namespace, name, kind, rows, pages, parent, whole = row
    stored = kind in "rm"
    return Table(
        oid=oid,
        namespace=namespace,
        name=name,
        kind=kind,
        parent=parent,
        whole=whole,
        rows=int(rows) if rows >= 0 and kind != "v" and (rows or pages) else None,
        bytes=pages * _PAGE if stored and pages else None,
    )


def _details(session: Session, part: Sequence[Table]) -> _Found:
    found = _Found()
    oids = {"oids": [t.oid for t in part], "whole": [t.oid for t in part if t.whole]}
    numbers: dict[tuple[int, int], Column] = {}
    columns = session.execute(_COLUMNS, oids).fetchall()
    used = sorted({oid for _, _, _, oid, *_ in columns})
    types = {row[0]: PgType(*row) for row in session.execute(_TYPES, (used,))}
    for relation, number, name, oid, modifier, dimensions, not_null in columns:
        base, base_modifier = resolve(types, oid, modifier)
        column = Column(
            name=name,
            number=number,
            oid=base,
            modifier=base_modifier,
            not_null=not_null,
            image=image(types, oid, modifier, dimensions),
        )
        found.columns.setdefault(relation, []).append(column)
        numbers[relation, number] = column
    for relation, primary, positions, width in session.execute(_KEYS, oids):
        key = [numbers.get((relation, number)) for number in positions[:width]]
        if relation not in found.keys and all(c and (primary or c.not_null) for c in key):
            found.keys[relation] = tuple(c.name for c in key if c)
    if parents := [t.oid for t in part if t.parent]:
        for root, rows, pages in session.execute(_SIZES, {"oids": parents}):
            found.sizes[root] = (rows, pages)
    return found
