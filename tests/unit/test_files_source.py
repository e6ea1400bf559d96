"""The files source over a local folder."""

import gzip
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace import catalog
from headrace.connector import Position, ReadMode, Reject, Selection, Slice, StreamRead
from headrace.connector.files import Object
from headrace.connectors.files import position
from headrace.connectors.files.config import FilesConfig
from headrace.connectors.files.place import places
from headrace.connectors.files.position import Seen
from headrace.connectors.files.source import FilesSource
from headrace.errors import ConfigError, DataError, NotFoundError, TransientError


def source(url: Path | str, **settings: Any) -> FilesSource:
    return FilesSource(FilesConfig.parse({"url": str(url), **settings}))


def cut(
    src: FilesSource, mode: ReadMode = ReadMode.FULL, since: Position | None = None
) -> tuple[list[Slice], list[StreamRead]]:
    reads = [StreamRead(stream=stream, mode=mode) for stream in src.discover()]
    return list(src.slices(reads, {r.stream.id: since or {} for r in reads})), reads


def rows_of(src: FilesSource, slices: list[Slice]) -> tuple[list[dict[str, Any]], list[Reject]]:
    rows, rejects = [], []
    for piece in slices:
        for event in src.read(Slice.from_json(json.loads(json.dumps(piece.to_json()))), {}):
            assert event.rows.schema == piece.read.stream.schema
            rows += event.rows.to_pylist()
            rejects += event.rejects
    return rows, rejects


def everything(src: FilesSource) -> list[dict[str, Any]]:
    return rows_of(src, cut(src)[0])[0]


def write(path: Path, content: str | bytes, at: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if at is not None:
        os.utime(path, (at, at))
    return path


def test_the_catalogue_finds_it_by_address(tmp_path: Path) -> None:
    write(tmp_path / "orders.csv", "id\n1\n")
    spec, settings = catalog.from_url(f"file:{tmp_path}/*.csv")
    assert spec.name == "files"
    (stream,) = catalog.source("files", settings).discover()
    assert stream.schema == pa.schema([("id", pa.int64())])


def test_files_of_every_format_make_one_stream_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,v\n1,1.50\n")
    write(tmp_path / "b.TSV", "id\tw\n2\tx\n")
    write(tmp_path / "c.jsonl.gz", gzip.compress(b'{"id":3,"v":2.125}\n'))
    write(tmp_path / "d.json", '[{"id":4}]')
    pq.write_table(pa.table({"id": [5], "w": ["y"]}), tmp_path / "e.parquet")
    write(tmp_path / "README.md", "no data")
    write(tmp_path / "_SUCCESS", "")
    src = source(tmp_path)
    src.check()
    (stream,) = src.discover()
    assert stream.name == tmp_path.name
    assert stream.schema == pa.schema([("id", pa.int64()), ("v", pa.decimal128(38, 3)), ("w", pa.string())])
    assert stream.rows == 5
    rows = everything(src)
    assert [r["id"] for r in rows] == [1, 2, 3, 4, 5]
    assert [str(r["v"]) for r in rows] == ["1.500", "None", "2.125", "None", "None"]
    assert [r["w"] for r in rows] == [None, "x", None, None, "y"]


def test_drift_widens_types_and_fills_missing_columns(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "id,at\n1,2024-01-01\n")
    write(tmp_path / "2.csv", "at,id,code\n2024-01-02 10:00,2.5,007\n")
    write(tmp_path / "3.csv", "id\n")
    write(tmp_path / "4.csv", "")
    rows = everything(source(tmp_path / "*.csv"))
    assert [str(r["id"]) for r in rows] == ["1.0", "2.5"]
    assert rows[0]["at"] == datetime(2024, 1, 1) and rows[0]["code"] is None
    assert rows[1]["code"] == "007"


def test_bad_rows_are_rejected_with_file_and_line(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,n\n" + "1,x\n" * 20_000 + "late,x\n2\n3,y\n")
    src = source(tmp_path / "a.csv", sample_bytes=1024)
    slices, _ = cut(src)
    rows, rejects = rows_of(src, slices)
    assert len(rows) == 20_001
    assert [(r.stream, r.code, r.where) for r in rejects] == [
        ("a", "TYPE_MISMATCH", {"file": "a.csv", "line": 20_002}),
        ("a", "COLUMN_COUNT", {"file": "a.csv", "line": 20_003}),
    ]
    assert rejects[0].reason == "id: 'late' is no integer"
    assert sum(event.read for event in src.read(slices[0], {})) == 20_003


def test_types_can_be_named_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,amount\n1,2\n")
    (stream,) = source(tmp_path / "a.csv", types={"amount": "decimal(10,4)", "id": "string"}).discover()
    assert stream.schema.types == [pa.string(), pa.decimal128(10, 4)]
    with pytest.raises(ConfigError) as caught:
        source(tmp_path / "a.csv", types={"amont": "string"}).discover()
    assert caught.value.remedy == "Did you mean 'amount'?"


def test_metadata_columns_tell_file_and_time(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.csv", "id\n1\n", at=1_700_000_000)
    (row,) = everything(source(tmp_path / "**" / "*.csv", include_metadata=True))
    assert row == {"id": 1, "_file": "x/a.csv", "_modified": datetime.fromtimestamp(1_700_000_000, UTC)}
    write(tmp_path / "b.csv", "_file\n1\n")
    with pytest.raises(ConfigError):
        source(tmp_path / "b.csv", include_metadata=True).discover()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("orders.csv", "orders"),
        ("orders.csv.gz", "orders"),
        ("orders-*.csv", "orders"),
        ("crm/*.csv", "crm"),
        ("crm/**/*.csv", "crm"),
        ("crm/year=*/*.csv", "crm"),
        ("a[1].csv", "a"),
        ("*.csv", None),
        ("", None),
    ],
)
def test_a_stream_is_named_after_its_files(tmp_path: Path, url: str, name: str | None) -> None:
    write(tmp_path / "a[1].csv", "id\n1\n")
    (place,) = places(FilesConfig.parse({"url": f"{tmp_path}/{url}"}))
    assert place.name == (name or tmp_path.name)
    if url == "a[1].csv":
        assert [f.key for f in place.files()] == ["a[1].csv"]


def test_relative_paths_and_single_files_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv", "id\n1\n")
    write(tmp_path / "data" / "a.csv", "id\n2\n")
    for url, expected in [("a.csv", 1), ("./a.csv", 1), ("file:data/a.csv", 2), ("*.csv", 1), ("data", 2)]:
        assert everything(source(url)) == [{"id": expected}], url


def test_several_streams_under_one_folder(tmp_path: Path) -> None:
    write(tmp_path / "orders-1.csv", "id\n1\n")
    write(tmp_path / "crm" / "people.jsonl", '{"name":"x"}\n')
    src = source(tmp_path, streams={"orders": "orders-*.csv", "people": "crm/*.jsonl", "none": "none/*.csv"})
    assert [s.id for s in src.discover()] == ["orders", "people"]
    assert [s.id for s in src.discover(Selection(include=("peo*",)))] == ["people"]
    with pytest.raises(NotFoundError) as caught:
        src.check()
    assert caught.value.code == "files.no_match"
    for wrong in ("../x.csv", "/etc/*"):
        with pytest.raises(ConfigError):
            source(tmp_path, streams={"x": wrong}).discover()


def test_what_is_not_there_or_has_no_format_or_column_is_said(tmp_path: Path) -> None:
    write(tmp_path / "data.bin", "id\n1\n")
    write(tmp_path / "empty.csv", "")
    for url, kind, code in [
        (tmp_path / "*.csvv", NotFoundError, "files.no_match"),
        (tmp_path / "none.csv", NotFoundError, "files.no_match"),
        (tmp_path / "nowhere" / "*.csv", NotFoundError, "storage.not_found"),
        (tmp_path / "data.bin", ConfigError, "files.unknown_format"),
        (tmp_path / "empty.csv", DataError, "files.no_columns"),
    ]:
        with pytest.raises(kind) as caught:
            source(url).discover()
        assert caught.value.code == code and caught.value.remedy
    assert everything(source(tmp_path / "data.bin", format="csv")) == [{"id": 1}]


def test_only_new_and_changed_files_are_read_again(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id\n1\n")
    write(tmp_path / "b.csv", "id\n2\n")
    src = source(tmp_path / "*.csv")
    slices, _ = cut(src, ReadMode.INCREMENTAL)
    assert {s.until["sequence"] for s in slices} == {1}
    assert [r["id"] for r in rows_of(src, slices)[0]] == [1, 2]
    first = slices[0].until
    json.dumps(first)
    assert cut(src, ReadMode.INCREMENTAL, first)[0] == []
    write(tmp_path / "0-late-with-an-old-time.csv", "id\n3\n", at=1_000_000_000)
    write(tmp_path / "b.csv", "id\n20\n21\n")
    slices, _ = cut(src, ReadMode.INCREMENTAL, first)
    assert [r["id"] for r in rows_of(src, slices)[0]] == [3, 20, 21]
    second = slices[0].until
    assert src.order(second) > src.order(first) > src.order({})
    (tmp_path / "a.csv").unlink()
    assert cut(src, ReadMode.INCREMENTAL, second)[0] == []
    assert [r["id"] for r in everything(src)] == [3, 20, 21]


def test_files_still_being_written_are_left_for_later(tmp_path: Path) -> None:
    write(tmp_path / "old.csv", "id\n1\n", at=time.time() - 7200)
    write(tmp_path / "new.csv", "id\n2\n")
    src = source(tmp_path / "*.csv", settle_seconds=3600)
    slices, _ = cut(src, ReadMode.INCREMENTAL)
    assert rows_of(src, slices)[0] == [{"id": 1}]
    os.utime(tmp_path / "new.csv", (time.time() - 4000,) * 2)
    slices, _ = cut(src, ReadMode.INCREMENTAL, slices[0].until)
    assert rows_of(src, slices)[0] == [{"id": 2}]


def test_a_file_that_changes_after_it_was_planned_is_not_half_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id\n1\n")
    src = source(path)
    slices, _ = cut(src)
    assert src.holds(slices[0], 1)
    write(path, "id\n1\n2\n")
    with pytest.raises(TransientError) as caught:
        rows_of(src, slices)
    assert caught.value.code == "storage.changed"
    path.unlink()
    with pytest.raises(TransientError):
        rows_of(src, slices)


def test_a_load_is_cut_into_slices_that_hold_while_their_files_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.connectors.files.source._SLICE_BYTES", 100)
    for number in range(6):
        write(tmp_path / f"{number}.csv", "id\n" + f"{number}\n" * 20)
    src = source(tmp_path / "*.csv")
    slices, _ = cut(src)
    assert len(slices) == 3
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda s: rows_of(src, [s])[0], slices))
    assert [sorted({r["id"] for r in part}) for part in parts] == [[0, 1], [2, 3], [4, 5]]
    write(tmp_path / "2.csv", "id\n" + "7\n" * 20)
    later = source(tmp_path / "*.csv")
    again, _ = cut(later)
    assert [later.holds(s, 40) for s in slices] == [True, False, True]
    assert slices[0].key == again[0].key and slices[1].key != again[1].key
    other = source(tmp_path / "*.csv", csv={"null_values": ["1"]})
    cut(other)
    assert not other.holds(slices[0], 40)


def test_reading_stops_when_interrupted(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id\n1\n")
    src = source(tmp_path / "a.csv")
    slices, _ = cut(src)
    src.interrupt()
    with pytest.raises(TransientError):
        rows_of(src, slices)


def test_links_and_patterns_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "secret.csv", "id\n1\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.csv").symlink_to(tmp_path / "secret.csv")
    for url in (tmp_path / "data", tmp_path / "data" / "*.csv", tmp_path / "data" / "link.csv"):
        with pytest.raises(ConfigError) as caught:
            source(url).discover()
        assert caught.value.code == "storage.outside_root"
    assert everything(source(tmp_path / "data" / "*.csv", root=str(tmp_path))) == [{"id": 1}]


def test_the_position_stays_small_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position, "REMEMBERED", 10)
    start = datetime(2024, 1, 1, tzinfo=UTC)

    def files(first: int, last: int) -> list[Object]:
        return [Object(f"{n:04}", 1, start + timedelta(hours=n), "e") for n in range(first, last)]

    at: Position = {}
    for end in range(5, 200, 5):
        listed = files(0, end)
        new = Seen.of(at).new(listed)
        assert new == files(end - 5, end)
        at = Seen.of(at).after(new, listed, timedelta(hours=20))
    assert at["files"] <= 30
    assert datetime.fromisoformat(at["floor"]) > start + timedelta(hours=160)
    late = Object("late", 1, start + timedelta(hours=180), "e")
    assert Seen.of(at).new([*files(0, 195), late]) == [late]
    unsettled = Object("zz", 1, start + timedelta(hours=178), "e")
    kept = Seen.of(at).after([late], [*files(0, 195), late, unsettled], timedelta(0))
    assert datetime.fromisoformat(kept["floor"]) < unsettled.modified
    assert Seen.of(kept).new([*files(0, 195), late, unsettled]) == [unsettled]


def test_secrets_and_unknown_names_have_no_place_in_an_address() -> None:
    parsed = FilesConfig.from_url("s3://bucket/a-?.csv?region=eu-west-1&format=csv")
    assert FilesConfig.from_url("s3://bucket/a-?.csv") == {"url": "s3://bucket/a-?.csv"}
    assert FilesConfig.from_url("file:./a-?.csv") == {"url": "./a-?.csv"}
    assert parsed == {"url": "s3://bucket/a-?.csv", "format": "csv", "s3": {"region": "eu-west-1"}}
    for key in ("secret_access_key", "colour"):
        with pytest.raises(ConfigError) as caught:
            FilesConfig.from_url(f"s3://bucket/a.csv?{key}=canary")
        assert "canary" not in f"{caught.value.as_dict()}"
    assert {"s3.secret_access_key", "azure.sas_token"} <= FilesConfig.secret_fields()
