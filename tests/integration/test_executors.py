"""Slices staged in processes that share nothing with the run but the piece and the files."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from headrace import catalog
from headrace.connector import Slice, WriteMode, egress
from headrace.engine.executors import Processes, piece_from_json, piece_to_json
from headrace.engine.plan import resolve
from headrace.engine.run import Stop, execute
from headrace.engine.write import Piece
from headrace.errors import ConfigError, TransientError
from headrace.model.run import StreamStatus
from tests.bench import Bench
from tests.crash.conftest import settings_of
from tests.crash.truth import LOAD, STREAM, assert_holds, loaded
from tests.crash.worker import Case
from tests.waiting import until

COMMAND = [sys.executable, "-m", "headrace.control.stage"]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    target = ("iceberg", settings_of("iceberg", f"iceberg:{tmp_path / 'lake'}"))
    return Case(folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def processes(case: Case) -> Processes:
    sides = {"source": case.source, "target": case.target}
    hello = {side: {"connector": c, "settings": s} for side, (c, s) in sides.items()}
    return Processes(COMMAND, {**hello, "transforms": [], "egress": egress.policy().to_json()})


def test_a_load_staged_by_two_other_processes_is_published_whole(case: Case, bench: Bench) -> None:
    pipeline = replace(case.pipeline(), tuning=replace(case.pipeline().tuning, parallelism=2))
    bench.store.pipelines.save(pipeline)
    lease = bench.store.leases.acquire("p", "test", timedelta(minutes=1))
    run = bench.store.runs.queue("p")
    bench.store.runs.start(run.id, lease)
    job = replace(case.job(), pipeline=pipeline, executor=lambda: processes(case))
    with bench.store.attempt(run.id, lease) as attempt:
        (end,) = execute(job, attempt, Stop())
    assert end.status is StreamStatus.SUCCEEDED, end.error
    assert_holds(case.target, loaded())


def pieces(case: Case) -> list[Piece]:
    job = case.job()
    source, target = job.source(), job.target()
    (stream,), _ = resolve(job, source)
    target.prepare(stream.landed, stream.write)
    target.close()
    return [
        Piece(slice=slice, stream=stream, tuning=job.pipeline.tuning, keeps_unchanged=False)
        for slice in source.slices([stream.read], {})
    ]


def test_a_piece_is_plain_data_and_comes_back_the_same(case: Case) -> None:
    for piece in pieces(case):
        text = json.dumps(piece_to_json(piece))
        back = piece_from_json(json.loads(text), (), catalog.transform)
        assert back.slice == piece.slice == Slice.from_json(piece.slice.to_json())
        assert back.stream.landed == piece.stream.landed
        assert back.stream.write is WriteMode.APPEND


def test_a_worker_that_dies_is_a_passing_fault_and_another_takes_its_place(case: Case) -> None:
    slow = replace(case, source=("generator", {**LOAD, "delay": 0.5}))
    executor = processes(slow)
    piece = pieces(slow)[0]

    def kill() -> None:
        until(lambda: executor._all, "a worker")
        os.kill(executor._all[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(TransientError, match="in the middle of"):
            executor.stage(piece, Stop(), lambda counts: None)
        killer.join()
        result = executor.stage(piece, Stop(), lambda counts: None)
        assert result.done.counts.read == result.done.counts.written == 200
    finally:
        executor.close()


def test_an_error_in_a_worker_is_the_same_error_here(case: Case) -> None:
    piece = pieces(case)[0]
    executor = processes(replace(case, target=("iceberg", {"warehous": "lake"})))
    try:
        for _ in range(2):
            with pytest.raises(ConfigError, match="warehous") as raised:
                executor.stage(piece, Stop(), lambda counts: None)
            assert raised.value.remedy == "Did you mean 'warehouse'?"
    finally:
        executor.close()
