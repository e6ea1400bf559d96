"""Zombies, two writers on one table, a full disk, a cut source: with real targets and real processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.connector import WriteMode
from tests.crash.tables import Target
from tests.crash.truth import LOAD, STREAM, assert_holds, loaded
from tests.crash.worker import Case, run, start

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
