"""PostgreSQL → Arrow → Parquet by stages: `make bench PARTS=reading`.

Each stage alone and the whole load through the engine, compiled and by numpy, in turn, `RUNS` times. Wall
seconds, and CPU seconds of this process: the server's are not in them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.executors import RUNS, load, spent
from benchmarks.report import report
from benchmarks.trips import TABLE
from headrace import catalog, native
from headrace.connector import EVERYTHING
from headrace.connectors.postgres import compiled, decode, discover, receive, wire
from headrace.connectors.postgres.config import PostgresConfig
from headrace.connectors.postgres.session import Session, connect
from servers.postgres import PostgresServer

COPY = b"COPY trips TO STDOUT (FORMAT BINARY)"
FEW = ["vendor", "riders", "rate", "place", "goal", "day", "paid"]  # columns of few values


def measure(rows: int = 3_000_000) -> dict[str, Any]:
    with PostgresServer() as server, server.database("bench") as url:
        with server.connect("bench") as connection:
            connection.execute(TABLE.format(rows=rows))  # type: ignore[arg-type]
            connection.execute("VACUUM ANALYZE trips")
        config = catalog.connector("postgres").config.from_url(url)
        with connect(PostgresConfig.model_validate(config)) as session:
            ways = {**stages(session, server), **loads(url, rows)}
            results: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
            for _ in range(RUNS):
                for name, way in ways.items():
                    cpu, began = spent(), time.perf_counter()
                    way()
                    wall = time.perf_counter() - began
                    results[name].append({"wall": round(wall, 3), "cpu": round(spent() - cpu, 3)})
    return report(rows, results)


def stages(session: Session, server: PostgresServer) -> dict[str, Callable[[], object]]:
    (table,) = discover.tables(session, ("public",), EVERYTHING)
    names = [column.name for column in table.columns]
    images = [column.image for column in table.columns]
    library, libpq = native.library(), receive._libpq()
    assert library is not None and libpq is not None, native.missing()

    def stream() -> receive._Stream:
        for _ in wire.begin(session.pgconn, COPY):
            pass
        return receive._Stream(library, libpq, session.pgconn)

    def discard() -> None:
        fill, buffer = stream(), np.empty(1 << 20, np.uint8)
        while fill(buffer, 0)[1] is not compiled.Flow.ENDED:
            pass

    def batches() -> list[pa.RecordBatch]:
        return [block.rows for block in compiled.decoded(library, stream(), names, images) if block]

    def arrive(way: Callable[[], Any]) -> None:
        for _ in way():
            pass

    table_in_memory = pa.Table.from_batches(batches())

    def encode() -> None:
        with pq.ParquetWriter(
            io.BytesIO(), table_in_memory.schema, compression="zstd", compression_level=1, use_dictionary=FEW
        ) as writer:
            writer.write_table(table_in_memory, row_group_size=250_000)

    def to_null() -> None:
        with server.connect("bench") as other:
            other.execute("COPY trips TO '/dev/null' (FORMAT BINARY)")

    return {
        "limit: the server alone, COPY to its /dev/null": to_null,
        "limit: one connection, rows received and thrown away": discard,
        "limit: Parquet encoding alone": encode,
        "received and decoded, compiled": lambda: arrive(
            lambda: compiled.decoded(library, stream(), names, images)
        ),
        "received and decoded, numpy": lambda: arrive(
            lambda: decode.decoded(wire.copy_out(session, COPY), names, images)
        ),
    }


def loads(url: str, rows: int) -> dict[str, Callable[[], object]]:
    def by_numpy(parallelism: int) -> None:
        with mock.patch.object(native, "library", lambda: None):
            load(url, rows, "threads", parallelism)

    return {
        "load, 1 slice at a time, compiled": lambda: load(url, rows, "threads", 1),
        "load, 2 slices at a time, compiled": lambda: load(url, rows, "threads", 2),
        "load, 1 slice at a time, numpy": lambda: by_numpy(1),
        "load, 2 slices at a time, numpy": lambda: by_numpy(2),
    }
