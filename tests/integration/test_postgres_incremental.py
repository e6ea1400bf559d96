"""Incremental reads from PostgreSQL: each row once, whatever the source does between and during runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from headrace.connector import Batch, Checkpoint, Position, ReadMode, Selection, StreamRead
from headrace.connectors.postgres import incremental
from headrace.connectors.postgres.config import PostgresConfig
from headrace.connectors.postgres.source import PostgresSource
from headrace.errors import ConfigError, PositionLost

Db = psycopg.Connection[Any]


@pytest.fixture
def db(postgres_url: str) -> Iterator[Db]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


class Follower:
    """Runs a stream again and again, keeping its position as JSON, as a target would."""

    def __init__(self, url: str, cursor: str = "at", name: str = "public.t", **read: Any):
        self.config = PostgresConfig.parse(PostgresConfig.from_url(url))
        self.name, self.settings = name, {"cursor": cursor, "mode": ReadMode.INCREMENTAL, **read}
        self.position: Position = {}
        self.columns: list[str] = []

    def plan(self, source: PostgresSource) -> StreamRead:
        (stream,) = source.discover(Selection(include=(self.name,)))
        return StreamRead(stream=stream, **self.settings)

    def run(self) -> list[Any]:
        """The values of the first column of what one run brings."""
        source = PostgresSource(self.config)
        try:
            read = self.plan(source)
            rows: list[Any] = []
            end: Position | None = None
            for piece in source.slices([read], {self.name: self.position} if self.position else {}):
                assert (piece.until is None) == bool(self.position)
                end = piece.until
                for event in source.read(piece, self.position):
                    if isinstance(event, Checkpoint):
                        end = event.position
                    else:
                        assert isinstance(event, Batch)
                        rows += event.rows.column(0).to_pylist()
            assert end is not None
            if self.position:
                assert source.order(end) >= source.order(self.position)
            self.position = json.loads(json.dumps(end))
            return sorted(rows, key=str)
        finally:
            source.close()


@pytest.fixture
def follow(postgres_url: str) -> Any:
    return lambda **settings: Follower(postgres_url, **settings)


def events(db: Db, type: str = "timestamptz") -> None:
    db.execute(f"CREATE TABLE t (id int, at {type}, note text)")


def test_the_first_run_brings_everything_and_later_ones_what_is_new(db: Db, follow: Any) -> None:
    events(db)
    stream = follow()
    db.execute("INSERT INTO t VALUES (1, '2024-01-01', 'a'), (2, '2024-01-02', 'b'), (3, NULL, 'c')")
    assert stream.run() == [1, 2, 3]
    assert stream.run() == []
    db.execute("INSERT INTO t VALUES (4, '2024-01-03', 'd')")
    db.execute("UPDATE t SET at = '2024-01-04' WHERE id = 1")
    assert stream.run() == [1, 4]
    quiet = stream.position
    assert stream.run() == [] and stream.position == quiet


def test_rows_with_the_value_at_the_edge_come_once_however_many_come_later(db: Db, follow: Any) -> None:
    events(db)
    stream = follow()
    db.execute("INSERT INTO t VALUES (1, '2024-01-01', 'same'), (1, '2024-01-01', 'same')")
    assert stream.run() == [1, 1]
    db.execute(
        "INSERT INTO t VALUES (1, '2024-01-01', 'same'), (2, '2024-01-01', 'new'), (3, '2024-01-02', '')"
    )
    assert stream.run() == [1, 2, 3]
    db.execute("INSERT INTO t VALUES (4, '2024-01-02', ''), (5, '2024-01-01', 'late')")
    assert stream.run() == [4]  # 5 is what a look-back window is for


def test_a_row_changed_without_a_new_cursor_value_comes_again_at_the_edge(db: Db, follow: Any) -> None:
    events(db, "date")
    stream = follow()
    db.execute("INSERT INTO t VALUES (1, '2024-01-01', 'before'), (2, '2024-01-01', 'x')")
    stream.run()
    db.execute("UPDATE t SET note = 'after' WHERE id = 1")
    assert stream.run() == [1]
    assert stream.run() == []


def test_a_long_transaction_that_commits_an_older_value_late_is_caught_by_the_look_back(
    db: Db, follow: Any, postgres_url: str
) -> None:
    events(db)
    plain, wide = follow(), follow(look_back=timedelta(hours=1))
    with psycopg.connect(postgres_url) as late:
        late.execute("INSERT INTO t VALUES (1, '2024-01-01 11:30', 'late')")
        db.execute("INSERT INTO t VALUES (2, '2024-01-01 12:00', ''), (3, '2024-01-01 11:45', '')")
        assert plain.run() == [2, 3] and wide.run() == [2, 3]
        late.commit()
    db.execute("INSERT INTO t VALUES (4, '2024-01-01 10:00', 'later than the window')")
    assert plain.run() == [] and wide.run() == [1]
    assert wide.run() == []


def test_a_window_that_is_widened_later_repeats_nothing(db: Db, follow: Any) -> None:
    events(db)
    stream = follow()
    db.execute("INSERT INTO t SELECT n, '2024-01-01'::date + n, '' FROM generate_series(1, 30) n")
    assert len(stream.run()) == 30
    stream.settings["look_back"] = timedelta(days=10)
    assert stream.run() == []
    db.execute("INSERT INTO t VALUES (31, '2024-01-31', ''), (32, '2024-02-09', '')")
    assert stream.run() == [31, 32]
    db.execute("INSERT INTO t VALUES (33, '2024-02-01', 'late')")
    assert stream.run() == [33]
    stream.settings["look_back"] = None
    assert stream.run() == []


def test_the_greatest_value_and_the_rows_are_read_in_one_snapshot(db: Db, follow: Any) -> None:
    """Rows that arrive while a run reads are neither lost nor repeated."""
    events(db, "timestamp")
    stream = follow()
    seen: Counter[int] = Counter()
    for turn in range(6):
        source = PostgresSource(stream.config)
        read = stream.plan(source)
        db.execute(
            "INSERT INTO t SELECT %s * 10 + n, clock_timestamp(), '' FROM generate_series(1, 5) n", (turn,)
        )
        for piece in source.slices([read], {"public.t": stream.position} if stream.position else {}):
            generator = source.read(piece, stream.position)
            db.execute("INSERT INTO t VALUES (%s, clock_timestamp(), '')", (1000 + turn,))
            position = piece.until
            for event in generator:
                if isinstance(event, Batch):
                    seen.update(event.rows.column(0).to_pylist())
                    db.execute("INSERT INTO t VALUES (%s, clock_timestamp(), '')", (2000 + turn,))
                else:
                    position = event.position  # type: ignore[union-attr]
            stream.position = position
        source.close()
    seen.update(stream.run())
    (expected,) = db.execute("SELECT array_agg(id) FROM t").fetchone() or ([],)
    assert seen == Counter(expected)


def test_many_rows_at_one_value_are_known_by_their_transaction(
    db: Db, follow: Any, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setattr(incremental, "_FEW", 100)
    events(db)
    db.execute("INSERT INTO t SELECT n, '2024-01-01', '' FROM generate_series(1, 500) n")
    stream = follow()
    with psycopg.connect(postgres_url) as late:
        late.execute("SAVEPOINT s")
        late.execute("INSERT INTO t VALUES (1001, '2024-01-01', 'late')")
        late.execute("RELEASE s")
        db.execute("INSERT INTO t VALUES (1002, '2024-01-01', 'in doubt')")
        assert len(stream.run()) == 501
        assert sum(n for _, n in stream.position["seen"][0]["rows"]) == 1
        late.commit()
    db.execute("INSERT INTO t VALUES (1003, '2024-01-01', 'new')")
    assert stream.run() == [1001, 1003]
    db.execute("VACUUM FREEZE t")
    assert stream.run() == []
    db.execute("CREATE TABLE u AS SELECT * FROM t; DROP TABLE t; ALTER TABLE u RENAME TO t")
    with pytest.raises(PositionLost) as caught:
        stream.run()
    assert caught.value.code == "postgres.xmin_lost"


def test_too_many_rows_in_doubt_are_an_error_with_a_remedy(
    db: Db, follow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incremental, "_MANY", 50)
    events(db)
    db.execute("INSERT INTO t SELECT n, '2024-01-01', '' FROM generate_series(1, 51) n")
    db.execute("CREATE VIEW v AS SELECT * FROM t")
    with pytest.raises(ConfigError) as caught:
        follow(name="public.v").run()
    assert caught.value.code == "postgres.cursor_window" and "look_back" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("type", "values"),
    [
        ("smallint", ["-5", "7", "8"]),
        ("bigint", ["1", "9007199254740993", "9007199254740994"]),
        ("numeric", ["-1.5", "10.05", "10.0500001"]),
        ("numeric(10,2)", ["9.99", "10.00", "10.01"]),
        ("double precision", ["-1e300", "0.1", "0.30000000000000004"]),
        ("real", ["0.1", "0.2", "16777217"]),
        ("date", ["0044-03-15 BC", "2024-01-01", "12024-01-01"]),
        ("timestamp", ["0044-03-15 BC", "2024-01-01 00:00:00.000001", "12024-01-01"]),
        ("timestamptz", ["1899-12-31 23:59:59.999999+00", "2024-01-01+05", "2024-01-01+00"]),
        ("text", ["01HV", "01HW'--", "01HX"]),
        ("varchar(10)", ["a", "b\\", "c"]),
    ],
)
def test_every_type_that_orders_serves_as_a_cursor(db: Db, follow: Any, type: str, values: list[str]) -> None:
    events(db, type)
    stream = follow()
    db.execute("INSERT INTO t VALUES (0, NULL, '')")
    for number, value in enumerate(values, 1):
        db.execute("INSERT INTO t VALUES (%s, %s, '')", (number, value))
        assert stream.run() == ([0, 1] if number == 1 else [number])
        assert stream.run() == []


@pytest.mark.parametrize("type", ["double precision", "real", "numeric"])
def test_nan_and_infinity_do_not_end_later_reads(db: Db, follow: Any, type: str) -> None:
    events(db, type)
    stream = follow()
    db.execute("INSERT INTO t VALUES (1, 'NaN', ''), (2, 'infinity', ''), (3, '-infinity', ''), (4, 1, '')")
    assert stream.run() == [1, 2, 3, 4]
    db.execute("INSERT INTO t VALUES (5, 2, '')")
    assert stream.run() == [5] and stream.run() == []


@pytest.mark.parametrize("type", ["date", "timestamp", "timestamptz"])
def test_an_infinite_time_does_not_end_later_reads(db: Db, follow: Any, type: str) -> None:
    events(db, type)
    stream = follow(look_back=timedelta(days=1))
    db.execute("INSERT INTO t VALUES (1, 'infinity', ''), (2, '-infinity', ''), (3, '2024-01-01', '')")
    assert stream.run() == [1, 2, 3]
    db.execute("INSERT INTO t VALUES (4, '2024-01-01', ''), (5, '2024-01-02', '')")
    assert stream.run() == [4, 5] and stream.run() == []


def test_an_empty_table_and_one_without_values_start_from_nothing(db: Db, follow: Any) -> None:
    events(db)
    stream = follow()
    assert stream.run() == [] and stream.run() == []
    db.execute("INSERT INTO t VALUES (1, NULL, '')")
    assert stream.run() == []  # a row without a value is read by a first run only
    db.execute("INSERT INTO t VALUES (2, '2024-01-01', '')")
    assert stream.run() == [2] and stream.run() == []


def test_a_position_never_goes_back_when_the_newest_rows_are_deleted(db: Db, follow: Any) -> None:
    events(db)
    stream = follow()
    db.execute("INSERT INTO t VALUES (1, '2024-01-01', ''), (2, '2024-01-02', '')")
    stream.run()
    db.execute("DELETE FROM t WHERE id = 2")
    assert stream.run() == []
    db.execute("INSERT INTO t VALUES (3, '2024-01-02', '')")
    assert stream.run() == [3]
    db.execute("TRUNCATE t")
    assert stream.run() == []


def test_columns_that_come_and_go_repeat_nothing(db: Db, follow: Any) -> None:
    db.execute("CREATE TABLE t (id int PRIMARY KEY, at timestamptz, note text, extra int)")
    stream = follow()
    db.execute("INSERT INTO t VALUES (1, '2024-01-01', 'a', 1), (2, '2024-01-01', 'b', 2)")
    assert stream.run() == [1, 2]
    db.execute("ALTER TABLE t ADD more text DEFAULT 'm'")
    assert stream.run() == []
    db.execute("ALTER TABLE t DROP extra; INSERT INTO t VALUES (3, '2024-01-01', 'c')")
    assert stream.run() == [3]
    assert stream.run() == []


def test_a_dropped_column_of_a_table_without_a_key_is_a_named_stop(db: Db, follow: Any) -> None:
    events(db)
    stream = follow()
    db.execute("INSERT INTO t VALUES (1, '2024-01-01', 'a')")
    stream.run()
    db.execute("ALTER TABLE t DROP note")
    with pytest.raises(PositionLost) as caught:
        stream.run()
    assert caught.value.code == "postgres.seen_lost" and "note" in caught.value.message


def test_filters_views_and_partitions_are_followed(db: Db, follow: Any) -> None:
    db.execute("""
        CREATE TABLE t (id int, at timestamptz NOT NULL, note text) PARTITION BY RANGE (at);
        CREATE TABLE t1 PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
        CREATE TABLE t2 PARTITION OF t DEFAULT;
        CREATE VIEW v AS SELECT * FROM t
    """)
    streams = [follow(), follow(name="public.v"), follow(filter="id % 2 = 0"), follow(cursor="xmin")]
    db.execute("INSERT INTO t VALUES (1, '2024-01-01', 'a'), (2, '2024-03-01', 'b')")
    assert [s.run() for s in streams] == [[1, 2], [1, 2], [2], [1, 2]]
    db.execute("INSERT INTO t VALUES (3, '2024-03-01', 'a'), (4, '2024-03-01', 'b')")
    assert [s.run() for s in streams] == [[3, 4], [3, 4], [4], [3, 4]]
    assert [s.run() for s in streams] == [[], [], [], []]


# xmin


def test_xmin_brings_inserts_and_updates_once_whatever_their_values(db: Db, follow: Any) -> None:
    events(db)
    stream = follow(cursor="xmin")
    db.execute("INSERT INTO t VALUES (1, NULL, 'a'), (2, '2024-01-01', 'b')")
    assert stream.run() == [1, 2]
    db.execute("UPDATE t SET note = 'c' WHERE id = 1; INSERT INTO t VALUES (3, '2000-01-01', 'd')")
    assert stream.run() == [1, 3]
    db.execute("DELETE FROM t WHERE id = 2")
    assert stream.run() == []
    db.execute("VACUUM FREEZE t")
    assert stream.run() == []


def test_xmin_sees_what_a_long_transaction_commits_late_and_repeats_nothing(
    db: Db, follow: Any, postgres_url: str
) -> None:
    events(db)
    stream = follow(cursor="xmin")
    with psycopg.connect(postgres_url) as late:
        late.execute("SAVEPOINT a")
        late.execute("INSERT INTO t VALUES (1, NULL, 'late')")
        late.execute("RELEASE a")
        db.execute("INSERT INTO t VALUES (2, NULL, 'during')")
        assert stream.run() == [2]
        db.execute("INSERT INTO t VALUES (3, NULL, 'during')")
        assert stream.run() == [3]
        late.commit()
    assert stream.run() == [1]
    assert stream.run() == []


def test_xmin_stops_when_its_transactions_say_nothing_any_more(db: Db, follow: Any) -> None:
    events(db)
    stream = follow(cursor="xmin")
    stream.run()
    good = dict(stream.position)
    for xmin in (good["xmin"] + 1000, good["xmin"] - (1 << 31) - 1000):
        stream.position = {**good, "xmin": xmin}
        with pytest.raises(PositionLost) as caught:
            stream.run()
        assert caught.value.code == "postgres.xmin_lost"


# What can't be followed


def test_a_cursor_that_can_not_be_one_is_refused_with_those_that_can(db: Db, follow: Any) -> None:
    events(db)
    db.execute("ALTER TABLE t ADD doc jsonb; CREATE VIEW v AS SELECT id, doc FROM t")
    for settings, field, word in (
        ({"cursor": "doc"}, "cursor", "id, at, note, xmin"),
        ({"cursor": "nothing"}, "cursor", "at"),
        ({"cursor": None}, "cursor", "at"),
        ({"cursor": "xmin", "name": "public.v"}, "cursor", "id"),
        ({"cursor": "id", "look_back": timedelta(1)}, "look_back", "timestamptz"),
        ({"cursor": "xmin", "look_back": timedelta(1)}, "look_back", "timestamptz"),
        ({"filter": "nothing > 1"}, "filter", "nothing > 1"),
    ):
        with pytest.raises(ConfigError) as caught:
            follow(**settings).run()
        assert caught.value.field == field and word in (caught.value.remedy or ""), settings


def test_another_cursor_than_before_is_a_named_stop(db: Db, follow: Any) -> None:
    events(db)
    for before, after in (("at", "id"), ("xmin", "at"), ("at", "xmin")):
        stream = follow(cursor=before)
        stream.run()
        stream.settings["cursor"] = after
        with pytest.raises(PositionLost) as caught:
            stream.run()
        assert caught.value.code == "postgres.cursor_changed"


def test_a_run_that_looks_for_the_newest_value_shows_where_it_stands_and_can_be_left(
    db: Db, follow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.connectors.postgres.source.QUIET", 0.1)
    events(db)
    stream = follow(filter="pg_advisory_xact_lock_shared(7) IS NOT NULL")
    db.execute("INSERT INTO t VALUES (1, '2024-01-01', '')")
    stream.run()
    db.execute("INSERT INTO t VALUES (2, '2024-01-02', '')")
    source = PostgresSource(stream.config)
    (piece,) = source.slices([stream.plan(source)], {"public.t": stream.position})
    db.execute("SELECT pg_advisory_lock(7)")
    reading = source.read(piece, stream.position)
    found = [next(reading)]
    db.execute("SELECT pg_advisory_unlock(7)")
    found += reading
    assert found[0] == Checkpoint(stream.position) and isinstance(found[-1], Checkpoint)
    assert [e.rows.column(0).to_pylist() for e in found if isinstance(e, Batch) and e.read] == [[2]]
    db.execute("INSERT INTO t SELECT n, '2024-01-03', '' FROM generate_series(3, 100) n")
    db.execute("SELECT pg_advisory_lock(7)")
    left = source.read(piece, stream.position)
    next(left)
    left.close()  # type: ignore[attr-defined]
    source.check()
    db.execute("SELECT pg_advisory_unlock(7)")
    source.close()
