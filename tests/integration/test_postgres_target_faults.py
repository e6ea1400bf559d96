"""The PostgreSQL target when the network, the server or another session gets in its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pyarrow as pa
import pytest

from headrace.connector import Slice, Token, WriteMode
from headrace.connectors.postgres.target import PostgresTarget
from headrace.errors import DataError, HeadraceError, OutcomeUnknown, TransientError
from servers.postgres import PostgresServer
from servers.tcp_proxy import Fault, TcpProxy
from tests.integration.postgres_target import (
    APPEND,
    REPLACE,
    UPSERT,
    batch,
    leftovers,
    load,
    orders,
    query,
    stage,
    table,
    target_at,
    token,
)
from tests.waiting import until

COMMIT = b"COMMIT\0"  # the statement, as it stands in a message to the server


@pytest.fixture
def target(postgres_url: str) -> Iterator[PostgresTarget]:
    with closing(target_at(postgres_url)) as opened:
        yield opened


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[TcpProxy]:
    with TcpProxy(postgres_server.host, postgres_server.port) as opened:
        yield opened


@pytest.fixture
def through(proxy: TcpProxy, postgres_url: str) -> Iterator[PostgresTarget]:
    """The target, connected by way of the proxy."""
    with closing(target_at(postgres_url, host="127.0.0.1", port=proxy.port)) as opened:
        yield opened


@pytest.mark.parametrize("mode", [APPEND, UPSERT, REPLACE])
def test_a_lost_reply_to_a_commit_is_unknown_and_the_same_token_again_is_nothing_new(
    through: PostgresTarget, proxy: TcpProxy, postgres_url: str, mode: WriteMode
) -> None:
    through.prepare(orders(), mode)
    staged, _ = stage(through, orders(), mode, batch(orders(), [{"id": 1, "note": "a"}]))
    proxy.at(COMMIT, Fault.DROP_REPLY)
    with pytest.raises(OutcomeUnknown) as caught:
        through.publish(orders(), mode, [staged], token())
    assert proxy.fired.is_set()
    assert caught.value.code == "postgres.commit_unknown"
    assert through.committed(orders(), "p") == token()
    assert table(postgres_url) == [(1, "a")]
    through.publish(orders(), mode, [staged], token())
    assert table(postgres_url) == [(1, "a")]


def test_a_commit_that_never_arrives_is_unknown_and_can_be_published_again(
    through: PostgresTarget, proxy: TcpProxy, postgres_url: str
) -> None:
    through.prepare(orders(), APPEND)
    staged, _ = stage(through, orders(), APPEND, batch(orders(), [{"id": 1, "note": "a"}]))
    proxy.at(COMMIT, Fault.CUT)
    with pytest.raises(OutcomeUnknown):
        through.publish(orders(), APPEND, [staged], token())
    assert through.committed(orders(), "p") is None
    through.publish(orders(), APPEND, [staged], token())
    assert table(postgres_url) == [(1, "a")]


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.RESET, Fault.DROP_REPLY])
@pytest.mark.parametrize("message", [b"_headrace_ledger", b'INSERT INTO "public"."orders"'])
def test_a_publish_that_is_cut_before_its_commit_has_not_happened(
    through: PostgresTarget, proxy: TcpProxy, postgres_url: str, message: bytes, fault: Fault
) -> None:
    through.prepare(orders(), APPEND)
    staged, _ = stage(through, orders(), APPEND, batch(orders(), [{"id": 1, "note": "a"}]))
    proxy.at(message, fault)
    with pytest.raises(TransientError) as caught:
        through.publish(orders(), APPEND, [staged], token())
    assert proxy.fired.is_set()
    assert not isinstance(caught.value, OutcomeUnknown)
    assert through.committed(orders(), "p") is None
    through.publish(orders(), APPEND, [staged], token())
    assert table(postgres_url) == [(1, "a")]
    assert leftovers(postgres_url) == []


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.RESET])
@pytest.mark.parametrize("message", [b"COPY ", COMMIT])
def test_a_writer_that_is_cut_leaves_nothing_and_can_be_opened_again(
    through: PostgresTarget, proxy: TcpProxy, postgres_url: str, message: bytes, fault: Fault
) -> None:
    through.prepare(orders(), APPEND)
    proxy.at(message, fault)
    with pytest.raises(TransientError):
        stage(through, orders(), APPEND, batch(orders(), [{"id": 1, "note": "a"}]))
    staged, _ = stage(through, orders(), APPEND, batch(orders(), [{"id": 1, "note": "a"}]))
    through.publish(orders(), APPEND, [staged], token())
    assert table(postgres_url) == [(1, "a")]
    assert leftovers(postgres_url) == []


def test_a_session_that_was_lost_while_idle_is_opened_anew(
    through: PostgresTarget, proxy: TcpProxy, postgres_url: str
) -> None:
    load(through, orders(), APPEND, [{"id": 1, "note": "a"}])
    proxy.cut()
    load(through, orders(), APPEND, [{"id": 2, "note": "b"}], 2)
    proxy.reset()
    assert through.committed(orders(), "p") == token(2)


def test_a_server_that_is_away_is_a_transient_error(through: PostgresTarget, proxy: TcpProxy) -> None:
    proxy.refusing = True
    calls: list[Callable[[], object]] = [
        through.check,
        lambda: through.committed(orders(), "p"),
        lambda: through.prepare(orders(), APPEND),
    ]
    for call in calls:
        with pytest.raises(TransientError):
            call()


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_a_look_at_the_token_waits_for_a_publish_that_is_under_way(
    target: PostgresTarget, postgres_url: str, isolation: str
) -> None:
    """A cut publish may still be at work in the server: what was asked too early would be wrong."""
    database = postgres_url.rpartition("/")[2]
    query(postgres_url, f"ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'")
    target.prepare(orders(), APPEND)
    query(
        postgres_url,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END'",
    )
    query(postgres_url, "CREATE TRIGGER slow BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION slow()")
    staged, _ = stage(target, orders(), APPEND, batch(orders(), [{"id": 1, "note": "a"}]))
    seen: list[Token | None] = []

    def waiting() -> int:
        return len(query(postgres_url, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

    with closing(target_at(postgres_url)) as another, psycopg.connect(postgres_url) as gate:
        gate.execute("SELECT pg_advisory_xact_lock(7)")
        publish = threading.Thread(target=target.publish, args=(orders(), APPEND, [staged], token()))
        look = threading.Thread(target=lambda: seen.append(another.committed(orders(), "p")))
        publish.start()
        until(lambda: waiting() == 1, "a publish under way")
        look.start()
        until(lambda: waiting() == 2 or seen, "a look that waits")
        gate.rollback()
        publish.join()
        look.join()
    assert seen == [token()]


def test_a_lock_held_by_somebody_else_is_waited_for_a_bounded_time(postgres_url: str) -> None:
    with closing(target_at(postgres_url, patience=0.2)) as target, psycopg.connect(postgres_url) as other:
        load(target, orders(), REPLACE, [{"id": 1, "note": "a"}])
        staged, _ = stage(target, orders(), REPLACE, batch(orders(), [{"id": 2, "note": "b"}]))
        other.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        calls: list[Callable[[], None]] = [
            lambda: target.publish(orders(), REPLACE, [staged], token(2)),
            lambda: target.prepare(orders(more=pa.string()), REPLACE),
        ]
        for call in calls:
            with pytest.raises(TransientError) as caught:
                call()
            assert caught.value.code == "postgres.busy"
        other.rollback()
        target.publish(orders(), REPLACE, [staged], token(2))
        assert table(postgres_url) == [(2, "b")]


def test_a_stage_that_a_server_crash_emptied_is_noticed(target: PostgresTarget, postgres_url: str) -> None:
    for sequence, (mode, harm) in enumerate(
        [(m, h) for m in (APPEND, UPSERT, REPLACE) for h in ("TRUNCATE", "DROP TABLE")], 1
    ):
        target.prepare(orders(), mode)
        staged, _ = stage(target, orders(), mode, batch(orders(), [{"id": 1, "note": "a"}]))
        query(postgres_url, f"{harm} {staged.detail['table']}")
        with pytest.raises(TransientError) as caught:
            target.publish(orders(), mode, [staged], token(sequence))
        assert caught.value.code == "postgres.stage_lost"
        target.discard(orders(), [staged])
    assert target.committed(orders(), "p") is None
    assert table(postgres_url) == []


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("53100", TransientError, "postgres.out_of_space"),
        ("40001", TransientError, "postgres.busy"),
        ("23514", DataError, "postgres.data"),
    ],
)
def test_a_publish_that_the_server_fails_has_not_happened_and_can_be_tried_again(
    target: PostgresTarget, postgres_url: str, state: str, kind: type[HeadraceError], code: str
) -> None:
    target.prepare(orders(), UPSERT)
    staged, _ = stage(target, orders(), UPSERT, batch(orders(), [{"id": 1, "note": "a"}]))
    query(
        postgres_url,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END$$",
    )
    query(postgres_url, "CREATE TRIGGER fail BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION fail()")
    with pytest.raises(kind) as caught:
        target.publish(orders(), UPSERT, [staged], token())
    assert caught.value.code == code
    assert not isinstance(caught.value, OutcomeUnknown)
    assert target.committed(orders(), "p") is None
    query(postgres_url, "DROP TRIGGER fail ON orders")
    target.publish(orders(), UPSERT, [staged], token())
    assert table(postgres_url) == [(1, "a")]


def test_a_commit_that_the_server_refuses_has_not_happened(target: PostgresTarget, postgres_url: str) -> None:
    query(
        postgres_url,
        "CREATE TABLE orders (id bigint, note text, UNIQUE (note) DEFERRABLE INITIALLY DEFERRED)",
    )
    target.prepare(orders(), APPEND)
    rows = [{"id": 1, "note": "a"}, {"id": 2, "note": "a"}]
    staged, _ = stage(target, orders(), APPEND, batch(orders(), rows))
    with pytest.raises(DataError):
        target.publish(orders(), APPEND, [staged], token())
    assert target.committed(orders(), "p") is None
    assert table(postgres_url) == []


def test_a_publish_is_durable_when_it_returns_even_where_commits_need_not_be(
    target: PostgresTarget, postgres_url: str
) -> None:
    assert query(postgres_url, "SHOW synchronous_commit") == [("off",)]
    query(postgres_url, "CREATE TABLE orders (id bigint, note text, how text)")
    query(
        postgres_url,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN NEW.how = current_setting('synchronous_commit'); RETURN NEW; END$$",
    )
    query(postgres_url, "CREATE TRIGGER note BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note()")
    load(target, orders(), APPEND, [{"id": 1, "note": "a"}])
    assert table(postgres_url) == [(1, "a", "on")]


def test_many_writers_stage_at_once_and_are_published_in_one_commit(
    target: PostgresTarget, postgres_url: str
) -> None:
    target.prepare(orders(), APPEND)
    staged = {}

    def write(number: int) -> None:
        rows = [{"id": number * 100 + n, "note": "x"} for n in range(100)]
        staged[number], _ = stage(target, orders(), APPEND, batch(orders(), rows))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    target.publish(orders(), APPEND, [staged[number] for number in range(6)], token())
    assert [row[0] for row in table(postgres_url)] == list(range(600))
    assert leftovers(postgres_url) == []


def test_two_targets_make_schema_ledger_and_table_at_the_same_time(postgres_url: str) -> None:
    errors: list[BaseException] = []
    gate = threading.Barrier(4)

    def prepare(number: int) -> None:
        try:
            with closing(target_at(postgres_url, schema="new one")) as target:
                gate.wait()
                target.prepare(orders(f"t{number % 2}"), UPSERT)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    made = query(postgres_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'new one' ORDER BY 1")
    assert made == [("_headrace_ledger",), ("t0",), ("t1",)]


def test_a_slow_line_changes_nothing_but_the_time(
    through: PostgresTarget, proxy: TcpProxy, postgres_url: str
) -> None:
    through.prepare(orders(), APPEND)
    proxy.latency, proxy.bandwidth = 0.01, 1_000_000
    started = time.monotonic()
    staged, _ = stage(
        through, orders(), APPEND, batch(orders(), [{"id": n, "note": "x" * 100} for n in range(1000)])
    )
    through.publish(orders(), APPEND, [staged], token())
    assert time.monotonic() - started > 0.2
    assert query(postgres_url, "SELECT count(*) FROM orders") == [(1000,)]


def test_what_is_half_open_goes_on_when_the_line_is_back(through: PostgresTarget, proxy: TcpProxy) -> None:
    through.prepare(orders(), APPEND)
    proxy.silence()
    started = time.monotonic()
    timer = threading.Timer(0.3, proxy.restore)
    timer.start()
    with closing(through.open(orders(), APPEND, Slice(key="s", reads=()))) as writer:
        writer.write(batch(orders(), [{"id": 1, "note": "a"}]))
        assert writer.stage().rows == 1
    assert time.monotonic() - started > 0.25
    timer.join()
