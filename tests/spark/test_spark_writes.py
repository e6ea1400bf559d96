"""Spark writes a table between two upserts of Headrace, and each stays exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.connector import Change, Maintenance, WriteMode
from servers.spark import SparkServer
from tests.integration.iceberg_lake import interfere, stream
from tests.spark.conftest import SharedLake

# pyspark leaves sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")

UPSERT = WriteMode.UPSERT
UPD, DEL = Change.UPDATE, Change.DELETE
ORDERS = stream()
REWRITE_ALL = "options => map('rewrite-all', 'true')"


def compacts(lake: SharedLake) -> None:
    said = lake.call("rewrite_data_files", ORDERS, REWRITE_ALL)
    assert said["rewritten_data_files_count"] > 1


def compacts_deletes(lake: SharedLake) -> None:
    said = lake.call("rewrite_position_delete_files", ORDERS, REWRITE_ALL)
    assert said["rewritten_delete_files_count"] > 1


def compacts_and_expires(lake: SharedLake) -> None:
    compacts(lake)
    said = lake.call(
        "expire_snapshots", ORDERS, "older_than => current_timestamp()", "retain_last => 1",
    )  # fmt: skip
    assert said["deleted_data_files_count"] > 1
    assert len(lake.table(ORDERS).metadata.snapshots) == 1


def rewrites_manifests(lake: SharedLake) -> None:
    assert lake.call("rewrite_manifests", ORDERS)["rewritten_manifests_count"] > 1


MAINTENANCE = [compacts, compacts_deletes, compacts_and_expires, rewrites_manifests]


def fill(lake: SharedLake) -> dict[int, str]:
    """A table with a past, of several files and deletes; gives what it holds."""
    lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"} for n in range(200)])
    for n in range(5):
        events = [{"id": id, "note": f"new {n}"} for id in range(n, 200, 7)] + [{"id": 150 + n}]
        lake.load(ORDERS, UPSERT, events, [UPD] * (len(events) - 1) + [DEL])
    found = notes(lake)
    assert len(found) > 190
    return found


def notes(lake: SharedLake) -> dict[int, str]:
    """What all three readers find, each key once."""
    found = lake.rows(ORDERS)
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row["note"] for row in found}


def upsert(lake: SharedLake, holds: dict[int, str], word: str) -> None:
    """An upsert that touches rows in every file, and what the table then must hold."""
    staged = range(0, 220, 3)
    gone = range(1, 200, 12)
    events = [{"id": id, "note": word} for id in staged] + [{"id": id} for id in gone]
    lake.load(ORDERS, UPSERT, events, [UPD] * len(staged) + [DEL] * len(gone))
    holds |= dict.fromkeys(staged, word)
    for id in gone:
        holds.pop(id, None)
    assert notes(lake) == holds


@pytest.mark.parametrize("spark_does", MAINTENANCE)
@pytest.mark.parametrize("partition", [[], ["bucket(3, id)"]], ids=["whole", "partitioned"])
def test_an_upsert_after_spark_has_maintained_the_table_is_exact(
    spark: SparkServer, tmp_path: Path, partition: list[str], spark_does: Callable[[SharedLake], None]
) -> None:
    lake = SharedLake(spark, tmp_path / "lake", partition_spec={"public.orders": partition})
    holds = fill(lake)
    for word in ("first", "second"):
        spark_does(lake)
        assert notes(lake) == holds
        upsert(lake, holds, word)
    assert lake.target.committed(ORDERS, "p") == lake.token(8)
    lake.target.close()


@pytest.mark.parametrize("spark_does", MAINTENANCE)
def test_an_upsert_whose_files_spark_rewrites_right_before_its_commit_is_exact(
    lake: SharedLake, spark_does: Callable[[SharedLake], None]
) -> None:
    holds = fill(lake)
    done: list[None] = []
    interfere(lake, before=lambda: done.append(spark_does(lake)))
    upsert(lake, holds, "ours")
    assert len(done) == 1


def test_rows_that_spark_appends_are_found_by_the_next_upsert(lake: SharedLake) -> None:
    holds = fill(lake)
    lake.sql("INSERT INTO {table} SELECT id, 'from spark' FROM range(200, 260)", ORDERS)
    holds |= dict.fromkeys(range(200, 260), "from spark")
    assert notes(lake) == holds
    upsert(lake, holds, "ours")
    assert (holds[201], holds[200]) == ("ours", "from spark")


@pytest.mark.parametrize("mode", ["merge-on-read", "copy-on-write"])
def test_rows_that_spark_updates_merges_and_deletes_are_found_by_the_next_upsert(
    lake: SharedLake, mode: str
) -> None:
    holds = fill(lake)
    properties = ", ".join(f"'write.{what}.mode' = '{mode}'" for what in ("delete", "update", "merge"))
    lake.sql(f"ALTER TABLE {{table}} SET TBLPROPERTIES ({properties})", ORDERS)
    lake.sql("DELETE FROM {table} WHERE id % 5 = 0", ORDERS)
    lake.sql("UPDATE {table} SET note = 'updated' WHERE id % 5 = 1", ORDERS)
    lake.sql(
        "MERGE INTO {table} t USING (SELECT id, 'merged' note FROM range(190, 230)) s ON t.id = s.id"
        " WHEN MATCHED THEN UPDATE SET note = s.note WHEN NOT MATCHED THEN INSERT *",
        ORDERS,
    )
    holds = {id: "updated" if id % 5 == 1 else note for id, note in holds.items() if id % 5}
    holds |= dict.fromkeys(range(190, 230), "merged")
    assert notes(lake) == holds
    upsert(lake, holds, "ours")
    compacted = list(lake.target.maintain(Maintenance(min_files=2, expire=False, orphans=False)))
    assert [one.error for one in compacted] == [None]
    assert notes(lake) == holds


def test_an_upsert_after_spark_has_changed_the_partitioning_is_exact(lake: SharedLake) -> None:
    holds = fill(lake)
    lake.sql("ALTER TABLE {table} ADD PARTITION FIELD bucket(4, id)", ORDERS)
    lake.sql("INSERT INTO {table} SELECT id, 'from spark' FROM range(200, 260)", ORDERS)
    holds |= dict.fromkeys(range(200, 260), "from spark")
    upsert(lake, holds, "under two")
    compacts(lake)
    upsert(lake, holds, "under one")


def test_a_table_that_spark_made_takes_upserts(lake: SharedLake) -> None:
    lake.sql("CREATE NAMESPACE {catalog}.public", ORDERS)
    lake.sql("CREATE TABLE {table} (id BIGINT NOT NULL, note STRING, extra INT) USING iceberg", ORDERS)
    lake.sql("INSERT INTO {table} SELECT id, 'from spark', 5 FROM range(100)", ORDERS)
    events = [{"id": 5, "note": "ours"}, {"id": 6}, {"id": 100, "note": "ours"}]
    lake.load(ORDERS, UPSERT, events, [UPD, DEL, UPD])
    expected = dict.fromkeys(range(100), "from spark") | dict.fromkeys((5, 100), "ours")
    del expected[6]
    assert notes(lake) == expected
    wider = stream(id=pa.int64(), note=pa.string(), at=pa.timestamp("us", "UTC"))
    lake.load(wider, UPSERT, [{"id": 7, "note": "ours", "at": None}])
    assert notes(lake) == expected | {7: "ours"}
