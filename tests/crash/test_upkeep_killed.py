"""A run's maintenance by policy is killed midway: the run's outcome stands, the next one is exact."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.connector import ReadMode, WriteMode
from headrace.connectors.iceberg.target import IcebergTarget
from headrace.engine.failpoint import BESIDE
from headrace.model.pipeline import Compact, Upkeep
from headrace.model.run import RunStatus
from tests.crash.conftest import settings_of
from tests.crash.iceberg_steps import die_before
from tests.crash.tables import Target
from tests.crash.truth import LOG, STREAM, assert_holds, latest
from tests.crash.worker import KILLED, Case, _fork, run, run_here, start

COMPACT = Upkeep(delete_files=2)
ALWAYS = replace(COMPACT, every=timedelta())
"""Beside the run as well, after every commit that finds the last look over."""


def upserts(folder: Path, target: Target, **rest: Any) -> Case:
    """A pipeline whose load is done and whose changes are to come."""
    case = Case(
        folder=folder, source=("generator", LOG), target=target, stream=STREAM, read=ReadMode.CHANGES,
        write=WriteMode.UPSERT, **rest,
    )  # fmt: skip
    assert run(replace(case, maintenance=Upkeep(compact=Compact.NEVER))) == 0
    return case


def iceberg(folder: Path) -> Target:
    return "iceberg", settings_of("iceberg", f"iceberg:{folder}")


def until(case: Case, last: int) -> None:
    """Run the case, in a process that ends right before step number `last` of its maintenance."""
    maintain = IcebergTarget.maintain

    def armed(self: IcebergTarget, wanted: Any) -> Any:
        die_before(last)
        return maintain(self, wanted)

    IcebergTarget.maintain = armed  # type: ignore[method-assign]
    raise SystemExit(run_here(case))


@pytest.mark.parametrize("step", [1, 4, 8])
def test_upkeep_killed_midway_leaves_an_outcome_and_a_table_that_goes_on(tmp_path: Path, step: int) -> None:
    case = upserts(tmp_path / "data", iceberg(tmp_path / "lake"), maintenance=COMPACT)
    process = _fork.Process(target=until, args=(case, step))
    process.start()
    process.join(60)
    assert process.exitcode == KILLED
    assert_holds(case.target, latest())
    with case.open_store() as store:
        assert [run.status for run in store.runs.list("p")] == [RunStatus.SUCCEEDED] * 2
    grown = {**LOG, "changes": 400}
    assert run(replace(case, source=("generator", grown), maintenance=ALWAYS)) == 0
    assert_holds(case.target, latest(grown))


def test_a_run_killed_as_its_upkeep_begins_has_succeeded(tmp_path: Path) -> None:
    case = upserts(tmp_path / "data", iceberg(tmp_path / "lake"), maintenance=COMPACT)
    assert run(replace(case, failpoint=f"{BESIDE}=kill")) == KILLED
    with case.open_store() as store:
        assert [r.status for r in store.runs.list("p")] == [RunStatus.SUCCEEDED] * 2
    assert_holds(case.target, latest())
    assert run(case) == 0
    assert_holds(case.target, latest())


def test_two_pipelines_that_upsert_and_look_after_one_table_leave_it_exact(tmp_path: Path) -> None:
    target = iceberg(tmp_path / "lake")
    cases = [upserts(tmp_path / f"data-{n}", target, id=f"p{n}", maintenance=ALWAYS) for n in (1, 2)]
    processes = [start(case) for case in cases]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_holds(target, latest())
    said = []
    for case in cases:
        with case.open_store() as store:
            said += [line.message for line in store.runs.logs(store.runs.list(case.id)[0].id)]
    assert any(line.startswith("compact of") for line in said), said
