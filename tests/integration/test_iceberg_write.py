"""Rows into Iceberg tables, read back by pyiceberg and by DuckDB."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import TruncateTransform
from pyiceberg.types import FixedType, IntegerType, LongType, NestedField, StringType

from headrace.connector import Batch, Change, Slice, WriteMode
from headrace.connectors.iceberg import types
from headrace.errors import ConfigError
from servers.readers import read_with_duckdb, read_with_pyiceberg
from tests.integration.iceberg_lake import SLICE, Lake, stream

APPEND, REPLACE, UPSERT = WriteMode.APPEND, WriteMode.REPLACE, WriteMode.UPSERT


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path / "lake")
    yield lake
    lake.target.close()


def parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def test_appended_rows_stand_beside_those_that_were_there(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, APPEND, [{"id": 1, "note": "a"}, {"id": 2, "note": None}])
    lake.load(orders, APPEND, [{"id": 2, "note": "again"}])
    assert lake.rows(orders) == [{"id": 1, "note": "a"}, {"id": 2, "note": "again"}, {"id": 2, "note": None}]
    assert lake.target.committed(orders, "p") == lake.token(2)
    assert lake.target.committed(orders, "another") is None


def test_staged_rows_are_not_seen_before_they_are_published(lake: Lake) -> None:
    orders = stream()
    staged = lake.stage(orders, APPEND, [{"id": 1, "note": "a"}])
    assert lake.rows(orders) == []
    assert (staged.rows, staged.bytes > 0) == (1, True)
    lake.publish(orders, APPEND, staged)
    assert lake.rows(orders) == [{"id": 1, "note": "a"}]


def test_a_replace_swaps_all_rows_and_an_empty_one_leaves_an_empty_table(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, APPEND, [{"id": 1, "note": "a"}])
    before = lake.table(orders)
    lake.load(orders, REPLACE, [{"id": 7, "note": "x"}])
    assert lake.rows(orders) == [{"id": 7, "note": "x"}]
    after = lake.table(orders)
    assert len(after.metadata.snapshots) == len(before.metadata.snapshots) + 1
    summary = after.metadata.snapshots[-1].summary
    assert summary is not None
    assert (summary["total-records"], summary["deleted-records"]) == ("1", "1")
    lake.load(orders, REPLACE, [])
    assert lake.rows(orders) == []


def test_a_reader_of_the_old_snapshot_is_not_disturbed_by_a_replace(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, APPEND, [{"id": n, "note": "old"} for n in range(1000)])
    reading = lake.table(orders).scan().to_arrow_batch_reader()
    lake.load(orders, REPLACE, [{"id": 1, "note": "new"}])
    assert pc.unique(reading.read_all()["note"]).to_pylist() == ["old"]


def test_rows_staged_after_a_truncate_take_the_place_of_all_before(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, APPEND, [{"id": 1, "note": "in the table"}])
    first = lake.stage(orders, APPEND, [{"id": 2, "note": "staged before"}])
    writer = lake.target.open(orders, APPEND, SLICE)
    writer.write(Batch.of(orders, [{"id": 3, "note": "written before"}]))
    writer.truncate()
    writer.write(Batch.of(orders, [{"id": 4, "note": "after"}]))
    second = writer.stage()
    writer.close()
    assert (second.truncates, second.rows) == (True, 1)
    third = lake.stage(orders, APPEND, [{"id": 5, "note": "later"}])
    lake.publish(orders, APPEND, first, second, third)
    assert lake.rows(orders) == [{"id": 4, "note": "after"}, {"id": 5, "note": "later"}]
    live = {task.file.file_path.rpartition("/")[2] for task in lake.table(orders).scan().plan_files()}
    gone = [file["path"].rpartition("/")[2] for file in first.detail["files"]]
    assert not {path.name for path in parquet_files(Path(lake.config.warehouse or ""))} & set(gone)
    assert len(live) == 2


def test_a_publish_of_nothing_moves_the_token_and_leaves_the_rows(lake: Lake) -> None:
    orders = stream()
    lake.load(orders, APPEND, [{"id": 1, "note": "a"}])
    lake.publish(orders, APPEND)
    assert lake.target.committed(orders, "p") == lake.token(2)
    assert lake.rows(orders) == [{"id": 1, "note": "a"}]


def test_what_is_not_staged_or_is_discarded_leaves_no_file(lake: Lake, tmp_path: Path) -> None:
    orders = stream()
    staged = lake.stage(orders, UPSERT, [{"id": 1, "note": "a"}])
    assert len(parquet_files(tmp_path)) == 2
    lake.target.discard(orders, [staged])
    assert parquet_files(tmp_path) == []
    writer = lake.target.open(orders, APPEND, SLICE)
    writer.write(pa_batch(orders, 300_000))
    assert len(parquet_files(tmp_path)) == 1
    writer.close()
    writer.close()
    assert parquet_files(tmp_path) == []


def pa_batch(of: Any, count: int) -> Batch:
    ids = pa.array(range(count), pa.int64())
    notes = pc.binary_join_element_wise("note ", ids.cast(pa.string()), "")
    return Batch(of.id, pa.record_batch([ids, notes], schema=of.schema))


def test_files_are_closed_at_the_target_size_and_hold_row_groups_of_a_bounded_size(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake", target_file_size_mb=1)
    orders = stream()
    lake.target.prepare(orders, APPEND)
    staged = lake.stage_batches(orders, APPEND, [pa_batch(orders, 100_000)] * 12)
    lake.publish(orders, APPEND, staged)
    files = staged.detail["files"]
    assert len(files) > 1
    assert sum(file["rows"] for file in files) == 1_200_000
    assert all(len(file["offsets"]) <= 3 for file in files)
    assert read_with_duckdb(lake.table(orders).metadata_location).num_rows == 1_200_000
    lake.target.close()


EVERY_TYPE: dict[str, tuple[pa.DataType, list[Any]]] = {
    "tiny": (pa.int8(), [-128, 127]),
    "u16": (pa.uint16(), [0, 65535]),
    "u32": (pa.uint32(), [0, 2**32 - 1]),
    "u64": (pa.uint64(), [0, 2**64 - 1]),
    "big": (pa.int64(), [-(2**63), 2**63 - 1]),
    "flag": (pa.bool_(), [True, False]),
    "half": (pa.float32(), [1.5, math.inf]),
    "real": (pa.float64(), [-0.25, -math.inf]),
    "price": (pa.decimal128(12, 2), [decimal.Decimal("-1234567890.12"), decimal.Decimal("0.01")]),
    "huge": (pa.decimal128(38, 10), [decimal.Decimal("-1." + "1" * 10), decimal.Decimal("9" * 28)]),
    "vast": (pa.decimal256(60, 2), [decimal.Decimal("1.50"), decimal.Decimal("9" * 58)]),
    "day": (pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
    "clock": (pa.time64("us"), [dt.time(0, 0), dt.time(23, 59, 59, 999999)]),
    "local": (pa.timestamp("us"), [dt.datetime(1066, 10, 14), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)]),
    "seconds": (pa.timestamp("s"), [dt.datetime(1970, 1, 1), dt.datetime(2038, 1, 19, 3, 14, 8)]),
    "moment": (
        pa.timestamp("us", "Europe/Paris"),
        [dt.datetime(2024, 3, 31, 1, tzinfo=dt.UTC), dt.datetime(1900, 1, 1, tzinfo=dt.UTC)],
    ),
    "text": (pa.large_string(), ["", "é" * 40 + "\U0010ffff"]),
    "code": (pa.dictionary(pa.int8(), pa.string()), ["x", "y"]),
    "raw": (pa.binary(), [b"", b"\xff" * 40]),
    "fixed": (pa.binary(2), [b"ab", b"cd"]),
    "uid": (pa.uuid(), [uuid.UUID(int=1).bytes, uuid.UUID(int=2**128 - 1).bytes]),
    "none": (pa.null(), [None, None]),
    "tags": (pa.list_(pa.string()), [["a", None], []]),
    "pair": (
        pa.struct([("x", pa.int16()), ("y", pa.large_list(pa.float64()))]),
        [{"x": 1, "y": [0.5]}, {"x": None, "y": None}],
    ),
    "map": (pa.map_(pa.string(), pa.decimal128(5, 1)), [[("a", decimal.Decimal("1.5"))], []]),
}  # fmt: skip


def test_every_type_reads_back_as_its_image(lake: Lake) -> None:
    arrays = [pa.array([*values, None], kind) for kind, values in EVERY_TYPE.values()]
    everything = stream("everything", (), **{name: kind for name, (kind, _) in EVERY_TYPE.items()})
    lake.target.prepare(everything, APPEND)
    image = lake.target.image(everything)
    assert lake.target.describe(everything) == image
    batch = Batch(everything.id, pa.record_batch(arrays, schema=everything.schema))
    lake.publish(everything, APPEND, lake.stage_batches(everything, APPEND, [batch]))
    assert lake.rejects == []

    table = lake.table(everything)
    found = table.scan().to_arrow()
    assert types.from_iceberg(table.schema()) == image
    for name, array in zip(EVERY_TYPE, arrays, strict=True):
        expected = (array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array).to_pylist()
        if name == "vast":
            expected = [None if v is None else str(v) for v in expected]
        assert found[name].to_pylist() == expected, name
    assert read_with_duckdb(table.metadata_location)["text"].to_pylist() == found["text"].to_pylist()


@pytest.mark.parametrize("partition", [[], ["year(at)", "day(day)"]])
def test_times_beyond_pythons_calendar_are_kept_and_have_bounds(tmp_path: Path, partition: list[str]) -> None:
    lake = Lake(tmp_path / "lake", partition_spec={"public.far": partition})
    far = stream("far", (), at=pa.timestamp("us"), day=pa.date32())
    lake.target.prepare(far, APPEND)
    ends = [-(2**62), 2**62]
    batch = pa.record_batch(
        [pa.array(ends).cast(pa.timestamp("us")), pa.array([-(10**6), 10**8], pa.int32()).cast(pa.date32())],
        schema=far.schema,
    )
    lake.publish(far, APPEND, lake.stage_batches(far, APPEND, [Batch(far.id, batch)]))
    found = read_with_pyiceberg(lake.table(far).metadata_location)
    assert sorted(found["at"].cast(pa.int64()).to_pylist()) == ends
    files = [task.file for task in lake.table(far).scan().plan_files()]
    bounds = [bound for file in files for bound in file.lower_bounds.values()]
    assert {ends[0], -(10**6)} <= {int.from_bytes(bound, "little", signed=True) for bound in bounds}
    lake.target.close()


def test_bounds_and_counts_let_readers_skip_files_and_never_rows(lake: Lake) -> None:
    wide = stream(
        "wide", (), text=pa.string(), raw=pa.binary(), real=pa.float64(), price=pa.decimal128(20, 3)
    )
    long = "z" * 15 + "\U0010ffff" * 5
    lake.load(
        wide,
        APPEND,
        [
            {"text": "b" * 40, "raw": b"\xff" * 20, "real": math.nan, "price": decimal.Decimal("-3.141")},
            {"text": long, "raw": b"\x00", "real": 2.5, "price": decimal.Decimal("12345.678")},
            {"text": None, "raw": None, "real": None, "price": None},
        ],
    )
    table = lake.table(wide)
    (task,) = table.scan().plan_files()
    ids = {field.name: field.field_id for field in table.schema().fields}
    file = task.file
    assert file.null_value_counts == dict.fromkeys(ids.values(), 1)
    assert file.nan_value_counts == {ids["real"]: 1}
    assert file.lower_bounds[ids["text"]] == b"b" * 16
    assert file.upper_bounds[ids["text"]] == b"z" * 14 + b"{"
    assert ids["raw"] not in file.upper_bounds
    for condition, count in (
        (f"text = '{long}'", 1), ("text > 'zz'", 1), ("text > 'zzzzzzzzzzzzzzz~'", 1), ("text < 'b'", 0),
        ("real > 2", 1), ("real > 3", 0),
        ("price < -3.100", 1), ("price > 12345.600", 1), ("price > 12346.000", 0),
    ):  # fmt: skip
        assert table.scan(row_filter=condition).to_arrow().num_rows == count, condition


def test_a_row_the_table_cannot_hold_comes_back_with_its_reason(lake: Lake) -> None:
    fine = stream("fine", ("id",), id=pa.int64(), at=pa.timestamp("ns"))
    lake.target.prepare(fine, APPEND)
    times = pa.array([1_000, 1_001, 2_000, None, 3], pa.int64()).cast(pa.timestamp("ns"))
    batch = pa.record_batch([pa.array(range(5), pa.int64()), times], schema=fine.schema)
    staged = lake.stage_batches(fine, APPEND, [Batch(fine.id, batch)])
    lake.publish(fine, APPEND, staged)
    assert staged.rows == 3
    assert [row["id"] for row in lake.rows(fine)] == [0, 2, 3]
    assert [(r.code, r.where) for r in lake.rejects] == [
        ("iceberg.value", {"id": 1}),
        ("iceberg.value", {"id": 4}),
    ]
    assert "at" in lake.rejects[0].reason
    assert json.dumps(lake.rejects[0].to_json())


def test_a_delete_cannot_be_appended(lake: Lake) -> None:
    orders = stream()
    staged = lake.stage(orders, APPEND, [{"id": 1, "note": "a"}, {"id": 2}], [Change.UPDATE, Change.DELETE])
    assert staged.rows == 1
    assert [(r.code, r.where) for r in lake.rejects] == [("iceberg.delete_in_append", {"id": 2})]


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ('a "quoted" table', "pub.lic"),
        ("ünï/../../cøde", "sch ema"),
        ("table.with.dots#and?marks%41", None),
        ("..", "x"),
    ],
)
def test_any_name_makes_a_table_inside_the_warehouse(
    lake: Lake, tmp_path: Path, name: str, namespace: str | None
) -> None:
    odd = replace(
        stream(key=("a.b",), **{"a.b": pa.int64(), 'it"s': pa.string(), "é ü": pa.int32()}),
        name=name,
        namespace=namespace,
    )
    row = {"a.b": 1, 'it"s': "x", "é ü": 3}
    lake.load(odd, APPEND, [row])
    lake.load(odd, UPSERT, [{**row, "é ü": 4}, {**row, "a.b": 2}])
    assert lake.rows(odd) == [{**row, "é ü": 4}, {**row, "a.b": 2}]
    assert parquet_files(tmp_path) == parquet_files(tmp_path / "lake")


@pytest.mark.parametrize(
    ("column", "have", "want"),
    [
        ("n", pa.int32(), pa.int64()),
        ("n", pa.float32(), pa.float64()),
        ("n", pa.decimal128(5, 2), pa.decimal128(9, 2)),
        ("n", pa.struct([("x", pa.int32())]), pa.struct([("x", pa.int64()), ("y", pa.string())])),
        ("n", pa.list_(pa.int32()), pa.list_(pa.int64())),
    ],
)
def test_a_table_is_widened_and_old_rows_keep_their_values(
    lake: Lake, column: str, have: pa.DataType, want: pa.DataType
) -> None:
    value = {"x": 1} if pa.types.is_struct(have) else [1] if pa.types.is_list(have) else 1
    before = stream(id=pa.int32(), n=have)
    lake.load(before, APPEND, [{"id": 1, "n": value}])
    after = stream(id=pa.int32(), n=want, added=pa.string())
    lake.target.prepare(after, APPEND)
    assert lake.target.describe(after) == lake.target.image(after)
    lake.load(after, APPEND, [{"id": 2, "n": value, "added": "x"}])
    read = read_with_pyiceberg(lake.table(after).metadata_location).sort_by("id")
    assert read["added"].to_pylist() == [None, "x"]
    assert read_with_duckdb(lake.table(after).metadata_location).num_rows == 2
    narrow = stream(id=pa.int32(), n=have)
    lake.load(narrow, APPEND, [{"id": 3, "n": value}])
    assert read_with_pyiceberg(lake.table(after).metadata_location).num_rows == 3


def test_a_column_that_does_not_fit_is_named_with_both_types(lake: Lake) -> None:
    lake.load(stream(id=pa.int64(), n=pa.string()), APPEND, [{"id": 1, "n": "a"}])
    with pytest.raises(
        ConfigError, match=r"'n' is string in the table and timestamptz in the stream"
    ) as caught:
        lake.target.prepare(stream(id=pa.int64(), n=pa.timestamp("us", "UTC")), APPEND)
    assert caught.value.code == "iceberg.schema_mismatch"
    assert caught.value.remedy


def test_rows_go_on_under_a_changed_schema_in_one_writer(lake: Lake) -> None:
    before = stream(id=pa.int64())
    after = stream(id=pa.int64(), note=pa.string())
    lake.target.prepare(before, UPSERT)
    writer = lake.target.open(before, UPSERT, SLICE)
    writer.write(Batch.of(before, [{"id": 1}, {"id": 2}]))
    lake.target.prepare(after, UPSERT)
    writer.change_schema(after)
    writer.write(Batch.of(after, [{"id": 2, "note": "b"}, {"id": 3, "note": "c"}]))
    lake.publish(after, UPSERT, writer.stage())
    writer.close()
    assert lake.rows(after) == [{"id": 1, "note": None}, {"id": 2, "note": "b"}, {"id": 3, "note": "c"}]


@pytest.mark.parametrize("kind", [pa.month_day_nano_interval(), pa.dense_union([pa.field("a", pa.int8())])])
def test_a_type_without_an_image_is_refused_by_name(lake: Lake, kind: pa.DataType) -> None:
    with pytest.raises(ConfigError, match="'odd'"):
        lake.target.image(stream(odd=kind))


def test_rows_lie_in_the_partitions_that_the_setting_asks_for(tmp_path: Path) -> None:
    lake = Lake(
        tmp_path / "lake",
        partition_spec={
            "public.orders": ["day(at)", "bucket(4, id)", "truncate(2, note)", "identity(kind)", "month(on)"]
        },
    )
    orders = stream(
        id=pa.int64(), note=pa.string(), at=pa.timestamp("us", "UTC"), kind=pa.string(), on=pa.date32()
    )
    start = dt.datetime(1969, 12, 30, tzinfo=dt.UTC)
    rows = [
        {
            "id": n,
            "note": None if n % 7 == 0 else f"n{n % 3}x",
            "at": start + dt.timedelta(hours=n) if n % 11 else None,
            "kind": "k/ö" if n % 2 else None,
            "on": dt.date(1969, 1 + n % 12, 1),
        }
        for n in range(200)
    ]
    lake.load(orders, APPEND, rows)
    assert lake.rows(orders) == sorted(rows, key=repr)
    table = lake.table(orders)
    tasks = list(table.scan().plan_files())
    assert len(tasks) > 50
    assert sum(task.file.record_count for task in tasks) == 200
    one = table.scan(row_filter="id = 17 and at >= '1969-12-30T00:00:00+00:00'")
    assert 0 < len(list(one.plan_files())) < 10
    assert one.to_arrow()["id"].to_pylist() == [17]
    lake.load(orders, UPSERT, [{**rows[17], "note": "moved", "kind": "elsewhere"}])
    rows[17] |= {"note": "moved", "kind": "elsewhere"}
    assert lake.rows(orders) == sorted(rows, key=repr)
    lake.target.close()


def test_a_partition_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake", partition_spec={"public.orders": ["day(created)"]})
    with pytest.raises(ConfigError, match=r"day\(created\)") as caught:
        lake.target.prepare(stream(), APPEND)
    assert caught.value.field == "partition_spec"
    lake.target.close()


def test_a_slice_is_staged_by_another_target_and_published_here(lake: Lake, tmp_path: Path) -> None:
    orders = stream()
    lake.target.prepare(orders, APPEND)
    elsewhere = Lake(tmp_path / "lake")
    parts = [
        elsewhere.stage_batches(orders, APPEND, [Batch.of(orders, [{"id": n, "note": str(n)}])])
        for n in range(3)
    ]
    elsewhere.target.close()
    lake.publish(orders, APPEND, *parts)
    assert [row["id"] for row in lake.rows(orders)] == [0, 1, 2]
    assert isinstance(SLICE, Slice)


def test_a_table_that_the_user_made_is_written_by_its_own_rules(lake: Lake) -> None:
    catalog = lake.foreign()
    catalog.create_namespace("public")
    schema = Schema(
        NestedField(1, "id", IntegerType(), required=True),
        NestedField(2, "note", StringType(), required=True),
        NestedField(3, "code", FixedType(2)),
        NestedField(4, "_order", LongType()),
        identifier_field_ids=[1],
    )
    spec = PartitionSpec(PartitionField(2, 1000, TruncateTransform(1), "first"))
    catalog.create_table(("public", "orders"), schema, partition_spec=spec)
    catalog.close()
    orders = stream(id=pa.int64(), note=pa.string())
    staged = lake.stage(
        orders, UPSERT, [{"id": 1, "note": "a"}, {"id": 2, "note": None}, {"id": 3, "note": "b"}]
    )
    lake.publish(orders, UPSERT, staged)
    assert [(r.code, r.where) for r in lake.rejects] == [("iceberg.null", {"id": 2})]
    lake.load(orders, UPSERT, [{"id": 1, "note": "c"}, {"id": 3}], [Change.UPDATE, Change.DELETE])
    assert lake.rows(orders) == [{"id": 1, "note": "c", "code": None, "_order": None}]
    assert lake.table(orders).schema().find_field("id").required
    with pytest.raises(ConfigError, match="requires 'note'"):
        lake.target.prepare(stream(id=pa.int64()), APPEND)
    with pytest.raises(ConfigError, match="'code'"):
        lake.target.prepare(stream(id=pa.int64(), note=pa.string(), code=pa.string()), APPEND)


@pytest.mark.parametrize("partition", [[], ["bucket(3, id)"]])
def test_a_table_of_the_first_format_is_written_in_every_mode(tmp_path: Path, partition: list[str]) -> None:
    lake = Lake(tmp_path / "lake", format_version=1, partition_spec={"public.orders": partition})
    orders = stream()
    lake.load(orders, APPEND, [{"id": n, "note": "old"} for n in range(4)])
    lake.load(orders, UPSERT, [{"id": 1, "note": "new"}, {"id": 2}], [Change.UPDATE, Change.DELETE])
    assert [(row["id"], row["note"]) for row in lake.rows(orders)] == [(0, "old"), (1, "new"), (3, "old")]
    assert lake.table(orders).metadata.format_version == 1
    lake.load(orders, REPLACE, [{"id": 9, "note": "x"}])
    assert lake.rows(orders) == [{"id": 9, "note": "x"}]
    lake.target.close()
