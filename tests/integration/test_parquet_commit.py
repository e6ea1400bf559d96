"""The log of a Parquet table: a commit is one new manifest, and nothing before it is part of the table."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from headrace.connector import Batch, Slice, Staged
from headrace.connectors.parquet.reader import live_files, read_table
from headrace.connectors.parquet.target import ParquetTarget
from headrace.errors import DataError, Fenced, NotFoundError, OutcomeUnknown
from servers.s3 import S3Server
from servers.tcp_proxy import Fault, TcpProxy
from tests.integration.parquet_folder import (
    APPEND,
    ORDERS,
    REPLACE,
    append,
    data_keys,
    ids,
    place,
    rows,
    stage,
    target,
    token,
)


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return place(request.param, request, tmp_path)


@pytest.fixture
def local(tmp_path: Path) -> dict[str, Any]:
    return {"url": str(tmp_path / "out")}


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
