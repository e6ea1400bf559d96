"""Loads from PostgreSQL: page ranges under one snapshot, what a later attempt may keep."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from headrace.connector import Batch, Slice
from headrace.connectors.postgres import load, wire
from headrace.connectors.postgres.source import PostgresSource
from headrace.errors import ConfigError, NotFoundError, TransientError
from servers.tcp_proxy import TcpProxy
from tests.integration.postgres_source import Db, Make, drain, everything, fill, one, rows, sources
from tests.waiting import HANGS, held_up, until


@pytest.fixture
def db(postgres_url: str) -> Iterator[Db]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def make(postgres_url: str) -> Iterator[Make]:
    with sources(postgres_url) as make:
        yield make


@pytest.fixture
def source(make: Make) -> PostgresSource:
    return make()


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of four pages in place of a thousand."""
    monkeypatch.setattr(load, "_LEAST", 4)
    monkeypatch.setattr(load, "_AMPLE", 4)


def test_a_table_is_cut_into_ranges_that_cover_it_once_while_others_write(
    db: Db, source: PostgresSource, small_slices: None
) -> None:
    fill(db)
    expected = dict.fromkeys(range(1, 4001), "x" * 100)
    slices = source.slices([one(source)], {})
    assert len(slices) > 10 and len({s.key for s in slices}) == len(slices)
    db.execute("UPDATE t SET note = 'changed' WHERE id % 2 = 0; DELETE FROM t WHERE id % 3 = 0")
    db.execute("INSERT INTO t SELECT n, 'new' FROM generate_series(10001, 12000) n")
    db.execute("VACUUM t")
    found = rows(source, slices)
    assert len(found) == len(expected) and {r["id"]: r["note"] for r in found} == expected


def test_slices_travel_as_json_and_are_read_by_another_source(db: Db, make: Make, small_slices: None) -> None:
    fill(db, 500)
    first, second = make(), make()
    slices = [Slice.from_json(s.to_json()) for s in first.slices([one(first)], {})]
    db.execute("DELETE FROM t")
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda s=s: found.extend(r["id"] for r in drain(second.read(s, {}))))
        for s in slices
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 501))


def test_keys_of_ranges_are_stable_while_a_table_grows(db: Db, make: Make, small_slices: None) -> None:
    fill(db, 1000)
    first, second = make(), make()
    before = [s.key for s in first.slices([one(first)], {})]
    db.execute("INSERT INTO t SELECT n, repeat('y', 100) FROM generate_series(5000, 5300) n")
    after = [s.key for s in second.slices([one(second)], {})]
    assert set(before[:-1]) <= set(after) and len(after) > len(before)


def test_partitions_and_inheritance_children_are_read_once(
    db: Db, source: PostgresSource, small_slices: None
) -> None:
    db.execute("""
        CREATE TABLE t (a int, b int) PARTITION BY RANGE (a);
        CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (1000) PARTITION BY RANGE (b);
        CREATE TABLE t1a PARTITION OF t1 DEFAULT;
        CREATE TABLE t2 (b int, a int NOT NULL); ALTER TABLE t ATTACH PARTITION t2 DEFAULT;
        INSERT INTO t SELECT n, -n FROM generate_series(1, 4000) n;
        CREATE TABLE parent (a int); CREATE TABLE child (c int) INHERITS (parent);
        INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3);
        CREATE TABLE nothing (a int) PARTITION BY RANGE (a)
    """)
    found = everything(source)
    assert Counter((r["a"], r["b"]) for r in found) == Counter((n, -n) for n in range(1, 4001))
    assert sorted(r["a"] for r in everything(source, "public.parent")) == [1, 2]
    assert everything(source, "public.child") == [{"a": 2, "c": 3}]
    assert everything(source, "public.nothing") == []


def test_columns_and_filters_are_applied_by_the_server(db: Db, source: PostgresSource) -> None:
    db.execute("CREATE TABLE t (a int, b text, c int)")
    db.execute("INSERT INTO t VALUES (1, 'x;--', 5), (2, 'it''s', 6), (3, NULL, 7)")
    read = one(source, filter="a > 1 AND (b IS NULL OR b = 'it''s')")
    assert [r["a"] for r in rows(source, source.slices([read], {}))] == [2, 3]
    assert [r["a"] for r in everything(source, filter="b = 'x;--' OR b = $q$x;--$q$")] == [1]


@pytest.mark.parametrize(
    "filter",
    [
        "1=1; DROP TABLE t", "1=1) OR (1=1", "a = 1 -- x", "a /* x */ = 1", "a = 'x", 'a = "x', "(a = 1",
        "a = 1)", "  ", "a = $q$x", "a = E'\\'", "a[1)", "nothing = 1", "a = 'x'", "a",
        "lower(a, a)", "a / 0 = 1",
        "pg_catalog.lo_create(0) > 0",
    ],
)  # fmt: skip
def test_a_filter_that_is_not_one_read_only_condition_is_refused(
    db: Db, source: PostgresSource, filter: str
) -> None:
    db.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
    with pytest.raises(ConfigError) as caught:
        everything(source, filter=filter)
    assert (caught.value.code, caught.value.field) == ("postgres.filter", "filter")
    assert db.execute("SELECT * FROM t").fetchall() == [(1,)]


def test_a_column_and_a_table_that_went_away_are_named(db: Db, source: PostgresSource) -> None:
    db.execute("CREATE TABLE orders (id int, total int); CREATE TABLE t (a int)")
    reads = [one(source, "public.orders"), one(source, "public.t")]
    db.execute("ALTER TABLE orders RENAME total TO totals")
    with pytest.raises(NotFoundError) as column:
        source.slices(reads[:1], {})
    assert column.value.code == "postgres.column_missing" and "'totals'" in (column.value.remedy or "")
    db.execute("ALTER TABLE orders RENAME TO order_s")
    with pytest.raises(NotFoundError) as table:
        source.slices(reads[:1], {})
    assert table.value.code == "postgres.table_missing" and "public.order_s" in (table.value.remedy or "")
    gone, fine = sorted(source.slices(reads, {}), key=lambda s: s.key)
    assert drain(source.read(fine, {})) == []
    with pytest.raises(NotFoundError, match=r"public\.orders"):
        drain(source.read(gone, {}))


@pytest.mark.parametrize(
    "change", ["TRUNCATE t", "ALTER TABLE t ALTER note TYPE varchar(200) USING note || 'x'", "VACUUM FULL t"]
)
def test_a_table_rewritten_after_the_plan_is_never_read_as_empty(
    db: Db, source: PostgresSource, change: str
) -> None:
    fill(db, 10)
    (piece,) = source.slices([one(source)], {})
    db.execute(change)  # type: ignore[call-overload]
    with pytest.raises(TransientError) as caught:
        drain(source.read(piece, {}))
    assert caught.value.code == "postgres.rewritten"


def test_a_snapshot_dies_with_the_source_that_holds_it(db: Db, make: Make) -> None:
    fill(db, 10)
    first, second = make(), make()
    (piece,) = first.slices([one(first)], {})
    first.close()
    with pytest.raises(TransientError) as caught:
        drain(second.read(piece, {}))
    assert caught.value.code == "postgres.snapshot_gone"


def test_a_connection_cut_in_mid_read_is_an_error_and_the_read_starts_over(
    db: Db, make: Make, postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_LEAST", 1 << 20)  # one slice of many blocks
    db.execute("CREATE TABLE t AS SELECT n AS id, repeat('x', 1000) AS v FROM generate_series(1, 50000) n")
    with TcpProxy("127.0.0.1", postgres_server.port) as proxy:
        source = make(port=proxy.port)
        slices = source.slices([one(source)], {})
        proxy.bandwidth = 20e6
        events = source.read(slices[-1], {})
        next(events)
        proxy.cut()
        with pytest.raises(TransientError) as caught:
            drain(events)
        assert caught.value.code == "postgres.connection_lost"
        proxy.bandwidth = None
        with pytest.raises(TransientError) as gone:  # the session that held the snapshot was cut as well
            rows(source, slices)
        assert gone.value.code == "postgres.snapshot_gone"
        assert len(rows(source, source.slices([one(source)], {}))) == 50_000


def test_a_connection_that_breaks_after_the_last_row_loses_nothing(
    db: Db, make: Make, postgres_server: Any
) -> None:
    fill(db, 10)
    with TcpProxy("127.0.0.1", postgres_server.port) as proxy:
        source = make(port=proxy.port)
        (piece,) = source.slices([one(source)], {})
        events = source.read(piece, {})
        found = drain(iter([next(events)]))
        proxy.cut()
        assert len(found + drain(events)) == 10
        source.check()


def attempt(make: Make, **read: Any) -> tuple[PostgresSource, list[tuple[Slice, int]]]:
    source = make()
    slices = source.slices([one(source, **read)], {})
    return source, [(s, len(drain(source.read(s, {})))) for s in slices]


def kept(make: Make, done: list[tuple[Slice, int]], **read: Any) -> list[bool]:
    source = make()
    source.slices([one(source, **read)], {})
    return [source.holds(Slice.from_json(s.to_json()), n) for s, n in done]


def test_ranges_of_a_quiet_table_hold(db: Db, make: Make, small_slices: None) -> None:
    fill(db)
    _, done = attempt(make)
    assert len(done) > 10 and all(kept(make, done))
    db.execute("VACUUM FREEZE t")
    assert all(kept(make, done))
    piece, count = done[0]
    assert kept(make, [(piece, count + 1), (piece, count - 1)]) == [False, False]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET note = 'y' WHERE id = 1",
        "DELETE FROM t WHERE id = 1",
        "DELETE FROM t WHERE id = 1; VACUUM t; INSERT INTO t VALUES (0, 'z')",
        "UPDATE t SET note = note WHERE id = 1",
    ],
)
def test_a_range_that_was_written_to_does_not_hold_and_the_others_do(
    db: Db, make: Make, small_slices: None, change: str
) -> None:
    fill(db)
    _, done = attempt(make)
    for statement in change.split(";"):
        db.execute(statement)  # type: ignore[call-overload]
    found = kept(make, done)
    assert found[0] is False and all(found[1:-1])


@pytest.mark.parametrize(
    "change",
    [
        "VACUUM FULL t",
        "TRUNCATE t",
        "ALTER TABLE t DROP note; ALTER TABLE t ADD note text DEFAULT 'other'",
        "ALTER TABLE t ALTER id TYPE bigint",
        "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, note text)",
    ],
)
def test_no_range_of_a_table_that_was_made_anew_holds(
    db: Db, make: Make, small_slices: None, change: str
) -> None:
    fill(db, 500)
    _, done = attempt(make)
    db.execute(change)  # type: ignore[call-overload]
    assert not any(kept(make, done))


def test_rows_of_a_transaction_that_was_open_at_the_old_snapshot_make_a_range_new(
    db: Db, make: Make, postgres_url: str
) -> None:
    fill(db, 10)
    with psycopg.connect(postgres_url) as late:
        late.execute("SAVEPOINT s")
        late.execute("INSERT INTO t VALUES (11, 'late')")
        _, done = attempt(make)
        assert [count for _, count in done] == [10]
        late.execute("RELEASE s")
        late.commit()
    db.execute("DELETE FROM t WHERE id = 1")  # as many rows as before
    assert kept(make, done) == [False]


def test_a_filter_that_looks_at_the_clock_never_holds(db: Db, make: Make) -> None:
    fill(db, 10)
    for filter, holds in (
        ("id < 5", True),
        ("id IN (1, 2) AND note LIKE 'x%'", True),
        ("now() > '2000-01-01'", False),
        ("current_date > '2000-01-01'", False),
        ("'now'::timestamptz > '2000-01-01'", False),
        ("length(note) > 0", False),
    ):
        _, done = attempt(make, filter=filter)
        assert kept(make, done, filter=filter) == [holds], filter


def test_rejected_rows_count_among_those_that_a_range_holds(db: Db, make: Make) -> None:
    db.execute("CREATE TABLE t (v numeric(5,2)); INSERT INTO t VALUES (1), ('NaN')")
    source = make()
    (piece,) = source.slices([one(source)], {})
    (batch,) = source.read(piece, {})
    assert isinstance(batch, Batch) and batch.read == 2 and batch.rows.num_rows == 1
    assert kept(make, [(piece, 2), (piece, 1)]) == [True, False]


def test_interrupt_ends_a_read_that_waits_for_a_lock(
    db: Db, source: PostgresSource, postgres_url: str
) -> None:
    fill(db, 10)
    (piece,) = source.slices([one(source)], {})
    with psycopg.connect(postgres_url) as owner:
        owner.execute("ALTER TABLE t RENAME note TO remark")
        assert_interrupted(source, piece, db)


def test_interrupt_ends_a_query_that_computes(db: Db, source: PostgresSource) -> None:
    fill(db, 10)
    (piece,) = source.slices([one(source, filter="pg_sleep(60) IS NOT NULL")], {})
    assert_interrupted(source, piece, db)


def assert_interrupted(source: PostgresSource, piece: Slice, db: Db) -> None:
    errors: list[TransientError] = []

    def work() -> None:
        try:
            drain(source.read(piece, {}))
        except TransientError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: held_up(db), "a read that waits")
    source.interrupt()
    thread.join(HANGS)
    (error,) = errors
    assert error.code in ("postgres.cancelled", "postgres.connection_lost")  # busy, had it waited to the end


def test_a_read_that_is_left_early_lets_go_of_its_session(db: Db, make: Make, postgres_server: Any) -> None:
    db.execute("CREATE TABLE t AS SELECT n, repeat('x', 500) AS v FROM generate_series(1, 200000) n")
    with TcpProxy("127.0.0.1", postgres_server.port) as proxy:
        source = make(port=proxy.port)
        (piece, *_) = source.slices([one(source)], {})
        events = source.read(piece, {})
        next(events)
        events.close()  # type: ignore[attr-defined]
        source.check()
        assert proxy.answered < 50_000_000  # of a hundred


def test_a_read_that_waits_for_its_first_row_shows_signs_of_life(
    db: Db, source: PostgresSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "QUIET", 0.1)
    db.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2); SELECT pg_advisory_lock(7)")
    (piece,) = source.slices([one(source, filter="pg_advisory_xact_lock(7) IS NOT NULL")], {})
    events = (event for event in source.read(piece, {}) if isinstance(event, Batch))
    batches = list(itertools.islice(events, 3))
    db.execute("SELECT pg_advisory_unlock(7)")
    batches += events
    assert batches[-1].rows.num_rows == 2
    assert all(b.rows.schema == batches[-1].rows.schema and b.read == 0 for b in batches[:-1])
