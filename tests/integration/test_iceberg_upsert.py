"""Upserts into Iceberg tables: the last event of a key wins, wherever it was staged."""

from __future__ import annotations

import datetime as dt
import decimal
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table.snapshots import Operation

from headrace.connector import Batch, Change, WriteMode
from headrace.connectors.iceberg import write
from headrace.errors import ConfigError
from tests.integration.iceberg_foreign import delete_files, delete_position
from tests.integration.iceberg_lake import SLICE, Lake, stream

UPSERT = WriteMode.UPSERT
INS, UPD, DEL = Change.INSERT, Change.UPDATE, Change.DELETE


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path / "lake")
    yield lake
    lake.target.close()


def live_files(lake: Lake, of: Any) -> set[str]:
    return {task.file.file_path for task in lake.table(of).scan().plan_files()}


def test_rows_with_a_known_key_give_way_and_deletes_are_applied(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, UPSERT, [{"id": n, "note": "old"} for n in range(5)])
    lake.load(
        orders,
        UPSERT,
        [
            {"id": 1, "note": "new"},
            {"id": 2, "note": None},
            {"id": 3},
            {"id": 9, "note": "first"},
            {"id": 77},
        ],
        [UPD, UPD, DEL, INS, DEL],
    )
    assert lake.rows(orders) == [
        {"id": 0, "note": "old"},
        {"id": 1, "note": "new"},
        {"id": 2, "note": None},
        {"id": 4, "note": "old"},
        {"id": 9, "note": "first"},
    ]


def test_the_last_event_of_a_key_wins_within_a_batch_a_writer_and_a_publish(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, UPSERT, [{"id": 1, "note": "in the table"}, {"id": 2, "note": "in the table"}])
    first = lake.stage(
        orders,
        UPSERT,
        [
            {"id": 1, "note": "a"},
            {"id": 1},
            {"id": 1, "note": "b"},
            {"id": 2, "note": "c"},
            {"id": 3, "note": "d"},
        ],
        [UPD, DEL, INS, UPD, INS],
    )
    second = lake.stage(
        orders, UPSERT, [{"id": 2}, {"id": 3, "note": "e"}, {"id": 4, "note": "f"}], [DEL, UPD, INS]
    )
    third = lake.stage(orders, UPSERT, [{"id": 4}, {"id": 2, "note": "g"}], [DEL, INS])
    assert (first.rows, second.rows, third.rows) == (5, 3, 2)
    lake.publish(orders, UPSERT, first, second, third)
    assert lake.rows(orders) == [{"id": 1, "note": "b"}, {"id": 2, "note": "g"}, {"id": 3, "note": "e"}]


def test_events_of_one_key_far_apart_in_a_writer_leave_one_row(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "GROUP_ROWS", 3)
    orders = stream()
    lake.target.prepare(orders, UPSERT)
    batches = [
        Batch(
            orders.id,
            Batch.of(orders, [{"id": n % 4, "note": str(n)}]).rows,
            pa.array([int(DEL if n == 19 else UPD)], pa.int8()),
        )
        for n in range(20)
    ]
    staged = lake.stage_batches(orders, UPSERT, batches)
    lake.publish(orders, UPSERT, staged)
    assert lake.rows(orders) == [{"id": 0, "note": "16"}, {"id": 1, "note": "17"}, {"id": 2, "note": "18"}]


def test_no_file_is_rewritten_and_the_snapshot_counts_what_was_added(lake: Lake) -> None:
    orders = stream()
    for part in range(4):
        lake.load(orders, UPSERT, [{"id": part * 100 + n, "note": "old"} for n in range(10)])
    before = live_files(lake, orders)
    lake.load(
        orders,
        UPSERT,
        [{"id": 105, "note": "new"}, {"id": 209}, {"id": 250, "note": "between"}],
        [UPD, DEL, INS],
    )
    assert before < live_files(lake, orders)
    assert len(lake.rows(orders)) == 40
    snapshot = lake.table(orders).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.operation is Operation.OVERWRITE
    counted = {
        "added-data-files": "1", "added-records": "2", "added-position-deletes": "2",
        "added-position-delete-files": "1", "total-data-files": "5", "total-records": "42",
        "total-delete-files": "1", "total-position-deletes": "2",
    }  # fmt: skip
    assert snapshot.summary.additional_properties.items() >= counted.items()


def test_a_file_without_a_row_left_leaves_the_table(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, UPSERT, [{"id": 1, "note": "a"}, {"id": 2, "note": "a"}])
    lake.load(orders, UPSERT, [{"id": 3, "note": "b"}])
    lake.load(orders, UPSERT, [{"id": 2, "note": "c"}])
    lake.load(orders, UPSERT, [{"id": 1}], [DEL])
    assert lake.rows(orders) == [{"id": 2, "note": "c"}, {"id": 3, "note": "b"}]
    assert len(live_files(lake, orders)) == 2
    snapshot = lake.table(orders).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.additional_properties["total-records"] == "2"


def test_fresh_keys_only_add_files(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, UPSERT, [{"id": 1, "note": "a"}, {"id": 3, "note": "c"}])
    before = live_files(lake, orders)
    lake.load(orders, UPSERT, [{"id": 2, "note": "b"}])
    assert before < live_files(lake, orders)
    snapshot = lake.table(orders).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.operation is Operation.APPEND


def test_nothing_but_the_tables_own_files_is_left_behind(lake: Lake, tmp_path: Path) -> None:
    orders = stream()
    lake.load(orders, UPSERT, [{"id": 1, "note": "a"}, {"id": 2, "note": "a"}])
    one = lake.stage(orders, UPSERT, [{"id": 5, "note": "a"}, {"id": 6, "note": "a"}])
    two = lake.stage(orders, UPSERT, [{"id": 5, "note": "b"}])
    lake.publish(orders, UPSERT, one, two)
    lake.load(orders, UPSERT, [{"id": 2, "note": "b"}])
    known = live_files(lake, orders) | delete_files(lake.table(orders))
    known = {path.removeprefix("file://") for path in known}
    assert {str(path) for path in tmp_path.rglob("*.parquet")} == known


def test_a_null_in_a_key_column_rejects_the_row(lake: Lake) -> None:
    lines = stream("lines", ("order", "line"), order=pa.int64(), line=pa.int32(), sku=pa.string())
    staged = lake.stage(
        lines,
        UPSERT,
        [
            {"order": 1, "line": 1, "sku": "a"},
            {"order": 1, "line": None, "sku": "b"},
            {"order": None, "line": 2},
        ],
        [INS, INS, DEL],
    )
    lake.publish(lines, UPSERT, staged)
    assert staged.rows == 1
    assert [(r.code, r.where) for r in lake.rejects] == [
        ("iceberg.null_key", {"order": 1}),
        ("iceberg.null_key", {"line": 2}),
    ]
    assert lake.rows(lines) == [{"order": 1, "line": 1, "sku": "a"}]


def test_an_upsert_without_a_key_is_refused(lake: Lake) -> None:
    orders = stream(key=())
    lake.target.prepare(orders, UPSERT)
    with pytest.raises(ConfigError, match="no key"):
        lake.target.open(orders, UPSERT, SLICE)


KEYS: dict[str, tuple[pa.DataType, Any, Any]] = {
    "int8": (pa.int8(), 1, 2),
    "int64": (pa.int64(), -(2**63), 2**63 - 1),
    "uint64": (pa.uint64(), 0, 2**64 - 1),
    "bool": (pa.bool_(), True, False),
    "double": (pa.float64(), -1.5, 1e300),
    "decimal": (pa.decimal128(30, 5), decimal.Decimal("-1.00001"), decimal.Decimal("12345678901234567890.5")),
    "date": (pa.date32(), dt.date(1, 1, 1), dt.date(2024, 2, 29)),
    "time": (pa.time64("us"), dt.time(1), dt.time(23, 59, 59, 1)),
    "timestamp": (pa.timestamp("us"), dt.datetime(1066, 1, 1), dt.datetime(2024, 1, 1, 0, 0, 0, 1)),
    "timestamptz": (
        pa.timestamp("us", "UTC"),
        dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    ),
    "text": (pa.string(), "é" * 30 + "a", "é" * 30 + "b"),
    "bytes": (pa.binary(), b"\xff" * 20, b""),
    "uuid": (pa.uuid(), uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_of_any_type_finds_its_row(lake: Lake, kind: str) -> None:
    of, one, two = KEYS[kind]
    table = stream("keyed", ("k",), k=of, v=pa.int64())

    def load(keys: list[Any], values: list[int], changes: list[Change]) -> None:
        rows = pa.record_batch([pa.array(keys, of), pa.array(values, pa.int64())], schema=table.schema)
        batch = Batch(table.id, rows, pa.array([int(c) for c in changes], pa.int8()))
        lake.target.prepare(table, UPSERT)
        lake.publish(table, UPSERT, lake.stage_batches(table, UPSERT, [batch]))

    load([one, two], [1, 2], [INS, INS])
    load([two, one, two], [3, 4, 5], [UPD, DEL, UPD])
    assert lake.table(table).scan().to_arrow()["v"].to_pylist() == [5]


def test_a_composite_key_matches_only_as_a_whole(lake: Lake) -> None:
    lines = stream("lines", ("region", "id"), region=pa.string(), id=pa.int64(), v=pa.int64())
    grid = [{"region": r, "id": n, "v": 0} for r in ("eu", "us", "ap") for n in range(3)]
    lake.load(lines, UPSERT, grid)
    lake.load(lines, UPSERT, [{"region": "eu", "id": 1, "v": 1}, {"region": "us", "id": 2}], [UPD, DEL])
    found = {(row["region"], row["id"]): row["v"] for row in lake.rows(lines)}
    assert len(found) == 8
    assert found["eu", 1] == 1
    assert ("us", 2) not in found


def test_a_widened_key_still_finds_the_rows_of_older_files(lake: Lake) -> None:
    lake.load(stream(id=pa.int32(), v=pa.int64()), UPSERT, [{"id": 1, "v": 1}, {"id": 2, "v": 2}])
    wide = stream(id=pa.int64(), v=pa.int64(), more=pa.string())
    lake.load(wide, UPSERT, [{"id": 2, "v": 3, "more": "x"}, {"id": 2**40, "v": 4, "more": None}])
    assert lake.rows(wide) == [
        {"id": 1, "v": 1, "more": None},
        {"id": 1099511627776, "v": 4, "more": None},
        {"id": 2, "v": 3, "more": "x"},
    ]


def test_rows_staged_after_a_truncate_are_folded_and_replace_the_table(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, UPSERT, [{"id": n, "note": "old"} for n in range(3)])
    first = lake.stage(orders, UPSERT, [{"id": 7, "note": "gone"}])
    writer = lake.target.open(orders, UPSERT, SLICE)
    writer.truncate()
    writer.write(Batch.of(orders, [{"id": 1, "note": "a"}]))
    second = writer.stage()
    writer.close()
    third = lake.stage(orders, UPSERT, [{"id": 1, "note": "b"}, {"id": 0}], [UPD, DEL])
    lake.publish(orders, UPSERT, first, second, third)
    assert lake.rows(orders) == [{"id": 1, "note": "b"}]


def test_a_random_history_ends_in_the_state_that_a_dict_has(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "GROUP_ROWS", 17)
    dice = random.Random(7)
    orders = stream()
    state: dict[int, str] = {}
    for _ in range(6):
        staged = []
        for _ in range(dice.randint(1, 3)):
            rows, changes = [], []
            for _ in range(dice.randint(0, 60)):
                id, note = dice.randrange(40), str(dice.random())
                if dice.random() < 0.3:
                    state.pop(id, None)
                    rows, changes = [*rows, {"id": id}], [*changes, DEL]
                else:
                    state[id] = note
                    rows, changes = [*rows, {"id": id, "note": note}], [*changes, UPD]
            staged.append(lake.stage(orders, UPSERT, rows, changes))
        lake.publish(orders, UPSERT, *staged)
    assert {row["id"]: row["note"] for row in lake.rows(orders)} == state


def test_rows_that_another_engine_deleted_by_position_stay_deleted(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, UPSERT, [{"id": n, "note": "old"} for n in range(4)])
    catalog = lake.foreign()
    (file,) = live_files(lake, orders)
    delete_position(catalog.load_table(("public", "orders")), file, 2)
    catalog.close()
    assert [row["id"] for row in lake.rows(orders)] == [0, 1, 3]
    lake.load(orders, UPSERT, [{"id": 3, "note": "new"}])
    assert lake.rows(orders) == [{"id": 0, "note": "old"}, {"id": 1, "note": "old"}, {"id": 3, "note": "new"}]
    lake.load(orders, WriteMode.REPLACE, [{"id": 2, "note": "x"}])
    assert lake.rows(orders) == [{"id": 2, "note": "x"}]
    assert delete_files(lake.table(orders)) == set()
