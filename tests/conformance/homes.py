"""Where the conformance suite meets each connector: how to prepare its far side, and how to look at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from headrace.connector import ReadMode
from servers.buckets import BUCKET, AzureServer, GcsServer
from servers.s3 import S3Server
from tests.crash.conftest import settings_of
from tests.crash.tables import Target, read_table
from tests.waiting import held_up

Rows = list[dict[str, Any]]


@dataclass(kw_only=True)
class SourceHome:
    """A source with rows in it. `rows` is what `stream` holds; `add` puts more rows there.

    `broken` is a set of settings whose address leads nowhere. `slow_stream` takes many minutes to read,
    with the settings `slow` if they differ; `blocked` tells whether a read of it has begun to wait.
    """

    connector: str = ""
    settings: Mapping[str, Any]
    stream: str
    rows: Callable[[], Rows]
    add: Callable[[], None]
    cursor: str | None = None
    modes: Sequence[ReadMode] = (ReadMode.FULL,)
    broken: Mapping[str, Any] | None = None
    slow: Mapping[str, Any] | None = None
    slow_stream: str | None = None
    blocked: Callable[[], bool] = lambda: True
    secrets: tuple[str, ...] = ()


@dataclass(kw_only=True)
class TargetHome:
    """A target with nothing in it."""

    target: Target
    broken: Mapping[str, Any]
    secrets: tuple[str, ...] = field(default=())

    def read(self, name: str, columns: pa.Schema) -> pa.Table:
        return read_table(self.target, name, columns, "suite")


def generator_source(request: pytest.FixtureRequest, folder: Path) -> SourceHome:
    from headrace.connectors.generator import GeneratorConfig
    from headrace.connectors.generator.changes import load_rows

    settings = {"rows": 500, "seed": 3, "slices": 4, "batch_rows": 64}

    def rows() -> Rows:
        return load_rows(GeneratorConfig.parse(settings), "orders").to_pylist()

    def add() -> None:
        settings["rows"] = 600

    return SourceHome(
        settings=settings,
        stream="orders",
        rows=rows,
        add=add,
        modes=(ReadMode.FULL, ReadMode.INCREMENTAL),
        slow={**settings, "delay": 5, "batch_rows": 1},
        slow_stream="orders",
    )


def files_source(request: pytest.FixtureRequest, folder: Path) -> SourceHome:
    data = folder / "data"
    data.mkdir()
    numbers = list(range(300))

    def write(name: str, values: Sequence[int]) -> None:
        (data / name).write_text("\n".join(["n,name", *(f"{n},name {n}" for n in values)]) + "\n")

    for part in range(3):
        write(f"part-{part}.csv", numbers[part * 100 : part * 100 + 100])

    def add() -> None:
        more = list(range(300, 350))
        write("part-3.csv", more)
        numbers.extend(more)

    return SourceHome(
        settings={"url": f"{data}/part-*.csv", "stream": "parts", "settle_seconds": 0},
        stream="parts",
        rows=lambda: [{"n": n, "name": f"name {n}"} for n in numbers],
        add=add,
        modes=(ReadMode.FULL, ReadMode.INCREMENTAL),
        broken={"url": f"{data}/nothing-*.csv"},
    )


def in_a_bucket(
    put: Callable[[str, bytes], None], settings: Mapping[str, Any], place: str, secrets: tuple[str, ...]
) -> SourceHome:
    """A bucket with three files of a stream and one that is none of it."""
    numbers = list(range(300))

    def write(name: str, values: Sequence[int]) -> None:
        put(name, "\n".join(["n,name", *(f"{n},name {n}" for n in values)]).encode())

    for part in range(3):
        write(f"in/part-{part}.csv", numbers[part * 100 : part * 100 + 100])
    write("out/part-9.csv", [9])

    def add() -> None:
        more = list(range(300, 350))
        write("in/part-3.csv", more)
        numbers.extend(more)

    return SourceHome(
        settings={**settings, "prefix": "in", "globs": ["part-*.csv"]},
        stream="part",
        rows=lambda: [{"n": n, "name": f"name {n}"} for n in numbers],
        add=add,
        modes=(ReadMode.FULL, ReadMode.INCREMENTAL),
        broken={**settings, place: "no-such-bucket"},
        secrets=secrets,
    )


def s3_source(request: pytest.FixtureRequest, folder: Path) -> SourceHome:
    server: S3Server = request.getfixturevalue("s3_server")
    bucket: str = request.getfixturevalue("s3_bucket")

    def put(key: str, data: bytes) -> None:
        server.client.put_object(Bucket=bucket, Key=key, Body=data)

    return in_a_bucket(put, {"bucket": bucket, **server.access()}, "bucket", (server.secret_key,))


def gcs_source(request: pytest.FixtureRequest, folder: Path) -> SourceHome:
    server: GcsServer = request.getfixturevalue("gcs_server")
    return in_a_bucket(server.put, {"bucket": BUCKET, "endpoint": server.url}, "bucket", ())


def azure_source(request: pytest.FixtureRequest, folder: Path) -> SourceHome:
    server: AzureServer = request.getfixturevalue("azure_server")
    settings = {
        "account": "tests",
        "container": BUCKET,
        "endpoint": server.url,
        "sas_token": server.sas_token,
    }
    return in_a_bucket(server.put, settings, "container", (server.SIGNATURE,))


def postgres_source(request: pytest.FixtureRequest, folder: Path) -> SourceHome:
    url: str = request.getfixturevalue("postgres_url")
    settings = settings_of("postgres", url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE things (id int PRIMARY KEY, name text, at timestamptz NOT NULL)")
        connection.execute(
            "INSERT INTO things SELECT n, 'thing ' || n, '2026-01-01Z'::timestamptz + n * interval '1 s'"
            " FROM generate_series(1, 5000) n"
        )
        connection.execute("CREATE VIEW ages AS SELECT n, pg_sleep(1)::text FROM generate_series(1, 2000) n")

    def rows() -> Rows:
        with psycopg.connect(url, options="-c TimeZone=UTC") as connection:
            found = connection.execute("SELECT id, name, at FROM things").fetchall()
        return [{"id": id, "name": name, "at": at} for id, name, at in found]

    def add() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO things SELECT n, 'new', '2026-02-01Z' FROM generate_series(9000, 9100) n"
            )

    def blocked() -> bool:
        with psycopg.connect(url) as connection:
            return held_up(connection)

    return SourceHome(
        settings=settings,
        stream="public.things",
        rows=rows,
        add=add,
        cursor="at",
        modes=(ReadMode.FULL, ReadMode.INCREMENTAL),
        broken={**settings, "port": 1},
        slow_stream="public.ages",
        blocked=blocked,
        secrets=(settings["password"],),
    )


SOURCES: Mapping[str, Callable[[pytest.FixtureRequest, Path], SourceHome]] = {
    "azure-blob-storage": azure_source,
    "files": files_source,
    "gcs": gcs_source,
    "generator": generator_source,
    "postgres": postgres_source,
    "s3": s3_source,
}


def folder_target(connector: str) -> Callable[[pytest.FixtureRequest, Path], TargetHome]:
    def make(request: pytest.FixtureRequest, folder: Path) -> TargetHome:
        return TargetHome(
            target=(connector, settings_of(connector, f"{connector}:{folder / 'lake'}")),
            broken=settings_of(connector, f"{connector}:/proc/nowhere"),
        )

    return make


def postgres_target(request: pytest.FixtureRequest, folder: Path) -> TargetHome:
    settings = settings_of("postgres", request.getfixturevalue("postgres_url"))
    return TargetHome(
        target=("postgres", settings), broken={**settings, "port": 1}, secrets=(settings["password"],)
    )


TARGETS: Mapping[str, Callable[[pytest.FixtureRequest, Path], TargetHome]] = {
    "iceberg": folder_target("iceberg"),
    "parquet": folder_target("parquet"),
    "postgres": postgres_target,
}
