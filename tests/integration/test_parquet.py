"""The Parquet target: a commit is one new manifest, and nothing before it is part of the table."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.connector import Batch, Change, Slice, Staged, Stream, StreamRead, Token, WriteMode
from headrace.connectors.parquet import ParquetConfig
from headrace.connectors.parquet.reader import live_files, read_table
from headrace.connectors.parquet.target import ParquetTarget
from headrace.errors import (
    ConfigError,
    DataError,
    Fenced,
    HeadraceError,
    NotFoundError,
    OutcomeUnknown,
    TransientError,
)
from servers.s3 import S3Server
from servers.tcp_proxy import Fault, TcpProxy

APPEND, REPLACE = WriteMode.APPEND, WriteMode.REPLACE
ORDERS = Stream(
    name="orders",
    namespace="public",
    schema=pa.schema([("id", pa.int64()), ("country", pa.string()), ("total", pa.decimal128(10, 2))]),
)


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A folder of this test's own: on the disk, and again in a bucket."""
    if request.param == "local":
        return {"url": str(tmp_path / "out")}
    server: S3Server = request.getfixturevalue("s3_server")
    return {"url": f"s3://{request.getfixturevalue('s3_bucket')}/lake", "s3": server.access()}


@pytest.fixture
def local(tmp_path: Path) -> dict[str, Any]:
    return {"url": str(tmp_path / "out")}


def target(settings: dict[str, Any], **more: Any) -> ParquetTarget:
    return ParquetTarget(ParquetConfig.parse({**settings, **more}))


def token(sequence: int, *, pipeline: str = "p", epoch: int = 1) -> Token:
    return Token(pipeline=pipeline, epoch=epoch, sequence=sequence, position={"row": sequence})


def rows(*ids: int, country: str = "DE") -> list[dict[str, Any]]:
    return [{"id": id, "country": country, "total": Decimal(id % 1000) / 100} for id in ids]


def stage(
    to: ParquetTarget, data: list[dict[str, Any]], stream: Stream = ORDERS, mode: WriteMode = APPEND
) -> Staged:
    to.prepare(stream, mode)
    writer = to.open(stream, mode, Slice(key=stream.id, reads=(StreamRead(stream=stream),)))
    try:
        assert list(writer.write(Batch.of(stream, data))) == []
        return Staged.from_json(json.loads(json.dumps(writer.stage().to_json())))
    finally:
        writer.close()


def append(to: ParquetTarget, ids: list[int], at: Token, stream: Stream = ORDERS) -> None:
    to.publish(stream, APPEND, [stage(to, rows(*ids), stream)], at)


def ids(to: ParquetTarget, stream: Stream = ORDERS) -> list[int]:
    return sorted(read_table(to.storage, stream)["id"].to_pylist())


def data_keys(to: ParquetTarget) -> list[str]:
    return [file.key for file in to.storage.list() if file.key.endswith(".parquet")]


def test_rows_and_token_appear_together_and_only_by_publish(settings: dict[str, Any]) -> None:
    to = target(settings)
    to.check()
    staged = stage(to, rows(1, 2, 3))
    assert staged.rows == 3 and staged.bytes > 0
    assert to.describe(ORDERS) is None
    assert to.committed(ORDERS, "p") is None
    with pytest.raises(NotFoundError):
        read_table(to.storage, ORDERS)
    to.publish(ORDERS, APPEND, [staged], token(1))
    fresh = target(settings)
    assert read_table(fresh.storage, ORDERS).to_pylist() == rows(1, 2, 3)
    assert fresh.committed(ORDERS, "p") == token(1)
    assert fresh.committed(ORDERS, "other") is None
    assert fresh.describe(ORDERS) == fresh.image(ORDERS)


def test_the_same_publish_again_changes_nothing(settings: dict[str, Any]) -> None:
    to = target(settings)
    staged = stage(to, rows(1))
    to.publish(ORDERS, APPEND, [staged], token(1))
    append(to, [2], token(1, pipeline="other"))
    target(settings).publish(ORDERS, APPEND, [staged], token(1))
    assert ids(to) == [1, 2]


def test_an_older_epoch_is_fenced_and_what_it_staged_stays_invisible(settings: dict[str, Any]) -> None:
    zombie, heir = target(settings), target(settings)
    append(zombie, [1], token(1, epoch=1))
    late = stage(zombie, rows(2))
    append(heir, [3], token(2, epoch=2))
    with pytest.raises(Fenced):
        zombie.publish(ORDERS, APPEND, [late], token(2, epoch=1))
    assert ids(heir) == [1, 3]
    zombie.discard(ORDERS, [late])
    assert len(data_keys(heir)) == 2


def test_two_pipelines_keep_their_tokens_in_one_table(settings: dict[str, Any]) -> None:
    one, two = target(settings), target(settings)
    append(one, [1], token(1, pipeline="one"))
    append(two, [2], token(1, pipeline="two"))
    append(one, [3], token(2, pipeline="one"))
    assert ids(two) == [1, 2, 3]
    assert two.committed(ORDERS, "one") == token(2, pipeline="one")
    assert one.committed(ORDERS, "two") == token(1, pipeline="two")


def test_writers_that_meet_on_a_new_table_all_get_their_rows_in(settings: dict[str, Any]) -> None:
    writers = [target(settings) for _ in range(6)]
    staged = [stage(to, rows(number)) for number, to in enumerate(writers)]
    barrier = threading.Barrier(len(writers))
    failed: list[Exception] = []

    def publish(number: int) -> None:
        barrier.wait()
        try:
            writers[number].publish(ORDERS, APPEND, [staged[number]], token(1, pipeline=f"p{number}"))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert ids(target(settings)) == list(range(len(writers)))


def test_replace_swaps_all_rows_in_one_commit_and_readers_may_finish(settings: dict[str, Any]) -> None:
    to = target(settings)
    append(to, [1, 2], token(1))
    before = live_files(to.storage, ORDERS)
    staged = stage(to, rows(7, 8, 9), mode=REPLACE)
    assert live_files(to.storage, ORDERS) == before
    to.publish(ORDERS, REPLACE, [staged], token(2))
    assert ids(to) == [7, 8, 9]
    assert all(to.storage.exists(f"public/orders/{file.path}") for file in before)


def test_files_of_replaced_rows_are_deleted_once_they_have_been_kept_long_enough(
    local: dict[str, Any],
) -> None:
    to = target(local, keep_replaced_hours=0)
    for sequence in (1, 2, 3, 4):
        to.publish(ORDERS, REPLACE, [stage(to, rows(sequence), mode=REPLACE)], token(sequence))
    assert ids(to) == [4]
    assert len(data_keys(to)) == 2
    append(to, [5], token(5))
    assert ids(to) == [4, 5]
    assert len(data_keys(to)) == 2


def test_a_replaced_file_that_cannot_be_deleted_does_not_fail_the_commit(local: dict[str, Any]) -> None:
    to = target(local, keep_replaced_hours=0)
    to.publish(ORDERS, REPLACE, [stage(to, rows(1), mode=REPLACE)], token(1))
    (old,) = (Path(to.config.url, "public/orders", file.path) for file in live_files(to.storage, ORDERS))
    to.publish(ORDERS, REPLACE, [stage(to, rows(2), mode=REPLACE)], token(2))
    old.unlink()
    old.mkdir()
    to.publish(ORDERS, REPLACE, [stage(to, rows(3), mode=REPLACE)], token(3))
    assert ids(to) == [3]


def test_a_reader_never_sees_half_a_replace(local: dict[str, Any]) -> None:
    to = target(local)
    stop = threading.Event()
    seen: set[tuple[int, ...]] = set()

    def look() -> None:
        while not stop.is_set():
            seen.add(tuple(ids(to)))

    to.publish(ORDERS, REPLACE, [stage(to, rows(0, 1), mode=REPLACE)], token(1))
    reader = threading.Thread(target=look)
    reader.start()
    turn = 1
    while turn < 20 or (len(seen) < 2 and reader.is_alive()):
        turn += 1
        halves = [stage(to, rows(turn), mode=REPLACE), stage(to, rows(turn + 100), mode=REPLACE)]
        to.publish(ORDERS, REPLACE, halves, token(turn))
    stop.set()
    reader.join()
    assert len(seen) > 1
    assert all(len(pair) == 2 and pair[1] - pair[0] in (1, 100) for pair in seen)


def test_truncate_drops_what_came_before_it_and_empties_the_table(settings: dict[str, Any]) -> None:
    to = target(settings)
    append(to, [1, 2], token(1))
    writer = to.open(ORDERS, REPLACE, Slice(key="s", reads=()))
    writer.write(Batch.of(ORDERS, rows(3)))
    writer.truncate()
    writer.write(Batch.of(ORDERS, rows(4)))
    staged = writer.stage()
    writer.close()
    assert (staged.rows, staged.truncates) == (1, True)
    to.publish(ORDERS, APPEND, [stage(to, rows(9)), staged], token(2))
    assert ids(to) == [4]


def test_a_publish_without_rows_moves_the_token_and_makes_the_table(settings: dict[str, Any]) -> None:
    to = target(settings)
    to.publish(ORDERS, APPEND, [stage(to, [])], token(1))
    assert read_table(to.storage, ORDERS).num_rows == 0
    assert to.describe(ORDERS) == ORDERS.schema
    to.publish(ORDERS, APPEND, [], token(2))
    assert to.committed(ORDERS, "p") == token(2)


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


def test_duckdb_reads_the_files_that_the_newest_manifest_names(local: dict[str, Any]) -> None:
    to = target(local, partition_by=["country"])
    to.publish(ORDERS, APPEND, [stage(to, rows(1, 2) + rows(3, country="FR"))], token(1))
    folder = Path(to.config.url, "public/orders")
    manifest = json.loads(max((folder / "_commits").iterdir()).read_text())
    paths = [str(folder / file["path"]) for file in manifest["live"]]
    with duckdb.connect() as database:
        query = "SELECT id, country FROM read_parquet(?, hive_partitioning=false) ORDER BY id"
        assert database.execute(query, [paths]).fetchall() == [(1, "DE"), (2, "DE"), (3, "FR")]


def test_a_table_of_many_files_is_still_told_from_its_newest_commits(local: dict[str, Any]) -> None:
    to = target(local)
    many = stage(to, rows(1), mode=REPLACE)
    crowd = replace(many, detail={**many.detail, "files": many.detail["files"] * 250})
    to.publish(ORDERS, APPEND, [crowd], token(1))
    for number in range(2, 120):
        append(to, [number], token(number))
        if number in (50, 51, 52, 119):
            assert len(live_files(target(local).storage, ORDERS)) == 249 + number
    folder = Path(to.config.url, "public/orders/_commits")
    full = [json.loads(path.read_text())["live"] is not None for path in sorted(folder.iterdir())]
    assert [number for number, whole in enumerate(full, 1) if whole] == [1, 51, 101]


def test_updates_are_refused_since_files_only_take_new_rows(local: dict[str, Any]) -> None:
    to = target(local)
    writer = to.open(ORDERS, APPEND, Slice(key="s", reads=()))
    with pytest.raises(DataError) as refused:
        writer.write(replace(Batch.of(ORDERS, rows(1)), changes=pa.array([Change.DELETE], pa.int8())))
    assert refused.value.code == "parquet.changes"
    writer.close()


def test_a_manifest_of_a_later_version_is_not_misread(local: dict[str, Any]) -> None:
    to = target(local)
    append(to, [1], token(1))
    path = Path(to.config.url, "public/orders/_commits", f"{1:020}.json")
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match="format 2"):
        target(local).describe(ORDERS)


@pytest.mark.parametrize("also_down", [False, True])
def test_a_lost_reply_to_the_commit_is_looked_up(
    s3_server: S3Server, s3_bucket: str, also_down: bool
) -> None:
    def puts_a_manifest(chunk: bytes) -> bool:
        if not (chunk.startswith(b"PUT") and b"_commits/" in chunk.partition(b"\r\n")[0]):
            return False
        proxy.refusing = also_down  # this request still gets through, the look that follows does not
        return True

    with TcpProxy("127.0.0.1", s3_server.port) as proxy:
        access = {**s3_server.access(), "endpoint": f"http://127.0.0.1:{proxy.port}"}
        to = target({"url": f"s3://{s3_bucket}/lake", "s3": access})
        staged = stage(to, rows(1, 2))
        proxy.at(puts_a_manifest, Fault.DROP_REPLY)
        if also_down:
            with pytest.raises(OutcomeUnknown) as unknown:
                to.publish(ORDERS, APPEND, [staged], token(1))
            assert "secret" not in unknown.value.message
            proxy.refusing = False
            assert to.committed(ORDERS, "p") == token(1)
        publish_until_known(to, staged)
        assert proxy.fired.is_set()
        assert ids(to) == [1, 2]
        assert to.committed(ORDERS, "p") == token(1)


def publish_until_known(to: ParquetTarget, staged: Staged) -> None:
    try:
        to.publish(ORDERS, APPEND, [staged], token(1))
    except OutcomeUnknown:
        to.publish(ORDERS, APPEND, [staged], token(1))


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
