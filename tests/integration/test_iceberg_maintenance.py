"""Maintenance of Iceberg tables beside those who write them: nothing is lost and nothing comes back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table.snapshots import Operation

from headrace.connector import Change, Maintenance, WriteMode
from headrace.connectors.iceberg import compact
from headrace.connectors.iceberg.commit import PROPERTY
from headrace.errors import StageLost
from servers.s3 import S3Server
from tests.cli import in_process
from tests.integration.iceberg_foreign import delete_files
from tests.integration.iceberg_lake import Lake, interfere, stream

APPEND, REPLACE, UPSERT = WriteMode.APPEND, WriteMode.REPLACE, WriteMode.UPSERT
UPD, DEL = Change.UPDATE, Change.DELETE
ORDERS = stream()
COMPACT = Maintenance(expire=False, orphans=False, min_files=2)
EXPIRE = Maintenance(compact=False, orphans=False, expire_after=0, keep_snapshots=1)
ORPHANS = Maintenance(compact=False, expire=False)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path / "lake")
    yield lake
    lake.target.close()


def maintain(lake: Lake, wanted: Maintenance) -> dict[str, dict[str, int]]:
    done = list(lake.target.maintain(wanted))
    assert [one.error for one in done if one.error] == []
    return {one.step: dict(one.counts) for one in done}


def notes(lake: Lake) -> dict[int, str]:
    found = lake.rows(ORDERS)
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row["note"] for row in found}


def live_files(lake: Lake) -> set[str]:
    return {task.file.file_path for task in lake.table(ORDERS).scan().plan_files()}


def on_disk(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file() and "catalog.db" not in path.name}


def history(lake: Lake) -> dict[int, str]:
    """Several loads, updates and deletes; gives what the table then holds."""
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(20)])
    for n in range(4):
        lake.load(
            ORDERS,
            UPSERT,
            [{"id": n, "note": "new"}, {"id": n + 10}, {"id": n + 30, "note": "late"}],
            [UPD, DEL, UPD],
        )
    return (
        dict.fromkeys(range(4), "new")
        | dict.fromkeys(range(4, 10), "old")
        | dict.fromkeys(range(14, 20), "old")
        | dict.fromkeys(range(30, 34), "late")
    )


def test_small_files_and_their_deletes_become_one_file(lake: Lake) -> None:
    expected = history(lake)
    token = lake.target.committed(ORDERS, "p")
    assert len(live_files(lake)) == 5
    assert maintain(lake, replace(COMPACT, dry_run=True))["compact"]["files_in"] == 5
    assert len(live_files(lake)) == 5
    counts = maintain(lake, COMPACT)["compact"]
    assert (counts["files_in"], counts["files_out"], counts["deletes_out"]) == (5, 1, 4)
    assert notes(lake) == expected
    assert len(live_files(lake)) == 1
    assert delete_files(lake.table(ORDERS)) == set()
    snapshot = lake.table(ORDERS).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.operation is Operation.REPLACE
    totals = {
        "total-records": str(len(expected)),
        "total-data-files": "1",
        "total-delete-files": "0",
        "total-position-deletes": "0",
    }
    assert snapshot.summary.additional_properties.items() >= totals.items()
    assert lake.target.committed(ORDERS, "p") == token
    assert maintain(lake, COMPACT)["compact"] == dict.fromkeys(counts, 0)
    lake.load(ORDERS, UPSERT, [{"id": 0, "note": "newer"}])
    assert notes(lake) == expected | {0: "newer"}


def test_a_large_file_is_left_alone_until_enough_of_it_is_deleted(lake: Lake) -> None:
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(10)])
    wanted = replace(COMPACT, small_bytes=1, deleted_share=0.25, min_files=5)
    lake.load(ORDERS, UPSERT, [{"id": 0}, {"id": 1}], [DEL, DEL])
    assert maintain(lake, wanted)["compact"]["files_in"] == 0
    lake.load(ORDERS, UPSERT, [{"id": 2}], [DEL])
    assert maintain(lake, wanted)["compact"]["files_in"] == 1
    assert notes(lake) == dict.fromkeys(range(3, 10), "old")


def test_piled_up_delete_files_of_a_large_file_are_joined(lake: Lake) -> None:
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(50)])
    for n in range(4):
        lake.load(ORDERS, UPSERT, [{"id": n}], [DEL])
    before = live_files(lake)
    wanted = replace(COMPACT, small_bytes=1, min_files=4)
    assert maintain(lake, wanted)["compact"]["deletes_out"] == 4
    assert live_files(lake) == before
    assert len(delete_files(lake.table(ORDERS))) == 1
    assert notes(lake) == dict.fromkeys(range(4, 50), "old")


@pytest.mark.parametrize(
    "settings", [{}, {"partition_spec": {"public.orders": ["note"]}}, {"format_version": 1}]
)
def test_rows_deleted_while_files_are_compacted_do_not_come_back(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    lake = Lake(tmp_path / "lake", **settings)
    expected = history(lake)
    other = Lake(tmp_path / "lake", **settings)

    def meanwhile() -> None:
        rows = [{"id": 5, "note": "meanwhile"}, {"id": 6}, {"id": 31}, {"id": 0, "note": "meanwhile"}]
        staged = other.stage(ORDERS, UPSERT, rows, [UPD, DEL, DEL, UPD])
        other.target.publish(ORDERS, UPSERT, [staged], other.token(9))
        other.target.close()

    interfere(lake, before=meanwhile)
    maintain(lake, COMPACT)
    del expected[6], expected[31]
    expected |= {5: "meanwhile", 0: "meanwhile"}
    assert notes(lake) == expected
    lake.target.publish(
        ORDERS, UPSERT, [lake.stage(ORDERS, UPSERT, [{"id": 7, "note": "after"}])], lake.token(10)
    )
    assert notes(lake) == expected | {7: "after"}
    maintain(lake, COMPACT)
    assert notes(lake) == expected | {7: "after"}
    lake.target.close()


def test_a_table_emptied_while_it_is_compacted_stays_empty(lake: Lake, tmp_path: Path) -> None:
    for n in range(3):
        lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"}])
    other = Lake(tmp_path / "lake")

    def meanwhile() -> None:
        staged = other.stage(ORDERS, REPLACE, [{"id": 77, "note": "alone"}])
        other.target.publish(ORDERS, REPLACE, [staged], other.token(9))
        other.target.close()

    interfere(lake, before=meanwhile)
    before = on_disk(tmp_path)
    assert maintain(lake, COMPACT)["compact"]["files_in"] == 0
    assert notes(lake) == {77: "alone"}
    left = {path for path in on_disk(tmp_path) - before if path.endswith(".parquet")}
    assert left == {path.removeprefix("file://") for path in live_files(lake)}


def test_an_upsert_whose_files_are_compacted_meanwhile_takes_the_new_ones(lake: Lake, tmp_path: Path) -> None:
    expected = history(lake)
    other = Lake(tmp_path / "lake")
    staged = lake.stage(ORDERS, UPSERT, [{"id": 3, "note": "newest"}, {"id": 15}], [UPD, DEL])

    def meanwhile() -> None:
        assert maintain(other, COMPACT)["compact"]["files_in"] == 5

    interfere(lake, before=meanwhile)
    lake.publish(ORDERS, UPSERT, staged)
    del expected[15]
    assert notes(lake) == expected | {3: "newest"}
    other.target.close()


WRITER = """
import sys
from tests.integration.iceberg_lake import Lake, stream
from headrace.connector import Change, WriteMode
lake, orders = Lake(sys.argv[1]), stream()
for n in range(15):
    rows = [{"id": id, "note": str(n)} for id in range(n, n + 10)] + [{"id": 100 + n}]
    changes = [Change.UPDATE] * 10 + [Change.DELETE]
    staged = lake.stage(orders, WriteMode.UPSERT, rows, changes)
    lake.target.publish(orders, WriteMode.UPSERT, [staged], lake.token(n + 2))
lake.target.close()
"""


def test_a_pipeline_that_runs_beside_maintenance_loses_nothing(lake: Lake, tmp_path: Path) -> None:
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in (*range(40), *range(100, 120))])
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "lake"])
    rounds = 0
    while writer.poll() is None:
        maintain(lake, replace(COMPACT, expire=True, expire_after=0, keep_snapshots=8, orphans=True))
        rounds += 1
    assert (writer.returncode, rounds > 1) == (0, True)
    maintain(lake, COMPACT)
    last = {id: str(min(id, 14)) if id < 24 else "old" for id in range(40)}
    assert notes(lake) == last | dict.fromkeys(range(115, 120), "old")
    assert len(live_files(lake)) <= 2
    assert lake.target.committed(ORDERS, "p") == lake.token(16)


def test_a_table_too_large_for_one_commit_is_compacted_in_several(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "COMMIT_BYTES", 1)
    expected = history(lake)
    before = len(lake.table(ORDERS).metadata.snapshots)
    tiny = replace(COMPACT, small_bytes=1 << 20)
    done = compact.compact(lambda: lake.target._load(ORDERS), tiny, 2000)
    assert done["files_in"] == 4
    assert len(lake.table(ORDERS).metadata.snapshots) > before + 1
    assert notes(lake) == expected


def test_expired_snapshots_take_their_files_with_them(lake: Lake, tmp_path: Path) -> None:
    expected = history(lake)
    maintain(lake, COMPACT)
    token = lake.target.committed(ORDERS, "p")
    assert maintain(lake, replace(EXPIRE, expire_after=1))["expire"] == {
        "snapshots_out": 0,
        "files_removed": 0,
    }
    planned = maintain(lake, replace(EXPIRE, dry_run=True))["expire"]
    before = on_disk(tmp_path)
    assert maintain(lake, EXPIRE)["expire"] == planned
    assert (
        len(before) - len(on_disk(tmp_path)) + 1 == planned["files_removed"]
    )  # one more is the new metadata
    assert len(lake.table(ORDERS).metadata.snapshots) == 1
    assert notes(lake) == expected
    assert lake.target.committed(ORDERS, "p") == token
    lake.load(ORDERS, UPSERT, [{"id": 0, "note": "newer"}])
    assert notes(lake)[0] == "newer"


def test_what_a_tag_or_the_last_snapshots_hold_is_kept(lake: Lake) -> None:
    history(lake)
    catalog = lake.foreign()
    first = lake.table(ORDERS).metadata.snapshots[1].snapshot_id
    catalog.load_table(("public", "orders")).manage_snapshots().create_tag(first, "audit").commit()
    catalog.close()
    maintain(lake, COMPACT)
    assert maintain(lake, replace(EXPIRE, keep_snapshots=3))["expire"]["snapshots_out"] == 2
    table = lake.table(ORDERS)
    assert len(table.metadata.snapshots) == 4
    for snapshot in table.metadata.snapshots:
        assert table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows > 0


def test_a_token_that_only_an_expired_snapshot_held_is_kept(lake: Lake) -> None:
    history(lake)
    token = lake.target.committed(ORDERS, "p")
    catalog = lake.foreign()
    table = catalog.load_table(("public", "orders"))
    table.append(pa.table({"id": [99], "note": ["foreign"]}))
    with table.transaction() as transaction:
        transaction.remove_properties(f"{PROPERTY}p")
    catalog.close()
    wanted = replace(EXPIRE, tables=("public.orders",))
    assert maintain(lake, wanted)["expire"]["snapshots_out"] == 5
    assert lake.target.committed(ORDERS, "p") == token


def test_only_old_files_that_nothing_names_are_orphans(lake: Lake, tmp_path: Path) -> None:
    expected = history(lake)
    staged = lake.stage(ORDERS, UPSERT, [{"id": 1, "note": "staged"}])
    named = on_disk(tmp_path)
    waste = tmp_path / "lake/public/orders/data/left.parquet"
    other = tmp_path / "lake/public/orders/notes.txt"
    for path in (waste, other):
        path.write_bytes(b"12345")
    assert maintain(lake, ORPHANS)["orphans"] == {"files_removed": 0, "bytes_removed": 0}
    for path in on_disk(tmp_path):
        if path not in {file["path"].removeprefix("file://") for file in staged.detail["files"]}:
            age(path, 4)
    for path in [path.removeprefix("file://") for path in staged.detail["keys"]]:
        age(path, 2)
    assert maintain(lake, replace(ORPHANS, dry_run=True))["orphans"] == {
        "files_removed": 1,
        "bytes_removed": 5,
    }
    assert maintain(lake, ORPHANS)["orphans"] == {"files_removed": 1, "bytes_removed": 5}
    left = {path for path in on_disk(tmp_path) if "/metadata/" not in path}
    assert left == {path for path in named if "/metadata/" not in path} | {str(other)}
    lake.publish(ORDERS, UPSERT, staged)
    assert notes(lake) == expected | {1: "staged"}


def test_a_table_whose_files_may_not_be_removed_keeps_them(lake: Lake) -> None:
    history(lake)
    catalog = lake.foreign()
    with catalog.load_table(("public", "orders")).transaction() as transaction:
        transaction.set_properties({"gc.enabled": "false"})
    catalog.close()
    lake.stage(ORDERS, APPEND, [{"id": 1}])
    done = maintain(lake, replace(EXPIRE, orphans=True, orphans_after=0))
    assert (done["expire"]["snapshots_out"], done["orphans"]["files_removed"]) == (0, 0)


def age(path: str, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(path, (then, then))


@pytest.mark.parametrize("mode", [APPEND, UPSERT])
def test_rows_whose_stage_was_cleared_away_are_refused_and_not_half_committed(
    lake: Lake, mode: WriteMode
) -> None:
    lake.load(ORDERS, mode, [{"id": 0, "note": "old"}])
    staged = lake.stage(ORDERS, mode, [{"id": 1, "note": "staged"}])
    staged = replace(staged, detail=staged.detail | {"at": staged.detail["at"] - 5 * 86_400.0})
    for path in [file["path"] for file in staged.detail["files"]] + staged.detail["keys"]:
        age(path.removeprefix("file://"), 5)
    maintain(lake, ORPHANS)
    with pytest.raises(StageLost, match="cleared"):
        lake.publish(ORDERS, mode, staged)
    assert notes(lake) == {0: "old"}


def test_tables_of_others_are_left_alone_unless_named(lake: Lake) -> None:
    lake.load(ORDERS, APPEND, [{"id": 1}])
    catalog = lake.foreign()
    table = catalog.create_table(("public", "theirs"), schema=pa.schema({"id": pa.int64()}))
    for n in range(3):
        table.append(pa.table({"id": [n]}))
    catalog.close()
    assert {one.table for one in lake.target.maintain(COMPACT)} == {"public.orders"}
    (done,) = lake.target.maintain(replace(COMPACT, tables=("public.theirs",)))
    assert (done.table, done.counts["files_in"]) == ("public.theirs", 3)


def test_a_lake_in_s3_is_maintained(tmp_path: Path, s3_server: S3Server, s3_bucket: str) -> None:
    lake = Lake(f"s3://{s3_bucket}/lake", uri=f"sqlite:///{tmp_path}/catalog.db", s3=s3_server.access())
    for n in range(4):
        lake.load(ORDERS, UPSERT, [{"id": n, "note": "new"}, {"id": n + 1, "note": "old"}])
    left = lake.stage(ORDERS, UPSERT, [{"id": 9}])
    done = maintain(
        lake, replace(COMPACT, expire=True, expire_after=0, keep_snapshots=1, orphans=True, orphans_after=0)
    )
    assert done["compact"]["files_in"] == 4
    assert done["expire"]["snapshots_out"] == 4
    assert done["orphans"]["files_removed"] >= len(left.detail["files"]) + len(left.detail["keys"])
    found = lake.target._load(ORDERS).scan().to_arrow()
    assert sorted(found["id"].to_pylist()) == [0, 1, 2, 3, 4]
    lake.target.close()


def test_the_command_maintains_and_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cli = in_process(capsys)
    lake = Lake(tmp_path / "lake")
    expected = history(lake)
    lake.target.close()
    command = ("maintain", f"iceberg:{tmp_path / 'lake'}")
    done = cli(*command, "--min-files", "2", "--dry-run", "--json")
    assert done.code == 0
    assert [row["step"] for row in done.document["maintenance"]] == ["compact", "expire", "orphans"]
    assert done.document["maintenance"][0]["counts"]["files_in"] == 5
    done = cli(*command, "--min-files", "2", "--no-orphans", "--expire-days", "0", "--keep", "1")
    assert done.code == 0
    assert "5 files" in done.out
    assert "5 snapshots" in done.out
    assert notes(lake) == expected
    done = cli(*command, "--table", "public.ordrs")
    assert (done.code, "public.orders" in done.err) == (5, True)
    assert cli("maintain", "files:x.csv").code == 3
    lake.target.close()
