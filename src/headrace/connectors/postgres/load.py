"""Cuts a table into page ranges under one exported snapshot, and tells later whether a range is unchanged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg import sql

from headrace.connector import Position, Slice
from headrace.connectors.postgres.condition import is_fixed
from headrace.connectors.postgres.discover import Table
from headrace.connectors.postgres.rows import Selected
from headrace.connectors.postgres.session import Session
from headrace.errors import TransientError
from headrace.model.stream import join_name

_MOST = 64  # slices a relation
_LEAST = 1024  # pages a slice: 8 MiB as servers are built
_FEW, _AMPLE = 8, 8192  # a slice costs about 20 ms: that few are enough until one has that many pages
_TID_SCANS = 140_000  # the first version that reads a range of pages without the rest of the table

_LEAVES = """
WITH RECURSIVE tree AS (
    SELECT r AS root, r AS leaf FROM unnest(%s::oid[]) AS r
    UNION SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.leaf
)
SELECT tree.root::bigint, c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text,
       c.relfilenode::bigint, pg_catalog.pg_relation_filenode(c.oid)::bigint,
       CASE WHEN c.relkind IN ('r', 'm')
            THEN pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::bigint END,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AND NOT pg_catalog.row_security_active(c.oid)
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.leaf
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY n.nspname, c.relname
"""


class Snapshot(NamedTuple):
    """What a transaction sees. `name` is what other sessions import it by.

    `oldest` is the first transaction that may still have been running, `next` the first that had not
    begun; both count on over the wrap-around of 32 bits.
    """

    name: str
    oldest: int
    next: int


class Leaf(NamedTuple):
    """A relation that holds rows of a table: the table itself, or a partition."""

    root: int
    oid: int
    namespace: str
    name: str
    kind: str
    planned_file: int
    file: int | None
    pages: int | None
    direct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Where a slice's rows lie. `leaf` is None when they are read through the table itself.

    Pages from `low` up to `high` (None: to the end), in the file that was numbered `file`.
    """

    snapshot: str
    oldest: int
    shape: list[list[int]]
    leaf: list[str] | None = None
    oid: int = 0
    file: int | None = None
    low: int | None = None
    high: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def condition(self) -> sql.Composable:
        parts = [sql.SQL("TRUE")]
        if self.low:
            parts.append(sql.SQL(f"ctid >= '({self.low:d},0)'::pg_catalog.tid"))
        if self.high is not None:
            parts.append(sql.SQL(f"ctid < '({self.high:d},0)'::pg_catalog.tid"))
        return sql.SQL(" AND ").join(parts)


def begin(session: Session, snapshot: str | None = None) -> None:
    """Start a read-only transaction that sees one state of the database, or the one that `snapshot` names."""
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    if snapshot is not None:
        session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))


def export(session: Session) -> Snapshot:
    """Begin a transaction and let others see what it sees, until it ends."""
    begin(session)
    return current(session, "pg_catalog.pg_export_snapshot()")


def current(session: Session, name: str = "''") -> Snapshot:
    """What the session's transaction sees."""
    row = session.execute(
        f"SELECT {name}, pg_catalog.txid_snapshot_xmin(s), pg_catalog.txid_snapshot_xmax(s)"
        " FROM pg_catalog.txid_current_snapshot() AS s"
    ).fetchone()
    assert row is not None
    return Snapshot(*row)


def age(snapshot: Snapshot) -> sql.Composable:
    """The transaction that wrote a row, counting on over the wrap-around.

    `xmin` has 32 bits. The number given is the greatest that fits them and had begun: never less than
    the true one, and more only for a row older than 2^32 transactions.
    """
    return sql.SQL(
        "CASE WHEN xmin::text::bigint < 3 THEN 0 ELSE {last}::bigint"
        " - (({last}::bigint - xmin::text::bigint) & 4294967295) END"
    ).format(last=sql.Literal(snapshot.next - 1))


def leaves(session: Session, tables: Sequence[Table]) -> Mapping[int, list[Leaf]]:
    """The relations that hold each table's rows, by the table's oid."""
    found: dict[int, list[Leaf]] = defaultdict(list)
    for row in session.execute(_LEAVES, ([table.oid for table in tables],)):
        leaf = Leaf(*row)
        found[leaf.root].append(leaf)
    return found


def cut(
    session: Session, snapshot: Snapshot, selected: Selected, leaves: Sequence[Leaf], until: Position
) -> Iterator[Slice]:
    """The slices of a load of one table. Their keys are the same in each attempt while sizes are alike."""
    table, stream = selected.table, selected.read.stream.id
    shape = [column.shape for column in selected.columns]
    stored = [leaf for leaf in leaves if leaf.kind in "rmf"]
    if not stored or not table.whole or not all(leaf.direct for leaf in leaves):
        # a view, or rows that the role sees through the table only
        with session.transaction():
            session.execute(
                sql.SQL("SELECT 1 FROM {} LIMIT 0").format(selected.relation)
            )  # holds off TRUNCATE
        bounds = Bounds(snapshot=snapshot.name, oldest=snapshot.oldest, shape=shape)
        yield Slice(key=f"{stream}:whole", reads=(selected.read,), bounds=bounds.to_json(), until=until)
        return
    for leaf in stored:
        if leaf.kind != "f" and leaf.file != leaf.planned_file:
            raise rewritten(join_name(leaf.namespace, leaf.name))
        part = "" if leaf.oid == table.oid else join_name(leaf.namespace, leaf.name) + ":"
        for low, high in _ranges(leaf, session.info.server_version):
            bounds = Bounds(
                snapshot=snapshot.name,
                oldest=snapshot.oldest,
                shape=shape,
                leaf=[leaf.namespace, leaf.name],
                oid=leaf.oid,
                file=leaf.file,
                low=low,
                high=high,
            )
            key = f"{stream}:{part}{low}-{'' if high is None else high}"
            yield Slice(key=key, reads=(selected.read,), bounds=bounds.to_json(), until=until)


def _ranges(leaf: Leaf, version: int) -> Iterator[tuple[int, int | None]]:
    """Page ranges in steps of a power of two, so that a table which grows keeps its first ranges."""
    pages, step = leaf.pages or 0, _LEAST
    while step * (_FEW if step < _AMPLE else _MOST) < pages:
        step *= 2
    if version < _TID_SCANS:
        step = max(pages, 1)
    low = 0
    while low + step < pages:
        yield low, low + step
        low += step
    yield low, None


def query(session: Session, selected: Selected, bounds: Bounds) -> sql.Composable:
    """The rows of a slice, in a transaction that sees the slice's snapshot.

    Raises TransientError when the table no longer is what was planned: a table that was truncated or
    rewritten looks empty to older snapshots.
    """
    if [column.shape for column in selected.columns] != bounds.shape:
        raise rewritten(selected.table.id)
    source = selected.relation
    if bounds.leaf is not None:
        source = sql.SQL("ONLY {}").format(sql.Identifier(*bounds.leaf))
        session.execute(sql.SQL("SELECT 1 FROM {} LIMIT 0").format(source))  # takes the lock
        if _file(session, bounds.oid) != bounds.file:
            raise rewritten(join_name(*bounds.leaf))
    return sql.SQL("SELECT {} FROM {} WHERE {} AND {}").format(
        sql.SQL(", ").join(selected.outputs), source, bounds.condition, selected.filter
    )


def _file(session: Session, oid: int) -> int | None:
    row = session.execute("SELECT pg_catalog.pg_relation_filenode(%s::oid)::bigint", (oid,)).fetchone()
    return row[0] if row else None


def unchanged(session: Session, snapshot: Snapshot, selected: Selected, bounds: Bounds, rows: int) -> bool:
    """Does a range that gave `rows` rows under an older snapshot give the same under this one?

    A row version that is visible now and was written before the older snapshot's oldest transaction
    was visible then, at the same place. So what is visible now is a part of what was then; and of as
    many rows, so it is the same.
    """
    read = selected.read
    if bounds.leaf is None or bounds.file is None or (read.filter and not is_fixed(read.filter)):
        return False
    if [column.shape for column in selected.columns] != bounds.shape:
        return False
    source = sql.SQL("ONLY {}").format(sql.Identifier(*bounds.leaf))
    session.execute(sql.SQL("SELECT 1 FROM {} LIMIT 0").format(source))
    if _file(session, bounds.oid) != bounds.file or snapshot.next - bounds.oldest > 1 << 31:
        return False
    found = session.execute(
        sql.SQL("SELECT count(*), coalesce(bool_or({} >= {}), false) FROM {} WHERE {} AND {}").format(
            age(snapshot), sql.Literal(bounds.oldest), source, bounds.condition, selected.filter
        )
    ).fetchone()
    return found == (rows, False)


def rewritten(table: str) -> TransientError:
    return TransientError(
        "postgres.rewritten",
        f"{table} was truncated, rewritten or altered after the run began",
        remedy="Nothing to do: the next attempt reads it under a new snapshot.",
    )
