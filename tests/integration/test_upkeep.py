"""Maintenance by policy: what is done after a run and beside it, and what is not."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.connector import ReadMode, WriteMode
from headrace.connectors.iceberg.target import IcebergTarget
from headrace.engine import follow
from headrace.errors import TransientError
from headrace.model.pipeline import Compact, Upkeep
from headrace.model.run import RunStatus
from headrace.store import Store
from tests.crash.conftest import settings_of
from tests.crash.truth import LOG, STREAM, assert_holds, latest, log_rows
from tests.crash.worker import Case, run_here
from tests.integration.store_samples import start_run


def case_in(tmp_path: Path, **upkeep: Any) -> Case:
    """A pipeline that upserts a change log and has loaded its table already."""
    target = ("iceberg", settings_of("iceberg", f"iceberg:{tmp_path / 'lake'}"))
    case = Case(
        folder=tmp_path / "data", source=("generator", LOG), target=target, stream=STREAM,
        read=ReadMode.CHANGES, write=WriteMode.UPSERT, maintenance=Upkeep(compact=Compact.NEVER),
    )  # fmt: skip
    assert run_here(case) == 0
    return replace(case, maintenance=Upkeep(**upkeep))


def lines(case: Case) -> list[tuple[str, str]]:
    """What the last run said, with the level of each line."""
    with case.open_store() as store:
        last = store.runs.list("p", 1)[0]
        assert last.status is RunStatus.SUCCEEDED
        return [(line.level, line.message) for line in store.runs.logs(last.id)]


def steps(case: Case) -> set[str]:
    return {message.partition(" ")[0] for _, message in lines(case) if " of default.orders: " in message}


@pytest.fixture
def target_of() -> Iterator[Any]:
    opened: list[IcebergTarget] = []

    def of(case: Case) -> IcebergTarget:
        from headrace import catalog

        target = catalog.target(*case.target)
        assert isinstance(target, IcebergTarget)
        opened.append(target)
        return target

    yield of
    for target in opened:
        target.close()


def test_deletes_that_pile_up_are_compacted_and_nothing_else_is_done_unasked(tmp_path: Path) -> None:
    case = case_in(tmp_path, delete_files=2)
    assert run_here(case) == 0
    assert steps(case) == {"compact"}
    assert_holds(case.target, latest())


def test_a_table_that_is_not_worn_is_left_alone(tmp_path: Path) -> None:
    case = case_in(tmp_path)
    assert run_here(case) == 0
    assert steps(case) == set()


def test_never_means_never_and_a_table_is_left_alone_for_a_while(tmp_path: Path) -> None:
    case = case_in(tmp_path, compact=Compact.NEVER, delete_files=1)
    assert run_here(case) == 0
    assert steps(case) == set()
    grown = ("generator", {**LOG, "changes": 400})
    case = replace(case, source=grown, maintenance=Upkeep(delete_files=2))
    assert run_here(case) == 0
    assert steps(case) == {"compact"}
    case = replace(case, source=("generator", {**LOG, "changes": 600}))
    assert run_here(case) == 0
    assert steps(case) == set()
    assert_holds(case.target, latest({**LOG, "changes": 600}))


def test_snapshots_expire_when_the_policy_says_so(tmp_path: Path) -> None:
    case = case_in(tmp_path, compact=Compact.NEVER, expire_days=0, keep_snapshots=2)
    assert run_here(case) == 0
    assert steps(case) == {"expire"}
    assert_holds(case.target, latest())


def test_a_failure_of_upkeep_is_a_warning_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise TransientError("test.away", "the storage is away", remedy="Wait a little.")

    monkeypatch.setattr(IcebergTarget, "maintain", fails)
    case = case_in(tmp_path, delete_files=1)
    assert run_here(case) == 0
    (said,) = [message for level, message in lines(case) if level == "warning"]
    assert "test.away: the storage is away. Wait a little." in said
    assert_holds(case.target, latest())


def test_beside_a_run_tables_are_looked_after_between_its_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_in(tmp_path, delete_files=1, every=timedelta())
    begun, commits, maintain, commit = (
        threading.Event(),
        itertools.count(1),
        IcebergTarget.maintain,
        follow.commit,
    )

    def maintaining(*arguments: Any) -> Any:
        begun.set()
        return maintain(*arguments)

    def third_waits(work: Any) -> None:
        if next(commits) == 3:
            assert begun.wait(120), "nothing was looked after beside the run"
        commit(work)

    monkeypatch.setattr(IcebergTarget, "maintain", maintaining)
    monkeypatch.setattr(follow, "commit", third_waits)
    assert run_here(case) == 0
    assert "compact" in steps(case)
    assert_holds(case.target, latest())


def test_a_policy_for_a_target_without_maintenance_is_spoken_of(tmp_path: Path, postgres_url: str) -> None:
    target = ("postgres", settings_of("postgres", postgres_url))
    case = replace(
        case_in(tmp_path, orphan_days=3.0), folder=tmp_path / "more", target=target, write=WriteMode.APPEND
    )
    assert run_here(case) == 0
    assert any("none of the maintenance" in message for level, message in lines(case) if level == "warning")


def test_a_policy_removes_the_orphans_of_a_parquet_table(tmp_path: Path) -> None:
    target = ("parquet", settings_of("parquet", f"parquet:{tmp_path / 'out'}"))
    case = replace(
        case_in(tmp_path, orphan_days=1e-9), folder=tmp_path / "more", target=target, write=WriteMode.APPEND
    )
    lost = tmp_path / f"out/{STREAM}/data/{'0' * 32}.parquet"
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"of a run that was killed")
    assert run_here(case) == 0
    assert ("info", f"orphans of {STREAM}: files_removed 1, bytes_removed 24") in lines(case)
    assert not lost.exists()
    assert run_here(case) == 0
    assert_holds(target, log_rows())


def test_how_worn_a_table_is_needs_no_file_of_it(
    tmp_path: Path, target_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyiceberg.table.snapshots import Snapshot

    from headrace.connector import Stream
    from headrace.connectors.generator.tables import TABLES

    case = case_in(tmp_path, compact=Compact.NEVER)
    assert run_here(case) == 0
    target = target_of(case)
    monkeypatch.delattr(Snapshot, "manifests")
    monkeypatch.setattr(type(target._catalog), "list_tables", None)
    worn = target.wear(Stream(name=STREAM, schema=TABLES[STREAM].schema))
    assert worn.table == "default.orders"
    assert worn.delete_files > 2
    assert worn.small_files > 2


def test_a_run_that_has_ended_may_still_be_spoken_of_and_pauses_are_kept(store: Store) -> None:
    run, lease = start_run(store)
    store.runs.finish(run.id, RunStatus.SUCCEEDED, lease=lease)
    store.runs.log(run.id, "info", "one\ntwo", None, lease=lease)
    assert [line.message for line in store.runs.logs(run.id)] == ["one\\ntwo"]
    assert store.looked_after("p1", "a.b", "expire") is None
    store.look_after("a.b", "expire", lease)
    first = store.looked_after("p1", "a.b", "expire")
    store.look_after("a.b", "expire", lease)
    second = store.looked_after("p1", "a.b", "expire")
    assert first and second and second >= first
    assert store.looked_after("p1", "a.b", "compact") is None
