"""P9: the API with 10,000 pipelines and 100,000 runs stored, 32 requests at a time, on both stores."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import insert

from benchmarks.marks import Mark
from headrace.control.platform import Platform, open_store
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice
from headrace.store.schema import pipelines, runs
from servers.postgres import PostgresServer

PIPELINES, RUNS, FEW_RUNS = 10_000, 100_000, 1_000
AT_A_TIME, ROUNDS = 32, 3
REQUESTS = {"health": 600, "list": 600, "get": 600, "create": 120}
WORD = "a-word-for-the-benchmark"
HEADRACE = Path(sys.executable).with_name("headrace")


def measure() -> dict[str, Any]:
    """Milliseconds by store and request, the median of three rounds; marks as in the page on speed."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        found["sqlite"] = _on(Path(folder), {})
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server, server.database("api") as url:
        found["postgres"] = _on(Path(folder), {"HEADRACE_STORE": url})
    return {**found, "marks": [mark.record() for store in found for mark in _marks(store, found[store])]}


def _marks(store: str, found: dict[str, Any]) -> Iterator[Mark]:
    many = found["runs"][str(RUNS)]
    yield Mark(
        f"P9 {store}: p99 of list in p99 of health", 5, many["list"]["p99"] / many["health"]["p99"], most=True
    )
    few = found["runs"][str(FEW_RUNS)]["list"]["p50"]
    yield Mark(f"P9 {store}: p50 of list, 100,000 runs in 1,000", 1.2, many["list"]["p50"] / few, most=True)
    yield Mark(f"P9 {store}: idle MB", 200, found["idle_mb"], most=True)
    yield Mark(f"P9 {store}: seconds until ready", 3, found["ready_s"], most=True)


def _on(folder: Path, environ: dict[str, str]) -> dict[str, Any]:
    store = open_store(folder / "data", environ)
    platform = Platform(store, folder / "data", environ)
    user = platform.sessions.register("ann@here.local", WORD)
    actor = platform.workspaces.own(platform.sessions.authenticate(_token(platform)))
    ends = [
        platform.connections.create(
            actor, Connection(id="", name=name, connector="postgres"),
            {"host": "h", "database": "d", "username": "u"},
        )
        for name in ("source", "target")
    ]  # fmt: skip
    first = platform.pipelines.create(
        actor,
        Pipeline(
            id=str(uuid4()), name="first", source=ends[0].id, target=ends[1].id,
            streams=(StreamChoice(stream="*"),),
        ),
    )  # fmt: skip
    ids = _more_pipelines(store, first.id)
    result: dict[str, Any] = {"user": user.email, "runs": {}}
    stored = 0
    for wanted in (FEW_RUNS, RUNS):
        run = _more_runs(store, actor.place, ids, stored, wanted)
        stored = wanted
        with _served(folder / "data", environ) as (address, ready, process):
            result["ready_s"] = ready
            time.sleep(2)
            result["idle_mb"] = _resident_mb(process)
            headers = {"Authorization": f"Bearer {_token(platform)}", "X-Tenant-Id": actor.place}
            result["runs"][str(wanted)] = asyncio.run(_rounds(address, headers, run, ends[0].id))
    del result["user"]
    store.close()
    return result


def _token(platform: Platform) -> str:
    return platform.sessions.login("ann@here.local", WORD).token


def _more_pipelines(store: Any, first: str) -> list[str]:
    """Copies of the first pipeline."""
    with store._database.write() as transaction:
        row = dict(transaction.execute(pipelines.select().where(pipelines.c.id == first)).one()._mapping)
        made = [row | {"id": str(uuid4()), "name": f"pipeline {n}"} for n in range(PIPELINES - 1)]
        transaction.execute(insert(pipelines), made)
    return [first, *(each["id"] for each in made)]


def _more_runs(store: Any, workspace: str, ids: list[str], have: int, wanted: int) -> str:
    """Finished runs, one a second in the past; gives the id of one."""
    start = datetime.now(UTC) - timedelta(seconds=RUNS)
    made = []
    for number in range(have, wanted):
        at = start + timedelta(seconds=number)
        made.append(
            {
                "id": str(uuid4()), "workspace": workspace, "pipeline": ids[number % len(ids)],
                "trigger": "manual", "status": "succeeded", "attempt": 1, "queued_at": at, "started_at": at,
                "ended_at": at, "duration_us": 1, "committed": 1, "committed_bytes": 1, "updated_at": at,
            }
        )  # fmt: skip
    with store._database.write() as transaction:
        transaction.execute(insert(runs), made)
    found: str = made[0]["id"]
    return found


@contextmanager
def _served(data: Path, environ: dict[str, str]) -> Iterator[tuple[str, float, subprocess.Popen[str]]]:
    started = time.monotonic()
    process = subprocess.Popen(
        [HEADRACE, "serve", "--port", "0", "--no-worker", "--data", str(data)],
        env={**os.environ, **environ, "HEADRACE_LOG_FORMAT": "json"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        address = next(
            line.split('"address": "')[1].split('"')[0] for line in process.stderr if '"address"' in line
        )
        while httpx.get(f"{address}/ready").status_code != 200:
            time.sleep(0.01)
        yield address, time.monotonic() - started, process
    finally:
        process.terminate()
        process.communicate()


def _resident_mb(process: subprocess.Popen[str]) -> float:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


async def _rounds(address: str, headers: dict[str, str], run: str, source: str) -> dict[str, Any]:
    asked: dict[str, tuple[str, str, Any]] = {
        "health": ("GET", "/health", None),
        "list": ("GET", "/api/v1/syncs?page=0&size=20", None),
        "get": ("GET", f"/api/v1/syncs/{run}", None),
        "create": ("POST", "/api/v1/connections", {"sourceId": source, "name": "new"}),
    }
    limits = httpx.Limits(max_connections=AT_A_TIME, max_keepalive_connections=AT_A_TIME)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in asked}
    for _ in range(ROUNDS):
        for name, (method, path, body) in asked.items():
            # a client for each round: the server ends connections that were idle for a while
            async with httpx.AsyncClient(
                base_url=address, headers=headers, limits=limits, timeout=60
            ) as http:
                taken[name].append(await _round(http, method, path, body, REQUESTS[name]))
    return {
        name: {what: round(median(each[what] for each in rounds), 2) for what in ("p50", "p99")}
        for name, rounds in taken.items()
    }


async def _round(http: httpx.AsyncClient, method: str, path: str, body: Any, count: int) -> dict[str, float]:
    left = iter(range(count))
    took: list[float] = []

    async def one_after_the_other() -> None:
        for _ in left:
            start = time.perf_counter()
            answer = await http.request(method, path, json=body)
            took.append(1000 * (time.perf_counter() - start))
            answer.raise_for_status()

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_A_TIME)))
    cuts = quantiles(took, n=100)
    return {"p50": cuts[49], "p99": cuts[98]}
