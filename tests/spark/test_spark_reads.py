"""Spark reads what Headrace has written: every row, as pyiceberg and DuckDB do."""

from __future__ import annotations

import datetime as dt
import decimal
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import Batch, Change, Maintenance, Stream, WriteMode
from servers.spark import SparkServer
from tests.integration.iceberg_lake import rows, stream
from tests.integration.test_iceberg_write import EVERY_TYPE
from tests.spark.conftest import SharedLake

# pyspark leaves sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")

APPEND, REPLACE, UPSERT = WriteMode.APPEND, WriteMode.REPLACE, WriteMode.UPSERT
UPD, DEL = Change.UPDATE, Change.DELETE
ORDERS = stream()
PARTITIONED = {"public.orders": ["bucket(4, id)", "truncate(1, note)"]}


def workload(lake: SharedLake, of: Stream, rounds: int, seed: int = 1) -> list[dict[str, Any]]:
    """Upserts and deletes by chance; gives the rows that must be left, sorted."""
    dice = random.Random(seed)
    left: dict[int, dict[str, Any]] = {}
    for turn in range(rounds):
        events = []
        for _ in range(300):
            row = {"id": dice.randrange(1_000), "note": f"{dice.randrange(9)} of {turn}"}
            kind = dice.choice([UPD, UPD, UPD, DEL])
            events.append((row, kind))
            left.pop(row["id"], None)
            if kind is UPD:
                left[row["id"]] = row
        lake.load(of, UPSERT, [row for row, _ in events], [kind for _, kind in events])
    return sorted(left.values(), key=repr)


def test_every_type_reads_back_as_it_was_written(lake: SharedLake) -> None:
    columns = {name: given for name, given in EVERY_TYPE.items() if name != "clock"}  # Spark has no time type
    everything = stream("everything", (), **{name: kind for name, (kind, _) in columns.items()})
    arrays = [pa.array([*values, None], kind) for kind, values in columns.values()]
    lake.target.prepare(everything, APPEND)
    batch = Batch(everything.id, pa.record_batch(arrays, schema=everything.schema))
    lake.publish(everything, APPEND, lake.stage_batches(everything, APPEND, [batch]))
    seen, known = lake.seen(everything), lake.table(everything).scan().to_arrow()
    assert seen.column_names == list(columns)
    for name in columns:
        expected = known[name].to_pylist()
        if name == "uid":
            expected = [None if one is None else str(one) for one in expected]
        assert seen[name].to_pylist() == expected, name
        if name not in ("vast", "uid"):
            assert seen[name].to_pylist() == [*columns[name][1], None], name


def test_appended_and_replaced_rows_are_read(lake: SharedLake) -> None:
    lake.load(ORDERS, APPEND, [{"id": n, "note": str(n)} for n in range(100)])
    lake.load(ORDERS, APPEND, [{"id": n, "note": None} for n in range(50, 150)])
    assert len(lake.rows(ORDERS)) == 200
    lake.load(ORDERS, REPLACE, [{"id": 1, "note": "alone"}])
    assert lake.rows(ORDERS) == [{"id": 1, "note": "alone"}]
    (first, *_) = lake.table(ORDERS).metadata.snapshots
    assert lake.sql(f"SELECT count(*) FROM {{table}} VERSION AS OF {first.snapshot_id}", ORDERS) == [(100,)]


def test_a_table_partitioned_in_every_way_is_read_whole_and_by_its_partitions(
    spark: SparkServer, tmp_path: Path
) -> None:
    ways = ["day(at)", "bucket(4, id)", "truncate(2, note)", "identity(kind)", "month(on)", "year(price_at)"]
    lake = SharedLake(spark, tmp_path / "lake", partition_spec={"public.orders": ways})
    orders = stream(
        id=pa.int64(), note=pa.string(), at=pa.timestamp("us", "UTC"), kind=pa.string(), on=pa.date32(),
        price_at=pa.timestamp("us"),
    )  # fmt: skip
    start = dt.datetime(1969, 12, 30, tzinfo=dt.UTC)
    written = [
        {
            "id": n,
            "note": None if n % 7 == 0 else f"n{n % 3}x",
            "at": start + dt.timedelta(hours=n) if n % 11 else None,
            "kind": "k/ö" if n % 2 else None,
            "on": dt.date(1969, 1 + n % 12, 1),
            "price_at": dt.datetime(1966 + n % 6, 1, 1),
        }
        for n in range(100)
    ]
    lake.load(orders, APPEND, written)
    lake.load(orders, UPSERT, [{**written[17], "note": "moved"}, {"id": 18}], [UPD, DEL])
    written[17] |= {"note": "moved"}
    del written[18]
    assert lake.rows(orders) == sorted(written, key=repr)
    for condition, holds in (
        ("id = 17", lambda row: row["id"] == 17),
        ("note = 'n1x'", lambda row: row["note"] == "n1x"),
        ("kind IS NULL", lambda row: row["kind"] is None),
        ("at >= '1970-01-01T00:00:00Z'", lambda row: (row["at"] or start) >= start + dt.timedelta(days=2)),
        ("on = DATE '1969-03-01'", lambda row: row["on"] == dt.date(1969, 3, 1)),
        ("price_at < TIMESTAMP_NTZ '1970-01-01'", lambda row: row["price_at"] < dt.datetime(1970, 1, 1)),
    ):
        found = lake.sql(f"SELECT id FROM {{table}} WHERE {condition} ORDER BY id", orders)
        expected = [row["id"] for row in written if holds(row)]
        assert expected
        assert [id for (id,) in found] == expected, condition
    lake.target.close()


@pytest.mark.parametrize("partitions", [{}, PARTITIONED], ids=["whole", "partitioned"])
def test_rows_upserted_and_deleted_by_position_are_read_as_they_were_left(
    spark: SparkServer, tmp_path: Path, partitions: dict[str, list[str]]
) -> None:
    lake = SharedLake(spark, tmp_path / "lake", partition_spec=partitions)
    expected = workload(lake, ORDERS, 8)
    (counted,) = lake.sql("SELECT count(*), sum(id) FROM {table}", ORDERS)
    assert tuple(counted) == (len(expected), sum(row["id"] for row in expected))
    assert lake.rows(ORDERS) == expected
    assert lake.sql("SELECT count(*) > 5 FROM {table}.position_deletes", ORDERS) == [(True,)]
    lake.target.close()


def test_rows_of_a_composite_key_are_read_as_they_were_left(lake: SharedLake) -> None:
    parts = stream(
        key=("shop", "day", "price"),
        shop=pa.string(), day=pa.date32(), price=pa.decimal128(20, 2), count=pa.int32(),
    )  # fmt: skip
    keys = [
        {"shop": shop, "day": dt.date(2024, 2, day), "price": decimal.Decimal(price)}
        for shop in ("", "a", "ä\U0001f600")
        for day in (1, 29)
        for price in ("-0.01", "0.00", "123456789012345678.99")
    ]
    lake.load(parts, UPSERT, [{**key, "count": 1} for key in keys])
    changed = [{**key, "count": 2} for key in keys[::3]]
    lake.load(parts, UPSERT, [*changed, *keys[1::3]], [UPD] * len(changed) + [DEL] * len(keys[1::3]))
    expected = [*changed, *({**key, "count": 1} for key in keys[2::3])]
    assert lake.rows(parts) == sorted(expected, key=repr)


def test_rows_from_before_and_after_a_change_of_the_schema_are_read(lake: SharedLake) -> None:
    before = stream(id=pa.int32(), n=pa.struct([("x", pa.int32())]), real=pa.float32())
    lake.load(before, UPSERT, [{"id": n, "n": {"x": n}, "real": n / 2} for n in range(6)])
    after = stream(
        id=pa.int64(), n=pa.struct([("x", pa.int64()), ("y", pa.string())]), real=pa.float64(),
        added=pa.list_(pa.string()),
    )  # fmt: skip
    lake.target.prepare(after, UPSERT)
    new = {"id": 2**40, "n": {"x": 2**40, "y": "new"}, "real": 0.1, "added": ["a", None]}
    lake.load(after, UPSERT, [new, {**new, "id": 1}, {"id": 2}], [UPD, UPD, DEL])
    old = [{"id": n, "n": {"x": n, "y": None}, "real": n / 2, "added": None} for n in (0, 3, 4, 5)]
    assert lake.rows(after) == sorted([new, {**new, "id": 1}, *old], key=repr)


@pytest.mark.parametrize("partitions", [{}, PARTITIONED], ids=["whole", "partitioned"])
def test_a_table_that_was_maintained_is_read_as_before(
    spark: SparkServer, tmp_path: Path, partitions: dict[str, list[str]]
) -> None:
    lake = SharedLake(spark, tmp_path / "lake", partition_spec=partitions)
    expected = workload(lake, ORDERS, 6)
    lake.stage(ORDERS, UPSERT, [{"id": 7, "note": "never published"}])
    wanted = Maintenance(min_files=2, expire_after=0, keep_snapshots=1, orphans_after=0)
    done = {}
    for step in ("compact", "expire", "orphans"):
        only = dict.fromkeys(("compact", "expire", "orphans"), False) | {step: True}
        (one,) = lake.target.maintain(replace(wanted, **only))
        assert one.error is None
        done |= one.counts
        assert lake.rows(ORDERS) == expected
    assert done["deletes_out"] > 0
    assert done["snapshots_out"] > 5
    assert done["files_removed"] > 0
    assert lake.sql("SELECT count(*) FROM {table}.position_deletes", ORDERS) == [(0,)]
    lake.target.close()


def test_a_table_of_an_odd_name_is_read(lake: SharedLake) -> None:
    odd = replace(stream(key=("a.b",), **{"a.b": pa.int64(), 'it"s': pa.string()}), name="ünï cøde #1")
    lake.load(odd, UPSERT, [{"a.b": 1, 'it"s': "x"}, {"a.b": 2, 'it"s': "y"}])
    lake.load(odd, UPSERT, [{"a.b": 2}], [DEL])
    assert rows(lake.seen(odd)) == lake.rows(odd) == [{"a.b": 1, 'it"s': "x"}]
