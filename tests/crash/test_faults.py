"""Zombies, two writers on one table, a full disk, a cut source: with real targets and real processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from headrace.connector import WriteMode
from tests.crash.tables import Target
from tests.crash.truth import LOAD, STREAM, assert_holds, loaded
from tests.crash.worker import KILLED, Case, run, start

KINDS = ["iceberg", "parquet", "postgres"]
FENCED = 9


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def count(case: Case, table: str) -> int:
    path = case.folder / "store.db"
    if not path.exists():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        try:
            (rows,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
        except sqlite3.OperationalError:
            return 0
    database.close()
    return int(rows)


@pytest.mark.parametrize("target", KINDS, indirect=True)
def test_a_zombie_that_wakes_with_an_old_epoch_publishes_nothing(tmp_path: Path, target: Target) -> None:
    case = Case(folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM)
    zombie = start(replace(case, failpoint="before_publish=sleep:1"))
    assert zombie.pid
    wait_until(lambda: count(case, "slices") == 3, "all slices staged")
    os.kill(zombie.pid, signal.SIGSTOP)
    try:
        with case.open_store() as store:  # its lease runs out while it does not move
            lease = store.leases.get("p")
            assert lease
            store.leases.release(lease)
        assert run(case) == 0
    finally:
        os.kill(zombie.pid, signal.SIGCONT)
    zombie.join(30)
    assert zombie.exitcode == FENCED
    assert_holds(target, loaded())


@pytest.mark.parametrize("target", ["postgres"], indirect=True)
def test_rows_that_the_server_lost_from_its_stage_are_read_again(tmp_path: Path, target: Target) -> None:
    case = Case(folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM)
    assert run(replace(case, failpoint="before_publish=kill")) == KILLED
    settings = target[1]
    with psycopg.connect(
        host=settings["host"],
        port=settings["port"],
        dbname=settings["database"],
        user=settings["username"],
        password=settings["password"],
        autocommit=True,
    ) as connection:
        staged = connection.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE '%stage%' AND relkind = 'r'"
        )
        tables = [name for (name,) in staged.fetchall()]
        assert len(tables) == 3
        # as a crash of the server does to unlogged tables
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(tables[0])))
    assert run(replace(case, tuning={"max_retries": 1, "retry_backoff": timedelta(milliseconds=1)})) == 0
    assert_holds(target, loaded())


@pytest.mark.parametrize("target", KINDS, indirect=True)
def test_two_pipelines_that_append_to_one_new_table_lose_nothing_of_each_other(
    tmp_path: Path, target: Target
) -> None:
    cases = [
        Case(
            folder=tmp_path / name,
            source=("generator", {**LOAD, "seed": seed}),
            target=target,
            stream=STREAM,
            id=name,
        )
        for name, seed in (("one", 1), ("two", 2))
    ]
    processes = [start(replace(case, failpoint="before_publish=sleep:0.5")) for case in cases]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_holds(target, pa.concat_tables([loaded(case.source[1]) for case in cases]))


@pytest.mark.parametrize("target", ["iceberg", "postgres"], indirect=True)
def test_two_pipelines_that_upsert_the_same_rows_into_one_table_converge(
    tmp_path: Path, target: Target
) -> None:
    cases = [
        Case(
            folder=tmp_path / name,
            source=("generator", LOAD),
            target=target,
            stream=STREAM,
            write=WriteMode.UPSERT,
            id=name,
        )
        for name in ("one", "two")
    ]
    assert run(cases[0]) == 0
    processes = [start(replace(case, failpoint="before_publish=sleep:0.5")) for case in cases]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_holds(target, loaded())
