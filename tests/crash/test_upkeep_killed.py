"""A run's maintenance by policy is killed midway: the run's outcome stands, the next one is exact."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from headrace.connector import ReadMode, WriteMode
from headrace.connectors.iceberg.target import IcebergTarget
from headrace.engine.failpoint import BESIDE
from headrace.model.pipeline import Compact, Upkeep
from headrace.model.run import RunStatus
from tests.crash.conftest import settings_of
from tests.crash.steps import die_before
from tests.crash.tables import Target
from tests.crash.truth import LOG, STREAM, assert_holds, latest
from tests.crash.worker import KILLED, Case, ended, fork, run, run_here, start

COMPACT = Upkeep(delete_files=2)
EVERYTHING = replace(COMPACT, expire_days=0.0, keep_snapshots=1, orphan_days=1e-9)
ALWAYS = replace(EVERYTHING, orphan_days=None, every=timedelta())
"""Beside the run as well, after every commit that finds the last look over: what is staged is no orphan."""
STEPS = ["compact", "expire", "orphans"]
DATA = Path("default", STREAM, "data")


def upserts(folder: Path, target: Target, **rest: Any) -> Case:
    """A pipeline whose load is done and whose changes are to come."""
    case = Case(
        folder=folder, target=target, stream=STREAM, read=ReadMode.CHANGES, write=WriteMode.UPSERT,
        **{"source": ("generator", LOG), **rest},
    )  # fmt: skip
    assert run(replace(case, maintenance=Upkeep(compact=Compact.NEVER))) == 0
    return case


def iceberg(folder: Path) -> Target:
    return "iceberg", settings_of("iceberg", f"iceberg:{folder}")


def run_until(case: Case, last: int) -> None:
    """Run the case; its process ends right before step number `last` of its maintenance."""
    maintain = IcebergTarget.maintain

    def armed(self: IcebergTarget, wanted: Any) -> Any:
        die_before(last)
        return maintain(self, wanted)

    IcebergTarget.maintain = armed  # type: ignore[method-assign]
    raise SystemExit(run_here(case))


def killed_before(case: Case, last: int) -> bool:
    """Run the case in a process of its own; was it killed, or were there fewer steps?"""
    process = fork.Process(target=run_until, args=(case, last))
    process.start()
    code = ended(process)
    assert code in (0, KILLED)
    return code == KILLED


def test_a_run_whose_upkeep_is_killed_at_any_step_has_succeeded_and_the_next_goes_on(tmp_path: Path) -> None:
    log = {**LOG, "rows": 60, "changes": 30, "batch_rows": 60, "checkpoint_every": 15}
    grown = {**log, "changes": 45}
    lake, data, kept = tmp_path / "lake", tmp_path / "data", tmp_path / "kept"
    case = upserts(data, iceberg(lake), source=("generator", log), maintenance=EVERYTHING)
    (lake / DATA / "left.parquet").write_bytes(b"of a run that was killed")
    for folder in (lake, data):
        shutil.copytree(folder, kept / folder.name)
    for last in itertools.count(1):
        for folder in (lake, data):
            shutil.rmtree(folder)
            shutil.copytree(kept / folder.name, folder)
        killed = killed_before(case, last)
        assert_holds(case.target, latest(log))
        with case.open_store() as store:
            first, _ = store.runs.list("p")
            assert first.status is RunStatus.SUCCEEDED
            said = [line.message.partition(" of ")[0] for line in store.runs.logs(first.id)]
        if not killed:
            break
        assert run_here(replace(case, source=("generator", grown), maintenance=ALWAYS)) == 0
        assert_holds(case.target, latest(grown))
    assert [step for step in said if step in STEPS] == STEPS
    assert not (lake / DATA / "left.parquet").exists()


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
