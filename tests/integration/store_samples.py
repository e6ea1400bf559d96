"""A store with something in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pyarrow as pa

from headrace.connector import Slice, Staged, Stream, StreamRead
from headrace.connector.target import StagedSlice
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice
from headrace.model.run import Counts, Run
from headrace.store import Lease, Store
from headrace.store.attempt import Attempt

MINUTE = timedelta(minutes=1)
GONE = timedelta(seconds=-1)
ORDERS = Stream(name="orders", namespace="public", schema=pa.schema([("id", pa.int64())]))


def save_pipeline(store: Store, id: str = "p1") -> Pipeline:
    for name in ("here", "there"):
        if name not in {c.id for c in store.connections.list()}:
            store.connections.save(Connection(id=name, name=name, connector="postgres"))
    choice = StreamChoice(stream="public.*", look_back=timedelta(hours=6), key=("id",))
    return store.pipelines.save(
        Pipeline(id=id, name=f"pipeline {id}", source="here", target="there", streams=(choice,))
    )


def start_run(store: Store, holder: str = "w1", ttl: timedelta = MINUTE) -> tuple[Run, Lease]:
    """A pipeline `p1` with one run that runs."""
    save_pipeline(store)
    lease = store.leases.acquire("p1", holder, ttl)
    return store.runs.start(store.runs.queue("p1").id, lease), lease


@contextmanager
def started(store: Store) -> Iterator[Attempt]:
    run, lease = start_run(store)
    with store.attempt(run.id, lease) as attempt:
        yield attempt


def staged(key: str, rows: int = 3, fingerprint: str = "plan") -> StagedSlice:
    return StagedSlice(
        slice=Slice(key=key, reads=(StreamRead(stream=ORDERS),), bounds={"from": 0}, until={"lsn": 7}),
        staged=Staged(rows=rows, detail={"files": [f"{key}.parquet"]}),
        counts=Counts(read=rows, written=rows),
        fingerprint=fingerprint,
    )
