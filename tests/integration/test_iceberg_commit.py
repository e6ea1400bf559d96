"""What a commit to an Iceberg table does when others write, when replies are lost and when disks are full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from moto import mock_aws
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import CommitTableResponse
from sqlalchemy.exc import OperationalError

from headrace.connector import Token, WriteMode
from headrace.connectors.iceberg.catalog import open_catalog
from headrace.connectors.iceberg.commit import PROPERTY
from headrace.connectors.iceberg.config import IcebergConfig
from headrace.errors import (
    AuthError,
    ConfigError,
    Fenced,
    NotFoundError,
    OutcomeUnknown,
    StageLost,
    TransientError,
)
from servers.iceberg_rest import IcebergRest
from servers.postgres import PASSWORD, PostgresServer
from servers.s3 import S3Server
from servers.tcp_proxy import Fault, TcpProxy
from tests.integration.iceberg_lake import Lake, rows, stream
from tests.waiting import HANGS

APPEND, REPLACE, UPSERT = WriteMode.APPEND, WriteMode.REPLACE, WriteMode.UPSERT
ORDERS = stream()
NAME = ("public", "orders")


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path / "lake")
    yield lake
    lake.target.close()


class Interfered(SqlCatalog):
    """A real catalogue in which something happens before or after one commit to a table."""

    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None

    def commit_table(self, *args: Any, **kwargs: Any) -> CommitTableResponse:
        before, self.before = self.before, None
        if before:
            before()
        done = super().commit_table(*args, **kwargs)
        after, self.after = self.after, None
        if after:
            after()
        return done


def interfere(
    lake: Lake, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> Interfered:
    with_properties = open_catalog(lake.config)
    catalog = Interfered(with_properties.name, **with_properties.properties)
    with_properties.close()
    catalog.before, catalog.after = before, after
    lake.target.close()
    lake.target._opened = catalog
    return catalog


def lose_reply() -> None:
    raise OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly"))


def append_as_another(lake: Lake, id: int) -> None:
    catalog = lake.foreign()
    table = catalog.load_table(NAME)
    table.append(pa.table({"id": [id], "note": ["foreign"]}))
    catalog.close()


def ids(lake: Lake) -> list[int]:
    return [row["id"] for row in lake.rows(ORDERS)]


def test_the_same_token_again_changes_nothing(lake: Lake) -> None:
    staged = lake.stage(ORDERS, APPEND, [{"id": 1}])
    for _ in range(2):
        lake.target.publish(ORDERS, APPEND, [staged], lake.token(1))
    assert ids(lake) == [1]
    assert len(lake.table(ORDERS).metadata.snapshots) == 1


def test_an_older_epoch_is_fenced_off(lake: Lake) -> None:
    lake.load(ORDERS, APPEND, [{"id": 1}])
    lake.target.publish(ORDERS, APPEND, [], lake.token(5, epoch=3))
    late = lake.stage(ORDERS, APPEND, [{"id": 2}])
    with pytest.raises(Fenced):
        lake.target.publish(ORDERS, APPEND, [late], lake.token(6, epoch=2))
    with pytest.raises(Fenced):
        lake.target.publish(ORDERS, APPEND, [late], lake.token(4, epoch=3))
    assert ids(lake) == [1]


@pytest.mark.parametrize("newer", ["rows", "nothing"])
def test_a_worker_that_was_overtaken_between_look_and_commit_is_fenced_off(lake: Lake, newer: str) -> None:
    lake.load(ORDERS, UPSERT, [{"id": 1}])
    staged = lake.stage(ORDERS, UPSERT, [{"id": 1, "note": "zombie"}, {"id": 2}])
    other = Lake(lake.config.warehouse)

    def overtake() -> None:
        taken = [other.stage(ORDERS, UPSERT, [{"id": 7}])] if newer == "rows" else []
        other.target.publish(ORDERS, UPSERT, taken, other.token(2, epoch=9))

    interfere(lake, before=overtake)
    with pytest.raises(Fenced):
        lake.target.publish(ORDERS, UPSERT, [staged], lake.token(2))
    assert ids(lake) == [1, *([7] if newer == "rows" else [])]
    other.target.close()


@pytest.mark.parametrize("mode", list(WriteMode))
def test_a_foreign_append_in_between_is_neither_lost_nor_in_the_way(lake: Lake, mode: WriteMode) -> None:
    lake.load(ORDERS, mode, [{"id": 1, "note": "old"}])
    staged = lake.stage(ORDERS, mode, [{"id": 1, "note": "new"}, {"id": 3, "note": "new"}])

    def meanwhile() -> None:
        append_as_another(lake, 2)
        append_as_another(lake, 3)

    interfere(lake, before=meanwhile)
    lake.target.publish(ORDERS, mode, [staged], lake.token(2))
    found = [(row["id"], row["note"]) for row in lake.rows(ORDERS)]
    assert (
        found
        == {
            APPEND: [(1, "new"), (1, "old"), (2, "foreign"), (3, "foreign"), (3, "new")],
            UPSERT: [(1, "new"), (2, "foreign"), (3, "new")],
            REPLACE: [(1, "new"), (3, "new")],
        }[mode]
    )
    append_as_another(lake, 4)
    assert lake.target.committed(ORDERS, "p") == lake.token(2)


def test_two_pipelines_on_one_table_keep_a_token_each(lake: Lake) -> None:
    lake.load(ORDERS, APPEND, [{"id": 1}])
    other = Token(pipeline="q", epoch=7, sequence=40, position={"lsn": 'a"\U0001f600'})
    lake.target.publish(ORDERS, APPEND, [lake.stage(ORDERS, APPEND, [{"id": 2}])], other)
    lake.load(ORDERS, APPEND, [{"id": 3}])
    assert lake.target.committed(ORDERS, "q") == other
    assert lake.target.committed(ORDERS, "p") == lake.token(2)
    assert ids(lake) == [1, 2, 3]


def test_a_token_whose_property_is_gone_is_found_in_the_snapshots(lake: Lake) -> None:
    lake.load(ORDERS, APPEND, [{"id": 1}])
    append_as_another(lake, 2)
    catalog = lake.foreign()
    with catalog.load_table(NAME).transaction() as transaction:
        transaction.remove_properties(f"{PROPERTY}p")
    catalog.close()
    assert lake.target.committed(ORDERS, "p") == lake.token(1)


def test_a_table_that_the_user_dropped_has_no_token_and_takes_no_old_rows(lake: Lake) -> None:
    staged = lake.stage(ORDERS, APPEND, [{"id": 1}])
    lake.publish(ORDERS, APPEND)
    catalog = lake.foreign()
    catalog.drop_table(NAME)
    catalog.close()
    assert lake.target.committed(ORDERS, "p") is None
    assert lake.target.describe(ORDERS) is None
    with pytest.raises(NotFoundError):
        lake.target.publish(ORDERS, APPEND, [staged], lake.token(2))
    lake.target.prepare(ORDERS, APPEND)
    with pytest.raises(StageLost, match="made anew"):
        lake.target.publish(ORDERS, APPEND, [staged], lake.token(2))
    lake.target.discard(ORDERS, [staged])


@pytest.mark.parametrize("mode", list(WriteMode))
def test_a_lost_reply_to_a_commit_that_was_made_is_a_success(lake: Lake, mode: WriteMode) -> None:
    lake.load(ORDERS, mode, [{"id": 1}, {"id": 2}])
    staged = lake.stage(ORDERS, mode, [{"id": 2}, {"id": 3}])
    interfere(lake, after=lose_reply)
    for _ in range(2):
        lake.target.publish(ORDERS, mode, [staged], lake.token(2))
    assert ids(lake) == {APPEND: [1, 2, 2, 3], UPSERT: [1, 2, 3], REPLACE: [2, 3]}[mode]


@pytest.mark.parametrize("mode", list(WriteMode))
def test_a_commit_that_may_have_been_made_is_left_open_and_can_be_made_again(
    lake: Lake, mode: WriteMode
) -> None:
    lake.load(ORDERS, mode, [{"id": 1}, {"id": 2}])
    staged = lake.stage(ORDERS, mode, [{"id": 2}, {"id": 3}])
    interfere(lake, before=lose_reply)
    with pytest.raises(OutcomeUnknown) as caught:
        lake.target.publish(ORDERS, mode, [staged], lake.token(2))
    assert caught.value.code == "iceberg.commit_unknown"
    assert ids(lake) == [1, 2]
    assert lake.target.committed(ORDERS, "p") == lake.token(1)
    lake.target.publish(ORDERS, mode, [staged], lake.token(2))
    assert ids(lake) == {APPEND: [1, 2, 2, 3], UPSERT: [1, 2, 3], REPLACE: [2, 3]}[mode]


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_commit_that_was_made_but_is_called_a_conflict_loses_no_file(lake: Lake, overtaken: bool) -> None:
    lake.load(ORDERS, UPSERT, [{"id": 1}, {"id": 2}])
    staged = lake.stage(ORDERS, UPSERT, [{"id": 2}, {"id": 3}])

    def conflict_with_itself() -> None:
        if overtaken:
            other = Lake(lake.config.warehouse)
            other.target.publish(ORDERS, UPSERT, [], other.token(3, epoch=2))
            other.target.close()
        raise CommitFailedException("the transport sent it twice")

    interfere(lake, after=conflict_with_itself)
    lake.target.publish(ORDERS, UPSERT, [staged], lake.token(2))
    assert ids(lake) == [1, 2, 3]


def test_a_reply_that_the_network_swallows_is_a_success(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    with TcpProxy(postgres_server.host, postgres_server.port) as proxy:
        lake = lake_on_postgres(tmp_path, f"127.0.0.1:{proxy.port}{urlsplit(postgres_url).path}")
        lake.load(ORDERS, UPSERT, [{"id": 1}])
        staged = lake.stage(ORDERS, UPSERT, [{"id": 1, "note": "b"}])
        proxy.at(b"COMMIT", Fault.DROP_REPLY)
        lake.target.publish(ORDERS, UPSERT, [staged], lake.token(2))
        assert proxy.fired.is_set()
        assert lake.rows(ORDERS) == [{"id": 1, "note": "b"}]
        lake.target.close()


def lake_on_postgres(folder: Path, where: str) -> Lake:
    return Lake(f"{folder}/lake", uri=f"postgresql+psycopg://postgres@{where}", password=PASSWORD)


def test_a_catalogue_on_postgresql_serves_every_mode(tmp_path: Path, postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    lake = lake_on_postgres(tmp_path, f"{parts.hostname}:{parts.port}{parts.path}")
    lake.target.check()
    lake.load(ORDERS, APPEND, [{"id": 1}, {"id": 2}])
    lake.load(ORDERS, UPSERT, [{"id": 2}, {"id": 3}])
    assert ids(lake) == [1, 2, 3]
    lake.load(ORDERS, REPLACE, [{"id": 9}])
    assert ids(lake) == [9]
    assert lake.target.committed(ORDERS, "p") == lake.token(3)
    lake.target.close()


def test_a_wrong_password_of_the_catalogue_is_named_and_never_shown(
    tmp_path: Path, postgres_url: str
) -> None:
    parts = urlsplit(postgres_url)
    lake = Lake(
        tmp_path,
        uri=f"postgresql+psycopg://postgres@{parts.hostname}:{parts.port}{parts.path}",
        password="sesame",
    )
    with pytest.raises(AuthError) as caught:
        lake.target.check()
    assert (caught.value.code, caught.value.field) == ("iceberg.password", "password")
    assert "sesame" not in f"{caught.value} {lake.config!r}"


def test_a_warehouse_in_s3_takes_and_gives_back_rows(
    tmp_path: Path, s3_server: S3Server, s3_bucket: str
) -> None:
    lake = Lake(
        f"s3://{s3_bucket}/lake", uri=f"sqlite:///{tmp_path}/catalog.db", s3=s3_server.access(),
        partition_spec={"public.orders": ["bucket(2, id)"]},
    )  # fmt: skip
    lake.target.check()
    lake.load(ORDERS, APPEND, [{"id": n, "note": None} for n in range(5)])
    lake.load(ORDERS, UPSERT, [{"id": 2, "note": "b"}])
    found = rows(lake.target._load(ORDERS).scan().to_arrow())
    assert [(row["id"], row["note"]) for row in found] == [
        (0, None),
        (1, None),
        (2, "b"),
        (3, None),
        (4, None),
    ]
    lake.target.close()


def test_a_glue_catalogue_serves_every_mode(s3_server: S3Server, s3_bucket: str) -> None:
    with mock_aws():
        lake = Lake(f"s3://{s3_bucket}/lake", catalog_type="glue", s3=s3_server.access())
        lake.target.check()
        lake.load(ORDERS, APPEND, [{"id": 1}, {"id": 2}])
        lake.load(ORDERS, UPSERT, [{"id": 2}, {"id": 3}])
        assert lake.target._load(ORDERS).scan().to_arrow()["id"].to_pylist() in ([3, 2, 1], [2, 3, 1])
        lake.load(ORDERS, REPLACE, [{"id": 9}])
        assert lake.target._load(ORDERS).scan().to_arrow()["id"].to_pylist() == [9]
        assert lake.target.committed(ORDERS, "p") == lake.token(3)
        with pytest.raises(ConfigError, match="namespace"):
            lake.target.describe(replace(ORDERS, namespace="a.b"))
        lake.target.close()


WRITER = """
import sys
from tests.integration.iceberg_lake import Lake, stream
from headrace.connector import WriteMode
folder, pipeline = sys.argv[1:]
lake, orders = Lake(folder), stream()
for n in range(4):
    staged = lake.stage(orders, WriteMode.APPEND, [{"id": n, "note": pipeline}])
    lake.target.publish(orders, WriteMode.APPEND, [staged], lake.token(n + 1, pipeline=pipeline))
lake.target.close()
"""


def test_processes_that_begin_at_once_on_a_new_table_all_get_their_rows_in(tmp_path: Path) -> None:
    names = ("p", "q")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "lake", name]) for name in names]
    assert [writer.wait(HANGS) for writer in writers] == [0, 0]
    lake = Lake(tmp_path / "lake")
    found = {(row["note"], row["id"]) for row in lake.rows(ORDERS)}
    assert found == {(name, n) for name in names for n in range(4)}
    assert all(lake.target.committed(ORDERS, name) == lake.token(4, pipeline=name) for name in names)
    lake.target.close()


def test_threads_stage_and_look_while_another_publishes(lake: Lake) -> None:
    lake.load(ORDERS, APPEND, [])
    staged: list[Any] = []

    def stage(n: int) -> None:
        staged.append(lake.stage(ORDERS, APPEND, [{"id": n}]))

    threads = [threading.Thread(target=stage, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    append_as_another(lake, 100)
    for thread in threads:
        thread.join()
    lake.publish(ORDERS, APPEND, *staged)
    assert sorted(ids(lake)) == [0, 1, 2, 3, 4, 5, 100]


FULL = """
import json, os, resource, sys
import pyarrow as pa
from tests.integration.iceberg_lake import Lake, stream
from headrace.connector import Batch, WriteMode
from headrace.errors import TransientError

def full(limit, action):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        action()
    except TransientError as error:
        return error.code
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

lake = Lake(sys.argv[1])
for mode in WriteMode:
    orders = stream(mode.value)
    lake.load(orders, mode, [{"id": -1, "note": "before"}])
    notes = [os.urandom(50).hex() for _ in range(5000)]
    rows = pa.record_batch([pa.array(range(5000), pa.int64()), pa.array(notes)], schema=orders.schema)
    noise = Batch(orders.id, rows)
    codes = [full(100_000, lambda: lake.stage_batches(orders, mode, [noise]))]
    staged = lake.stage_batches(orders, mode, [noise])
    codes.append(full(1_000, lambda: lake.publish(orders, mode, staged)))
    counts = [lake.table(orders).scan().count()]
    lake.publish(orders, mode, staged)
    counts.append(lake.table(orders).scan().count())
    print(json.dumps([codes, counts]))
lake.target.close()
"""


def test_a_full_disk_leaves_tables_as_they_were_and_the_same_rows_go_in_later(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, tmp_path / "lake"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.returncode == 0, done.stderr
    full = ["iceberg.disk_full", "iceberg.disk_full"]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [[full, [1, 5000 if mode is REPLACE else 5001]] for mode in WriteMode]


def test_a_look_into_a_lake_that_is_not_there_does_not_make_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    assert lake.target.describe(ORDERS) is None and lake.target.committed(ORDERS, "p") is None
    assert list(tmp_path.iterdir()) == []
    lake.target.prepare(ORDERS, APPEND)
    assert lake.target.describe(ORDERS) is not None
    lake.target.close()


def test_a_warehouse_that_can_be_no_folder_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "lake"):
        lake = Lake(folder)
        with pytest.raises(ConfigError) as caught:
            lake.target.prepare(ORDERS, APPEND)
        assert (caught.value.code, caught.value.field) == ("iceberg.no_folder", "warehouse")
        lake.target.close()


def test_a_warehouse_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lake = Lake(tmp_path / "file" / "lake", uri=f"sqlite:///{tmp_path}/catalog.db")
    with pytest.raises((AuthError, TransientError)) as caught:
        lake.target.check()
    assert caught.value.field == "warehouse"
    lake.target.close()


def test_a_conflict_without_end_gives_up_and_says_so(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.connectors.iceberg.commit.ATTEMPTS", 2)
    lake.load(ORDERS, APPEND, [])
    staged = lake.stage(ORDERS, APPEND, [{"id": 1}])
    catalog = interfere(lake)

    def always() -> None:
        append_as_another(lake, 0)
        catalog.before = always

    catalog.before = always
    with pytest.raises(TransientError) as caught:
        lake.target.publish(ORDERS, APPEND, [staged], lake.token(2))
    assert caught.value.code == "iceberg.conflict"
    assert ids(lake) == [0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"uri": "sqlite:///x.db"}, "warehouse"),
        ({"warehouse": "s3://bucket/lake"}, "uri"),
        ({"warehouse": "x", "uri": "postgresql://u:sesame@h/d"}, "password"),
        ({"warehouse": "x", "partition_spec": {"t": ["week(at)"]}}, "week"),
        ({"warehouse": "x", "namespce": "y"}, "namespce"),
        ({"warehouse": "x", "s3": {"zone": "y"}}, "zone"),
        ({"catalog_type": "rest", "warehouse": "x"}, "uri"),
    ],
)
def test_a_setting_that_is_wrong_or_unknown_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        IcebergConfig.parse(settings)
    assert caught.value.remedy or caught.value.field is None
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        (
            "iceberg:rest+https://host/api?warehouse=w&token=t",
            {"catalog_type": "rest", "uri": "https://host/api"},
        ),
        (
            "iceberg:sql+postgresql://u:p%40ss@host:5/db?warehouse=s3://b/x",
            {"uri": "postgresql+psycopg://u@host:5/db", "warehouse": "s3://b/x", "password": "p@ss"},
        ),
        ("iceberg:/lake", {"warehouse": "/lake"}),
    ],
)
def test_a_one_line_address_becomes_settings(url: str, settings: dict[str, Any]) -> None:
    raw = IcebergConfig.from_url(url)
    assert raw.items() >= settings.items()
    IcebergConfig.parse(raw)


@pytest.mark.parametrize(
    "url", ["iceberg:", "iceberg:s3://bucket/lake", "iceberg:rest+https://h?warehuose=w"]
)
def test_an_address_that_is_wrong_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        IcebergConfig.from_url(url)
    assert "warehouse" in (caught.value.remedy or "")


@pytest.fixture
def rest(tmp_path: Path) -> Iterator[IcebergRest]:
    behind = open_catalog(IcebergConfig.parse({"warehouse": str(tmp_path / "lake")}))
    assert isinstance(behind, SqlCatalog)
    with IcebergRest(behind) as rest:
        yield rest


def lake_behind(rest: IcebergRest, **settings: Any) -> Lake:
    return Lake("w", **{"catalog_type": "rest", "uri": rest.url, "token": rest.token, **settings})


def test_a_rest_catalogue_serves_every_mode(rest: IcebergRest) -> None:
    lake = lake_behind(rest, partition_spec={"public.orders": ["bucket(2, id)"]})
    lake.target.check()
    lake.load(ORDERS, APPEND, [{"id": 1}, {"id": 2}])
    lake.load(ORDERS, UPSERT, [{"id": 2, "note": "b"}, {"id": 3}])
    assert [(row["id"], row["note"]) for row in lake.rows(ORDERS)] == [(1, None), (2, "b"), (3, None)]
    lake.load(ORDERS, REPLACE, [{"id": 9}])
    assert ids(lake) == [9]
    assert lake.target.committed(ORDERS, "p") == lake.token(3)
    lake.target.close()


@pytest.mark.parametrize("status", [500, 502, 503, 504, 409])
def test_a_rest_commit_that_was_made_and_answered_wrongly_is_a_success(
    rest: IcebergRest, status: int
) -> None:
    lake = lake_behind(rest)
    lake.load(ORDERS, UPSERT, [{"id": 1}])
    staged = lake.stage(ORDERS, UPSERT, [{"id": 1, "note": "b"}])
    rest.after_commit = lambda: status
    lake.target.publish(ORDERS, UPSERT, [staged], lake.token(2))
    assert lake.rows(ORDERS) == [{"id": 1, "note": "b"}]
    assert len(lake.table(ORDERS).metadata.snapshots) == 2
    lake.target.close()


def test_a_wrong_token_of_a_rest_catalogue_is_named_and_not_shown(rest: IcebergRest) -> None:
    lake = lake_behind(rest, token="sesame")
    with pytest.raises(AuthError) as caught:
        lake.target.check()
    assert caught.value.field == "token"
    assert "sesame" not in f"{caught.value} {lake.config!r}"


def test_a_rest_catalogue_that_is_away_is_a_matter_of_time() -> None:
    lake = Lake("w", catalog_type="rest", uri="http://127.0.0.1:9", token="t")
    with pytest.raises(TransientError) as caught:
        lake.target.check()
    assert caught.value.field == "uri"


def test_every_file_of_a_local_table_is_on_the_disk_before_the_publish_returns(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    really = os.fsync

    def fsync(handle: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{handle}").readlink()))
        really(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    lake.load(ORDERS, UPSERT, [{"id": 1}])
    lake.load(ORDERS, UPSERT, [{"id": 1, "note": "b"}])
    folder = tmp_path / "lake" / "public" / "orders"
    files = {str(path) for path in folder.rglob("*") if path.is_file()}
    assert len(files) >= 8
    assert files | {str(folder / "data"), str(folder / "metadata")} <= synced
