"""Threads or processes for the slices of a load: `python -m benchmarks executors`.

PostgreSQL → Parquet files, whole loads through the engine, each way in turn, three times.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import report
from headrace import catalog
from headrace.connector import ReadMode, WriteMode, egress
from headrace.control.access import OPERATOR
from headrace.control.runs import Runs
from headrace.engine.executors import Processes
from headrace.engine.plan import Job
from headrace.engine.run import Stop
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice, Tuning
from headrace.store import MasterKeys, Store
from servers.postgres import PostgresServer

RUNS = 3
TABLE = """
CREATE TABLE trips AS
SELECT n AS id, (n % 7)::int AS vendor, '2026-01-01'::timestamp + n * interval '1 s' AS started,
       '2026-01-01Z'::timestamptz + n * interval '1 s' AS ended, (n % 5)::smallint AS riders,
       n / 3.0::float8 AS distance, n % 3 = 0 AS stored, (n % 250)::int AS place,
       (n % 9999 / 100.0)::numeric(12, 2) AS fare, (n % 777 / 100.0)::numeric(12, 2) AS tip,
       '2026-01-01'::date + (n % 365)::int AS day, 'kind ' || n % 4 AS paid,
       CASE WHEN n % 3 <> 0 THEN 'note number ' || n END AS note
FROM generate_series(1::bigint, {rows}) AS n
"""


class Silent:
    def started(self, run: Any) -> None: ...

    def progress(self, progress: Any) -> None: ...

    def log(self, level: str, message: str, stream: str | None) -> None: ...


def load(url: str, rows: int, way: str, parallelism: int) -> dict[str, float]:
    """One load; its wall seconds and the CPU seconds of this process and its children."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "source": ("postgres", catalog.connector("postgres").config.from_url(url)),
            "target": ("parquet", {"url": f"{folder}/out"}),
        }
        hello: dict[str, Any] = {
            side: {"connector": name, "settings": settings} for side, (name, settings) in sides.items()
        }
        hello |= {"transforms": [], "egress": egress.policy().to_json()}
        command = [sys.executable, "-m", "headrace.control.stage"]
        pipeline = Pipeline(
            id="bench",
            name="bench",
            source="source",
            target="target",
            streams=(StreamChoice(stream="public.trips", read=ReadMode.FULL, write=WriteMode.REPLACE),),
            tuning=Tuning(parallelism=parallelism),
        )
        job = Job(
            pipeline=pipeline,
            source_spec=catalog.connector("postgres"),
            target_spec=catalog.connector("parquet"),
            source=lambda: catalog.source(*sides["source"]),
            target=lambda: catalog.target(*sides["target"]),
            transform=catalog.transform,
            executor=(lambda: Processes(command, hello)) if way == "processes" else None,
        )
        with Store.open(f"sqlite:///{folder}/store.db", keys=MasterKeys.load(Path(folder), {})) as store:
            for id in sides:
                store.connections.save(Connection(id=id, name=id, connector=sides[id][0]))
            store.pipelines.save(pipeline)
            cpu, began = spent(), time.perf_counter()
            run = Runs(store).run(OPERATOR, job, Stop(), Silent())
            wall = time.perf_counter() - began
        assert run.streams[0].counts.written == rows, run.streams[0].error
        return {"wall": round(wall, 2), "cpu": round(spent() - cpu, 2)}


def spent() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(rows: int = 1_000_000) -> dict[str, Any]:
    """Every way in turn, `RUNS` times; each run's seconds, and the median rate of each way."""
    ways = [("threads", 1), ("threads", 2), ("processes", 1), ("processes", 2)]
    results: dict[str, list[dict[str, float]]] = {f"{way} {n}": [] for way, n in ways}
    with PostgresServer() as server, server.database("bench") as url:
        with server.connect("bench") as connection:
            connection.execute(TABLE.format(rows=rows))  # type: ignore[arg-type]
            connection.execute("VACUUM ANALYZE trips")
        for _ in range(RUNS):
            for way, parallelism in ways:
                results[f"{way} {parallelism}"].append(load(url, rows, way, parallelism))
    return report(rows, results)
