"""What is found in a PostgreSQL database, and what the role's rights let be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from headrace.connector import Selection, StreamRead
from headrace.connectors.postgres.source import PostgresSource
from headrace.errors import AuthError, NotFoundError
from servers.tcp_proxy import TcpProxy
from tests.integration.postgres_source import Db, Make, drain, everything, one, rows, sources


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


def test_tables_views_and_partitioned_tables_are_found_with_keys_cursors_and_sizes(
    db: Db, source: PostgresSource
) -> None:
    db.execute("""
        CREATE SCHEMA shop;
        CREATE TABLE shop.orders (
            id bigint, at timestamptz NOT NULL, day date, name text, PRIMARY KEY (id, at)
        ) PARTITION BY RANGE (at);
        CREATE TABLE shop.orders_2024 PARTITION OF shop.orders FOR VALUES FROM ('2024-1-1') TO ('2025-1-1');
        CREATE TABLE shop.orders_rest PARTITION OF shop.orders DEFAULT;
        INSERT INTO shop.orders SELECT n, '2024-05-01', NULL, 'x' FROM generate_series(1, 1000) n;
        CREATE VIEW shop.names AS SELECT name FROM shop.orders;
        CREATE MATERIALIZED VIEW shop.days AS SELECT day FROM shop.orders;
        CREATE TABLE plain (a int, b int NOT NULL, c int NOT NULL, UNIQUE (a), UNIQUE (c, b));
        CREATE TABLE partial (a int NOT NULL);
        CREATE UNIQUE INDEX ON partial (a) WHERE a > 0;
        CREATE UNIQUE INDEX ON partial ((a + 1));
        ANALYZE;
    """)
    found = {stream.id: stream for stream in source.discover()}
    assert list(found) == ["public.partial", "public.plain", "shop.days", "shop.names", "shop.orders"]
    orders = found["shop.orders"]
    assert orders.primary_key == ("id", "at") and orders.cursors == ("id", "at", "day")
    assert orders.rows == 1000 and orders.bytes and orders.bytes >= 8192
    assert [field.nullable for field in orders.schema] == [False, False, True, True]
    assert found["public.plain"].primary_key == ("c", "b")
    assert found["public.partial"].primary_key == ()
    assert found["public.plain"].bytes is None
    assert found["shop.names"].kind == "view" and found["shop.names"].rows is None


def test_selections_narrow_discovery_by_name_pattern_and_schema(db: Db, make: Make) -> None:
    db.execute("""
        CREATE SCHEMA a; CREATE SCHEMA b;
        CREATE TABLE a.t (x int); CREATE TABLE a.u (x int); CREATE TABLE b.t (x int);
        CREATE TABLE b."w*" (x int); CREATE TABLE b.wx (x int)
    """)

    def ids(source: PostgresSource, *include: str, exclude: tuple[str, ...] = ()) -> list[str]:
        return [s.id for s in source.discover(Selection(include=include, exclude=exclude))]

    assert ids(make(), "a.t", "b.t") == ["a.t", "b.t"]
    assert ids(make(), "a.*", exclude=("*.u",)) == ["a.t"]
    assert ids(make(), "*.t", exclude=("a.t",)) == ["b.t"]
    assert ids(make(), "a.t", exclude=("a.*",)) == []
    assert ids(make(schemas=["b"])) == ["b.t", "b.w*", "b.wx"]
    assert everything(make(), "b.w[*]") == []


NAMES = [
    'a"; drop table x;--',
    "with space",
    "dot.ted",
    "Größe",
    "UPPER",
    "quo'te",
    "per%cent",
    "b{r}ace",
    "n" * 63,
]


def test_names_with_quotes_dots_spaces_and_unicode_are_read(db: Db, source: PostgresSource) -> None:
    db.execute("CREATE TABLE x (a int)")
    for name in NAMES:
        create = "CREATE SCHEMA {0}; CREATE TABLE {0}.{0} ({0} int PRIMARY KEY, b text)"
        db.execute(sql.SQL(create).format(sql.Identifier(name)))
        insert = sql.SQL("INSERT INTO {0}.{0} VALUES (1, {1})")
        db.execute(insert.format(sql.Identifier(name), sql.Literal(name)))
    streams = [s for s in source.discover() if s.namespace != "public"]
    assert sorted(s.name for s in streams) == sorted(NAMES)
    for stream in streams:
        (again,) = source.discover(Selection(include=(stream.id,)))
        assert (again.namespace, again.name) == (stream.name, stream.name)
        found = rows(source, source.slices([StreamRead(stream=again)], {}))
        assert found == [{stream.name: 1, "b": stream.name}]
    assert everything(source, "public.x") == []


def test_a_thousand_tables_are_discovered_by_few_queries_and_one_of_them_without_the_others(
    db: Db, make: Make, postgres_server: Any
) -> None:
    count = 1_000
    db.execute("SET client_min_messages = warning")
    create = "EXECUTE format('CREATE TABLE t%s (id int, at timestamp, name text)', n)"
    db.execute(f"DO $$ BEGIN FOR n IN 1..{count} LOOP {create}; END LOOP; END $$")
    with TcpProxy("127.0.0.1", postgres_server.port) as proxy:
        source = make(port=proxy.port)
        assert len(list(source.discover())) == count
        assert proxy.asked < 50
        everything = proxy.answered
        assert [s.name for s in source.discover(Selection(include=("public.t77",)))] == ["t77"]
        assert proxy.answered - everything < everything / 50


@pytest.fixture
def guest(db: Db) -> Iterator[dict[str, str]]:
    db.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    yield {"username": "guest", "password": "guest"}
    db.execute("DROP OWNED BY guest; DROP ROLE guest")


def test_only_what_the_role_may_read_is_discovered(db: Db, make: Make, guest: dict[str, str]) -> None:
    db.execute("""
        CREATE TABLE open (a int); CREATE TABLE shut (a int);
        CREATE TABLE part (a int PRIMARY KEY, b text, c int);
        CREATE SCHEMA hidden; CREATE TABLE hidden.t (a int);
        GRANT SELECT ON open, hidden.t TO guest; GRANT SELECT (a, b) ON part TO guest;
        INSERT INTO part VALUES (1, 'x', 2)
    """)
    source = make(**guest)
    source.check()
    found = {s.id: s for s in source.discover()}
    assert sorted(found) == ["public.open", "public.part"]
    assert found["public.part"].schema.names == ["a", "b"]
    assert everything(source, "public.part") == [{"a": 1, "b": "x"}]


def test_check_names_the_right_that_is_missing(db: Db, make: Make, guest: dict[str, str]) -> None:
    db.execute("CREATE SCHEMA shut; CREATE TABLE shut.t (a int); CREATE TABLE t (a int)")
    with pytest.raises(AuthError) as none:
        make(**guest).check()
    assert "GRANT SELECT ON ALL TABLES" in (none.value.remedy or "")
    with pytest.raises(AuthError) as usage:
        make(**guest, schemas=["shut"]).check()
    assert 'GRANT USAGE ON SCHEMA "shut" TO "guest"' in (usage.value.remedy or "")
    with pytest.raises(NotFoundError) as missing:
        make(schemas=["shot"]).check()
    assert missing.value.field == "schemas" and "shut" in (missing.value.remedy or "")


def test_a_right_that_is_taken_away_names_the_table_and_the_grant(
    db: Db, make: Make, guest: dict[str, str]
) -> None:
    db.execute("CREATE TABLE t (a int); GRANT SELECT ON t TO guest")
    source = make(**guest)
    read = one(source)
    (piece,) = source.slices([read], {})
    db.execute("REVOKE SELECT ON t FROM guest")
    for attempt in (lambda: drain(source.read(piece, {})), lambda: source.slices([read], {})):
        with pytest.raises(AuthError) as caught:
            attempt()
        assert caught.value.code == "postgres.permission"
        assert 'GRANT SELECT ON "public"."t" TO "guest"' in (caught.value.remedy or "")


def test_partitions_that_may_not_be_read_directly_are_read_through_their_table(
    db: Db, make: Make, guest: dict[str, str]
) -> None:
    db.execute("""
        CREATE TABLE t (a int, b int) PARTITION BY LIST (a);
        CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t DEFAULT;
        INSERT INTO t VALUES (1, 10), (2, 20); GRANT SELECT ON t TO guest
    """)
    source = make(**guest)
    slices = source.slices([one(source)], {})
    assert [s.key for s in slices] == ["public.t:whole"]
    assert sorted(r["b"] for r in rows(source, slices)) == [10, 20]


def test_row_level_security_is_kept(db: Db, make: Make, guest: dict[str, str]) -> None:
    db.execute("""
        CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2); GRANT SELECT ON t TO guest;
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t FOR SELECT USING (a = 1)
    """)
    assert everything(make(**guest)) == [{"a": 1}]
