"""Zombies, two writers on one table, a full disk, a cut source: with real targets and real processes."""

from __future__ import annotations

from collections.abc import Sequence
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
from tests.waiting import HANGS, until

KINDS = ["iceberg", "parquet", "postgres"]
FENCED = 9


def publish_at_once(cases: Sequence[Case]) -> None:
    """Run them side by side, each held until all of them are about to publish."""
    holds = [case.folder.with_suffix(".hold") for case in cases]
    processes = [
        start(replace(case, failpoint=f"before_publish=hold:{hold}"))
        for case, hold in zip(cases, holds, strict=True)
    ]
    try:
        until(lambda: all(hold.exists() for hold in holds), "all runs about to publish")
    finally:
        for hold in holds:
            hold.unlink(missing_ok=True)
        for process in processes:
            process.join(HANGS)
    assert [process.exitcode for process in processes] == [0] * len(cases)


@pytest.mark.parametrize("target", KINDS, indirect=True)
def test_a_zombie_that_wakes_with_an_old_epoch_publishes_nothing(tmp_path: Path, target: Target) -> None:
    case = Case(folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM)
    hold = tmp_path / "hold"
    zombie = start(replace(case, failpoint=f"before_publish=hold:{hold}"))
    try:
        until(hold.exists, "a run about to publish")
        with case.open_store() as store:  # its lease runs out while it does not move
            lease = store.leases.get("p")
            assert lease
            store.leases.release(lease)
            store.leases.acquire("p", "another", timedelta())
        assert run(case) == 0
    finally:
        hold.unlink(missing_ok=True)
        zombie.join(HANGS)
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
    publish_at_once(cases)
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
    publish_at_once(cases)
    assert_holds(target, loaded())
