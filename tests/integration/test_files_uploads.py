"""Files on their way in: where they go, what is refused, and what is left when something breaks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace.control.files import clean_name
from headrace.control.platform import Platform
from headrace.errors import ConfigError, ConflictError, NotFoundError, TooLarge
from headrace.model.file import FileStatus, ImportPlan
from servers.s3 import S3Server
from tests.integration.uploads import Person

CSV = b"id,name\n1,Ann\n2,Bob\n"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform.open(tmp_path / "data", {"HEADRACE_FILES_QUOTA_MB": "40"})
    yield platform
    platform.close()


@pytest.fixture
def ann(platform: Platform) -> Person:
    return Person(platform)


def kept(folder: Path) -> list[str]:
    root = folder / "data" / "files"
    return [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()]


def test_a_file_is_kept_whole_under_its_tenant(ann: Person, tmp_path: Path) -> None:
    file = ann.upload("sales 2024.csv", CSV, step=3)
    assert file.status is FileStatus.UPLOADED
    assert (file.name, file.format, file.size) == ("sales 2024.csv", "csv", len(CSV))
    assert file.sha256 == hashlib.sha256(CSV).hexdigest()
    assert kept(tmp_path) == [f"tenant-{ann.actor.place}/uploads/{file.id}/sales 2024.csv"] == [file.key]
    assert (tmp_path / "data" / "files" / file.key).read_bytes() == CSV
    assert ann.platform.files.list(ann.actor).items[0].id == file.id


def test_an_upload_that_breaks_leaves_nothing(ann: Person, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), ann.platform.files.receive(ann.actor, "a.csv") as incoming:
        incoming.write(CSV)
        raise ConnectionError
    assert kept(tmp_path) == []
    assert ann.platform.files.list(ann.actor).total == 0


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.docx", CSV, "upload.unknown_format"),
        ("csv", CSV, "upload.unknown_format"),
        ("a.xlsx.gz", CSV, "upload.unknown_format"),
        ("a.csv", b"", "upload.empty"),
        ("a.csv", b"a,b\0c", "upload.content"),
        ("a.parquet", CSV, "upload.content"),
        ("a.avro", CSV, "upload.content"),
        ("a.xlsx", CSV, "upload.content"),
        ("a.xls", b"PK\x03\x04" + bytes(100), "upload.content"),
        ("a.csv.gz", CSV, "upload.content"),
        ("a.jsonl.zst", CSV, "upload.content"),
        ("..", CSV, "files.name"),
    ],
)
def test_what_is_not_what_its_name_says_is_refused(
    ann: Person, tmp_path: Path, name: str, data: bytes, code: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        ann.upload(name, data)
    assert raised.value.code == code
    assert kept(tmp_path) == []


def test_a_file_past_the_limit_of_its_format_is_refused_at_once(ann: Person, tmp_path: Path) -> None:
    ann.platform.settings.__dict__["files_quota_mb"] = None
    with pytest.raises(TooLarge) as raised, ann.platform.files.receive(ann.actor, "a.xls") as incoming:
        incoming.write(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
        for _ in range(50):
            incoming.write(bytes(1 << 20))
    assert (raised.value.code, raised.value.http_status) == ("files.too_large", 413)
    assert kept(tmp_path) == []


def test_a_workspace_has_a_quota_and_deleting_makes_room(ann: Person) -> None:
    data = b"a\n" + b"x" * (30 << 20)
    first = ann.upload("a.csv", data)
    with pytest.raises(TooLarge) as raised:
        ann.upload("b.csv", data)
    assert raised.value.code == "files.quota"
    ann.platform.files.delete(ann.actor, first.id)
    assert ann.upload("b.csv", data).size == len(data)


def test_two_uploads_at_once_do_not_pass_the_quota_together(ann: Person, tmp_path: Path) -> None:
    data = b"a\n" + b"x" * (30 << 20)
    with (
        ann.platform.files.receive(ann.actor, "a.csv") as one,
        ann.platform.files.receive(ann.actor, "b.csv") as other,
    ):
        one.write(data)
        other.write(data)
        one.finish()
        with pytest.raises(TooLarge):
            other.finish()
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("../../etc/passwd.csv", "passwd.csv"),
        ("C:\\temp\\x.csv", "x.csv"),
        ("a\r\nb\0.csv", "ab.csv"),
        ("é.csv", "é.csv"),
        ("x" * 400 + ".csv.gz", "x" * 248 + ".csv.gz"),
        ("é" * 200 + ".csv", "é" * 125 + ".csv"),
        (".hidden.csv", "hidden.csv"),
    ],
)
def test_a_name_is_made_fit_for_a_folder(given: str, name: str) -> None:
    assert clean_name(given) == name


def test_a_file_of_another_workspace_is_not_found(ann: Person) -> None:
    bob = Person(ann.platform, "bob")
    file = ann.upload("a.csv", CSV)
    files = ann.platform.files
    for call in (files.get, files.preview, files.start, files.rejects, files.delete):
        with pytest.raises(NotFoundError):
            call(bob.actor, file.id)
    with pytest.raises(NotFoundError):
        files.plan(bob.actor, file.id, ImportPlan(table="t"))
    assert files.list(bob.actor).total == 0


def test_content_goes_when_it_was_kept_long_enough(ann: Person, tmp_path: Path) -> None:
    file = ann.upload("a.csv", CSV)
    ann.platform.files.preview(ann.actor, file.id)
    now = datetime.now(UTC)
    assert ann.platform.sweep.run(now + timedelta(days=29)) == 0
    assert ann.platform.sweep.run(now + timedelta(days=31)) == 1
    assert kept(tmp_path) == []
    with pytest.raises(ConflictError) as raised:
        ann.platform.files.preview(ann.actor, file.id)
    assert raised.value.code == "files.removed"
    assert ann.platform.files.get(ann.actor, file.id).name == "a.csv"


def test_what_an_upload_that_died_has_left_is_swept(ann: Person, tmp_path: Path) -> None:
    root = tmp_path / "data" / "files" / f"tenant-{ann.actor.place}" / "uploads"
    (root / "dead").mkdir(parents=True)
    (root / "dead" / ".headrace-1234").write_bytes(b"half")
    (root / "orphan").mkdir()
    (root / "orphan" / "a.csv").write_bytes(CSV)
    file = ann.upload("a.csv", CSV)
    ann.platform.sweep.run(datetime.now(UTC))
    assert (root / "orphan" / "a.csv").exists()  # perhaps its row is about to be written
    ann.platform.sweep.run(datetime.now(UTC) + timedelta(days=2))
    assert kept(tmp_path) == [file.key]
    assert not (root / "dead").exists()


def test_files_may_lie_in_an_object_store(tmp_path: Path, s3_server: S3Server, s3_bucket: str) -> None:
    access = {"s3": s3_server.access()}
    environ = {"HEADRACE_FILES_URL": f"s3://{s3_bucket}/uploads", "HEADRACE_FILES_ACCESS": json.dumps(access)}
    platform = Platform.open(tmp_path / "data", environ)
    try:
        ann = Person(platform)
        file = ann.bring("a.csv", CSV)
        assert file.status is FileStatus.COMPLETED
        assert ann.table().to_pylist() == [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]
        assert kept(tmp_path) == [] or not (tmp_path / "data" / "files").exists()
        platform.files.delete(ann.actor, file.id)
        assert list(platform._content._storage.list()) == []
    finally:
        platform.close()
