"""Where a stream goes on in a later attempt or run, and what its counts then say."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.connector import Checkpoint, Position, ReadMode, Reject, Slice, StreamRead
from headrace.connector.testing import ScriptedSource
from headrace.errors import TransientError
from headrace.model.run import StreamStatus
from headrace.store import MasterKeys, Store
from tests.bench import Bench
from tests.unit.engine_script import PEOPLE, PLACES, Loading, batch, choose, ids, once

RETRY = {"max_retries": 1, "retry_backoff": timedelta(milliseconds=1)}


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
