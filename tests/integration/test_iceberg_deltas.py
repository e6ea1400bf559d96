"""Row deltas beside other writers: a position that another commit has moved is looked up again."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.manifest import ManifestContent
from pyiceberg.table import Table

from headrace.connector import Change, Maintenance, WriteMode
from headrace.connectors.iceberg import keys, live
from tests.integration.iceberg_foreign import delete_files, delete_position
from tests.integration.iceberg_lake import Lake, interfere, stream

APPEND, UPSERT = WriteMode.APPEND, WriteMode.UPSERT
INS, UPD, DEL = Change.INSERT, Change.UPDATE, Change.DELETE
ORDERS = stream()
NAME = ("public", "orders")


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path / "lake")
    yield lake
    lake.target.close()


def as_another(lake: Lake, action: Callable[[Table], Any]) -> None:
    catalog = lake.foreign()
    action(catalog.load_table(NAME))
    catalog.close()


def compact(table: Table) -> None:
    """All live rows in one new file."""
    table.overwrite(table.scan().to_arrow())


def notes(lake: Lake) -> dict[int, str]:
    found = lake.rows(ORDERS)
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row["note"] for row in found}


def files(lake: Lake) -> list[str]:
    return sorted(task.file.file_path for task in lake.table(ORDERS).scan().plan_files())


def start(lake: Lake) -> None:
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(6)])
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(6, 9)])
    lake.load(ORDERS, UPSERT, [{"id": 8, "note": "older"}])


def test_a_compaction_between_look_and_commit_moves_the_deletes_with_it(lake: Lake) -> None:
    start(lake)
    staged = lake.stage(ORDERS, UPSERT, [{"id": 2, "note": "new"}, {"id": 7}], [UPD, DEL])
    interfere(lake, before=lambda: as_another(lake, compact))
    lake.publish(ORDERS, UPSERT, staged)
    assert notes(lake) == {0: "old", 1: "old", 2: "new", 3: "old", 4: "old", 5: "old", 6: "old", 8: "older"}
    lake.load(ORDERS, UPSERT, [{"id": 6, "note": "new"}])
    assert notes(lake)[6] == "new"


def test_an_append_of_the_key_between_look_and_commit_gives_way(lake: Lake) -> None:
    start(lake)
    staged = lake.stage(ORDERS, UPSERT, [{"id": 2, "note": "new"}, {"id": 50, "note": "new"}])
    foreign = pa.table({"id": [2, 50, 51], "note": ["foreign"] * 3})
    interfere(lake, before=lambda: as_another(lake, lambda table: table.append(foreign)))
    lake.publish(ORDERS, UPSERT, staged)
    found = notes(lake)
    assert (found[2], found[50], found[51]) == ("new", "new", "foreign")


def test_a_delete_between_look_and_commit_is_kept_and_not_counted_twice(lake: Lake) -> None:
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(6)])
    (file,) = files(lake)
    staged = lake.stage(ORDERS, UPSERT, [{"id": 2, "note": "new"}])

    def meanwhile() -> None:
        as_another(lake, lambda table: delete_position(table, file, 2))
        as_another(lake, lambda table: delete_position(table, file, 3))

    interfere(lake, before=meanwhile)
    lake.publish(ORDERS, UPSERT, staged)
    assert notes(lake) == {0: "old", 1: "old", 2: "new", 4: "old", 5: "old"}
    assert len(delete_files(lake.table(ORDERS))) == 2


def test_a_file_removed_between_look_and_commit_is_not_pointed_to(lake: Lake) -> None:
    start(lake)
    staged = lake.stage(ORDERS, UPSERT, [{"id": 2, "note": "new"}])
    interfere(lake, before=lambda: as_another(lake, lambda table: table.delete("id < 6")))
    before = delete_files(lake.table(ORDERS))
    lake.publish(ORDERS, UPSERT, staged)
    assert notes(lake) == {2: "new", 6: "old", 7: "old", 8: "older"}
    assert delete_files(lake.table(ORDERS)) == before


def test_a_rollback_is_seen_by_an_index_that_knew_better(lake: Lake) -> None:
    start(lake)
    then = lake.table(ORDERS).current_snapshot()
    assert then is not None
    lake.load(ORDERS, UPSERT, [{"id": 2}, {"id": 3, "note": "new"}], [DEL, UPD])
    lake.load(ORDERS, UPSERT, [{"id": 4, "note": "new"}])  # now the deletes of the one before are known
    as_another(lake, lambda table: table.manage_snapshots().rollback_to_snapshot(then.snapshot_id).commit())
    assert notes(lake)[2] == "old"
    lake.load(ORDERS, UPSERT, [{"id": 2, "note": "newer"}])
    assert notes(lake) | {8: ""} == dict.fromkeys(range(8), "old") | {2: "newer", 8: ""}


WRITER = """
import sys
from tests.integration.iceberg_lake import Lake, stream
from headrace.connector import WriteMode
folder, pipeline = sys.argv[1:]
lake, orders = Lake(folder), stream()
for n in range(8):
    rows = [{"id": id, "note": pipeline} for id in range(n, n + 20)]
    staged = lake.stage(orders, WriteMode.UPSERT, rows)
    lake.target.publish(orders, WriteMode.UPSERT, [staged], lake.token(n + 1, pipeline=pipeline))
lake.target.close()
"""


def test_two_pipelines_that_upsert_one_table_leave_one_row_a_key(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(40)])
    names = ("p1", "p2")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "lake", name]) for name in names]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    found = notes(lake)
    assert set(found) == set(range(40))
    assert {found[n] for n in range(27)} <= set(names)
    assert {found[n] for n in range(27, 40)} == {"old"}
    assert all(lake.target.committed(ORDERS, n) == lake.token(8, pipeline=n) for n in names)
    lake.target.close()


def test_all_rows_of_a_key_that_was_appended_twice_give_way(lake: Lake) -> None:
    for _ in range(2):
        lake.load(ORDERS, APPEND, [{"id": 1, "note": "a"}, {"id": 1, "note": "b"}, {"id": 2, "note": "c"}])
    lake.load(ORDERS, UPSERT, [{"id": 1, "note": "one"}, {"id": 2}], [UPD, DEL])
    assert notes(lake) == {1: "one"}


def test_a_row_that_moves_to_another_partition_leaves_the_old_one(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake", partition_spec={"public.orders": ["note"]})
    lake.load(
        ORDERS, UPSERT, [{"id": n, "note": note} for n, note in enumerate(("eu", "us", "eu", None, "us"))]
    )
    lake.load(ORDERS, UPSERT, [{"id": 0, "note": "us"}, {"id": 3, "note": "eu"}, {"id": 4}], [UPD, UPD, DEL])
    assert notes(lake) == {0: "us", 1: "us", 2: "eu", 3: "eu"}
    lake.load(ORDERS, UPSERT, [{"id": 0, "note": None}])
    assert notes(lake) == {0: None, 1: "us", 2: "eu", 3: "eu"}
    lake.target.close()


def test_a_key_whose_column_was_renamed_is_found_in_older_files(lake: Lake) -> None:
    start(lake)

    def rename(table: Table) -> None:
        with table.update_schema() as update:
            update.rename_column("id", "number")
            update.rename_column("note", "id")

    as_another(lake, rename)
    renamed = stream(key=("number",), number=pa.int64(), id=pa.string())
    lake.load(renamed, UPSERT, [{"number": 2, "id": "new"}, {"number": 8}], [UPD, DEL])
    found = {row["number"]: row["id"] for row in lake.rows(renamed)}
    assert found == {n: "new" if n == 2 else "old" for n in range(8)}


def test_null_keys_of_another_writer_match_nothing(lake: Lake) -> None:
    lake.load(ORDERS, UPSERT, [{"id": 0, "note": "old"}])
    foreign = pa.table({"id": pa.array([None, 0, None], pa.int64()), "note": ["a", "b", "c"]})
    as_another(lake, lambda table: table.append(foreign))
    lake.load(ORDERS, UPSERT, [{"id": 0, "note": "new"}])
    assert [row["note"] for row in lake.rows(ORDERS)] == ["new", "a", "c"]


def test_two_keys_of_one_hash_are_never_taken_for_each_other(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_hash", lambda columns: np.zeros(len(columns[0]), np.uint64))
    lines = stream("lines", ("region", "id"), region=pa.string(), id=pa.int64(), v=pa.int64())
    lake.load(lines, UPSERT, [{"region": r, "id": n, "v": 0} for r in ("eu", "us") for n in range(3)])
    lake.load(lines, UPSERT, [{"region": "eu", "id": 1, "v": 1}, {"region": "us", "id": 2}], [UPD, DEL])
    found = {(row["region"], row["id"]): row["v"] for row in lake.rows(lines)}
    assert found == {("eu", 0): 0, ("eu", 1): 1, ("eu", 2): 0, ("us", 0): 0, ("us", 1): 0}


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 17, 40])
def test_texts_that_differ_in_one_byte_have_two_hashes(size: int) -> None:
    texts = [
        b"x" * size,
        b"x" * size + b"\0",
        *(b"x" * n + b"y" + b"x" * (size - n - 1) for n in range(size)),
    ]
    column = pa.chunked_array([pa.array(texts, pa.binary()), pa.array([b"other"], pa.binary())])
    found = keys.Keys.of([column])
    assert len(np.unique(found.codes)) == len(texts) + 1
    assert found.rows_in(keys.Keys.of([column.slice(1, 1)])).tolist() == [1]


@pytest.mark.parametrize("budget", [0, 200, 1 << 20])
def test_an_index_of_any_size_finds_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(live, "INDEX_BYTES", budget)
    lake = Lake(tmp_path / "lake")
    lines = stream("lines")
    for at in range(4):
        lake.load(ORDERS, UPSERT, [{"id": n * 4 + at, "note": "old"} for n in range(10)])
        lake.load(lines, UPSERT, [{"id": n, "note": str(at)} for n in range(3)])
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "new"} for n in range(0, 40, 3)])
    assert notes(lake) == {n: "new" if n % 3 == 0 else "old" for n in range(40)}
    held = sum(index.bytes for index in lake.target._indexes._tables.values())
    assert held <= budget
    assert held or not budget
    lake.target.close()


def test_a_live_stream_reads_a_file_once_for_its_keys(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    start(lake)
    lake.load(ORDERS, UPSERT, [{"id": 0, "note": "new"}, {"id": 7, "note": "new"}])
    read = []
    scan = live.LiveFile.scan

    def noted(file: live.LiveFile, *args: Any) -> Any:
        read.append(file.path)
        return scan(file, *args)

    monkeypatch.setattr(live.LiveFile, "scan", noted)
    known = set(files(lake))
    lake.load(ORDERS, UPSERT, [{"id": 1, "note": "new"}])
    assert len(read) <= 1, "at most the file of the publish before"
    as_another(lake, compact)
    lake.load(ORDERS, UPSERT, [{"id": 3, "note": "new"}])
    assert not set(read[1:]) & known
    assert notes(lake) == {n: "new" if n in (0, 1, 3, 7) else "older" if n == 8 else "old" for n in range(9)}


def test_a_table_of_format_version_1_is_rewritten_since_it_knows_no_deletes(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake", format_version=1)
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(4)])
    one = lake.stage(ORDERS, UPSERT, [{"id": 1, "note": "a"}, {"id": 8, "note": "a"}, {"id": 9, "note": "a"}])
    two = lake.stage(ORDERS, UPSERT, [{"id": 1, "note": "b"}, {"id": 8}], [UPD, DEL])
    lake.publish(ORDERS, UPSERT, one, two)
    assert notes(lake) == {0: "old", 1: "b", 2: "old", 3: "old", 9: "a"}
    assert lake.table(ORDERS).metadata.format_version == 1
    known = {path.removeprefix("file://") for path in files(lake)}
    assert {str(path) for path in (tmp_path / "lake").rglob("*.parquet")} == known | set(
        map(str, obsolete(lake))
    )
    lake.target.close()


def obsolete(lake: Lake) -> set[str]:
    """Files that only older snapshots hold."""
    table = lake.table(ORDERS)
    return {
        task.file.file_path.removeprefix("file://")
        for snapshot in table.metadata.snapshots
        for task in table.scan(snapshot_id=snapshot.snapshot_id).plan_files()
    }


def test_many_commits_do_not_leave_as_many_manifests_of_deletes(lake: Lake) -> None:
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(20)])

    def merge_early(table: Table) -> None:
        with table.transaction() as transaction:
            transaction.set_properties({"commit.manifest.min-count-to-merge": "4"})

    as_another(lake, merge_early)
    for n in range(12):
        lake.load(ORDERS, UPSERT, [{"id": n, "note": "new"}])
    assert notes(lake) == {n: "new" if n < 12 else "old" for n in range(20)}
    table = lake.table(ORDERS)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    deletes = [m for m in snapshot.manifests(table.io) if m.content == ManifestContent.DELETES]
    assert len(deletes) <= 4
    assert len(delete_files(table)) == 12


def test_a_file_to_be_removed_is_found_in_a_manifest_that_was_merged_meanwhile(lake: Lake) -> None:
    lake.load(ORDERS, UPSERT, [{"id": 1, "note": "old"}, {"id": 2, "note": "old"}])
    lake.load(ORDERS, UPSERT, [{"id": 3, "note": "old"}])
    staged = lake.stage(ORDERS, UPSERT, [{"id": 3, "note": "new"}])

    def merge(table: Table) -> None:
        with table.transaction() as transaction:
            transaction.set_properties({"commit.manifest.min-count-to-merge": "1"})
        table.append(pa.table({"id": [9], "note": ["foreign"]}))

    interfere(lake, before=lambda: as_another(lake, merge))
    lake.publish(ORDERS, UPSERT, staged)
    assert notes(lake) == {1: "old", 2: "old", 3: "new", 9: "foreign"}
    assert len(files(lake)) == 3


def test_a_random_history_of_two_writers_and_a_compaction_ends_as_a_dict_does(tmp_path: Path) -> None:
    dice = random.Random(11)
    lines = stream("orders", ("region", "id"), region=pa.string(), id=pa.int32(), note=pa.string())
    spec = {"public.orders": ["region"]}
    lakes = [Lake(tmp_path / "lake", partition_spec=spec) for _ in range(2)]
    state: dict[tuple[str, int], str] = {}
    for step in range(14):
        rows: list[dict[str, Any]] = []
        changes: list[Change] = []
        for _ in range(dice.randint(1, 40)):
            region, id, note = dice.choice(["eu", "us", "é"]), dice.randrange(15), str(dice.random())
            gone = dice.random() < 0.3
            rows.append({"region": region, "id": id, "note": None if gone else note})
            changes.append(DEL if gone else UPD)
            if gone:
                state.pop((region, id), None)
            else:
                state[region, id] = note
        lake = dice.choice(lakes)
        staged = lake.stage(lines, UPSERT, rows, changes)
        lake.target.publish(lines, UPSERT, [staged], lake.token(step + 1))
        if step in (5, 9):
            as_another(lake, compact)
    assert {(row["region"], row["id"]): row["note"] for row in lakes[0].rows(lines)} == state
    for lake in lakes:
        lake.target.close()


def test_rows_under_an_older_partitioning_are_found_and_compacted_into_the_newer(lake: Lake) -> None:
    start(lake)

    def partition(table: Table) -> None:
        with table.update_spec() as update:
            update.add_identity("note")

    as_another(lake, partition)
    lake.load(ORDERS, UPSERT, [{"id": 1, "note": "eu"}, {"id": 7, "note": "us"}, {"id": 2}], [UPD, UPD, DEL])
    lake.load(ORDERS, UPSERT, [{"id": 1, "note": "us"}, {"id": 3, "note": "us"}])
    expected = {0: "old", 1: "us", 3: "us", 4: "old", 5: "old", 6: "old", 7: "us", 8: "older"}
    assert notes(lake) == expected
    other = Lake(lake.config.warehouse)
    staged = other.stage(ORDERS, UPSERT, [{"id": 4}, {"id": 7, "note": "eu"}], [DEL, UPD])
    interfere(
        lake, before=lambda: other.target.publish(ORDERS, UPSERT, [staged], lake.token(9, pipeline="q"))
    )
    done = list(lake.target.maintain(Maintenance(expire=False, orphans=False, min_files=2)))
    assert [one.error for one in done] == [None]
    del expected[4]
    assert notes(lake) == expected | {7: "eu"}
    list(lake.target.maintain(Maintenance(expire=False, orphans=False, min_files=2)))
    assert notes(lake) == expected | {7: "eu"}
    assert {file.spec_id for task in lake.table(ORDERS).scan().plan_files() if (file := task.file)} == {1}
    other.target.close()
