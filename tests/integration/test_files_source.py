"""The files source over a real S3 server: listing, reading, what is new, and what is refused."""

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace import catalog
from headrace.connector import Position, ReadMode, Slice, Source, StreamRead
from headrace.connector.files import Storage, StorageConfig, open_storage
from headrace.errors import AuthError, NotFoundError, TransientError
from servers.s3 import S3Server


@pytest.fixture
def store(s3_server: S3Server, s3_bucket: str) -> Storage:
    return open_storage(f"s3://{s3_bucket}", StorageConfig.parse({"s3": s3_server.access()}))


@pytest.fixture
def files(s3_server: S3Server, store: Storage) -> Iterator[Any]:
    """Makes a files source over the test's bucket."""
    made: list[Source[Any]] = []

    def make(pattern: str, **settings: Any) -> Source[Any]:
        raw = {"url": f"{store.url}/{pattern}", "s3": s3_server.access(), **settings}
        made.append(catalog.source("files", raw))
        return made[-1]

    yield make
    for source in made:
        source.close()


def cut(source: Source[Any], mode: ReadMode, since: Position | None = None) -> list[Slice]:
    reads = [StreamRead(stream=stream, mode=mode) for stream in source.discover()]
    return list(source.slices(reads, {r.stream.id: since or {} for r in reads}))


def rows(source: Source[Any], slices: list[Slice]) -> list[dict[str, Any]]:
    return [row for s in slices for event in source.read(s, {}) for row in event.rows.to_pylist()]


def test_objects_of_a_prefix_are_one_stream(store: Storage, files: Any) -> None:
    store.put("in/a.csv", b"id,v\n1,x\n")
    store.put("in/sub/b.csv.gz", gzip.compress(b"id,w\n2,y\n"))
    with store.create("in/c.parquet") as upload:
        pq.write_table(pa.table({"id": [3]}), upload)
    store.put("other/d.csv", b"id\n4\n")
    for url in ("in", "in/", "in/**"):
        source = files(url)
        source.check()
        assert [s.name for s in source.discover()] == ["in"]
        found = rows(source, cut(source, ReadMode.FULL))
        assert sorted(r["id"] for r in found) == [1, 2, 3]
    assert found[0] == {"id": 1, "v": "x", "w": None}
    assert rows(files("in/a.csv"), cut(files("in/a.csv"), ReadMode.FULL)) == [{"id": 1, "v": "x"}]


def test_only_new_and_changed_objects_are_read_again(store: Storage, files: Any) -> None:
    store.put("a.csv", b"id\n1\n")
    store.put("b.csv", b"id\n2\n")
    source = files("*.csv")
    first = cut(source, ReadMode.INCREMENTAL)
    assert [r["id"] for r in rows(source, first)] == [1, 2]
    at = first[0].until
    assert cut(source, ReadMode.INCREMENTAL, at) == []
    store.put("b.csv", b"id\n3\n")  # as long as before, within the same second
    store.put("c.csv", b"id\n4\n")
    later = files("*.csv")
    second = cut(later, ReadMode.INCREMENTAL, at)
    assert [r["id"] for r in rows(later, second)] == [3, 4]
    assert later.holds(second[0], 2)
    assert not later.holds(first[0], 2)


def test_an_object_that_changes_after_it_was_planned_is_not_read(store: Storage, files: Any) -> None:
    store.put("a.csv", b"id\n1\n")
    source = files("*.csv")
    slices = cut(source, ReadMode.FULL)
    store.put("a.csv", b"id\n2\n")
    with pytest.raises(TransientError):
        rows(source, slices)


def test_slices_are_read_at_the_same_time(
    store: Storage, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.connectors.files.source._SLICE_FILES", 2)
    for number in range(8):
        store.put(f"{number}.jsonl", b"".join(b'{"id":%d}\n' % number for _ in range(1000)))
    source = files("*.jsonl")
    slices = cut(source, ReadMode.FULL)
    assert len(slices) == 4
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda s: rows(source, [s]), slices))
    assert [len(part) for part in parts] == [2000] * 4
    assert {r["id"] for part in parts for r in part} == set(range(8))


def test_a_large_object_is_read_in_ranges(store: Storage, files: Any) -> None:
    line = b"%d," + b"x" * 100 + b"\n"
    with store.create("big.csv") as upload:
        upload.write(b"id,v\n")
        for start in range(0, 250_000, 10_000):
            upload.write(b"".join(line % n for n in range(start, start + 10_000)))
    assert store.stat("big.csv").size > 24 << 20
    source = files("big.csv")
    ids = [
        n for s in cut(source, ReadMode.FULL) for e in source.read(s, {}) for n in e.rows["id"].to_pylist()
    ]
    assert ids == list(range(250_000))


def test_wrong_keys_and_missing_objects_are_told_apart(
    s3_server: S3Server, store: Storage, files: Any
) -> None:
    store.put("a.csv", b"id\n1\n")
    with pytest.raises(AuthError) as caught:
        files("*.csv", s3={**s3_server.access(), "secret_access_key": "canary"}).check()
    assert caught.value.field == "s3" and "canary" not in f"{caught.value.as_dict()}"
    with pytest.raises(NotFoundError) as missing:
        files("*.parquet").check()
    assert missing.value.code == "files.no_match"
    with pytest.raises(NotFoundError) as gone:
        catalog.source("files", {"url": "s3://no-such-bucket/*.csv", "s3": s3_server.access()}).check()
    assert gone.value.code == "storage.not_found"
