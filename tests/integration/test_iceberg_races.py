"""Row deltas against what may happen to a table between a look at it and the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table import Table
from pyiceberg.types import LongType

from headrace.connector import Change, Maintenance, WriteMode
from headrace.errors import ConfigError, StageLost
from servers.s3 import S3Server
from tests.integration.iceberg_foreign import delete_equal, delete_files, delete_position
from tests.integration.iceberg_lake import Lake, stream
from tests.integration.iceberg_sound import check_sound
from tests.integration.test_iceberg_commit import interfere

APPEND, REPLACE, UPSERT = WriteMode.APPEND, WriteMode.REPLACE, WriteMode.UPSERT
UPD, DEL = Change.UPDATE, Change.DELETE
ORDERS = stream()
NAME = ("public", "orders")
COMPACT = Maintenance(expire=False, orphans=False, min_files=2)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path / "lake")
    yield lake
    lake.target.close()


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lake]:
    """A lake on the disk, and again in an object store; the catalogue is a file of SQLite both times."""
    if request.param == "folder":
        lake = Lake(tmp_path / "lake")
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        bucket = request.getfixturevalue("s3_bucket")
        lake = Lake(f"s3://{bucket}/lake", uri=f"sqlite:///{tmp_path}/catalog.db", s3=server.access())
    yield lake
    lake.target.close()


def as_another(lake: Lake, *actions: Callable[[Table], Any]) -> None:
    catalog = lake.foreign()
    for action in actions:
        action(catalog.load_table(NAME))
    catalog.close()


def notes(lake: Lake, of: Any = ORDERS) -> dict[int, str]:
    if str(lake.config.warehouse).startswith("s3:"):
        check_sound(lake.target._load(of))
        found = lake.target._load(of).scan().to_arrow().to_pylist()
    else:
        found = lake.rows(of)
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row["note"] for row in found}


def start(lake: Lake) -> dict[int, str]:
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(6)])
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(6, 9)])
    return dict.fromkeys(range(9), "old")


def append_and_roll_back(table: Table) -> None:
    before = table.current_snapshot()
    assert before is not None
    table.append(pa.table({"id": [70], "note": ["never"]}))
    table.manage_snapshots().rollback_to_snapshot(before.snapshot_id).commit()


def delete_and_roll_back(table: Table) -> None:
    before = table.current_snapshot()
    assert before is not None
    table.delete("id < 6")
    table.manage_snapshots().rollback_to_snapshot(before.snapshot_id).commit()


def other_upsert(lake: Lake) -> Callable[[Table], Any]:
    def act(_: Table) -> None:
        other = Lake(lake.config.warehouse, **lake.settings)
        staged = other.stage(ORDERS, UPSERT, [{"id": 2, "note": "theirs"}, {"id": 7}], [UPD, DEL])
        other.target.publish(ORDERS, UPSERT, [staged], other.token(9, pipeline="q"))
        other.target.close()

    return act


def other_maintenance(lake: Lake) -> Callable[[Table], Any]:
    def act(_: Table) -> None:
        other = Lake(lake.config.warehouse, **lake.settings)
        wanted = Maintenance(min_files=2, expire_after=0, keep_snapshots=1, orphans=False)
        done = list(other.target.maintain(wanted))
        assert [one.error for one in done] == [None, None]
        other.target.close()

    return act


def add_column(table: Table) -> None:
    with table.update_schema() as update:
        update.add_column("more", LongType())


def commit_to_a_branch(table: Table) -> None:
    now = table.current_snapshot()
    assert now is not None
    table.manage_snapshots().create_branch(now.snapshot_id, "side").commit()
    table.append(pa.table({"id": [2], "note": ["elsewhere"]}), branch="side")


def tag(table: Table) -> None:
    now = table.current_snapshot()
    assert now is not None
    table.manage_snapshots().create_tag(now.snapshot_id, "audit").commit()


MEANWHILE = {
    "append and rollback": lambda lake: append_and_roll_back,
    "delete and rollback": lambda lake: delete_and_roll_back,
    "overwrite": lambda lake: lambda table: table.overwrite(table.scan().to_arrow()),
    "upsert": other_upsert,
    "compaction and expiry": other_maintenance,
    "column": lambda lake: add_column,
    "branch": lambda lake: commit_to_a_branch,
    "tag": lambda lake: tag,
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_whatever_happens_between_look_and_commit_each_key_has_the_last_row(
    anywhere: Lake, what: str
) -> None:
    lake = anywhere
    expected = start(lake)
    staged = lake.stage(
        ORDERS, UPSERT, [{"id": 2, "note": "new"}, {"id": 7}, {"id": 20, "note": "new"}], [UPD, DEL, UPD]
    )
    interfere(lake, before=lambda: as_another(lake, MEANWHILE[what](lake)))
    lake.publish(ORDERS, UPSERT, staged)
    del expected[7]
    expected |= {2: "new", 20: "new"}
    assert notes(lake) == expected
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "last"} for n in range(0, 9, 2)])
    assert notes(lake) == expected | dict.fromkeys(range(0, 9, 2), "last")


@pytest.mark.parametrize("when", ["before the publish", "before the commit", "between two stages"])
@pytest.mark.parametrize("mode", [APPEND, UPSERT, REPLACE])
def test_rows_staged_under_an_older_partitioning_keep_it(lake: Lake, mode: WriteMode, when: str) -> None:
    start(lake)

    def partition() -> None:
        def change(table: Table) -> None:
            with table.update_spec() as update:
                update.add_identity("note")

        as_another(lake, change)

    staged = [lake.stage(ORDERS, mode, [{"id": 20, "note": "new"}, {"id": 21, "note": "newer"}])]
    if when == "before the commit":
        interfere(lake, before=partition)
    else:
        partition()
    if when == "between two stages":
        staged.append(lake.stage(ORDERS, mode, [{"id": 22, "note": "new"}, {"id": 20, "note": "again"}]))
    lake.publish(ORDERS, mode, *staged)
    found = sorted((row["id"], row["note"]) for row in lake.rows(ORDERS))
    old = [] if mode is REPLACE else [(n, "old") for n in range(9)]
    late = [(20, "again"), (22, "new")] if when == "between two stages" else []
    first = [(20, "new")] if mode is not UPSERT or not late else []
    assert found == sorted([*old, *first, (21, "newer"), *late])
    assert lake.table(ORDERS).scan(row_filter="note = 'newer'").to_arrow().num_rows == 1


def test_a_table_made_anew_between_look_and_commit_takes_no_old_rows(anywhere: Lake) -> None:
    lake = anywhere
    start(lake)
    staged = lake.stage(ORDERS, UPSERT, [{"id": 2, "note": "new"}])

    def anew() -> None:
        catalog = lake.foreign()
        table = catalog.load_table(NAME)
        catalog.drop_table(NAME)
        again = catalog.create_table(NAME, table.schema(), location=table.location())
        again.append(pa.table({"id": [2], "note": ["another"]}))
        catalog.close()

    interfere(lake, before=anew)
    with pytest.raises(StageLost):
        lake.publish(ORDERS, UPSERT, staged)
    assert notes(lake) == {2: "another"}


def test_a_delete_that_a_rollback_brings_back_is_carried_over_by_a_compaction(lake: Lake) -> None:
    start(lake)
    table = lake.table(ORDERS)
    first = next(t.file.file_path for t in table.scan().plan_files() if t.file.record_count == 6)
    made: list[int] = []

    def meanwhile() -> None:
        as_another(lake, lambda table: delete_position(table, first, 3))
        made.append(lake.table(ORDERS).current_snapshot().snapshot_id)  # type: ignore[union-attr]
        as_another(lake, lambda table: table.overwrite(table.scan().to_arrow()))
        catalog.before = again

    def again() -> None:
        as_another(lake, lambda table: table.manage_snapshots().rollback_to_snapshot(made[0]).commit())

    catalog = interfere(lake, before=meanwhile)
    (done,) = lake.target.maintain(COMPACT)
    assert done.error is None
    assert notes(lake) == dict.fromkeys((0, 1, 2, 4, 5, 6, 7, 8), "old")
    assert delete_files(lake.table(ORDERS))


def test_rows_under_a_partitioning_whose_column_was_dropped_are_still_upserted(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake", partition_spec={"public.orders": ["region"]})
    wide = stream(id=pa.int64(), note=pa.string(), region=pa.string())
    lake.load(wide, UPSERT, [{"id": n, "note": "old", "region": "eu" if n % 2 else "us"} for n in range(8)])
    lake.load(wide, UPSERT, [{"id": 0, "note": "new", "region": "us"}])

    def unpartition(table: Table) -> None:
        with table.update_spec() as update:
            update.remove_field("region")

    def drop(table: Table) -> None:
        with table.update_schema() as update:
            update.delete_column("region")

    as_another(lake, unpartition, drop)
    lake.load(ORDERS, UPSERT, [{"id": 1, "note": "new"}, {"id": 2, "note": "new"}])
    expected = {n: "new" if n < 3 else "old" for n in range(8)}

    def found() -> dict[int, str]:  # by pyiceberg alone: DuckDB 1.5 ends the process over such a table
        rows = lake.table(ORDERS).scan().to_arrow().to_pylist()
        assert len({row["id"] for row in rows}) == len(rows)
        return {row["id"]: row["note"] for row in rows}

    assert found() == expected
    (done,) = lake.target.maintain(COMPACT)
    assert done.error is None
    assert found() == expected
    lake.target.close()


def test_equality_deletes_of_another_engine_are_refused_and_the_table_is_left_alone(lake: Lake) -> None:
    start(lake)
    staged = lake.stage(ORDERS, UPSERT, [{"id": 1, "note": "new"}])
    interfere(lake, before=lambda: as_another(lake, lambda table: delete_equal(table, 1)))
    with pytest.raises(ConfigError, match="equality deletes"):
        lake.publish(ORDERS, UPSERT, staged)
    before = lake.table(ORDERS).metadata_location
    (done,) = lake.target.maintain(COMPACT)
    assert isinstance(done.error, ConfigError)
    assert lake.table(ORDERS).metadata_location == before
