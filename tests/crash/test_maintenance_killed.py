"""Maintenance of an Iceberg lake is killed at every step: no row is lost, none comes back."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from headrace.connector import Change, Maintenance, WriteMode
from tests.crash.iceberg_steps import die_before
from tests.crash.worker import KILLED, _fork
from tests.integration.iceberg_lake import Lake, stream

ORDERS = stream()
STEPS = {
    "compact": Maintenance(expire=False, orphans=False, min_files=2),
    "expire": Maintenance(compact=False, orphans=False, expire_after=0, keep_snapshots=1),
    "orphans": Maintenance(compact=False, expire=False, orphans_after=0),
}


def maintain(folder: Path, wanted: Maintenance, last: int) -> None:
    """Maintain the lake, in a process that ends right before its step number `last` on disk or catalogue."""
    die_before(last)
    lake = Lake(folder)
    assert [one.error for one in lake.target.maintain(wanted) if one.error] == []
    lake.target.close()


def contents(folder: Path) -> dict[int, str]:
    lake = Lake(folder)
    found = lake.rows(ORDERS)
    lake.target.close()
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row["note"] for row in found}


def lake_with_a_past(folder: Path) -> dict[int, str]:
    lake = Lake(folder)
    lake.load(ORDERS, WriteMode.UPSERT, [{"id": n, "note": "old"} for n in range(12)])
    for n in range(3):
        rows = [{"id": n, "note": "new"}, {"id": n + 8}]
        lake.load(ORDERS, WriteMode.UPSERT, rows, [Change.UPDATE, Change.DELETE])
    lake.stage(ORDERS, WriteMode.APPEND, [{"id": 99, "note": "never committed"}])
    lake.target.close()
    return dict.fromkeys(range(3), "new") | dict.fromkeys((3, 4, 5, 6, 7, 11), "old")


@pytest.mark.parametrize("step", STEPS)
def test_maintenance_of_iceberg_killed_at_any_step_leaves_the_rows_as_they_were(
    tmp_path: Path, step: str
) -> None:
    lake = tmp_path / "lake"
    expected = lake_with_a_past(lake)
    shutil.copytree(lake, tmp_path / "kept")
    for last in itertools.count(1):
        shutil.rmtree(lake)
        shutil.copytree(tmp_path / "kept", lake)
        process = _fork.Process(target=maintain, args=(lake, STEPS[step], last))
        process.start()
        process.join(60)
        assert process.exitcode in (0, KILLED)
        assert contents(lake) == expected
        if process.exitcode == 0:
            break
        again = Lake(lake)
        again._sequence = 9
        assert [one.error for one in again.target.maintain(STEPS[step]) if one.error] == []
        again.load(
            ORDERS, WriteMode.UPSERT, [{"id": 0, "note": "after"}, {"id": 3}], [Change.UPDATE, Change.DELETE]
        )
        again.target.close()
        after = expected | {0: "after"}
        del after[3]
        assert contents(lake) == after
    assert last > 1, "nothing was done that could be killed"
