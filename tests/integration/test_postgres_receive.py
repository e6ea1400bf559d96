"""A COPY over TCP, a Unix socket and TLS, in compiled code and without: the same rows, the same errors."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from headrace import native
from headrace.connectors.postgres import receive
from headrace.connectors.postgres.decode import Block
from headrace.connectors.postgres.session import Session
from headrace.connectors.postgres.types import Image, Kind
from servers.postgres import PASSWORD, PostgresServer
from servers.tls_proxy import TlsProxy
from tests.waiting import until

WAYS = ["libpq", "messages", "numpy"]
TEXT, INT = Image(pa.string(), Kind.TEXT), Image(pa.int32(), Kind.INT4)
QUERY = "SELECT n, CASE WHEN n % 3 > 0 THEN repeat('é', n % 50) END FROM generate_series(1, 60000) n"


@pytest.fixture(params=["tcp", "socket", "tls"])
def session(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[Session]:
    with TlsProxy(postgres_server.port) as proxy:
        host, port, mode = {
            "tcp": ("127.0.0.1", postgres_server.port, "disable"),
            "socket": (str(postgres_server.folder), postgres_server.port, "disable"),
            "tls": ("127.0.0.1", proxy.port, "require"),
        }[request.param]
        session = Session.connect(
            host=host, port=port, sslmode=mode, dbname="postgres", user="postgres", password=PASSWORD,
            autocommit=True, sslrootcert="/dev/null/none",
        )  # fmt: skip
        with contextlib.closing(session):
            assert session.pgconn.ssl_in_use == (request.param == "tls")
            yield session


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(native, "library", lambda: None)
    elif request.param == "messages":
        monkeypatch.setattr(receive, "_libpq", lambda: None)
    else:
        assert native.library() is not None and receive._libpq() is not None
    return str(request.param)


def copy(session: Session, query: str) -> Iterator[Block | None]:
    command = f"COPY ({query}) TO STDOUT (FORMAT BINARY)".encode()
    return receive.blocks(session, command, ["n", "t"], [INT, TEXT])


def rows(blocks: Iterator[Block | None]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for block in blocks if block for row in block.rows.to_pylist()]


def test_all_rows_arrive_and_the_session_can_be_used_again(session: Session, way: str) -> None:
    expected = session.execute(QUERY).fetchall()  # type: ignore[arg-type]
    assert rows(copy(session, QUERY)) == expected
    assert rows(copy(session, "SELECT 1, 'a' WHERE false")) == []
    assert rows(copy(session, "SELECT 1, repeat('x', 9000000)")) == [(1, "x" * 9_000_000)]
    assert session.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("SELECT 100 / (50000 - n), 'a' FROM generate_series(1, 60000) n", psycopg.errors.DivisionByZero),
        ("SELECT 1, 'a' FROM none", psycopg.errors.UndefinedTable),
    ],
)
def test_an_error_of_the_server_is_its_own(
    session: Session, way: str, query: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        rows(copy(session, query))


def test_a_session_that_is_ended_in_mid_copy_fails_the_read(
    session: Session, way: str, postgres_server: PostgresServer
) -> None:
    found = copy(session, "SELECT n, repeat('x', 1000) FROM generate_series(1, 100000) n")
    next(found)
    with postgres_server.connect() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [session.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        rows(found)


LOCK = 77


def locked(count: int) -> str:
    """A query whose last row waits for `LOCK`, and fails in the end if nobody lets go of it.

    The rows before it are more than the server keeps back.
    """
    return (
        f"SELECT n, CASE WHEN n = {count} AND set_config('lock_timeout', '60s', false) > ''"
        f" THEN pg_advisory_xact_lock({LOCK})::text ELSE repeat('x', 1000) END"
        f" FROM generate_series(1, {count}) n"
    )


@contextlib.contextmanager
def lock_held(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with server.connect() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        yield other


def waits(other: psycopg.Connection[Any]) -> bool:
    return other.execute("SELECT FROM pg_locks WHERE objid = %s AND NOT granted", [LOCK]).rowcount > 0


@pytest.mark.parametrize("way", ["libpq"], indirect=True)
def test_other_threads_run_while_a_copy_is_awaited(
    session: Session, way: str, postgres_server: PostgresServer
) -> None:
    found: list[tuple[Any, ...]] = []
    thread = threading.Thread(target=lambda: found.extend(rows(copy(session, locked(1)))))
    with lock_held(postgres_server) as lock:
        thread.start()
        until(lambda: waits(lock), "the copy to wait")  # this thread looks around meanwhile
        assert found == []
    thread.join()
    assert found == [(1, "")]


@pytest.mark.parametrize("way", ["libpq"], indirect=True)
def test_quiet_between_rows_is_passed_on(
    session: Session, way: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.connectors.postgres.wire.QUIET", 0.1)
    with lock_held(postgres_server):
        found = copy(session, locked(101))
        began: list[Block | None] = []
        while began.count(None) < 3:
            began.append(next(found))
    assert len(rows(itertools.chain(began, found))) == 101
