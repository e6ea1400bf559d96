"""A Parquet target in a folder, with the short words that its tests need."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import Batch, Slice, Staged, Stream, StreamRead, Token, WriteMode
from headrace.connectors.parquet import ParquetConfig
from headrace.connectors.parquet.reader import read_table
from headrace.connectors.parquet.target import ParquetTarget
from servers.s3 import S3Server

APPEND, REPLACE = WriteMode.APPEND, WriteMode.REPLACE
ORDERS = Stream(
    name="orders",
    namespace="public",
    schema=pa.schema([("id", pa.int64()), ("country", pa.string()), ("total", pa.decimal128(10, 2))]),
)


def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Settings of a folder of the test's own: `local` on the disk, or `s3` in a bucket."""
    if kind == "local":
        return {"url": str(tmp_path / "out")}
    server: S3Server = request.getfixturevalue("s3_server")
    return {"url": f"s3://{request.getfixturevalue('s3_bucket')}/lake", "s3": server.access()}


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
