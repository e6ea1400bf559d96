"""A run is killed at every failpoint, for each target and write mode; carried on, it is exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.connector import ReadMode, WriteMode
from headrace.engine.failpoint import POINTS
from tests.crash.conftest import settings_of
from tests.crash.tables import Target
from tests.crash.truth import LOAD, LOG, STREAM, assert_holds, latest, loaded, log_rows
from tests.crash.worker import KILLED, Case, run

MODES = [
    ("iceberg", WriteMode.APPEND),
    ("iceberg", WriteMode.UPSERT),
    ("iceberg", WriteMode.REPLACE),
    ("parquet", WriteMode.APPEND),
    ("parquet", WriteMode.REPLACE),
    ("postgres", WriteMode.APPEND),
    ("postgres", WriteMode.UPSERT),
    ("postgres", WriteMode.REPLACE),
]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("target", "write"), MODES, indirect=["target"], ids=[f"{t}-{w}" for t, w in MODES])
def test_a_load_killed_at_any_point_is_exact_when_carried_on(
    tmp_path: Path, target: Target, write: WriteMode, point: str
) -> None:
    case = Case(
        folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM, write=write
    )
    nth = 2 if point == "after_stage" else 1  # with one of three slices staged and saved
    assert run(replace(case, failpoint=f"{point}=kill@{nth}")) == KILLED
    assert run(case) == 0
    assert_holds(target, loaded())


FOLLOWED = [(target, write) for target, write in MODES if write is not WriteMode.REPLACE]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    ("target", "write"), FOLLOWED, indirect=["target"], ids=[f"{t}-{w}" for t, w in FOLLOWED]
)
def test_a_change_log_killed_at_any_point_is_exact_when_carried_on(
    tmp_path: Path, target: Target, write: WriteMode, point: str
) -> None:
    case = Case(
        folder=tmp_path / "data",
        source=("generator", LOG),
        target=target,
        stream=STREAM,
        read=ReadMode.CHANGES,
        write=write,
    )
    assert run(case) == 0  # the load
    assert run(replace(case, failpoint=f"{point}=kill@3")) == KILLED  # in the third commit
    assert run(case) == 0
    assert_holds(target, latest() if write is WriteMode.UPSERT else log_rows())


@pytest.mark.parametrize("point", ["before_publish", "after_publish", "before_ack"])
@pytest.mark.parametrize(
    ("target", "write"), FOLLOWED, indirect=["target"], ids=[f"{t}-{w}" for t, w in FOLLOWED]
)
def test_new_rows_whose_run_is_killed_are_exact_when_carried_on(
    tmp_path: Path, target: Target, write: WriteMode, point: str
) -> None:
    case = Case(
        folder=tmp_path / "data",
        source=("generator", LOAD),
        target=target,
        stream=STREAM,
        read=ReadMode.INCREMENTAL,
        write=write,
    )
    assert run(case) == 0
    grown = {**LOAD, "rows": 900}
    case = replace(case, source=("generator", grown))
    assert run(replace(case, failpoint=f"{point}=kill")) == KILLED
    assert run(case) == 0
    assert_holds(target, loaded(grown))


@pytest.mark.parametrize(("target", "write"), MODES, indirect=["target"], ids=[f"{t}-{w}" for t, w in MODES])
def test_a_lost_reply_to_a_publish_is_looked_into_and_nothing_is_doubled(
    tmp_path: Path, target: Target, write: WriteMode
) -> None:
    case = Case(
        folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM, write=write
    )
    assert run(replace(case, failpoint="after_publish=lose")) == 0
    assert_holds(target, loaded())


def test_the_slices_staged_before_a_kill_are_not_read_again(
    tmp_path: Path,
) -> None:
    target = ("iceberg", settings_of("iceberg", f"iceberg:{tmp_path / 'lake'}"))
    case = Case(folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM)
    assert run(replace(case, failpoint="after_stage=kill@3")) == KILLED
    assert run(case) == 0
    with case.open_store() as store:
        (last,) = store.runs.list("p", 1)
        lines = [line.message for line in store.runs.logs(last.id)]
    assert last.attempt == 2
    assert "2 of 3 slices were staged before" in lines
