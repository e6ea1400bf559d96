from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from headrace.errors import ConflictError, Fenced
from headrace.model.run import (
    TRANSITIONS,
    Counts,
    ErrorReport,
    Outcome,
    Run,
    RunFilter,
    RunOrder,
    RunStatus,
    StreamProgress,
)
from headrace.store import Lease, Page, Store
from headrace.store.database import Database
from headrace.store.leases import hold
from tests.integration.store_samples import GONE, MINUTE, save_pipeline, start_run
from tests.waiting import HANGS

BROKEN = ErrorReport(code="postgres.away", message="no answer\0", remedy="Wait.", exit_code=6)


def test_a_run_goes_from_queued_over_running_to_its_end(store: Store) -> None:
    save_pipeline(store)
    before = datetime.now(UTC)
    queued = store.runs.queue("p1")
    assert (queued.status, queued.attempt, queued.started_at) == (RunStatus.QUEUED, 1, None)
    assert before <= queued.queued_at <= datetime.now(UTC)
    lease = store.leases.acquire("p1", "w1", MINUTE)
    running = store.runs.start(queued.id, lease)
    assert running.status is RunStatus.RUNNING
    assert running.started_at and running.started_at >= queued.queued_at
    failed = store.runs.finish(queued.id, RunStatus.FAILED, BROKEN)
    assert (failed.status, failed.error) == (RunStatus.FAILED, BROKEN)
    assert failed.ended_at and failed.ended_at >= running.started_at
    assert failed.ended_at.utcoffset() == timedelta(0)
    assert store.runs.get(queued.id) == failed


def test_only_legal_transitions_happen(store: Store) -> None:
    save_pipeline(store)
    lease = store.leases.acquire("p1", "w1", MINUTE)
    moves: dict[RunStatus, Callable[[str], Run]] = {
        RunStatus.QUEUED: store.runs.requeue,
        RunStatus.RUNNING: lambda id: store.runs.start(id, lease),
        RunStatus.SUCCEEDED: lambda id: store.runs.finish(id, RunStatus.SUCCEEDED),
        RunStatus.FAILED: lambda id: store.runs.finish(id, RunStatus.FAILED),
        RunStatus.CANCELLED: lambda id: store.runs.finish(id, RunStatus.CANCELLED),
    }
    for before, after in itertools.product(RunStatus, RunStatus):
        run = store.runs.queue("p1")
        if before is not RunStatus.QUEUED:
            run = store.runs.start(run.id, lease)
        if before.ended:
            run = moves[before](run.id)
        if after in TRANSITIONS[before]:
            assert moves[after](run.id).status is after
            if not after.ended:
                store.runs.finish(run.id, RunStatus.CANCELLED)
            continue
        with pytest.raises(ConflictError) as raised:
            moves[after](run.id)
        assert raised.value.code == "store.run_state"
        assert store.runs.get(run.id) == run
        if not before.ended:
            store.runs.finish(run.id, RunStatus.CANCELLED)


def test_a_run_that_is_queued_again_counts_its_attempts_and_ends_the_one_before(store: Store) -> None:
    run, lease = start_run(store)
    dead = store.attempt(run.id, lease)
    again = store.runs.requeue(run.id)
    assert (again.status, again.attempt, again.error) == (RunStatus.QUEUED, 2, None)
    second = store.runs.start(run.id, lease)
    assert (second.attempt, second.started_at) == (2, run.started_at)
    dead.close()


def test_runs_are_listed_newest_first_by_pipeline_and_status(store: Store) -> None:
    save_pipeline(store, "p1")
    save_pipeline(store, "p2")
    ids = [store.runs.queue(pipeline).id for pipeline in ("p1", "p2")]
    for _ in range(2):
        store.runs.finish(next(run.id for run in store.runs.list("p1")), RunStatus.CANCELLED)
        ids.append(store.runs.queue("p1").id)
    assert [run.id for run in store.runs.list()] == ids[::-1]
    assert [run.id for run in store.runs.list("p1")] == [ids[3], ids[2], ids[0]]
    assert [run.id for run in store.runs.list("p1", limit=2)] == [ids[3], ids[2]]
    assert [run.id for run in store.runs.list(status=RunStatus.CANCELLED)] == [ids[2], ids[0]]


def test_a_run_starts_under_the_lease_of_its_own_pipeline_only(store: Store) -> None:
    save_pipeline(store, "p1")
    save_pipeline(store, "p2")
    run = store.runs.queue("p1")
    other = store.leases.acquire("p2", "w1", MINUTE)
    with pytest.raises(ValueError, match="the lease of p2"):
        store.runs.start(run.id, other)
    assert store.runs.get(run.id).status is RunStatus.QUEUED


def test_a_worker_that_lost_its_lease_moves_no_run(store: Store) -> None:
    run, lost = start_run(store, ttl=GONE)
    store.leases.acquire("p1", "w2", MINUTE)
    for move in (
        lambda: store.runs.finish(run.id, RunStatus.SUCCEEDED, lease=lost),
        lambda: store.runs.requeue(run.id, lease=lost),
        lambda: store.runs.start(run.id, lost),
    ):
        with pytest.raises(Fenced) as raised:
            move()
        assert raised.value.code == "store.lease_lost"
    assert store.runs.get(run.id).status is RunStatus.RUNNING


def test_a_run_does_not_end_in_a_state_that_is_no_end(store: Store) -> None:
    run, _ = start_run(store)
    with pytest.raises(ValueError, match="no end"):
        store.runs.finish(run.id, RunStatus.QUEUED)


def test_a_live_lease_keeps_others_out_and_says_whose_it_is(store: Store) -> None:
    save_pipeline(store)
    lease = store.leases.acquire("p1", "w1", MINUTE)
    with pytest.raises(ConflictError) as raised:
        store.leases.acquire("p1", "w2", MINUTE)
    assert raised.value.code == "store.leased"
    assert "w1" in raised.value.message
    assert f"{lease.expires_at:%H:%M:%S}" in raised.value.message
    assert store.leases.get("p1") == lease


def test_a_lease_that_ran_out_is_taken_over_with_the_next_epoch(store: Store) -> None:
    save_pipeline(store)
    first = store.leases.acquire("p1", "w1", GONE)
    assert store.leases.get("p1") is None
    second = store.leases.acquire("p1", "w2", MINUTE)
    assert (first.epoch, second.epoch) == (1, 2)
    with pytest.raises(Fenced) as raised:
        store.leases.renew(first, MINUTE)
    assert raised.value.code == "store.lease_lost"
    assert "w2" in raised.value.message


def test_a_lease_that_nobody_took_over_is_still_its_holders(store: Store) -> None:
    save_pipeline(store)
    lease = store.leases.acquire("p1", "w1", GONE)
    renewed = store.leases.renew(lease, MINUTE)
    assert renewed.epoch == lease.epoch
    assert renewed.expires_at > lease.expires_at
    with pytest.raises(ConflictError):
        store.leases.acquire("p1", "w2", MINUTE)


def test_a_takeover_waits_for_what_is_being_written_under_the_lease(store: Store, store_url: str) -> None:
    save_pipeline(store)
    lease = store.leases.acquire("p1", "w1", GONE)
    database = Database(store_url)
    taken: list[Lease] = []
    trying = threading.Event()

    def take() -> None:
        trying.set()
        taken.append(store.leases.acquire("p1", "w2", MINUTE))

    other = threading.Thread(target=take)
    with database.write() as transaction:
        hold(transaction, lease)
        other.start()
        assert trying.wait(HANGS)
        time.sleep(0.3)  # long enough to do it in, if it could be done
        assert taken == []
    other.join()
    assert [lease.epoch for lease in taken] == [2]
    database.close()


def test_a_released_lease_is_free_at_once_and_keeps_counting_epochs(store: Store) -> None:
    save_pipeline(store)
    lease = store.leases.acquire("p1", "w1", MINUTE)
    store.leases.release(lease)
    assert store.leases.get("p1") is None
    assert store.leases.acquire("p1", "w2", MINUTE).epoch == 2


def test_releasing_a_lost_lease_leaves_the_new_one_alone(store: Store) -> None:
    save_pipeline(store)
    lost = store.leases.acquire("p1", "w1", GONE)
    mine = store.leases.acquire("p1", "w2", MINUTE)
    store.leases.release(lost)
    assert store.leases.get("p1") == mine


def test_a_holder_that_starts_anew_fences_off_its_earlier_self(store: Store) -> None:
    save_pipeline(store)
    earlier = store.leases.acquire("p1", "w1", MINUTE)
    assert store.leases.acquire("p1", "w1", MINUTE).epoch == 2
    with pytest.raises(Fenced):
        store.leases.renew(earlier, MINUTE)


def test_of_many_who_want_a_lease_at_once_one_gets_it(store: Store) -> None:
    save_pipeline(store)
    for epoch in (1, 2):
        won: list[Lease] = []
        refused: list[str] = []

        def acquire(holder: str, won: list[Lease] = won, refused: list[str] = refused) -> None:
            try:
                won.append(store.leases.acquire("p1", holder, MINUTE))
            except ConflictError as error:
                refused.append(error.code)

        threads = [threading.Thread(target=acquire, args=(f"w{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [lease.epoch for lease in won] == [epoch]
        assert refused == ["store.leased"] * 7
        store.leases.release(won[0])


def test_a_pipeline_has_one_unfinished_run_at_a_time(store: Store) -> None:
    save_pipeline(store)
    barrier, codes = threading.Barrier(4), []

    def trigger() -> None:
        barrier.wait(HANGS)
        try:
            store.runs.queue("p1")
        except ConflictError as error:
            codes.append(error.code)

    threads = [threading.Thread(target=trigger) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS)
    assert codes == ["store.run_unfinished"] * 3
    assert len(store.runs.list("p1")) == 1


def test_what_waits_is_cancelled_at_once_and_what_runs_is_told(store: Store) -> None:
    save_pipeline(store)
    waiting = store.runs.ask_to_end(store.runs.queue("p1").id)
    assert (waiting.status, waiting.committed, waiting.cancelling) == (RunStatus.CANCELLED, 0, False)
    with pytest.raises(ConflictError) as raised:
        store.runs.ask_to_end(waiting.id)
    assert raised.value.code == "store.run_ended"
    lease = store.leases.acquire("p1", "w1", MINUTE)
    run = store.runs.queue("p1")
    assert store.runs.ask_to_end(run.id).status is RunStatus.QUEUED  # somebody is about to start it
    run = store.runs.start(run.id, lease)
    assert store.runs.ask_to_end(run.id) == store.runs.ask_to_end(run.id)
    assert store.runs.cancelling(run.id) and store.runs.get(run.id).cancelling
    assert store.runs.finish(run.id, RunStatus.CANCELLED, lease=lease).cancelling is False


def test_runs_are_sorted_and_paged_with_what_is_missing_last(store: Store) -> None:
    for name in ("p1", "p2", "p3"):
        save_pipeline(store, name)
    ended = [store.runs.queue(name).id for name in ("p1", "p2")]
    for id in ended:
        store.runs.finish(id, RunStatus.CANCELLED)
    waiting = [store.runs.queue(name).id for name in ("p3", "p1")]

    def ids(order: RunOrder, down: bool, offset: int = 0, limit: int = 10) -> list[str]:
        return [run.id for run in store.runs.page(RunFilter(), [(order, down)], offset, limit).items]

    assert ids(RunOrder.QUEUED, True) == [*waiting[::-1], *ended[::-1]]
    assert ids(RunOrder.ENDED, False) == [*ended, *sorted(waiting)]
    assert ids(RunOrder.ENDED, True) == [*ended[::-1], *sorted(waiting)]
    assert ids(RunOrder.PIPELINE_NAME, True)[:2] == [waiting[0], ended[1]]
    pages = [ids(RunOrder.STATUS, False, offset, 1) for offset in range(4)]
    assert sorted(id for page in pages for id in page) == sorted([*ended, *waiting])
    assert store.runs.page(RunFilter(pipeline="p1"), [], 0, 1).total == 2
    assert store.runs.page(RunFilter(statuses=(RunStatus.QUEUED,)), [], 5, 1) == Page([], 2)
    middle = store.runs.get(ended[1]).queued_at
    early, late = RunFilter(before=middle), RunFilter(after=middle)
    assert [store.runs.page(w, [], 0, 9).total for w in (early, late)] == [1, 3]


def test_what_a_run_has_committed_is_known_at_once_and_outlives_its_attempt(store: Store) -> None:
    run, lease = start_run(store)
    assert store.runs.get(run.id).committed is None
    attempt = store.attempt(run.id, lease)
    attempt.save("slot", {"lsn": 1}, {}, {"a": Counts(read=5, written=3, bytes=70)})
    seen = store.runs.get(run.id)
    assert (seen.committed, seen.committed_bytes, seen.streams[0].committed) == (3, 70, 3)
    store.runs.requeue(run.id)
    run = store.runs.start(run.id, lease)
    with store.attempt(run.id, lease) as again:
        again.progress(StreamProgress(stream="a", counts=Counts(read=1)))
        again.save("slot", {"lsn": 2}, {}, {"b": Counts(read=4, written=4, bytes=8)})
    attempt.close()
    ended = store.runs.finish(run.id, RunStatus.FAILED)
    assert (ended.committed, ended.committed_bytes) == (7, 78)
    assert [(s.stream, s.committed) for s in ended.streams] == [("a", 3), ("b", 4)]


def test_the_outcome_of_a_pipeline_is_that_of_its_last_run_that_nobody_cancelled(store: Store) -> None:
    save_pipeline(store, "p1")
    save_pipeline(store, "p2")
    store.runs.finish(store.runs.queue("p2").id, RunStatus.CANCELLED)
    lease = store.leases.acquire("p1", "w1", MINUTE)
    for status in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED):
        run = store.runs.start(store.runs.queue("p1").id, lease)
        done = store.runs.finish(run.id, status)
        if status is RunStatus.SUCCEEDED:
            succeeded_at = done.ended_at
    assert store.runs.outcomes(["p1", "p2"]) == {
        "p1": Outcome(status=RunStatus.FAILED, succeeded_at=succeeded_at)
    }


def test_a_run_outlives_its_pipeline_and_keeps_its_name(store: Store) -> None:
    save_pipeline(store)
    run = store.runs.queue("p1")
    with pytest.raises(ConflictError) as raised:
        store.pipelines.delete("p1")
    assert raised.value.code == "store.run_unfinished"
    store.runs.finish(run.id, RunStatus.CANCELLED)
    store.pipelines.delete("p1")
    assert store.runs.get(run.id).pipeline_name == "pipeline p1"
    assert [found.id for found in store.runs.list("p1")] == [run.id]
