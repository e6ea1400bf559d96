"""What a run does when its parts fail at the worst moment, by scripted sources and tables in memory."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import (
    Batch,
    Change,
    Checkpoint,
    Position,
    ReadMode,
    Reject,
    Slice,
    Staged,
    Stream,
    StreamRead,
    Token,
    WriteMode,
)
from headrace.connector.testing import MemoryTarget, ScriptedSource
from headrace.engine.executors import Opened, piece_to_json, serve
from headrace.engine.plan import resolve
from headrace.engine.read import Pulled, overlap
from headrace.engine.stop import Stop
from headrace.engine.write import Piece
from headrace.errors import Fenced, OutcomeUnknown, TransientError
from headrace.model.pipeline import SchemaPolicy, StreamChoice
from headrace.model.run import StreamStatus
from headrace.store import MasterKeys, Store
from tests.bench import Bench
from tests.waiting import HANGS

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])
PEOPLE = Stream(name="people", schema=SCHEMA, primary_key=("id",))
PLACES = Stream(name="places", schema=SCHEMA, primary_key=("id",))
RETRY = {"max_retries": 1, "retry_backoff": timedelta(milliseconds=1)}


def choose(stream: Stream = PEOPLE, read: ReadMode = ReadMode.CHANGES, **rest: Any) -> StreamChoice:
    return StreamChoice(stream=stream.id, read=read, **{"write": WriteMode.APPEND, **rest})


def batch(*ids: int, stream: Stream = PEOPLE, **rest: Any) -> Batch:
    rows = pa.RecordBatch.from_pylist([{"id": i, "name": f"n{i}"} for i in ids], schema=SCHEMA)
    return Batch(stream.id, rows, **rest)


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(row["id"] for row in rows)


def once(error: Exception) -> Callable[[], None]:
    """A step of a script that raises the first time."""
    left = [error]

    def step() -> None:
        if left:
            raise left.pop()

    return step


class Loading(ScriptedSource):
    """Each stream is loaded first, in a slice for each list of `pieces`, then read from the script."""

    def __init__(self, streams: Sequence[Stream], pieces: Mapping[str, Sequence[Any]], script: Any = ()):
        super().__init__(streams, list(script))
        self.pieces = pieces
        self.until: Position = {"at": 0}

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> Iterable[Slice]:
        for read in reads:
            id = read.stream.id
            if since.get(id) and read.mode is not ReadMode.FULL:
                yield Slice(key=f"{id}:log", reads=(read,))
                continue
            for n in range(len(self.pieces[id])):
                yield Slice(key=f"{id}:{n}", reads=(read,), bounds={"piece": n}, until=self.until)

    def holds(self, slice: Slice, rows: int) -> bool:
        return True

    def read(self, slice: Slice, since: Position) -> Iterator[Any]:
        if slice.until is None:
            yield from super().read(slice, since)
            return
        for event in self.pieces[slice.read.stream.id][slice.bounds["piece"]]:
            if isinstance(event, Batch):
                yield event
            else:
                event()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def test_a_dropped_table_is_never_taken_for_the_one_that_had_as_many_publishes(bench: Bench) -> None:
    load: dict[str, Any] = {"people": [[batch(1)]]}
    script: list[Any] = [Checkpoint({"at": 0}), batch(2), Checkpoint({"at": 1})]
    pipeline = bench.pipeline([choose()])
    bench.run(pipeline, Loading([PEOPLE], load, script))  # publish 1, the load
    bench.run(pipeline, Loading([PEOPLE], load, script))  # publish 2, up to 1
    assert ids(bench.rows("people")) == [1, 2]
    bench.tables.clear()
    bench.run(pipeline, Loading([PEOPLE], load, script))  # publish 2 again, the load into a new table
    ends = bench.run(pipeline, Loading([PEOPLE], load, script))
    assert ends["people"].status is StreamStatus.SUCCEEDED
    assert ids(bench.rows("people")) == [1, 2]


def test_a_source_without_a_slice_empties_the_table_that_it_replaces(bench: Bench) -> None:
    pipeline = bench.pipeline([choose(read=ReadMode.FULL, write=WriteMode.REPLACE)])
    bench.run(pipeline, Loading([PEOPLE], {"people": [[batch(1)]]}))
    assert ids(bench.rows("people")) == [1]
    ends = bench.run(pipeline, Loading([PEOPLE], {"people": []}))
    assert ends["people"].status is StreamStatus.SUCCEEDED
    assert bench.rows("people") == []


def test_a_stream_that_joins_a_log_is_read_from_its_start(bench: Bench) -> None:
    class Remembering(ScriptedSource):
        def acknowledge(self, slice: Slice, position: Position) -> None: ...

    script: list[Any] = [batch(1), batch(7, stream=PLACES), Checkpoint({"at": 1})]
    bench.run(bench.pipeline([choose()]), Remembering([PEOPLE, PLACES], script))
    bench.run(bench.pipeline([choose(), choose(PLACES)]), Remembering([PEOPLE, PLACES], script))
    assert ids(bench.rows("people")) == [1]
    assert ids(bench.rows("places")) == [7]


def test_quiet_progress_after_a_load_is_remembered(bench: Bench) -> None:
    script: list[Any] = [Checkpoint({"at": 0}), Checkpoint({"at": 1})]
    load: dict[str, Any] = {"people": [[batch(1)]]}
    source = Loading([PEOPLE], load, script)
    pipeline = bench.pipeline([choose()])
    for _ in range(3):  # the load, then nothing new: the source has forgotten what came before 1
        ends = bench.run(pipeline, source)
        assert ends["people"].status is StreamStatus.SUCCEEDED, ends["people"].error
    source.script = [*script, batch(2), Checkpoint({"at": 2})]
    ends = bench.run(pipeline, source)
    assert ends["people"].status is StreamStatus.SUCCEEDED, ends["people"].error
    assert ids(bench.rows("people")) == [1, 2]


def test_a_stream_is_never_put_back_by_another_one_that_is_behind(bench: Bench) -> None:
    class Remembering(ScriptedSource):
        def acknowledge(self, slice: Slice, position: Position) -> None: ...

    log: list[Any] = [batch(1), batch(11, stream=PLACES), Checkpoint({"at": 1})]
    log += [batch(2), batch(12, stream=PLACES), Checkpoint({"at": 2})]
    log += [batch(3), batch(13, stream=PLACES), Checkpoint({"at": 3})]
    pipeline = bench.pipeline([choose(), choose(PLACES)])
    bench.run(pipeline, Remembering([PEOPLE, PLACES], log[:3]))
    backup = copy.deepcopy(bench.tables["places"])
    bench.run(pipeline, Remembering([PEOPLE, PLACES], log))
    bench.tables["places"] = backup  # put back to 1, while people stand at 3
    cut = once(TransientError("script.cut", "the connection was cut"))
    bench.run(pipeline, Remembering([PEOPLE, PLACES], [*log[:6], cut, *log[6:]]))
    bench.run(pipeline, Remembering([PEOPLE, PLACES], log))
    assert ids(bench.rows("people")) == [1, 2, 3]
    assert ids(bench.rows("places")) == [11, 12, 13]


def test_a_stream_that_was_left_out_for_a_while_misses_nothing(bench: Bench) -> None:
    class Remembering(ScriptedSource):
        def acknowledge(self, slice: Slice, position: Position) -> None: ...

    log: list[Any] = [batch(1), batch(11, stream=PLACES), Checkpoint({"at": 1})]
    log += [batch(2), batch(12, stream=PLACES), Checkpoint({"at": 2})]
    both = [choose(), choose(PLACES)]
    bench.run(bench.pipeline(both), Remembering([PEOPLE, PLACES], log[:3]))
    bench.run(bench.pipeline(both[:1]), Remembering([PEOPLE, PLACES], log))
    bench.run(bench.pipeline(both), Remembering([PEOPLE, PLACES], log))
    assert ids(bench.rows("people")) == [1, 2]
    assert ids(bench.rows("places")) == [11, 12]


def test_a_rewind_of_a_table_that_was_put_back_is_heeded(bench: Bench) -> None:
    from headrace.control.access import OPERATOR
    from headrace.control.positions import Positions

    script: list[Any] = [
        batch(1),
        Checkpoint({"at": 1}),
        batch(2),
        Checkpoint({"at": 2}),
        batch(3),
        Checkpoint({"at": 3}),
    ]

    class ByStream(ScriptedSource):
        def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> list[Slice]:
            return [Slice(key=read.stream.id, reads=(read,)) for read in reads]

        def acknowledge(self, slice: Slice, position: Position) -> None: ...

    pipeline = bench.pipeline([choose()])
    bench.run(pipeline, ByStream([PEOPLE], script[:2]))
    backup = copy.deepcopy(bench.tables)
    bench.run(pipeline, ByStream([PEOPLE], script))
    bench.tables.clear()
    bench.tables.update(backup)
    Positions(bench.store).rewind(OPERATOR, bench.job(pipeline, ByStream([PEOPLE], script)), "people", {})
    ends = bench.run(pipeline, ByStream([PEOPLE], script))
    assert ends["people"].status is StreamStatus.SUCCEEDED, ends["people"].error
    assert ids(bench.rows("people")) == [1, 1, 2, 3]


def test_the_counts_of_a_resumed_run_are_those_of_all_its_attempts(bench: Bench) -> None:
    cut = once(TransientError("script.cut", "the connection was cut"))
    script: list[Any] = [batch(1, 2), Checkpoint({"at": 1}), batch(3), cut, Checkpoint({"at": 2})]
    ends = bench.play([PEOPLE], script, [choose()], tuning=RETRY)
    assert ids(bench.rows("people")) == [1, 2, 3]
    assert bench.last.attempt == 2
    assert ends["people"].counts.read == ends["people"].counts.written == 3


def reject(line: int) -> Reject:
    return Reject(stream="people", code="x.bad", reason="not a row", where={"line": line})


def test_the_limit_of_rejects_holds_over_all_attempts_of_a_run(bench: Bench) -> None:
    cut = once(TransientError("script.cut", "the connection was cut"))
    script: list[Any] = [batch(1, rejects=(reject(1), reject(2))), Checkpoint({"at": 1}), cut]
    script += [batch(2, rejects=(reject(3), reject(4))), Checkpoint({"at": 2})]
    ends = bench.play([PEOPLE], script, [choose()], tuning={**RETRY, "reject_limit": 3})
    error = ends["people"].error
    assert error and error.code == "engine.too_many_rejects"
    assert ids(bench.rows("people")) == [1]


def test_rows_read_again_for_the_sake_of_another_stream_count_as_published(bench: Bench) -> None:
    log: list[Any] = [batch(1, rejects=(reject(1), reject(2))), Checkpoint({"at": 1})]
    late: list[Any] = [batch(11, stream=PLACES), batch(2, rejects=(reject(3),)), Checkpoint({"at": 2})]
    pipeline = bench.pipeline([choose(), choose(PLACES)], {"reject_limit": 2})

    class Remembering(ScriptedSource):
        def acknowledge(self, slice: Slice, position: Position) -> None: ...

    bench.run(pipeline, Remembering([PEOPLE, PLACES], [late[0], *log]))
    bench.tables["places"].tokens.clear()
    bench.tables["places"].rows.clear()
    ends = bench.run(pipeline, Remembering([PEOPLE, PLACES], [late[0], *log, *late[1:]]))
    assert ends["people"].status is StreamStatus.SUCCEEDED, ends["people"].error
    assert ends["people"].counts.skipped == {"published": 3}
    assert (ends["people"].counts.rejected, ends["people"].counts.written) == (1, 1)
    assert ids(bench.rows("places")) == [11]


def test_a_load_with_too_many_rejects_is_not_published_by_running_again(bench: Bench) -> None:
    load: dict[str, Any] = {
        "people": [[batch(n, rejects=(reject(2 * n), reject(2 * n + 1)))] for n in (1, 2)]
    }
    choices = [choose(read=ReadMode.FULL)]
    for _ in range(2):
        ends = bench.run(bench.pipeline(choices, {"reject_limit": 3}), Loading([PEOPLE], load))
        error = ends["people"].error
        assert error and error.code == "engine.too_many_rejects"
        assert bench.rows("people") == []
        assert len(bench.store.rejects("p")) == 4
    ends = bench.run(bench.pipeline(choices, {"reject_limit": 4}), Loading([PEOPLE], load))
    assert ends["people"].counts.rejected == 4
    assert ids(bench.rows("people")) == [1, 2]


def test_a_position_that_goes_back_between_two_commits_stops_the_stream(bench: Bench) -> None:
    script: list[Any] = [batch(1), Checkpoint({"at": 5}), batch(2), Checkpoint({"at": 4})]
    tuning = {"commit_interval": timedelta(minutes=1)}
    ends = bench.play([PEOPLE], script, [choose()], tuning=tuning)
    error = ends["people"].error
    assert error and error.code == "engine.position_back"


def test_a_bug_in_the_publish_of_one_load_does_not_stop_the_others(bench: Bench) -> None:
    class Broken(MemoryTarget):
        broken = True

        def publish(self, stream: Stream, mode: WriteMode, staged: Sequence[Staged], token: Token) -> None:
            if stream.name == "people":
                raise ZeroDivisionError if staged and self.broken else TransientError("x.away", "away")
            super().publish(stream, mode, staged, token)

    load: dict[str, Any] = {
        "people": [[batch(1)]],
        "places": [[lambda: time.sleep(0.3), batch(7, stream=PLACES)]],
    }
    choices = [choose(read=ReadMode.FULL), choose(PLACES, ReadMode.FULL)]
    target = Broken(bench.tables)
    target.broken = False
    bench.run(bench.pipeline([choices[0]]), Loading([PEOPLE, PLACES], load), target)
    target.broken = True
    ends = bench.run(bench.pipeline(choices), Loading([PEOPLE, PLACES], load), target)
    error = ends["people"].error
    assert error and error.code == "internal"
    assert ends["places"].status is StreamStatus.SUCCEEDED
    assert ids(bench.rows("places")) == [7]


def test_a_store_that_goes_away_ends_the_other_slices_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.store.attempt import Attempt

    def away(*_: Any) -> None:
        raise TransientError("store.away", "the store is away")

    read: list[int] = []
    failing = threading.Event()

    def save(*_: Any) -> None:
        failing.set()
        away()

    def slow(n: int) -> Callable[[], None]:
        def step() -> None:
            read.append(n)
            failing.wait(HANGS)
            time.sleep(0.1)

        return step

    load: dict[str, Any] = {
        "people": [[batch(0)]],
        "places": [[slow(n), batch(n, stream=PLACES)] for n in range(500)],
    }
    monkeypatch.setattr(Attempt, "save_staged", save)
    monkeypatch.setattr(Attempt, "log", lambda self, level, *_: away() if level == "error" else None)
    pipeline = bench.pipeline([choose(read=ReadMode.FULL), choose(PLACES, ReadMode.FULL)], {"parallelism": 2})
    with pytest.raises(TransientError):
        bench.run(pipeline, Loading([PEOPLE, PLACES], load))
    assert len(read) < 250  # a read takes a tenth of a second


class Filed(MemoryTarget):
    """Keeps staged rows in `files` by name, as a lake does, and so does the table: by name."""

    def __init__(self, tables: Any, files: dict[str, Any]):
        super().__init__(tables)
        self.files = files

    def publish(self, stream: Stream, mode: WriteMode, staged: Sequence[Staged], token: Token) -> None:
        super().publish(stream, mode, staged, token)
        for one in staged:
            self.files[json.dumps(one.detail)] = "live"

    def discard(self, stream: Stream, staged: Sequence[Staged]) -> None:
        for one in staged:
            assert json.dumps(one.detail) not in self.files, "files of a table are removed"


def test_rows_that_were_published_are_neither_removed_nor_published_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.engine import commit

    files: dict[str, Any] = {}
    load: dict[str, Any] = {"people": [[batch(1)], [batch(2)]]}
    pipeline = bench.pipeline([choose(read=ReadMode.FULL, write=WriteMode.REPLACE)])

    def away(point: str) -> None:
        if point == "after_publish":
            raise TransientError("store.away", "the store is away")

    monkeypatch.setattr(commit, "hit", away)
    ends = bench.run(pipeline, Loading([PEOPLE], load), Filed(bench.tables, files))
    assert ends["people"].status is StreamStatus.FAILED
    assert len(files) == 2
    monkeypatch.undo()
    read: list[int] = []
    again = {"people": [[lambda: read.append(1), batch(1)], [lambda: read.append(2), batch(2)]]}
    bench.run(pipeline, Loading([PEOPLE], again), Filed(bench.tables, files))
    assert sorted(read) == [1, 2]
    assert ids(bench.rows("people")) == [1, 2]


def test_files_of_the_table_before_are_left_alone_when_a_stream_moves_to_another_table(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.engine import commit

    files: dict[str, Any] = {}
    load: dict[str, Any] = {"people": [[batch(1)], [batch(2)]]}

    def away(point: str) -> None:
        if point == "after_publish":
            raise TransientError("store.away", "the store is away")

    monkeypatch.setattr(commit, "hit", away)
    choice = choose(read=ReadMode.FULL)
    bench.run(bench.pipeline([choice]), Loading([PEOPLE], load), Filed(bench.tables, files))
    monkeypatch.undo()
    moved = choose(read=ReadMode.FULL, target="folk")
    ends = bench.run(bench.pipeline([moved]), Loading([PEOPLE], load), Filed(bench.tables, files))
    assert ends["people"].status is StreamStatus.SUCCEEDED, ends["people"].error
    assert ids(bench.rows("folk")) == [1, 2]


def test_leftovers_that_cannot_be_removed_stop_nobody_else(bench: Bench) -> None:
    class Stubborn(MemoryTarget):
        def discard(self, stream: Stream, staged: Sequence[Staged]) -> None:
            if staged:
                raise TransientError("x.locked", "it is locked")

    class Forgetful(Loading):
        def holds(self, slice: Slice, rows: int) -> bool:
            return False

    cut = once(TransientError("script.cut", "the connection was cut"))
    load: dict[str, Any] = {"people": [[batch(1)], [cut, batch(2)]], "places": [[batch(7, stream=PLACES)]]}
    choices = [choose(read=ReadMode.FULL), choose(PLACES, ReadMode.FULL)]
    target = Stubborn(bench.tables)
    bench.run(bench.pipeline(choices[:1], {"parallelism": 1}), Forgetful([PEOPLE, PLACES], load), target)
    ends = bench.run(bench.pipeline(choices), Forgetful([PEOPLE, PLACES], load), target)
    assert ends["places"].status is StreamStatus.SUCCEEDED
    assert ids(bench.rows("places")) == [7]


def test_leftovers_are_removed_after_the_publish_that_fences_their_worker_off(bench: Bench) -> None:
    removed: list[Any] = []

    class Watched(MemoryTarget):
        def discard(self, stream: Stream, staged: Sequence[Staged]) -> None:
            assert stream.id in self.tables and self.tables[stream.id].tokens
            removed.extend(row["id"] for one in staged for _, _, row in one.detail["rows"])

    class Forgetful(Loading):
        def holds(self, slice: Slice, rows: int) -> bool:
            return False

    cut = once(TransientError("script.cut", "the connection was cut"))
    source = Forgetful([PEOPLE], {"people": [[batch(1)], [cut, batch(2)]]})
    pipeline = bench.pipeline([choose(read=ReadMode.FULL)], {"parallelism": 1})
    bench.run(pipeline, source, Watched(bench.tables))
    bench.run(pipeline, source, Watched(bench.tables))
    assert removed == [1]
    assert ids(bench.rows("people")) == [1, 2]


def test_a_publish_that_lands_late_is_not_taken_for_the_next_one(bench: Bench) -> None:
    """The reply is lost, nothing is to be seen, and the rows land as the next attempt publishes."""
    late: list[Any] = []

    class Late(MemoryTarget):
        def publish(self, stream: Stream, mode: WriteMode, staged: Sequence[Staged], token: Token) -> None:
            if not late or late[0] == token:
                late[:] = [token, staged]
                raise OutcomeUnknown("memory.lost", "no reply")
            if late[1]:
                super().publish(stream, mode, late[1], late[0])
                late[1] = None
            super().publish(stream, mode, staged, token)

    script: list[Any] = [batch(1), Checkpoint({"at": 1}), batch(2), Checkpoint({"at": 2})]
    pipeline = bench.pipeline([choose()], {**RETRY, "commit_interval": timedelta(minutes=1)})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("headrace.engine.commit._LOOK_DELAY", 0.001)
        source = ScriptedSource([PEOPLE], [*script[:2]])
        first = source.read

        def growing(slice: Slice, since: Position) -> Iterator[Any]:
            yield from first(slice, since)
            source.script = script  # the second attempt finds more

        source.read = growing  # type: ignore[method-assign]
        with pytest.raises(Fenced):
            bench.run(pipeline, source, Late(bench.tables))
    bench.run(pipeline, ScriptedSource([PEOPLE], script))  # carries on the run that has read up to 1
    bench.run(pipeline, ScriptedSource([PEOPLE], script))
    assert ids(bench.rows("people")) == [1, 2]


def test_small_events_do_not_fill_the_memory(bench: Bench) -> None:
    made = [0]

    def small() -> Iterator[Pulled]:
        for n in range(100_000):
            made[0] += 1
            yield Pulled(Checkpoint({"at": n}), 1, 8)

    with overlap(small(), 1 << 20, Stop(), timedelta(minutes=1)) as events:
        next(events)
        time.sleep(0.5)
        assert made[0] < 10_000
        assert sum(1 for _ in events) == 99_999


WIDER = pa.schema([*SCHEMA, ("age", pa.int64())])


def test_an_ignored_column_that_was_left_alone_is_ignored(bench: Bench) -> None:
    bench.play([PEOPLE], [batch(1), Checkpoint({"at": 1})], [choose(write=WriteMode.UPSERT)])
    wide = Stream(name="people", schema=WIDER, primary_key=("id",))
    row = pa.RecordBatch.from_pylist([{"id": 1, "name": "new"}], schema=WIDER)
    update = Batch("people", row, pa.array([Change.UPDATE], pa.int8()), {"age": pa.array([True])})
    script: list[Any] = [batch(1), Checkpoint({"at": 1}), update, Checkpoint({"at": 2})]
    ends = bench.play([wide], script, [choose(write=WriteMode.UPSERT)], schema_policy=SchemaPolicy.IGNORE)
    assert ends["people"].status is StreamStatus.SUCCEEDED, ends["people"].error
    assert bench.rows("people") == [{"id": 1, "name": "new"}]


def test_a_key_column_cannot_be_ignored(bench: Bench) -> None:
    bench.play([PEOPLE], [batch(1), Checkpoint({"at": 1})], [choose(columns=("name",))])
    choice = choose(write=WriteMode.UPSERT)
    ends = bench.play(
        [PEOPLE], [batch(2), Checkpoint({"at": 2})], [choice], schema_policy=SchemaPolicy.IGNORE
    )
    error = ends["people"].error
    assert error and error.code == "schema.key_missing" and "id" in error.message


def test_a_bug_in_a_worker_is_told_and_the_worker_lives_on(bench: Bench) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    source = Loading([PEOPLE], {"people": [[bug], [batch(1)]]})
    job = bench.job(bench.pipeline([choose(read=ReadMode.FULL)]), source)
    (stream,), _ = resolve(job, source)
    lines = [
        json.dumps(
            piece_to_json(
                Piece(slice=slice, stream=stream, tuning=job.pipeline.tuning, keeps_unchanged=False)
            )
        )
        for slice in source.slices([stream.read], {})
    ]
    answers: list[dict[str, Any]] = []
    serve(lines, answers.append, Opened(source, job.target(), (), job.transform))
    failed, done = (answer for answer in answers if "counts" not in answer)
    assert failed["error"]["code"] == "internal"
    assert done["result"]["counts"]["written"] == 1


def test_a_store_that_was_put_back_to_an_older_copy_makes_nothing_double(
    bench: Bench, tmp_path: Path
) -> None:
    cut = once(TransientError("script.cut", "the connection was cut"))
    load: dict[str, Any] = {"people": [[batch(1)], [cut, batch(2)]]}
    script: list[Any] = [Checkpoint({"at": 0}), batch(3), Checkpoint({"at": 1})]
    pipeline = bench.pipeline([choose()], {"parallelism": 1})
    bench.run(pipeline, Loading([PEOPLE], load, script))  # one of two slices is staged
    bench.store.close()
    database = tmp_path / "store.db"
    copied = database.read_bytes()
    bench.store = Store.open(f"sqlite:///{database}", keys=MasterKeys.load(tmp_path, {}))
    for _ in range(2):
        bench.run(pipeline, Loading([PEOPLE], load, script))
    bench.store.close()
    database.write_bytes(copied)
    bench.store = Store.open(f"sqlite:///{database}", keys=MasterKeys.load(tmp_path, {}))
    for number in (4, 5):
        script += [batch(number), Checkpoint({"at": number})]
        ends = bench.run(pipeline, Loading([PEOPLE], load, script))
        assert ends["people"].status is StreamStatus.SUCCEEDED, ends["people"].error
    assert ids(bench.rows("people")) == [1, 2, 3, 4, 5]
