from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from headrace.errors import AuthError, ConfigError, HeadraceError, NotFoundError, TransientError
from headrace.store import MasterKeys, Store, database
from headrace.store.database import Database
from servers.postgres import PASSWORD, PostgresServer
from tests.integration.store_samples import save_pipeline, start_run


@pytest.fixture
def keys(tmp_path: Path) -> MasterKeys:
    return MasterKeys.load(tmp_path / "keys", {})


def refused(kind: type[HeadraceError], code: str, call: Callable[[], object]) -> HeadraceError:
    with pytest.raises(kind) as raised:
        call()
    assert raised.value.code == code
    assert raised.value.remedy
    assert PASSWORD not in str(raised.value.as_dict())
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return raised.value


@contextlib.contextmanager
def writing(url: str) -> Iterator[None]:
    """Somebody else writes to the store for as long as the block lasts."""
    if url.startswith("sqlite"):
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.close()
    else:
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE runs")
            yield


def test_a_store_that_is_held_for_too_long_is_busy(
    store_url: str, keys: MasterKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    with Store.open(store_url, keys=keys) as store:
        save_pipeline(store)
        with writing(store_url):
            refused(TransientError, "store.busy", lambda: store.runs.queue("p1"))
        assert store.runs.queue("p1").pipeline == "p1"


def test_a_restored_file_that_somebody_still_writes_to_is_waited_for(
    tmp_path: Path, keys: MasterKeys
) -> None:
    other = sqlite3.connect(tmp_path / "h.db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE restored (a)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO restored VALUES (1)")
    ended = threading.Timer(0.3, other.execute, ["COMMIT"])
    ended.start()
    with Store.open(f"sqlite:///{tmp_path}/h.db", keys=keys) as store:
        assert store.runs.list() == []
    ended.join()
    other.close()


def test_a_full_disk_is_named_and_passes(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/small.db")
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")

    def fill() -> None:
        with database.write() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 10")
            connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(1000000))")

    refused(TransientError, "store.disk_full", fill)
    database.close()


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("53100", TransientError, "store.disk_full"),
        ("53300", TransientError, "store.busy"),
        ("40P01", TransientError, "store.busy"),
        ("57P01", TransientError, "store.away"),
        ("25006", TransientError, "store.away"),
        ("42501", AuthError, "store.rights"),
    ],
)
def test_what_the_server_says_is_told_in_our_words(
    postgres_url: str, state: str, kind: type[HeadraceError], code: str
) -> None:
    database = Database(postgres_url)

    def fail() -> None:
        with database.write() as connection:
            connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$")

    refused(kind, code, fail)
    database.close()


def test_an_error_that_is_our_own_bug_stays_one_and_shows_no_values(store_url: str) -> None:
    database = Database(store_url)
    with pytest.raises(sa.exc.DBAPIError) as raised, database.read() as connection:
        connection.execute(sa.text("SELEKT :value"), {"value": "customer data"})
    assert "SELEKT" in str(raised.value)
    assert "customer data" not in str(raised.value)
    database.close()


def test_a_server_that_goes_away_and_comes_back_is_a_passing_fault(keys: MasterKeys) -> None:
    with PostgresServer() as server:
        store = Store.open(server.url(), keys=keys)
        run, lease = start_run(store)
        attempt = store.attempt(run.id, lease)
        attempt.log("info", "before")
        attempt.flush()
        with server.connect() as admin:  # every connection is cut
            admin.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                " WHERE application_name = 'headrace'"
            )
        attempt.save("slot", {"lsn": 1}, {})
    refused(TransientError, "store.away", lambda: attempt.save("slot", {"lsn": 2}, {}))
    attempt.log("info", "kept for later")
    refused(TransientError, "store.away", attempt.flush)
    refused(TransientError, "store.away", lambda: store.runs.get(run.id))
    with pytest.raises(ZeroDivisionError), attempt:  # what went wrong first is what is told
        raise ZeroDivisionError
    store.close()


def test_a_store_that_can_not_be_opened_says_why(postgres_server: PostgresServer, keys: MasterKeys) -> None:
    def opened(url: str) -> Callable[[], object]:
        return lambda: Store.open(url, keys=keys)

    server = postgres_server
    refused(AuthError, "store.auth", opened(server.url(password="wrong")))
    refused(AuthError, "store.auth", opened(server.url(user="nobody")))
    refused(NotFoundError, "store.no_database", opened(server.url("no_such")))
    nobody = server.url().replace(f":{server.port}/", ":1/")
    refused(TransientError, "store.away", opened(nobody))


@pytest.mark.parametrize(
    "url",
    ["", "no url", "sqlite://", "sqlite:///:memory:", "mysql://u:" + PASSWORD + "@h/d", "/a/path"],
)
def test_an_address_that_is_no_store_is_refused(url: str, keys: MasterKeys) -> None:
    refused(ConfigError, "store.url", lambda: Store.open(url, keys=keys))


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path, keys: MasterKeys) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 1000)
    refused(ConfigError, "store.damaged", lambda: Store.open(f"sqlite:///{path}", keys=keys))
    assert path.read_text() == "Dear reader, " * 1000
    refused(ConfigError, "store.cannot_open", lambda: Store.open(f"sqlite:///{path}/db", keys=keys))
    refused(ConfigError, "store.cannot_open", lambda: Store.open(f"sqlite:///{tmp_path}", keys=keys))


def test_the_store_of_one_user_is_closed_to_others(tmp_path: Path, keys: MasterKeys) -> None:
    mask = os.umask(0)
    try:
        with Store.open(f"sqlite:///{tmp_path}/data/h.db", keys=keys) as store:
            save_pipeline(store)
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    finally:
        os.umask(mask)
    assert modes
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
