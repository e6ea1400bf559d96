"""Catalogues and warehouses of every kind, their settings and addresses, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from moto import mock_aws
from pyiceberg.catalog.sql import SqlCatalog

from headrace.connector import WriteMode
from headrace.connectors.iceberg.catalog import open_catalog
from headrace.connectors.iceberg.config import IcebergConfig
from headrace.errors import AuthError, ConfigError, TransientError
from servers.iceberg_rest import IcebergRest
from servers.postgres import PASSWORD, PostgresServer
from servers.s3 import S3Server
from servers.tcp_proxy import Fault, TcpProxy
from tests.integration.iceberg_lake import Lake, rows, stream

APPEND, REPLACE, UPSERT = WriteMode.APPEND, WriteMode.REPLACE, WriteMode.UPSERT
ORDERS = stream()
NAME = ("public", "orders")


def ids(lake: Lake) -> list[int]:
    return [row["id"] for row in lake.rows(ORDERS)]


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
