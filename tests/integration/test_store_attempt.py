from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from headrace.connector import Reject, Token
from headrace.engine.state import State
from headrace.errors import ConfigError, ConflictError, Fenced
from headrace.model.run import Counts, ErrorReport, RunStatus, StreamProgress, StreamStatus
from headrace.store import Store
from headrace.store.attempt import Attempt
from headrace.store.database import Database
from headrace.store.leases import hold
from tests.integration.store_samples import GONE, MINUTE, save_pipeline, staged, start_run, started
from tests.waiting import until

ORDERS = "public.orders"


def token(sequence: int, position: dict[str, Any] | None = None, epoch: int = 1) -> Token:
    return Token(pipeline="p1", epoch=epoch, sequence=sequence, position=position or {"lsn": sequence})


def test_staged_slices_come_back_until_they_are_dropped(store: Store) -> None:
    with started(store) as attempt:
        state: State = attempt
        state.save_staged(ORDERS, staged("b"))
        state.save_staged(ORDERS, staged("a"))
        state.save_staged("other", staged("a", 9))
        assert state.load_staged(ORDERS) == [staged("a"), staged("b")]
        again = staged("a", 5, "a new plan")
        state.save_staged(ORDERS, again)
        assert state.load_staged(ORDERS) == [again, staged("b")]
        state.drop_staged(ORDERS)
        assert state.load_staged(ORDERS) == []
        assert state.load_staged("other") == [staged("a", 9)]


def test_a_checkpoint_comes_back_with_the_sequence_of_each_stream(store: Store) -> None:
    with started(store) as attempt:
        assert attempt.load("slot") is None
        attempt.save("slot", {}, {})
        saved = attempt.load("slot")
        assert saved and (saved.position, saved.tokens) == ({}, {})
        attempt.save("slot", {"lsn": 7, "at": [1.5, None]}, {"a": token(3), "b": token(1)})
        attempt.save("slot", {"lsn": 9}, {"a": token(4)})
        saved = attempt.load("slot")
        assert saved and saved.position == {"lsn": 9}
        assert saved.tokens == {"a": token(4), "b": token(1)}
        assert attempt.load("other") is None


def test_people_see_where_each_slice_stands(store: Store) -> None:
    before = datetime.now(UTC)
    with started(store) as attempt:
        attempt.save("s2", {"lsn": 2}, {})
        attempt.save("s1", {"lsn": 9}, {"a": token(4, {"lsn": 9, "done": True})})
    first, second = store.checkpoints("p1")
    assert (first.slice, first.position) == ("s1", {"lsn": 9})
    assert first.tokens == {"a": token(4, {"lsn": 9, "done": True})}
    assert (second.slice, second.tokens) == ("s2", {})
    assert before <= second.saved_at <= first.saved_at <= datetime.now(UTC)
    assert store.checkpoints("p2") == []


def test_a_sequence_that_goes_down_is_refused_and_nothing_is_saved(store: Store) -> None:
    with started(store) as attempt:
        attempt.save("slot", {"lsn": 5}, {"a": token(5), "b": token(5)})
        attempt.save("slot", {"lsn": 5}, {"a": token(5)})  # the same publish, saved again
        with pytest.raises(ConflictError) as raised:
            attempt.save("slot", {"lsn": 6}, {"a": token(6), "b": token(4)})
        assert raised.value.code == "store.sequence_regressed"
        assert not isinstance(raised.value, Fenced)
        saved = attempt.load("slot")
        assert saved and (saved.position, saved.tokens) == ({"lsn": 5}, {"a": token(5), "b": token(5)})


def test_a_reject_is_stored_once_however_often_it_is_met(store: Store) -> None:
    bad = Reject(
        stream=ORDERS, code="cast.bad", reason="no number", where={"file": "a", "line": 7}, row="x,y"
    )
    with started(store) as attempt:
        attempt.reject([bad, replace(bad, reason="again"), replace(bad, stream="other")])
        attempt.reject([])
        attempt.reject([replace(bad, where={"line": 7, "file": "a"}), replace(bad, where={"file": "b"})])
        run = attempt.run
    assert [letter.reject.where for letter in store.rejects("p1", ORDERS)] == [
        {"file": "b"},
        {"file": "a", "line": 7},
    ]
    last = store.rejects("p1", ORDERS)[-1]
    assert (last.reject, last.run) == (bad, run)
    assert len(store.rejects("p1", limit=2)) == 2
    assert store.count_rejects("p1") == {ORDERS: 2, "other": 1}
    assert store.rejects("p2") == []


def test_a_rejected_row_may_hold_what_databases_do_not(store: Store) -> None:
    row = {"nul": "a\0b", "half": "\ud800", "nan": float("inf"), "raw": b"\xff", "sum": Decimal("1.10")}
    where = {"id": Decimal("7"), "at": datetime(2020, 1, 1, tzinfo=UTC)}
    with started(store) as attempt:
        attempt.reject([Reject(stream=ORDERS, code="x", reason="bad\0\ud800\n", where=where, row=row)])
        attempt.reject([Reject(stream=ORDERS, code="x", reason="line", where={"n": 1}, row="a\0b\r\n")])
    line, odd = (letter.reject for letter in store.rejects("p1"))
    assert odd.row == {"nul": "a\0b", "half": "\ud800", "nan": float("inf"), "raw": "b'\\xff'", "sum": "1.10"}
    assert odd.where == {"id": "7", "at": "2020-01-01 00:00:00+00:00"}
    assert odd.reason == "bad\\x00\\ud800\\n"
    assert line.row == "a\0b\r\n"


def test_the_last_word_on_a_streams_progress_wins(store: Store) -> None:
    error = ErrorReport(code="x.y", message="broke")
    counts = Counts(read=5, written=3, rejected=1, skipped={"seen": 1}, bytes=2**40)
    with started(store) as attempt:
        for read in range(100):
            attempt.progress(StreamProgress(stream="b", counts=Counts(read=read)))
        attempt.progress(StreamProgress(stream="a", status=StreamStatus.RUNNING, expected=2**33))
        until(lambda: len(store.runs.get(attempt.run).streams) == 2, "two streams")
        last = StreamProgress(stream="b", status=StreamStatus.FAILED, counts=counts, error=error)
        attempt.progress(last)
    run = store.runs.list()[0]
    assert run.streams == (
        StreamProgress(stream="a", status=StreamStatus.RUNNING, expected=2**33),
        last,
    )


def test_log_lines_are_numbered_in_order_and_shown_while_the_run_goes_on(store: Store) -> None:
    with started(store) as attempt:
        for n in range(2000):
            attempt.log("debug", f"line {n}")
        until(lambda: len(store.runs.logs(attempt.run, limit=5000)) == 2000, "2000 lines")
        attempt.log("error", "the end", ORDERS)
        run = attempt.run
    lines = store.runs.logs(run, after=1998)
    assert [(line.line, line.level, line.message, line.stream) for line in lines] == [
        (1999, "debug", "line 1998", None),
        (2000, "debug", "line 1999", None),
        (2001, "error", "the end", ORDERS),
    ]
    assert lines[0].run == run
    assert lines[0].at.utcoffset() == timedelta(0)
    assert [line.line for line in store.runs.logs(run, after=3, limit=2)] == [4, 5]


def test_who_writes_a_log_line_does_not_wait_for_the_store(store: Store, store_url: str) -> None:
    run, lease = start_run(store)
    other = Database(store_url)
    with store.attempt(run.id, lease) as attempt, other.write() as transaction:
        hold(transaction, lease, alone=True)  # the attempt can't write before this block ends
        for n in range(2000):
            attempt.log("debug", f"line {n}")
            attempt.progress(StreamProgress(stream="a", counts=Counts(read=n)))
        assert store.runs.logs(run.id) == []
    assert len(store.runs.logs(run.id, limit=5000)) == 2000
    other.close()


def test_a_rows_content_can_not_forge_a_line_of_the_log(store: Store) -> None:
    with started(store) as attempt:
        attempt.log("info", "a\r\n2020 ERROR forged \x1b[31m\x00\x9b\u2028 tab\t\ud800 fin")
        run = attempt.run
    (line,) = store.runs.logs(run)
    assert line.message == "a\\r\\n2020 ERROR forged \\x1b[31m\\x00\\x9b\\u2028 tab\t\\ud800 fin"


def test_the_lines_of_the_next_attempt_follow_those_of_the_last(store: Store) -> None:
    run, lease = start_run(store)
    with store.attempt(run.id, lease) as attempt:
        attempt.log("info", "one")
    store.runs.requeue(run.id)
    store.runs.start(run.id, lease)
    with store.attempt(run.id, lease) as attempt:
        attempt.log("info", "two")
    assert [(line.line, line.message) for line in store.runs.logs(run.id)] == [(1, "one"), (2, "two")]


def test_what_an_attempt_staged_and_saved_is_there_for_the_next(store: Store) -> None:
    run, lease = start_run(store, ttl=GONE)
    dead = store.attempt(run.id, lease)
    dead.save_staged(ORDERS, staged("a"))
    dead.save("slot", {"lsn": 3}, {"a": token(2)})
    taken = store.leases.acquire("p1", "w2", MINUTE)
    store.runs.requeue(run.id, lease=taken)
    store.runs.start(run.id, taken)
    with store.attempt(run.id, taken) as attempt:
        assert attempt.epoch == 2
        (kept,) = attempt.load_staged(ORDERS)
        assert (kept, kept.epoch) == (staged("a"), 1)
        saved = attempt.load("slot")
        assert saved and (saved.position, saved.tokens) == ({"lsn": 3}, {"a": token(2)})
    dead.close()


WRITES: dict[str, Callable[[Attempt], object]] = {
    "save": lambda a: a.save("slot", {"lsn": 9}, {}),
    "save_staged": lambda a: a.save_staged(ORDERS, staged("z")),
    "drop_staged": lambda a: a.drop_staged(ORDERS),
    "reject": lambda a: a.reject([Reject(stream=ORDERS, code="x", reason="y", where={"n": 1})]),
    "raise_epoch": lambda a: a.raise_epoch(99),
    "log": lambda a: (a.log("info", "zombie"), a.flush()),
    "progress": lambda a: (a.progress(StreamProgress(stream="zombie")), a.flush()),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_worker_that_was_taken_over_writes_nothing_more(store: Store, write: str) -> None:
    run, lost = start_run(store, ttl=GONE)
    zombie = store.attempt(run.id, lost)
    zombie.save("slot", {"lsn": 1}, {})
    zombie.save_staged(ORDERS, staged("a"))
    taken = store.leases.acquire("p1", "w2", MINUTE)
    with pytest.raises(Fenced) as raised:
        WRITES[write](zombie)
    assert raised.value.code == "store.lease_lost"
    zombie.close()
    assert [c.position for c in store.checkpoints("p1")] == [{"lsn": 1}]
    assert store.rejects("p1") == []
    assert store.runs.logs(run.id) == []
    assert store.runs.get(run.id).streams == ()
    assert store.leases.get("p1") == taken
    with store.attempt(run.id, taken) as attempt:
        assert attempt.load_staged(ORDERS) == [staged("a")]


def test_a_log_that_finds_the_lease_lost_stops_the_next_call(store: Store) -> None:
    run, lost = start_run(store, ttl=GONE)
    with store.attempt(run.id, lost) as zombie:
        store.leases.acquire("p1", "w2", MINUTE)

        def stopped() -> bool:
            try:
                zombie.log("info", "zombie")
            except Fenced:
                return True
            return False

        assert not stopped()
        until(stopped, "an end")
        with pytest.raises(Fenced):
            zombie.progress(StreamProgress(stream="zombie"))


def test_nothing_is_saved_after_a_takeover_however_the_threads_fall(store: Store) -> None:
    run, lost = start_run(store, ttl=GONE)
    ended: list[str] = []

    def save(attempt: Attempt, name: str) -> None:
        n = 0
        try:
            while True:
                n += 1
                attempt.save(name, {"n": n}, {name: token(n)})
                attempt.reject([Reject(stream="a", code="x", reason="y", where={name: n})])
        except Fenced:
            ended.append(name)

    with store.attempt(run.id, lost) as attempt:
        threads = [threading.Thread(target=save, args=(attempt, f"s{n}")) for n in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(store.checkpoints("p1")) == 4, "four checkpoints")
        store.leases.acquire("p1", "w2", MINUTE)
        seen = store.checkpoints("p1"), store.count_rejects("p1")
        for thread in threads:
            thread.join()
        assert len(ended) == 4
        assert (store.checkpoints("p1"), store.count_rejects("p1")) == seen


def test_the_epoch_is_raised_under_the_same_lease(store: Store) -> None:
    run, lease = start_run(store)
    with store.attempt(run.id, lease) as attempt:
        assert attempt.epoch == 1
        assert attempt.raise_epoch(41) == attempt.epoch == 41
        assert attempt.raise_epoch(7) == 41
        attempt.save("slot", {}, {})
        renewed = store.leases.renew(lease, MINUTE)
        assert renewed.epoch == 41
    store.runs.requeue(run.id, lease=lease)
    store.runs.start(run.id, lease)
    with store.attempt(run.id, lease) as attempt:
        assert attempt.epoch == 41
    store.leases.release(lease)
    assert store.leases.acquire("p1", "w2", MINUTE).epoch == 42


def test_an_attempt_belongs_to_a_run_that_runs_and_to_the_lease_of_its_pipeline(store: Store) -> None:
    run, lease = start_run(store)
    save_pipeline(store, "p2")
    other = store.leases.acquire("p2", "w1", MINUTE)
    with pytest.raises(ValueError, match="the lease of p2"):
        store.attempt(run.id, other)
    store.runs.finish(run.id, RunStatus.SUCCEEDED)
    with pytest.raises(ConflictError) as raised:
        store.attempt(run.id, lease)
    assert raised.value.code == "store.run_state"


def test_each_attempt_leaves_its_epoch_its_times_and_its_error(store: Store) -> None:
    run, lease = start_run(store, ttl=GONE)
    store.attempt(run.id, lease)  # its process dies
    taken = store.leases.acquire("p1", "w2", MINUTE)
    store.runs.requeue(run.id, lease=taken)
    store.runs.start(run.id, taken)
    broken = ConfigError("x.y", "broke", remedy="Mend it.")
    with pytest.raises(ConfigError), store.attempt(run.id, taken) as attempt:
        attempt.raise_epoch(9)
        raise broken
    first, second = store.runs.attempts(run.id)
    assert (first.number, first.epoch, first.error) == (1, 1, None)
    assert first.ended_at
    assert (second.number, second.epoch, second.error) == (2, 9, ErrorReport.of(broken))
    assert second.ended_at and first.started_at <= first.ended_at <= second.started_at <= second.ended_at
