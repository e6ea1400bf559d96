"""Moves staged rows into the table they are for, inside the transaction of a publish."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

import psycopg
from psycopg import sql

from headrace.connector import Staged, WriteMode
from headrace.connectors.postgres.layout import CHANGE, ORDER, UNCHANGED
from headrace.connectors.postgres.session import Session
from headrace.connectors.postgres.stage import PREFIX, drop
from headrace.connectors.postgres.table import Place, Table, identifiers
from headrace.errors import DataError, StageLost

_PART, _FRESH = "_headrace_part", "_headrace_fresh"


def merge(
    session: Session,
    place: Place,
    table: Table,
    mode: WriteMode,
    staged: Sequence[Staged],
    key: Sequence[str],
) -> None:
    """Apply what was staged, in the order given. Raises StageLost when staged rows are gone."""
    for stage in staged:
        _verify(session, place, stage)
    start = max((i for i, stage in enumerate(staged) if stage.truncates), default=-1)
    if mode is WriteMode.REPLACE or start >= 0:
        # not TRUNCATE, which is not MVCC-safe: a reader with an older snapshot would see an empty table
        session.execute(sql.SQL("DELETE FROM {}").format(place.name))
    stages = [stage for stage in staged[max(start, 0) :] if stage.detail]
    if mode is not WriteMode.UPSERT:
        for stage in stages:
            columns = identifiers(stage.detail["columns"])
            session.execute(
                sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
                    place.name, columns, columns, place.beside(stage.detail["table"])
                )
            )
    elif stages:
        Upsert(session, place, table, stages, key).run()


def _verify(session: Session, place: Place, stage: Staged) -> None:
    """A staging table is not logged: when the server recovers from a crash, it empties it altogether."""
    if not stage.detail:
        return
    look = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(place.beside(stage.detail["table"]))
    try:
        found = session.execute(look).fetchone()
    except psycopg.errors.UndefinedTable:
        found = None
    if found is None or not found[0]:
        raise StageLost(
            "postgres.stage_lost",
            f"the {stage.detail['rows']} rows staged for {place.schema}.{place.table} are gone",
            remedy="Nothing to do: they are read again. The server may have crashed in between.",
        )


class Upsert:
    """The last event of each key wins.

    A delete removes the key's rows. Another event becomes the key's one row; a cell that it left
    unchanged is taken from the key's event before it, or else from the table. Columns that no stage
    has keep what the table has.
    """

    def __init__(
        self, session: Session, place: Place, table: Table, stages: Sequence[Staged], key: Sequence[str]
    ):
        self._session = session
        self._place = place
        self._table = table
        self._stages = stages
        self._key = key
        self._columns = list(dict.fromkeys(c for s in stages for c in s.detail["columns"]))
        self._marks = sorted({c for s in stages for c in s.detail["unchanged"]})
        run = uuid.uuid4().hex[:24]
        self._names = {
            "target": place.name,
            "last": place.beside(f"{PREFIX}{run}_last"),
            "events": place.beside(f"{PREFIX}{run}_events"),
            "change": sql.Identifier(CHANGE),
            "unchanged": sql.Identifier(UNCHANGED),
            "fresh": sql.Identifier(_FRESH),
            "key": identifiers(key),
            "newest_first": sql.SQL("{}, {} DESC, {} DESC").format(
                identifiers(key), sql.Identifier(_PART), sql.Identifier(ORDER)
            ),
            "target_is_last": self._same_key("t", "l"),
            "event_is_last": self._same_key("e", "l"),
            "columns": identifiers(self._columns),
            "last_columns": identifiers(self._columns, "l"),
        }

    def run(self) -> None:
        indexed = frozenset(self._key) in self._table.unique
        if not indexed or self._marks:
            # nothing else keeps a concurrent writer from adding the key, or from changing a cell that
            # is about to be written back
            self._execute("LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE")
        self._fold()
        found = self._execute("SELECT count(*) FILTER (WHERE {change} = 2), count(*) FROM {last}").fetchone()
        deletes, keys = found or (0, 0)
        if deletes:
            self._execute("DELETE FROM {target} t USING {last} l WHERE {target_is_last} AND l.{change} = 2")
        if keys > deletes:
            if indexed:
                self._insert_or_update()
            else:
                self._update_then_insert()
        self._execute("DROP TABLE {last}")

    def _execute(self, query: str, **parts: sql.Composable) -> psycopg.Cursor[tuple[int, ...]]:
        return self._session.execute(sql.SQL(query).format(**self._names, **parts))

    def _same_key(self, one: str, other: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(one, k), sql.Identifier(other, k)) for k in self._key
        )

    def _fold(self) -> None:
        """Make the table `last`: the last event of each key, whole."""
        events = sql.SQL("({})").format(
            sql.SQL(" UNION ALL ").join(self._select(part, stage) for part, stage in enumerate(self._stages))
        )
        if self._marks:
            self._execute("CREATE UNLOGGED TABLE {events} AS {all_events}", all_events=events)
            events = sql.SQL("{}").format(self._names["events"])
        self._execute(
            "CREATE UNLOGGED TABLE {last} AS SELECT DISTINCT ON ({key}) *, false AS {fresh} FROM {from_} e "
            "ORDER BY {newest_first}",
            from_=events,
        )
        self._execute("ANALYZE {last}")
        if self._marks:
            for column in self._marks:
                self._take_from_events(column)
            self._take_from_table()
            self._execute("DROP TABLE {events}")

    def _select(self, part: int, stage: Staged) -> sql.Composed:
        cells = [
            sql.Identifier(name)
            if name in stage.detail["columns"]
            else sql.SQL("NULL::{} AS {}").format(
                sql.SQL(self._table.columns[name].sql), sql.Identifier(name)
            )
            for name in self._columns
        ]
        return sql.SQL("SELECT {}, {}, {}, {} AS {} FROM {}").format(
            sql.SQL(", ").join(cells),
            sql.Identifier(CHANGE),
            sql.Identifier(ORDER),
            sql.SQL("{}, {}").format(sql.Identifier(UNCHANGED), sql.Literal(part)),
            sql.Identifier(_PART),
            self._place.beside(stage.detail["table"]),
        )

    def _take_from_events(self, column: str) -> None:
        """Fill an unchanged cell from the newest event of the key that has it, back to its last delete."""
        self._execute(
            """
            UPDATE {last} l SET {column} = e.{column}, {fresh} = l.{fresh} OR e.{change} = 2,
                {unchanged} = CASE WHEN e.{change} = 2 THEN l.{unchanged}
                                   ELSE pg_catalog.array_remove(l.{unchanged}, {label}) END
            FROM (SELECT DISTINCT ON ({key}) * FROM {events}
                  WHERE {change} = 2 OR {unchanged} IS NULL OR {label} <> ALL ({unchanged})
                  ORDER BY {newest_first}) e
            WHERE {event_is_last} AND {label} = ANY (l.{unchanged}) AND l.{change} <> 2
            """,
            column=sql.Identifier(column),
            label=sql.SQL("{}::text").format(sql.Literal(column)),
        )

    def _take_from_table(self) -> None:
        cells = sql.SQL(", ").join(
            sql.SQL("{c} = CASE WHEN {label} = ANY (l.{unchanged}) THEN t.{c} ELSE l.{c} END").format(
                c=sql.Identifier(column),
                label=sql.SQL("{}::text").format(sql.Literal(column)),
                unchanged=self._names["unchanged"],
            )
            for column in self._marks
        )
        self._execute(
            "UPDATE {last} l SET {cells}, {unchanged} = NULL FROM {target} t "
            "WHERE {target_is_last} AND pg_catalog.cardinality(l.{unchanged}) > 0 "
            "AND l.{change} <> 2 AND NOT l.{fresh}",
            cells=cells,
        )
        found = self._execute(
            "SELECT count(*) FROM {last} WHERE {change} <> 2 AND pg_catalog.cardinality({unchanged}) > 0"
        ).fetchone()
        if found and found[0]:
            raise DataError(
                "postgres.unchanged_missing",
                f"{found[0]} updates for {self._place.schema}.{self._place.table} leave out cells that did "
                f"not change ({', '.join(self._marks)}), and the table has no such rows to take them from",
                remedy="Load the stream anew, or let the source send whole rows (REPLICA IDENTITY FULL).",
            )

    def _insert_or_update(self) -> None:
        action = (
            sql.SQL("UPDATE SET {}").format(self._assignments("excluded"))
            if self._rest
            else sql.SQL("NOTHING")
        )
        self._execute(
            "INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {last} "
            "WHERE {change} <> 2 ON CONFLICT ({key}) DO {action}",
            action=action,
        )

    def _update_then_insert(self) -> None:
        """Without a unique index: one row of each key stays, is brought up to date, and missing ones come."""
        self._execute(
            """
            DELETE FROM {target} t USING (
                SELECT t.tableoid AS part, t.ctid AS spot,
                       row_number() OVER (PARTITION BY {key_of_target} ORDER BY t.tableoid, t.ctid) AS number
                FROM {target} t WHERE EXISTS (SELECT FROM {last} l WHERE {target_is_last})) twin
            WHERE t.tableoid = twin.part AND t.ctid = twin.spot AND twin.number > 1
            """,
            key_of_target=identifiers(self._key, "t"),
        )
        if self._rest:
            self._execute(
                "UPDATE {target} t SET {cells} FROM {last} l WHERE {target_is_last} AND l.{change} <> 2",
                cells=self._assignments("l"),
            )
        self._execute(
            "INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {last_columns} FROM {last} l "
            "WHERE l.{change} <> 2 AND NOT EXISTS (SELECT FROM {target} t WHERE {target_is_last})"
        )

    @property
    def _rest(self) -> list[str]:
        return [name for name in self._columns if name not in self._key]

    def _assignments(self, source: str) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Identifier(source, name))
            for name in self._rest
        )


def discard(session: Session, place: Place, staged: Iterable[Staged]) -> None:
    drop(session, place, [stage.detail["table"] for stage in staged if stage.detail])
