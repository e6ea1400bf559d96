"""Incremental reads by a cursor column or by `xmin`, each under one snapshot, each row delivered once.

A position says up to which value everything was read that the snapshot of that time showed, and, for the
values from which the next read starts, which rows those were: by hash of their content, as a multiset.
Where they are many and the table has system columns, only those are listed whose transaction was in
doubt; older transactions are known to have been seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from psycopg import sql

from headrace.connector import Position
from headrace.connectors.postgres import types
from headrace.connectors.postgres.discover import Column
from headrace.connectors.postgres.load import Snapshot, age
from headrace.connectors.postgres.rows import Selected
from headrace.connectors.postgres.session import Session
from headrace.errors import ConfigError, PositionLost

XMIN = "xmin"
_FEW = 10_000  # rows that a position lists in any case
_MANY = 100_000  # rows that a position can list at most

_NAMES: Mapping[int, str] = {
    20: "int8", 21: "int2", 23: "int4", 25: "text", 26: "oid", 700: "float4", 701: "float8", 1043: "text",
    1082: "date", 1114: "timestamp", 1184: "timestamptz", 1700: "numeric",
}  # fmt: skip


def order(position: Position) -> tuple[Any, ...]:
    """Positions of one cursor compare by its value; text is left to the server, which compares alike."""
    if XMIN in position and "cursor" not in position:
        return (position[XMIN],)
    rank = position.get("rank")
    return (0, Decimal(0)) if rank is None else (1, Decimal(rank))


def validate(selected: Selected, since: Position) -> Column | None:
    """The cursor column, None for xmin. Raises ConfigError, or PositionLost for another cursor."""
    table, name = selected.table, selected.read.cursor
    column = next((c for c in table.columns if c.name == name), None)
    fit = [c.name for c in table.columns if c.oid in types.ORDERED]
    if name is None or (column is None and name != XMIN):
        raise ConfigError(
            "postgres.cursor",
            f"{table.id} has no column {name!r}"
            if name
            else f"{table.id} is read incrementally without a cursor",
            field="cursor",
            remedy=f"Choose one of: {', '.join([*fit, XMIN])}.",
        )
    if column is None and not (table.whole and table.kind in "rpm"):
        raise ConfigError(
            "postgres.cursor",
            f"{table.id} shows no system columns, so it can't be read by xmin",
            field="cursor",
            remedy=f"Choose a column: {', '.join(fit)}." if fit else "Read it in full.",
        )
    if column and column.oid not in types.ORDERED:
        raise ConfigError(
            "postgres.cursor",
            f"{table.id}.{name} is of a type that can't be a cursor",
            field="cursor",
            remedy=f"Choose one of: {', '.join([*fit, XMIN])}.",
        )
    if selected.read.look_back and (column is None or column.oid not in types.TIMES):
        raise ConfigError(
            "postgres.look_back",
            f"a look-back window is a duration, and {name} of {table.id} is not a time",
            field="look_back",
            remedy="Leave look_back out, or choose a cursor of type date, timestamp or timestamptz.",
        )
    if since and since.get("cursor", XMIN if XMIN in since else None) != name:
        raise PositionLost(
            "postgres.cursor_changed",
            f"{table.id} was read by another cursor before, and stands at no value of {name}",
            field="cursor",
            remedy="Put the old cursor back, or start over: `headrace rewind`.",
        )
    return column


def _typed(column: Column, text: str) -> sql.Composable:
    return sql.SQL("{}::pg_catalog.{}").format(sql.Literal(text), sql.Identifier(_NAMES[column.oid]))


def _finite(column: Column, version: int) -> sql.Composable:
    """Infinity and NaN have no rows beyond them: as cursors they would end every later read."""
    name = sql.Identifier(column.name)
    if column.oid == 1700 and version < 140_000:
        return sql.SQL("{} < 'NaN'::pg_catalog.numeric").format(name)
    if column.oid in types.FLOATING | types.TIMES:
        least, most = _typed(column, "-infinity"), _typed(column, "infinity")
        return sql.SQL("{0} > {1} AND {0} < {2}").format(name, least, most)
    return sql.SQL("{} IS NOT NULL").format(name)


def _back(column: Column, value: str, look_back: timedelta) -> sql.Composable:
    return sql.SQL("({} - {}::pg_catalog.interval)::pg_catalog.{}").format(
        _typed(column, value),
        sql.Literal(f"{look_back // timedelta(microseconds=1)} microseconds"),
        sql.Identifier(_NAMES[column.oid]),
    )


def _hashes(columns: Sequence[str]) -> sql.Composable:
    return sql.SQL("pg_catalog.hashtextextended(ROW({})::pg_catalog.text, 0::pg_catalog.int8)").format(
        sql.SQL(", ").join(map(sql.Identifier, columns))
    )


def _ways(selected: Selected) -> list[list[str]]:
    """Column lists by which a row is known again: all of it, and its key should a column go away."""
    chosen = [column.name for column in selected.columns]
    extra = [selected.read.cursor] if selected.read.cursor else []
    ways = [chosen + [c for c in extra if c not in chosen]]
    if key := list(selected.table.key):
        ways.append(key + [c for c in extra if c not in key])
    return ways


class Reader:
    """Works on one stream inside a transaction that the caller began."""

    def __init__(self, session: Session, snapshot: Snapshot, selected: Selected, since: Position):
        self.session = session
        self.snapshot = snapshot
        self.selected = selected
        self.since = since
        self.column = validate(selected, since)
        self.versioned = selected.table.whole and selected.table.kind in "rpm"

    def position(self) -> Position:
        """Where the stream stands when all that this snapshot shows has been read."""
        if self.column is None:
            return {XMIN: self.snapshot.oldest, **self._seen(self._doubtful(self.snapshot.oldest))}
        value, rank = self._last()
        if value is None:
            return self.since or {
                "cursor": self.column.name,
                "value": None,
                "rank": None,
                "from": None,
                "seen": [],
            }
        start = self._lower(value)
        here = sql.SQL("{0} >= {1} AND {0} <= {2}").format(
            sql.Identifier(self.column.name), _typed(self.column, start), _typed(self.column, value)
        )
        found = self._seen(here)
        return {"cursor": self.column.name, "value": value, "rank": rank, "from": start, **found}

    def query(self, until: Position) -> sql.Composable | None:
        """The rows between `since` and `until`; None when there can be none."""
        if self.column is None:
            self._check_transactions(self.since[XMIN])
            return self._unseen(self._doubtful(self.since[XMIN]))
        name, last, end = sql.Identifier(self.column.name), self.since["value"], until["value"]
        if end is None:
            return None
        finite = _finite(self.column, self.session.info.server_version)
        upper = sql.SQL("{} AND {} <= {}").format(finite, name, _typed(self.column, end))
        if last is None:
            return self._rows(upper)
        fresh = sql.SQL("{} AND {} > {}").format(upper, name, _typed(self.column, last))
        window = sql.SQL("{0} >= {1} AND {0} <= {2}").format(
            name, _typed(self.column, self._lower(last)), _typed(self.column, last)
        )
        return sql.SQL("{} UNION ALL {}").format(self._rows(fresh), self._unseen(window))

    def _fetch(self, query: sql.Composed) -> list[tuple[Any, ...]]:
        return self.session.execute(query).fetchall()

    def _last(self) -> tuple[str | None, str | None]:
        """The greatest finite value there is or was, as text and as a number to compare by."""
        assert self.column is not None
        name = sql.Identifier(self.column.name)
        greatest = sql.SQL("(SELECT pg_catalog.max({}) FROM {} WHERE {} AND {})").format(
            name,
            self.selected.relation,
            _finite(self.column, self.session.info.server_version),
            self.selected.filter,
        )
        if (before := self.since.get("value")) is not None:
            greatest = sql.SQL("GREATEST({}, {})").format(greatest, _typed(self.column, before))
        if self.column.oid in types.TIMES:
            rank = sql.SQL("(extract(epoch FROM m) * 1000000)::pg_catalog.numeric::pg_catalog.text")
        elif self.column.oid in (25, 1043):
            rank = sql.SQL("NULL")
        else:
            rank = sql.SQL("m::pg_catalog.text")
        ((value, rank_text),) = self._fetch(
            sql.SQL("SELECT m::pg_catalog.text, {} FROM (SELECT {} AS m) AS g").format(rank, greatest)
        )
        return value, rank_text

    def _lower(self, value: str) -> str:
        """Where the window before `value` begins: never before what the position knows about."""
        assert self.column is not None
        look_back = self.selected.read.look_back
        if not look_back:
            return value
        values = [_back(self.column, value, look_back)]
        if (known := self.since.get("from")) is not None:
            values.append(_typed(self.column, known))
        ((found,),) = self._fetch(
            sql.SQL("SELECT GREATEST({})::pg_catalog.text").format(sql.SQL(", ").join(values))
        )
        return str(found)

    def _doubtful(self, oldest: int) -> sql.Composable:
        return sql.SQL("{} >= {}").format(age(self.snapshot), sql.Literal(oldest))

    def _seen(self, condition: sql.Composable) -> dict[str, Any]:
        """The rows that meet `condition`, as the position lists them."""
        ways = _ways(self.selected)
        table = {"table": self.selected.table.oid}
        narrow = self.column is not None and self.versioned
        found = self._list(ways, condition, _FEW if narrow else _MANY)
        if found is None and narrow:
            doubtful = sql.SQL("{} AND {}").format(condition, self._doubtful(self.snapshot.oldest))
            found = self._list(ways, doubtful, _MANY)
            table["before"] = self.snapshot.oldest
        if found is None:
            raise ConfigError(
                "postgres.cursor_window",
                f"{self.selected.table.id}: over {_MANY} rows lie where the next read begins, too many to "
                "tell them from new ones",
                field="look_back" if self.selected.read.look_back else "cursor",
                remedy="Choose a smaller look_back or a finer cursor, or end long transactions there.",
            )
        return {"seen": found, **table}

    def _list(
        self, ways: Sequence[Sequence[str]], condition: sql.Composable, most: int
    ) -> list[dict[str, Any]] | None:
        rows = self._fetch(
            sql.SQL("SELECT {} FROM {} WHERE {} AND {} LIMIT {}").format(
                sql.SQL(", ").join(map(_hashes, ways)),
                self.selected.relation,
                condition,
                self.selected.filter,
                sql.Literal(most + 1),
            )
        )
        if len(rows) > most:
            return None
        return [
            {"columns": list(way), "rows": sorted(map(list, Counter(row[i] for row in rows).items()))}
            for i, way in enumerate(ways)
        ]

    def _known(self) -> tuple[Sequence[str], list[list[int]]]:
        """By which columns, and as which hashes, the position lists the rows that were seen."""
        there = {XMIN, *(column.name for column in self.selected.table.columns)}
        for way in self.since["seen"]:
            if there.issuperset(way["columns"]):
                return way["columns"], way["rows"]
        if not self.since["seen"]:
            return (), []
        gone = sorted(set(self.since["seen"][0]["columns"]) - there)
        raise PositionLost(
            "postgres.seen_lost",
            f"{self.selected.table.id} lost the column {', '.join(gone)}, by which rows at the last value of "
            f"{self.selected.read.cursor} were known",
            remedy="Start over: `headrace rewind`. A table with a primary key does not need this.",
        )

    def _rows(self, condition: sql.Composable) -> sql.Composable:
        return sql.SQL("SELECT {} FROM {} WHERE {} AND {}").format(
            sql.SQL(", ").join(self.selected.outputs), self.selected.relation, condition, self.selected.filter
        )

    def _unseen(self, condition: sql.Composable) -> sql.Composable:
        """Rows that meet `condition`, without those that the position lists, each as often as listed."""
        columns, rows = self._known()
        before = self.since.get("before")
        if before is not None:
            self._check_transactions(before)
            condition = sql.SQL("{} AND {}").format(condition, self._doubtful(before))
        if not rows:
            return self._rows(condition)
        names = [sql.Identifier(f"_{number}") for number in range(len(self.selected.outputs))]
        aliased = [
            sql.SQL("{} AS {}").format(*pair) for pair in zip(self.selected.outputs, names, strict=True)
        ]
        return sql.SQL(
            "SELECT {names} FROM (SELECT *, pg_catalog.row_number() OVER (PARTITION BY _hash) AS _times FROM"
            " (SELECT {outputs}, {hash} AS _hash FROM {table} WHERE {condition} AND {filter}) AS _a) AS _b"
            " LEFT JOIN unnest({hashes}::pg_catalog.int8[], {counts}::pg_catalog.int8[])"
            " AS _seen (_known, _count) ON _known = _hash WHERE _times > coalesce(_count, 0)"
        ).format(
            names=sql.SQL(", ").join(names),
            outputs=sql.SQL(", ").join(aliased),
            hash=_hashes(columns),
            table=self.selected.relation,
            condition=condition,
            filter=self.selected.filter,
            hashes=sql.Literal([row[0] for row in rows]),
            counts=sql.Literal([row[1] for row in rows]),
        )

    def _check_transactions(self, before: int) -> None:
        """Transaction numbers say nothing about a table that was made anew, or restored elsewhere."""
        table, passed = self.selected.table, self.snapshot.next - before
        if self.since["table"] != table.oid or not 0 <= passed < 1 << 31:
            raise PositionLost(
                "postgres.xmin_lost",
                f"{table.id} was read up to transaction {before}, and that says nothing any more: table or "
                f"server is another, or too many transactions have passed ({passed})",
                remedy="Start over: `headrace rewind`. Run more often than every 2^31 transactions.",
            )
