"""Upserts into Iceberg tables of several sizes: `python -m benchmarks upsert`.

A change batch is half updates, a quarter inserts and a quarter deletes, of keys spread at random over the
whole table. Staging and publishing are timed together. The first batch finds a target that knows nothing
of the table (`cold`), those that follow are of a live stream (`warm`).
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.report import report
from headrace.connector import Batch, Change, Slice, Staged, Stream, Token, WriteMode
from headrace.connectors.iceberg.config import IcebergConfig
from headrace.connectors.iceberg.target import IcebergTarget

SIZES = (2_000_000, 10_000_000, 20_000_000)
CHANGES, BATCHES = 100_000, 6
PIECE = 1_000_000
SCHEMA = pa.schema(
    {
        "id": pa.int64(), "at": pa.timestamp("us"), "place": pa.int32(), "fare": pa.decimal128(12, 2),
        "distance": pa.float64(), "note": pa.string(),
    }
)  # fmt: skip
TRIPS = Stream(name="trips", namespace="bench", schema=SCHEMA, primary_key=("id",))


def rows(ids: np.ndarray[Any, Any], salt: int) -> pa.RecordBatch:
    dice = np.random.default_rng(salt)
    noise = dice.integers(0, 1 << 30, len(ids))
    columns = [
        pa.array(ids),
        pa.array(noise * 1_000_000, pa.timestamp("us")),
        pa.array((noise % 265).astype(np.int32)),
        pa.array((noise % 10_000).astype(np.int32)).cast(pa.decimal128(12, 2)),
        pa.array(noise / 7.0),
        pa.array(np.char.add("note ", (noise % 1_000_003).astype(str))),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def stage(target: IcebergTarget, mode: WriteMode, batch: Batch) -> Staged:
    writer = target.open(TRIPS, mode, Slice(key="all", reads=()))
    try:
        writer.write(batch)
        return writer.stage()
    finally:
        writer.close()


def one(size: int, batches: int) -> dict[str, Any]:
    """A fresh table of `size` rows, then the change batches, in this process."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("HEADRACE_BENCH_FOLDER")) as folder:
        config = IcebergConfig.parse({"warehouse": folder})
        target = IcebergTarget(config)
        target.prepare(TRIPS, WriteMode.APPEND)
        loaded = [
            stage(target, WriteMode.APPEND, Batch(TRIPS.id, rows(np.arange(n, n + PIECE), n)))
            for n in range(0, size, PIECE)
        ]
        token = Token(pipeline="bench", epoch=1, sequence=1, position={})
        target.publish(TRIPS, WriteMode.APPEND, loaded, token)
        target.close()
        base = used(folder)
        target, dice, top = IcebergTarget(config), np.random.default_rng(size), size
        seconds, grown, expected = [], [], size
        alive = np.ones(size, bool)
        for number in range(batches):
            hit = dice.choice(np.flatnonzero(alive), CHANGES * 3 // 4, replace=False)
            updated, deleted = hit[: CHANGES // 2], hit[CHANGES // 2 :]
            alive[deleted] = False
            ids = np.concatenate([updated, np.arange(top, top + CHANGES // 4), deleted])
            top, expected = top + CHANGES // 4, expected + CHANGES // 4 - len(deleted)
            kinds = [Change.UPDATE] * len(updated) + [Change.INSERT] * (CHANGES // 4)
            kinds += [Change.DELETE] * len(deleted)
            changes = pa.array([int(kind) for kind in kinds], pa.int8())
            batch = Batch(TRIPS.id, rows(ids, number), changes)
            before, began = used(folder), time.perf_counter()
            staged = stage(target, WriteMode.UPSERT, batch)
            token = Token(pipeline="bench", epoch=1, sequence=number + 2, position={})
            target.publish(TRIPS, WriteMode.UPSERT, [staged], token)
            seconds.append(round(time.perf_counter() - began, 3))
            grown.append(used(folder) - before)
        scan = target._load(TRIPS).scan(selected_fields=("id",)).to_arrow_batch_reader()
        found = sum(part.num_rows for part in scan)
        assert found == expected, f"{found} rows where {expected} should be"
        target.close()
    return {
        "base_bytes": base,
        "seconds": seconds,
        "grown_bytes": grown,
        "cold_seconds": seconds[0],
        "warm_seconds": statistics.median(seconds[1:]),
        "warm_changes_per_second": round(CHANGES / statistics.median(seconds[1:])),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def used(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def measure(sizes: tuple[int, ...] = SIZES, batches: int = BATCHES) -> dict[str, Any]:
    """Each size in a process of its own, so that its peak of memory is its own."""
    runs, tables = {}, {}
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.upsert", str(size), str(batches)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        name = f"table of {size:,} rows"
        tables[name] = json.loads(done.stdout)
        runs[name] = [{"wall": seconds} for seconds in tables[name]["seconds"][1:]]
    return report(CHANGES, runs, tables=tables)


if __name__ == "__main__":
    print(json.dumps(one(*map(int, sys.argv[1:]))))
