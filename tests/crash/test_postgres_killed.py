"""A load from PostgreSQL is killed or cut, and the table changes before it is carried on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from headrace.connector import ReadMode, WriteMode
from servers.tcp_proxy import TcpProxy
from tests.crash.conftest import settings_of
from tests.crash.tables import read_table
from tests.crash.worker import KILLED, Case, run, start
from tests.waiting import HANGS

SCHEMA = pa.schema([("id", pa.int32()), ("text", pa.string()), ("at", pa.timestamp("us", "UTC"))])
ROWS = 60_000  # 8 KiB pages enough for several slices


@pytest.fixture
def shop(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True, options="-c TimeZone=UTC") as connection:
        connection.execute("CREATE TABLE things (id int PRIMARY KEY, text text, at timestamptz NOT NULL)")
        connection.execute(
            "INSERT INTO things SELECT n, repeat('x', 400) || n,"
            " '2026-01-01Z'::timestamptz + n * interval '1 s' FROM generate_series(1, %s) n",
            [ROWS],
        )
        yield connection


@pytest.fixture
def case(postgres_url: str, shop: Any, tmp_path: Path) -> Case:
    return Case(
        folder=tmp_path / "data",
        source=("postgres", settings_of("postgres", postgres_url)),
        target=("iceberg", settings_of("iceberg", f"iceberg:{tmp_path / 'lake'}")),
        stream="public.things",
        write=WriteMode.REPLACE,
    )


def same(case: Case, shop: psycopg.Connection[Any]) -> bool:
    truth = shop.execute("SELECT id, text, at FROM things ORDER BY id").fetchall()
    found = read_table(case.target, "things", SCHEMA, "public").sort_by("id")
    return truth == list(zip(*(column.to_pylist() for column in found.columns), strict=True))


def slices_kept(case: Case) -> int:
    """How many slices of the first attempt the second one did not read again."""
    with case.open_store() as store:
        (last,) = store.runs.list("p", 1)
        assert last.attempt == 2
        lines = [line.message for line in store.runs.logs(last.id)]
    (line,) = [line for line in lines if "slices were staged before" in line]
    return int(line.split()[0])


def test_a_quiet_table_is_read_on_from_the_slices_that_were_staged(case: Case, shop: Any) -> None:
    assert run(replace(case, failpoint="after_stage=kill@3")) == KILLED
    assert run(case) == 0
    assert slices_kept(case) == 2
    assert same(case, shop)


def test_what_changed_between_the_attempts_is_read_again_and_only_that(case: Case, shop: Any) -> None:
    assert run(replace(case, failpoint="after_stage=kill@3")) == KILLED
    shop.execute("UPDATE things SET text = 'moved' WHERE id = 1")  # out of the first slice's pages
    shop.execute("DELETE FROM things WHERE id = 2")
    shop.execute("INSERT INTO things SELECT n, 'new', now() FROM generate_series(100001, 100100) n")
    assert run(case) == 0
    assert slices_kept(case) == 1
    assert same(case, shop)


def test_a_table_rewritten_between_the_attempts_is_read_anew(case: Case, shop: Any) -> None:
    assert run(replace(case, failpoint="after_stage=kill@3")) == KILLED
    shop.execute("VACUUM FULL things")
    assert run(case) == 0
    assert slices_kept(case) == 0
    assert same(case, shop)


def test_connections_cut_in_mid_read_are_only_a_delay(case: Case, shop: Any) -> None:
    kind, settings = case.source
    with TcpProxy(settings["host"], int(settings["port"])) as proxy:
        proxy.bandwidth = 2e6  # the table takes some 12 s, so that a cut always finds a read under way
        case = replace(case, source=(kind, {**settings, "host": "127.0.0.1", "port": proxy.port}))
        process = start(replace(case, tuning={"max_retries": 5, "queue_bytes": 1 << 16, "batch_rows": 200}))
        cut: set[int] = set()
        while len(cut) < 2 and process.is_alive():
            found = shop.execute(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'headrace' AND query ILIKE 'copy%' AND state = 'active'"
            ).fetchall()
            cut |= {pid for pid, _ in found}
            time.sleep(0.05)
        proxy.bandwidth = None
        process.join(HANGS)
    assert len(cut) >= 2
    assert process.exitcode == 0
    assert same(case, shop)


@pytest.mark.parametrize("point", ["before_publish", "after_publish", "before_ack"])
@pytest.mark.parametrize("write", [WriteMode.APPEND, WriteMode.UPSERT])
def test_an_incremental_read_killed_while_rows_are_written_ends_equal(
    case: Case, shop: psycopg.Connection[Any], write: WriteMode, point: str
) -> None:
    case = replace(case, read=ReadMode.INCREMENTAL, cursor="at", write=write)
    assert run(case) == 0
    began, ending = threading.Event(), threading.Event()
    number = [200_000]

    def write_on() -> None:
        while not ending.is_set():
            number[0] += 1
            shop.execute("INSERT INTO things VALUES (%s, 'late', clock_timestamp())", [number[0]])
            if write is WriteMode.UPSERT:
                change = "UPDATE things SET text = 'changed', at = clock_timestamp() WHERE id = %s"
                shop.execute(change, [number[0] % ROWS + 1])
            began.set()
            time.sleep(0.002)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        assert began.wait(HANGS)
        assert run(replace(case, failpoint=f"{point}=kill")) == KILLED
        assert run(case) == 0
    finally:
        ending.set()
        writer.join()
    assert run(case) == 0
    assert same(case, shop)


@pytest.mark.parametrize("kind", ["iceberg", "parquet"])
def test_a_full_disk_fails_the_run_whole_and_space_mends_it(
    case: Case, shop: Any, kind: str, tmp_path: Path
) -> None:
    case = replace(case, target=(kind, settings_of(kind, f"{kind}:{tmp_path / kind}")))
    shop.execute(
        "UPDATE things SET text = repeat(md5(random()::text), 2) || md5(id::text) || md5(random()::text)"
    )
    assert run(case) == 0
    shop.execute("DELETE FROM things WHERE id > 50000")
    assert run(replace(case, file_bytes=1 << 19)) == 6
    with case.open_store() as store:
        (last,) = store.runs.list("p", 1)
    (stream,) = last.streams
    assert stream.error and stream.error.remedy and "full" in stream.error.code
    before = read_table(case.target, "things", SCHEMA, "public")
    assert before.num_rows == ROWS
    assert run(case) == 0
    assert same(case, shop)
