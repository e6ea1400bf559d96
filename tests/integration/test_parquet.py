"""Rows into Parquet files: types, partitions, sizes, names and settings."""

from __future__ import annotations

import subprocess
import sys
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.connector import Batch, Change, Slice, Stream
from headrace.connectors.parquet import ParquetConfig
from headrace.connectors.parquet.reader import live_files, read_table
from headrace.errors import ConfigError, DataError, HeadraceError, NotFoundError, TransientError
from servers.s3 import S3Server
from tests.integration.parquet_folder import APPEND, ORDERS, append, ids, place, rows, stage, target, token


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return place(request.param, request, tmp_path)


@pytest.fixture
def local(tmp_path: Path) -> dict[str, Any]:
    return {"url": str(tmp_path / "out")}


def test_a_writer_that_is_closed_before_its_stage_leaves_nothing(settings: dict[str, Any]) -> None:
    to = target(settings, row_group_rows=1)
    writer = to.open(ORDERS, APPEND, Slice(key="s", reads=()))
    writer.write(Batch.of(ORDERS, rows(1, 2)))
    writer.close()
    writer.close()
    assert list(to.storage.list("public")) == []


def test_columns_are_added_and_widened_by_the_publish_that_brings_them(settings: dict[str, Any]) -> None:
    to = target(settings)
    narrow = replace(ORDERS, schema=pa.schema([("id", pa.int32())]))
    to.publish(narrow, APPEND, [stage(to, [{"id": 1}], narrow)], token(1))
    staged = stage(to, rows(2**40))
    assert to.describe(ORDERS) == narrow.schema
    to.publish(ORDERS, APPEND, [staged], token(2))
    assert to.describe(ORDERS) == ORDERS.schema
    to.publish(narrow, APPEND, [stage(to, [{"id": 3}], narrow)], token(3))
    read = read_table(to.storage, ORDERS)
    assert read.schema == ORDERS.schema
    assert read["id"].to_pylist() == [1, 2**40, 3]
    assert read["country"].to_pylist() == [None, "DE", None]


def test_a_schema_that_changes_between_two_batches_is_one_stage(local: dict[str, Any]) -> None:
    to = target(local)
    narrow = replace(ORDERS, schema=pa.schema([("id", pa.int32())]))
    writer = to.open(narrow, APPEND, Slice(key="s", reads=()))
    writer.write(Batch.of(narrow, [{"id": 1}]))
    writer.change_schema(ORDERS)
    writer.write(Batch.of(ORDERS, rows(2)))
    staged = writer.stage()
    writer.close()
    to.publish(ORDERS, APPEND, [staged], token(1))
    assert read_table(to.storage, ORDERS)["country"].to_pylist() == [None, "DE"]


@pytest.mark.parametrize("other", [pa.string(), pa.float64(), pa.timestamp("us"), pa.list_(pa.int64())])
def test_a_type_that_would_lose_values_is_refused_and_nothing_changes(
    local: dict[str, Any], other: pa.DataType
) -> None:
    to = target(local)
    append(to, [2**60 + 1], token(1))
    with pytest.raises(ConfigError) as refused:
        to.prepare(replace(ORDERS, schema=pa.schema([("id", other)])), APPEND)
    assert refused.value.code == "parquet.other_type"
    assert to.describe(ORDERS) == ORDERS.schema


AWKWARD: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False]),
    (pa.uint64(), [2**64 - 1]),
    (pa.float16(), [1.5]),
    (pa.float64(), [float("inf"), -0.0, 1e-300]),
    (pa.decimal128(38, 10), [Decimal("-1234567890123456789012345678.0123456789")]),
    (pa.decimal256(60, 0), [Decimal(10**59)]),
    (pa.date32(), [date(1, 1, 1), date(9999, 12, 31)]),
    (pa.time64("us"), [time(23, 59, 59, 999999)]),
    (pa.timestamp("us"), [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)]),
    (pa.timestamp("us", "UTC"), [datetime(1883, 11, 18, 12, 3, 58, tzinfo=UTC)]),
    (pa.timestamp("s", "Europe/Berlin"), [datetime(2024, 10, 27, 1, 30, tzinfo=UTC)]),
    (pa.duration("us"), [timedelta(days=-1, microseconds=1)]),
    (pa.string(), ["", "naïve\0\n🎁"]),
    (pa.large_string(), ["x"]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"]),
    (pa.binary(), [b"", b"\xff\x00"]),
    (pa.binary(3), [b"abc"]),
    (pa.uuid(), [uuid.UUID(int=5)]),
    (pa.json_(), ['{"a": 1}']),
    (pa.null(), [None]),
    (pa.list_(pa.int32()), [[1, None], []]),
    (pa.struct([("a", pa.int32()), ("b", pa.list_(pa.string()))]), [{"a": None, "b": ["x"]}]),
    (pa.map_(pa.string(), pa.int64()), [[("k", 1)]]),
]


@pytest.mark.parametrize(("type", "values"), AWKWARD, ids=[str(type) for type, _ in AWKWARD])
def test_every_type_comes_back_as_its_image(
    local: dict[str, Any], type: pa.DataType, values: list[Any]
) -> None:
    to = target(local)
    column = pa.array([*values, None], type)
    stream = Stream(name="t", schema=pa.schema([pa.field("c", type, nullable=True)]))
    writer = to.open(stream, APPEND, Slice(key="s", reads=()))
    writer.write(Batch("t", pa.RecordBatch.from_arrays([column], schema=stream.schema)))
    to.publish(stream, APPEND, [writer.stage()], token(1))
    writer.close()
    back = read_table(to.storage, stream)
    assert back.schema == to.image(stream) == to.describe(stream)
    wanted = column.cast(back.schema.field("c").type) if pa.types.is_timestamp(type) else column
    assert back["c"].to_pylist() == wanted.to_pylist()


@pytest.mark.parametrize(
    "type", [pa.month_day_nano_interval(), pa.struct([]), pa.list_(pa.month_day_nano_interval())]
)
def test_a_type_that_parquet_lacks_is_named_with_its_column(local: dict[str, Any], type: pa.DataType) -> None:
    with pytest.raises(ConfigError, match="'c' is of type") as refused:
        target(local).image(Stream(name="t", schema=pa.schema([("c", type)])))
    assert refused.value.code == "parquet.type"


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("a.b", "c/d"), (None, ".."), (None, "_commits"), ("x", "..%2f"), (None, "Größe 🎁"), ('"', "'; --")],
)
def test_any_name_has_a_folder_of_its_own(settings: dict[str, Any], namespace: str | None, name: str) -> None:
    to = target(settings)
    stream = replace(ORDERS, namespace=namespace, name=name)
    append(to, [1], token(1), stream)
    assert ids(target(settings), stream) == [1]
    assert all(
        not part.startswith(("_headrace", "..")) for file in to.storage.list() for part in file.key.split("/")
    )


def test_a_name_that_no_folder_can_have_is_refused(local: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        target(local).image(replace(ORDERS, name="ü" * 60))
    assert refused.value.code == "parquet.long_name"


def test_partitions_become_folders_and_the_column_stays_in_the_files(settings: dict[str, Any]) -> None:
    to = target(settings, partition_by=["country"])
    data = [
        {"id": n, "country": c, "total": None}
        for n, c in enumerate(["DE", "a/b", None, "DE", "", "ä=1", None, "a/b"])
    ]
    to.publish(ORDERS, APPEND, [stage(to, data)], token(1))
    files = live_files(to.storage, ORDERS)
    assert {file.path.split("/")[1] for file in files} == {
        "country=DE",
        "country=a%2Fb",
        "country=%C3%A4%3D1",
        "country=__HIVE_DEFAULT_PARTITION__",
    }
    assert {"country": "a/b"} in [file.partition for file in files]
    read = read_table(to.storage, ORDERS).select(["id", "country"]).sort_by("id").to_pylist()
    assert read == [{"id": row["id"], "country": row["country"]} for row in data]


def test_rows_of_many_partitions_are_written_with_few_files_open(local: dict[str, Any]) -> None:
    to = target(local, partition_by="country,id")
    data = [{"id": n % 9, "country": f"c{n % 11}", "total": Decimal(n)} for n in range(1000)]
    to.publish(ORDERS, APPEND, [stage(to, data)], token(1))
    read = read_table(to.storage, ORDERS)
    assert sorted(read["total"].to_pylist()) == [Decimal(n) for n in range(1000)]
    assert len({tuple(file.partition.values()) for file in live_files(to.storage, ORDERS)}) == 99


@pytest.mark.parametrize("column", ["land", "tags"])
def test_a_partition_column_must_be_there_and_plain(local: dict[str, Any], column: str) -> None:
    stream = replace(ORDERS, schema=ORDERS.schema.append(pa.field("tags", pa.list_(pa.string()))))
    with pytest.raises(ConfigError) as refused:
        target(local, partition_by=[column]).prepare(stream, APPEND)
    assert refused.value.field == "partition_by"


def test_files_are_cut_at_their_size_and_groups_at_their_rows(local: dict[str, Any]) -> None:
    to = target(local, max_file_size_mb=1, row_group_rows=1000, compression="none")
    stream = Stream(name="wide", schema=pa.schema([("n", pa.int64()), ("blob", pa.binary())]))
    data = [{"n": n, "blob": n.to_bytes(4, "big") * 100} for n in range(8000)]
    writer = to.open(stream, APPEND, Slice(key="s", reads=()))
    for at in range(0, 8000, 500):
        writer.write(Batch.of(stream, data[at : at + 500]))
    to.publish(stream, APPEND, [writer.stage()], token(1))
    writer.close()
    files = live_files(to.storage, stream)
    assert len(files) == 3
    for file in files:
        path = Path(to.config.url, "wide", file.path)
        footer = pq.read_metadata(path)
        assert (footer.num_rows, path.stat().st_size) == (file.rows, file.bytes)
        assert footer.row_group(0).num_rows == 1000
    assert read_table(to.storage, stream).to_pylist() == data


def test_only_repetitive_columns_get_a_dictionary_and_the_codec_is_as_set(local: dict[str, Any]) -> None:
    to = target(local)
    to.publish(ORDERS, APPEND, [stage(to, rows(*range(1000)))], token(1))
    (file,) = live_files(to.storage, ORDERS)
    group = pq.read_metadata(Path(to.config.url, "public/orders", file.path)).row_group(0)
    assert [group.column(at).has_dictionary_page for at in range(3)] == [False, True, False]
    assert group.column(0).compression == "ZSTD"


def test_updates_are_refused_since_files_only_take_new_rows(local: dict[str, Any]) -> None:
    to = target(local)
    writer = to.open(ORDERS, APPEND, Slice(key="s", reads=()))
    with pytest.raises(DataError) as refused:
        writer.write(replace(Batch.of(ORDERS, rows(1)), changes=pa.array([Change.DELETE], pa.int8())))
    assert refused.value.code == "parquet.changes"
    writer.close()


FULL_DISK = """
import resource, sys, pyarrow as pa
from headrace.connector import Batch, Slice, Stream, Token, WriteMode
from headrace.connectors.parquet import ParquetConfig
from headrace.connectors.parquet.target import ParquetTarget
from headrace.errors import TransientError

to = ParquetTarget(ParquetConfig(url=sys.argv[1], row_group_rows=100, compression="none"))
stream = Stream(name="t", schema=pa.schema([("blob", pa.binary())]))
rows = [{"blob": bytes([n % 256]) * n} for n in range(2000)]
writer = to.open(stream, WriteMode.APPEND, Slice(key="s", reads=()))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    writer.write(Batch.of(stream, rows))
    writer.stage()
except TransientError as error:
    print("failed:", error.code)
finally:
    writer.close()
print("left:", [file.key for file in to.storage.list()], list(to.storage._folder.rglob("*.parquet*")))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer = to.open(stream, WriteMode.APPEND, Slice(key="s", reads=()))
writer.write(Batch.of(stream, rows))
to.publish(stream, WriteMode.APPEND, [writer.stage()], Token(pipeline="p", epoch=1, sequence=1, position={}))
writer.close()
from headrace.connectors.parquet.reader import read_table
print("rows:", read_table(to.storage, stream).num_rows)
"""


def test_a_full_disk_fails_the_stage_whole_and_the_next_attempt_succeeds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["failed: storage.full", "left: [] []", "rows: 2000"]


def test_check_leaves_nothing_behind(settings: dict[str, Any]) -> None:
    to = target(settings)
    to.check()
    assert list(to.storage.list()) == []


def test_check_says_that_the_bucket_is_missing(s3_server: S3Server) -> None:
    to = target({"url": "s3://no-such-bucket/lake", "s3": s3_server.access()})
    with pytest.raises(NotFoundError):
        to.check()
    with pytest.raises(NotFoundError):
        to.describe(ORDERS)


def test_check_says_that_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HeadraceError) as refused:
        target({"url": str(tmp_path / "file" / "out")}).check()
    assert not isinstance(refused.value, TransientError)


@pytest.mark.parametrize(
    ("address", "raw"),
    [
        ("parquet:./out", {"url": "./out"}),
        ("parquet:s3://b/p?compression=snappy", {"url": "s3://b/p", "compression": "snappy"}),
        ("parquet:/tmp/x?partition_by=a,b", {"url": "/tmp/x", "partition_by": "a,b"}),
    ],
)
def test_a_one_line_address_names_folder_and_settings(address: str, raw: dict[str, Any]) -> None:
    assert ParquetConfig.from_url(address) == raw
    ParquetConfig.parse(raw)


@pytest.mark.parametrize("address", ["parquet:", "parquet:?compression=snappy", "parquet:x?codec=snappy"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        ParquetConfig.parse(ParquetConfig.from_url(address))
