"""What a run does with events, streams, rejects, schemas and signals, seen from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import (
    Batch,
    Change,
    Checkpoint,
    ReadMode,
    Reject,
    SchemaChange,
    Stream,
    Truncate,
    WriteMode,
)
from headrace.connector.testing import ScriptedSource
from headrace.control.access import OPERATOR
from headrace.control.positions import Positions
from headrace.engine.rewind import rewind
from headrace.errors import NotFoundError, TransientError
from headrace.model.pipeline import SchemaPolicy, StreamChoice, TransformStep
from headrace.model.run import StreamProgress, StreamStatus
from tests.bench import Bench
from tests.waiting import HANGS

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])
PEOPLE = Stream(name="people", schema=SCHEMA, primary_key=("id",))
PLACES = Stream(name="places", schema=SCHEMA, primary_key=("id",))


def choose(
    stream: Stream = PEOPLE, write: WriteMode | None = None, read: ReadMode = ReadMode.CHANGES, **rest: Any
) -> StreamChoice:
    return StreamChoice(stream=stream.id, read=read, write=write, **rest)


def batch(*ids: int, stream: Stream = PEOPLE, changes: list[Change] | None = None, **rest: Any) -> Batch:
    rows = pa.RecordBatch.from_pylist([{"id": i, "name": f"n{i}"} for i in ids], schema=SCHEMA)
    kinds = None if changes is None else pa.array(changes, pa.int8())
    return Batch(stream.id, rows, kinds, **rest)


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(row["id"] for row in rows)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def test_updates_and_deletes_leave_the_last_state(bench: Bench) -> None:
    script = [
        batch(1, 2, 3),
        Checkpoint({"at": 1}),
        batch(2, 1, changes=[Change.UPDATE, Change.DELETE]),
        Checkpoint({"at": 2}),
    ]
    ends = bench.play([PEOPLE], script, [choose(write=WriteMode.UPSERT)])
    assert ids(bench.rows("people")) == [2, 3]
    assert ends["people"].counts.read == ends["people"].counts.written == 5


def test_append_of_a_change_log_names_each_change(bench: Bench) -> None:
    script = [batch(1, 1, changes=[Change.INSERT, Change.DELETE]), Checkpoint({"at": 1})]
    bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND)])
    assert [row["_change"] for row in bench.rows("people")] == ["insert", "delete"]


def test_an_unchanged_cell_keeps_its_old_value(bench: Bench) -> None:
    kept = batch(1, changes=[Change.UPDATE], unchanged={"name": pa.array([True])})
    kept = Batch(
        kept.stream, pa.RecordBatch.from_pylist([{"id": 1}], schema=SCHEMA), kept.changes, kept.unchanged
    )
    script = [batch(1), Checkpoint({"at": 1}), kept, Checkpoint({"at": 2})]
    bench.play([PEOPLE], script, [choose(write=WriteMode.UPSERT)])
    assert bench.rows("people") == [{"id": 1, "name": "n1"}]


def test_a_truncate_drops_what_came_before_it_and_append_keeps_it(bench: Bench) -> None:
    script = [batch(1, 2), Truncate("people"), batch(3), Checkpoint({"at": 1})]
    ends = bench.play([PEOPLE], script, [choose(write=WriteMode.UPSERT)])
    assert ids(bench.rows("people")) == [3]
    assert ends["people"].counts.skipped == {"truncated": 2}
    bench.tables.clear()
    other = bench.pipeline([choose(write=WriteMode.APPEND)])
    bench.run(other, ScriptedSource([PEOPLE], script))
    assert ids(bench.rows("people")) == [1, 2, 3]


def test_one_bad_stream_never_stops_the_others(bench: Bench) -> None:
    ends = bench.play(
        [PEOPLE, PLACES],
        [batch(1), batch(2, stream=PLACES), Checkpoint({"at": 1})],
        [choose(), choose(PLACES, columns=("id", "nmae")), StreamChoice(stream="peple")],
    )
    assert ends["people"].status is StreamStatus.SUCCEEDED
    assert ids(bench.rows("people")) == [1]
    error = ends["places"].error
    assert error and error.code == "plan.column_missing" and error.remedy == "Did you mean 'name'?"
    error = ends["peple"].error
    assert error and error.code == "plan.stream_missing" and error.remedy == "Did you mean people?"


def test_rejected_rows_are_kept_with_reason_and_place_until_the_limit(bench: Bench) -> None:
    def reject(at: int) -> Reject:
        return Reject(stream="people", code="x.bad", reason="not a row", where={"line": at}, row={"id": "?"})

    script = [batch(1, rejects=(reject(7), reject(8))), Checkpoint({"at": 1})]
    ends = bench.play([PEOPLE], script, [choose()], tuning={"reject_limit": 2})
    assert ends["people"].counts.rejected == 2
    assert ids(bench.rows("people")) == [1]
    kept = bench.store.rejects("p")
    assert sorted(letter.reject.where["line"] for letter in kept) == [7, 8]

    script += [batch(2, rejects=(reject(9), reject(10), reject(11))), Checkpoint({"at": 2})]
    ends = bench.run(bench.pipeline([choose()], {"reject_limit": 2}), ScriptedSource([PEOPLE], script))
    error = ends["people"].error
    assert error and error.code == "engine.too_many_rejects"
    assert len(bench.store.rejects("p")) == 5
    assert ids(bench.rows("people")) == [1]


def test_a_transform_that_loses_rows_silently_fails_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace import catalog

    monkeypatch.setattr(
        catalog, "transform", lambda name, settings: lambda b: Batch(b.stream, b.rows.slice(0, 1))
    )
    steps = (TransformStep(name="lossy"),)
    ends = bench.play([PEOPLE], [batch(1, 2), Checkpoint({"at": 1})], [choose()], transforms=steps)
    error = ends["people"].error
    assert error and error.code == "engine.unbalanced"
    assert bench.rows("people") == []


WIDER = pa.schema([*SCHEMA, ("age", pa.int64())])


def widening() -> list[Any]:
    wide = Batch("people", pa.RecordBatch.from_pylist([{"id": 2, "name": "n2", "age": 5}], schema=WIDER))
    return [batch(1), Checkpoint({"at": 1}), SchemaChange("people", WIDER), wide, Checkpoint({"at": 2})]


@pytest.mark.parametrize(
    ("policy", "status", "columns", "written"),
    [
        (SchemaPolicy.EVOLVE, StreamStatus.SUCCEEDED, ["id", "name", "age"], [1, 2]),
        (SchemaPolicy.IGNORE, StreamStatus.SUCCEEDED, ["id", "name"], [1, 2]),
        (SchemaPolicy.PAUSE, StreamStatus.PAUSED, ["id", "name"], [1]),
        (SchemaPolicy.FAIL, StreamStatus.FAILED, ["id", "name"], [1]),
    ],
)
def test_a_schema_change_follows_the_policy(
    bench: Bench, policy: SchemaPolicy, status: StreamStatus, columns: list[str], written: list[int]
) -> None:
    ends = bench.play([PEOPLE], widening(), [choose()], schema_policy=policy)
    assert ends["people"].status is status
    schema = bench.tables["people"].schema
    assert schema is not None and schema.names == columns
    assert ids(bench.rows("people")) == written


def test_a_table_of_somebody_else_with_another_schema_is_left_alone(bench: Bench) -> None:
    bench.play([PEOPLE], [batch(1), Checkpoint({"at": 1})], [choose()])
    bench.tables["people"].tokens.clear()
    wide = Stream(name="people", schema=WIDER, primary_key=("id",))
    ends = bench.play([wide], [], [choose()])
    error = ends["people"].error
    assert error and error.code == "schema.foreign_table" and "age" in error.message
    assert ids(bench.rows("people")) == [1]


def test_a_position_that_goes_back_stops_the_stream(bench: Bench) -> None:
    script = [batch(1), Checkpoint({"at": 5}), batch(2), Checkpoint({"at": 4})]
    ends = bench.play([PEOPLE], script, [choose()])
    error = ends["people"].error
    assert error and error.code == "engine.position_back" and error.exit_code == 8
    assert ids(bench.rows("people")) == [1]


def test_rewind_is_the_way_to_read_again(bench: Bench) -> None:
    script = [batch(1), Checkpoint({"at": 1}), batch(2), Checkpoint({"at": 2})]
    pipeline = bench.pipeline([choose(write=WriteMode.APPEND)])
    bench.run(pipeline, ScriptedSource([PEOPLE], script))
    source = ScriptedSource([PEOPLE], script)
    lease = bench.store.leases.acquire("p", "test", timedelta(minutes=1))
    run = bench.store.runs.queue("p")
    bench.store.runs.start(run.id, lease)
    with bench.store.attempt(run.id, lease) as attempt:
        said = rewind(bench.job(pipeline, source), attempt, "people", {"at": 1}, dry=True)
        assert said.doubles and said.before == {"at": 2}
        rewind(bench.job(pipeline, source), attempt, "people", {"at": 1})
    bench.store.leases.release(lease)
    assert ids(bench.rows("people")) == [1, 2]
    bench.run(pipeline, ScriptedSource([PEOPLE], script))
    assert ids(bench.rows("people")) == [1, 2, 2]


def test_a_rewind_of_what_was_never_published_is_refused(bench: Bench) -> None:
    pipeline = bench.pipeline([choose(write=WriteMode.APPEND)])
    bench.run(pipeline, ScriptedSource([PEOPLE], []))
    with pytest.raises(NotFoundError) as caught:
        Positions(bench.store).rewind(
            OPERATOR, bench.job(pipeline, ScriptedSource([PEOPLE], [])), "people", {}
        )
    assert caught.value.code == "rewind.nothing_published"


def test_a_key_that_is_not_among_the_columns_is_refused_in_every_mode(bench: Bench) -> None:
    for write in (WriteMode.APPEND, WriteMode.UPSERT):
        choice = StreamChoice(stream="people", read=ReadMode.CHANGES, write=write, key=("nmae",))
        ends = bench.run(bench.pipeline([choice]), ScriptedSource([PEOPLE], [batch(1)]))
        error = ends["people"].error
        assert error and error.code == "plan.key_missing"


def test_a_store_that_was_lost_makes_nothing_double(bench: Bench, tmp_path: Path) -> None:
    script: list[Any] = [batch(1), Checkpoint({"at": 1})]
    bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND)])
    bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND)])  # the lease's epoch is 2 by now
    (tmp_path / "new").mkdir()
    fresh = Bench(tmp_path / "new", tables=bench.tables)
    script += [batch(2), Checkpoint({"at": 2})]
    ends = fresh.play([PEOPLE], script, [choose(write=WriteMode.APPEND)])
    assert ends["people"].status is StreamStatus.SUCCEEDED
    assert ids(bench.rows("people")) == [1, 2]
    fresh.store.close()


def test_a_target_that_was_put_back_is_written_again(bench: Bench) -> None:
    script: list[Any] = [batch(1), Checkpoint({"at": 1})]
    bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND)])
    import copy

    backup = copy.deepcopy(bench.tables)
    script += [batch(2), Checkpoint({"at": 2})]
    bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND)])
    bench.tables.clear()
    bench.tables.update(backup)
    bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND)])
    assert ids(bench.rows("people")) == [1, 2]


@pytest.mark.parametrize("read", [ReadMode.FULL, ReadMode.CHANGES])
def test_a_table_that_was_dropped_is_loaded_anew(bench: Bench, read: ReadMode) -> None:
    script: list[Any] = [batch(1), Checkpoint({"at": 1}), batch(2), Checkpoint({"at": 2})]
    bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND, read=read)])
    bench.tables.clear()
    ends = bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND, read=read)])
    assert ends["people"].status is StreamStatus.SUCCEEDED
    assert ids(bench.rows("people")) == [1, 2]


def test_a_source_cut_in_mid_read_is_read_on_by_the_next_attempt(bench: Bench) -> None:
    cuts = iter([True, False])

    def cut() -> None:
        if next(cuts):
            raise TransientError("script.cut", "the connection was cut")

    script = [batch(1), Checkpoint({"at": 1}), batch(2), cut, batch(3), Checkpoint({"at": 2})]
    tuning = {"max_retries": 1, "retry_backoff": timedelta(milliseconds=1)}
    ends = bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND)], tuning=tuning)
    assert ends["people"].status is StreamStatus.SUCCEEDED
    assert ids(bench.rows("people")) == [1, 2, 3]
    assert bench.last.attempt == 2


class Silence:
    """A step of a script that does not come to its end while the test looks on."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._ended = False

    def keep(self) -> None:
        self._wake.wait(HANGS)
        self._ended = True

    def lasts(self) -> bool:
        """Was it kept until now? It is over after that."""
        lasted = not self._ended
        self._wake.set()
        return lasted


def test_a_silent_source_is_taken_for_hung(bench: Bench) -> None:
    silence = Silence()
    script = [batch(1), Checkpoint({"at": 1}), silence.keep]
    ends = bench.play([PEOPLE], script, [choose()], tuning={"stall_after": timedelta(seconds=3)})
    error = ends["people"].error
    assert error and error.code == "engine.stalled"
    assert silence.lasts()
    assert ids(bench.rows("people")) == [1]


def test_a_drain_commits_at_the_next_checkpoint_and_ends(bench: Bench) -> None:
    script = [batch(1), bench.stop.drain, Checkpoint({"at": 1}), batch(2), Checkpoint({"at": 2})]
    ends = bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND)], tuning={"queue_bytes": 1})
    assert ends["people"].status is StreamStatus.CANCELLED
    assert ids(bench.rows("people")) == [1]


def test_an_abort_ends_at_once_and_publishes_nothing_more(bench: Bench) -> None:
    silence = Silence()
    script = [batch(1), bench.stop.abort, silence.keep, Checkpoint({"at": 1})]
    ends = bench.play([PEOPLE], script, [choose(write=WriteMode.APPEND)])
    assert ends["people"].status is StreamStatus.CANCELLED
    assert bench.rows("people") == []
    assert silence.lasts()


def test_a_slow_target_slows_the_source(bench: Bench) -> None:
    """What is read ahead stays within the queue's bytes."""
    from headrace.connector.testing import MemoryTarget, MemoryWriter

    wide = Stream(name="wide", schema=pa.schema([("data", pa.binary())]))
    ahead: list[int] = []
    yielded, taken = [0], [0]

    class SlowWriter(MemoryWriter):
        def write(self, batch: Batch) -> tuple[()]:
            time.sleep(0.01)
            taken[0] += 1
            ahead.append(yielded[0] - taken[0])
            return ()

        def stage(self) -> Any:
            from headrace.connector import Staged

            return Staged(rows=taken[0], detail={"rows": []})

    class SlowTarget(MemoryTarget):
        def open(self, stream: Stream, mode: WriteMode, slice: Any) -> MemoryWriter:
            return SlowWriter(stream)

    def one() -> Iterator[Any]:
        for _ in range(50):
            yielded[0] += 1
            yield Batch("wide", pa.RecordBatch.from_pylist([{"data": bytes(1 << 20)}], schema=wide.schema))

    class Endless(ScriptedSource):
        def read(self, slice: Any, since: Any) -> Iterator[Any]:
            return one()

    pipeline = bench.pipeline([choose(wide, WriteMode.APPEND, ReadMode.FULL)], {"queue_bytes": 4 << 20})
    ends = bench.run(pipeline, Endless([wide], []), SlowTarget(bench.tables))
    assert ends["wide"].counts.read == 50
    assert max(ahead) <= 4 + 2  # the queue, one in each hand


def test_reading_and_writing_overlap(bench: Bench) -> None:
    """Both sides are busy at once: a read and a write wait for each other, and meet."""
    from headrace.connector.testing import MemoryTarget, MemoryWriter

    both = threading.Barrier(2)

    class Watched(MemoryWriter):
        def write(self, batch: Batch) -> Any:
            both.wait(HANGS)
            return super().write(batch)

    class WatchedTarget(MemoryTarget):
        def open(self, stream: Stream, mode: WriteMode, slice: Any) -> MemoryWriter:
            return Watched(stream)

    script: list[Any] = []
    for n in range(10):
        script += [batch(n), lambda: both.wait(HANGS) and None]
    ends = bench.run(
        bench.pipeline([choose(write=WriteMode.APPEND)]),
        ScriptedSource([PEOPLE], script),
        WatchedTarget(bench.tables),
    )
    assert ends["people"].status is StreamStatus.SUCCEEDED, ends["people"].error
    assert ids(bench.rows("people")) == list(range(10))


def test_progress_is_told_while_rows_move_and_ends_with_the_truth(bench: Bench) -> None:
    script: list[Any] = []
    for n in range(4):
        script += [batch(n), Checkpoint({"at": n + 1}), lambda: time.sleep(0.2)]
    bench.play([PEOPLE], script, [choose()])
    counts = [p.counts.read for p in bench.progressed if p.status is StreamStatus.RUNNING]
    assert counts == sorted(counts) and counts[-1] == 4
    last: StreamProgress = bench.progressed[-1]
    assert last.status is StreamStatus.SUCCEEDED and last.counts.written == 4


@pytest.mark.parametrize(
    ("write", "fate"), [(WriteMode.APPEND, "its rows stay"), (WriteMode.REPLACE, "all of its rows give way")]
)
def test_rows_that_another_pipeline_wrote_are_not_touched_without_a_word(
    bench: Bench, write: WriteMode, fate: str
) -> None:
    choice = choose(write=write, read=ReadMode.FULL)
    bench.play([PEOPLE], [batch(1)], [choice])
    assert not any("was there before" in line for line in bench.lines)
    bench.tables["people"].tokens.clear()
    bench.play([PEOPLE], [batch(1)], [choice])
    assert [line for line in bench.lines if "was there before" in line and fate in line]
