"""One bucket as a source: from the project file into a table, what each pattern is, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from headrace import catalog
from headrace.connector import ReadMode, StreamRead
from headrace.errors import AuthError, ConfigError, HeadraceError, NotFoundError
from servers.buckets import BUCKET, AzureServer
from servers.s3 import S3Server
from tests.cli import Cli, in_process

PROJECT = """\
connections:
  bucket:
    connector: s3
    bucket: {bucket}
    prefix: in
    globs: {{orders: "orders-*.csv", people: "crm/*.jsonl"}}
    format: {{delimiter: ";"}}
    endpoint: {endpoint}
    access_key_id: {access_key_id}
    secret_access_key: ${{SECRET}}
  out: {{url: "{out}"}}
pipelines:
  copy: {{from: bucket, to: out, streams: [{{name: "*", read: incremental, mode: append}}]}}
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    return in_process(capsys)


@pytest.mark.parametrize("out", ["parquet:./out", "iceberg:./out"])
def test_new_files_of_a_bucket_go_on_into_tables(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server, s3_bucket: str, out: str
) -> None:
    def put(key: str, data: str) -> None:
        s3_server.client.put_object(Bucket=s3_bucket, Key=key, Body=data.encode())

    access = s3_server.access()
    Path("headrace.yaml").write_text(PROJECT.format(bucket=s3_bucket, out=out, **access))
    monkeypatch.setenv("SECRET", access["secret_access_key"])
    put("in/orders-1.csv", "id;note\n1;a\n2;b,c\n")
    put("in/crm/p.jsonl", '{"name": "Ada"}\n')
    put("orders-9.csv", "id;note\n9;x\n")
    assert cli("check", "bucket").code == 0
    first = cli("run", "copy", "--json")
    assert first.code == 0, first
    assert read(first) == {"orders": 2, "people": 1}
    put("in/orders-2.csv", "id;note\n3;d\n")
    assert read(cli("run", "copy", "--json")) == {"orders": 1, "people": 0}
    assert read(cli("run", "copy", "--json")) == {"orders": 0, "people": 0}
    files = [pq.read_table(file, partitioning=None) for file in Path("out").rglob("*.parquet")]
    notes = [note for file in files if "note" in file.column_names for note in file["note"].to_pylist()]
    assert sorted(notes) == ["a", "b,c", "d"]


def read(done: Any) -> dict[str, int]:
    (run,) = done.document["runs"]
    return {stream["stream"]: stream["read"] for stream in run["streams"]}


def test_a_list_of_patterns_names_its_streams_and_none_is_all_data(
    s3_server: S3Server, s3_bucket: str
) -> None:
    for key in ("a/orders-1.csv", "a/crm/people.csv", "a/notes.txt"):
        s3_server.client.put_object(Bucket=s3_bucket, Key=key, Body=b"id\n1\n")

    def streams(**settings: Any) -> list[str]:
        source = catalog.source("s3", {"bucket": s3_bucket, **s3_server.access(), **settings})
        return [stream.id for stream in source.discover()]

    assert streams(prefix="/a/", globs=["orders-*.csv", "crm/*.csv"]) == ["orders", "crm"]
    assert streams(prefix="a") == ["a"]
    assert streams() == [s3_bucket]


def test_an_error_names_the_setting_of_the_bucket(s3_server: S3Server, s3_bucket: str) -> None:
    s3_server.client.put_object(Bucket=s3_bucket, Key="a.csv", Body=b"id\n1\n")

    def fails(kind: type[HeadraceError], **changes: Any) -> HeadraceError:
        settings = {"bucket": s3_bucket, "globs": ["*.csv"], **s3_server.access(), **changes}
        source = catalog.source("s3", settings)
        for use in (source.check, source.discover):
            with pytest.raises(kind) as caught:
                use()
            assert caught.value.remedy
            assert "canary" not in str(caught.value.as_dict())
        return caught.value

    assert fails(NotFoundError, bucket="no-such-bucket").field == "bucket"
    assert fails(NotFoundError, globs=["*.parquet"]).field == "globs"
    assert fails(ConfigError, globs=["../*.csv"]).field == "globs"
    assert fails(AuthError, secret_access_key="canary").field == "access_key_id"
    assert fails(ConfigError, endpoint="http://169.254.169.254").field == "endpoint"


def test_a_wrong_signature_is_told_without_showing_it(azure_server: AzureServer) -> None:
    settings = {"account": "tests", "container": BUCKET, "endpoint": azure_server.url}
    with pytest.raises(AuthError) as caught:
        catalog.source("azure-blob-storage", {**settings, "sas_token": "sv=1&sig=canary"}).check()
    assert caught.value.field == "account_key"
    assert "canary" not in str(caught.value.as_dict())


@pytest.mark.parametrize("connector", ["gcs", "azure-blob-storage"])
def test_an_object_that_changed_since_it_was_planned_is_not_read(
    request: pytest.FixtureRequest, connector: str
) -> None:
    if connector == "gcs":
        server = request.getfixturevalue("gcs_server")
        settings = {"bucket": BUCKET}
    else:
        server = request.getfixturevalue("azure_server")
        settings = {"account": "tests", "container": BUCKET, "sas_token": server.sas_token}
    server.put("a.csv", b"id\n1\n")
    source = catalog.source(connector, {**settings, "endpoint": server.url})
    (stream,) = source.discover()
    (slice,) = source.slices([StreamRead(stream=stream, mode=ReadMode.FULL)], {})
    server.put("a.csv", b"id\n2\n")
    with pytest.raises(HeadraceError) as caught:
        list(source.read(slice, {}))
    assert caught.value.code == "storage.changed"
