"""Files that are made to do harm end soon, with a reason, and without much memory."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.connector.upload.kinds import kind_of
from headrace.connector.upload.process import Limits, Parsing
from headrace.control.platform import Platform
from headrace.errors import HeadraceError
from headrace.model.file import FileStatus, ImportPlan, ReadOptions
from tests.integration.uploads import Person
from tests.integration.workbooks import workbook

MEMORY = 128
SHEET = "xl/worksheets/sheet1.xml"


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    environ = {"HEADRACE_FILES_MEMORY_MB": str(MEMORY), "HEADRACE_FILES_SECONDS": "60"}
    platform = Platform.open(tmp_path_factory.mktemp("bombs") / "data", environ)
    yield Person(platform)
    platform.close()


def refused(ann: Person, name: str, data: bytes) -> str:
    """The code with which a file ends; it is not readable for good."""
    file = ann.upload(name, data)
    with pytest.raises(HeadraceError) as raised:
        ann.platform.files.preview(ann.actor, file.id)
    found = ann.platform.files.get(ann.actor, file.id)
    assert found.status is FileStatus.FAILED
    assert found.error is not None and found.error.code == raised.value.code
    return raised.value.code


def zeros(megabytes: int) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=1) as packed:
        for _ in range(megabytes):
            packed.write(b"1" * (1 << 20))
    return out.getvalue()


def test_a_gzip_bomb(ann: Person) -> None:
    assert refused(ann, "a.csv.gz", zeros(64)) == "upload.too_packed"


def test_a_zstd_bomb(ann: Person) -> None:
    line = b"1,2,3,4\n" * (1 << 17)
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as packed:
        for _ in range(100):
            packed.write(line)
    assert refused(ann, "a.csv.zst", out.getvalue().to_pybytes()) == "upload.too_packed"


def test_a_bomb_within_a_bomb_is_not_unpacked_twice(ann: Person) -> None:
    inner = gzip.compress(b"a,b\n1,2\n", mtime=0x01010101)
    assert (
        refused(ann, "a.csv.gz", gzip.compress(b"\x1f\x8b" + inner[2:].replace(b"\0", b"\1")))
        == "upload.content"
    )


def test_a_gzip_file_that_is_cut_off(ann: Person) -> None:
    assert refused(ann, "a.csv.gz", gzip.compress(b"a,b\n" * 10000)[:-20]) == "upload.damaged_pack"


def test_a_workbook_that_unpacks_to_gigabytes(ann: Person) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
        with archive.open(SHEET, "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    assert refused(ann, "a.xlsx", out.getvalue()) == "upload.too_packed"


def test_a_workbook_that_lies_about_its_size(ann: Person) -> None:
    """The directory says little, the content is 500 MiB of cells."""
    rows = b"<row><c><v>1</v></c></row>" * (1 << 16)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    packed = packer.compress(head) + b"".join(packer.compress(rows) for _ in range(300)) + packer.flush()
    with zipfile.ZipFile(io.BytesIO(workbook({"Data": [["a"], [1]]}))) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, packed if name == SHEET else content)
    raw = bytearray(out.getvalue())
    for place, method, size in (
        (raw.find(SHEET.encode()) - 30, 8, 22),
        (raw.rfind(SHEET.encode()) - 46, 10, 24),
    ):
        raw[place + method : place + method + 2] = (8).to_bytes(2, "little")  # deflated, not stored
        raw[place + size : place + size + 4] = (1000).to_bytes(4, "little")
    assert refused(ann, "a.xlsx", bytes(raw)) in {"upload.damaged", "upload.parser_died", "upload.memory"}


def test_a_workbook_with_a_document_type(ann: Person) -> None:
    laughs = b'<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]>'
    good = workbook({"Data": [["a"], [1]]})
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        sheet = archive.read(SHEET)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as archive, zipfile.ZipFile(out, "w") as other:
        for item in archive.infolist():
            content = laughs + sheet if item.filename == SHEET else archive.read(item)
            other.writestr(item.filename, content)
    assert refused(ann, "a.xlsx", out.getvalue()) == "upload.damaged"


def test_a_page_of_parquet_that_unpacks_to_too_much(ann: Person) -> None:
    out = io.BytesIO()
    text = pa.array(["x" * (200 << 20)], pa.large_string())
    pq.write_table(
        pa.table({"a": text}), out, compression="zstd", use_dictionary=False, write_statistics=False
    )
    del text
    assert refused(ann, "a.parquet", out.getvalue()) in {"upload.memory", "upload.parser_died"}


def test_parquet_that_is_nested_too_deep(ann: Person) -> None:
    value: object = 1
    for _ in range(11):
        value = {"a": value}
    out = io.BytesIO()
    pq.write_table(pa.table({"a": [value]}), out)
    assert refused(ann, "a.parquet", out.getvalue()) == "upload.too_deep"


def test_avro_blocks_that_unpack_to_too_much(ann: Person) -> None:
    out = io.BytesIO()
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "bytes"}]}
    fastavro.writer(out, schema, [{"a": bytes(200 << 20)}], codec="deflate")
    assert refused(ann, "a.avro", out.getvalue()) in {
        "upload.memory",
        "upload.parser_died",
        "upload.damaged_avro",
    }


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_json_that_is_nested_without_end(ann: Person, opening: bytes) -> None:
    depth = 2_000_000
    refused(ann, "a.json", b'[{"a":' + opening * depth)
    file = ann.bring("a.jsonl", b'{"a": 1}\n{"a":' + opening * depth + b"\n")
    assert (file.status, file.imported, file.rejected) == (FileStatus.COMPLETED, 1, 1)


def test_a_row_that_is_too_large_costs_itself_only(ann: Person) -> None:
    file = ann.bring("a.csv", b"a\nx\n" + b"y" * (40 << 20) + b"\nz\n", ImportPlan(table="rows"))
    assert (file.imported, file.rejected) == (2, 1)
    assert [(r.code, r.first_line) for r in file.reasons] == [("ROW_TOO_LARGE", 3)]
    assert file.profile is not None and file.profile.rows == 3


def test_too_many_columns(ann: Person) -> None:
    assert refused(ann, "a.csv", ",".join(f"c{n}" for n in range(2001)).encode()) == "files.too_many_columns"


def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """A block of a million millions of rows that take no room."""
    out = io.BytesIO()
    fastavro.writer(out, {"type": "record", "name": "R", "fields": [{"name": "a", "type": "null"}]}, [])
    marker = out.getvalue()[-16:]
    path = tmp_path / "a.avro"
    path.write_bytes(out.getvalue() + _long(1 << 40) + _long(0) + marker)
    with (
        path.open("rb") as file,
        Parsing(file, "a.avro", kind_of("a.avro"), ReadOptions(), Limits(seconds=2)) as parsing,
        pytest.raises(HeadraceError) as raised,
    ):
        parsing.profile()
    assert raised.value.code == "upload.parser_died"


def _long(number: int) -> bytes:
    """A number as avro writes it."""
    number, out = number << 1, b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def test_the_process_has_no_secrets_and_writes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.connector.upload.process import _environ

    monkeypatch.setenv("HEADRACE_MASTER_KEY", "canary-55ab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-55ab")
    assert "canary-55ab" not in str(_environ())
