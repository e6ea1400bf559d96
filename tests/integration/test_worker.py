"""Workers as real processes: what they take up, how it ends, and how they leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.control import execution, worker
from headrace.control.access import OPERATOR
from headrace.control.follow import follow
from headrace.control.pipelines import job
from headrace.control.watch import Nobody
from headrace.control.worker import Place, Worker
from headrace.engine.stop import Stop
from headrace.errors import ConflictError
from headrace.model.pipeline import Pipeline
from headrace.model.run import Run, RunStatus
from tests.crash.truth import LOAD, assert_holds, loaded
from tests.integration.site import Site, Target, children, site
from tests.waiting import HANGS, until

STUCK = {**LOAD, "rows": 100_000, "slices": 1, "batch_rows": 10, "delay": 0.5}
SOON = {"retry_backoff": timedelta(milliseconds=1)}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, f"sqlite:///{tmp_path}/headrace.db") as found:
        yield found


@pytest.fixture
def on_both(tmp_path: Path, store_url: str) -> Iterator[Site]:
    """Once on each database."""
    with site(tmp_path, store_url) as found:
        yield found


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return "parquet", {"url": str(tmp_path / "lake")}


def test_a_queued_run_is_taken_up_and_ends(on_both: Site, target: Target) -> None:
    here = on_both
    pipeline = here.pipeline(target)
    id = here.trigger(pipeline)
    here.start("worker")
    run = here.ended(id)
    assert (run.status, run.committed) == (RunStatus.SUCCEEDED, LOAD["rows"])
    assert_holds(target, loaded())
    until(lambda: here.store.leases.get(pipeline.id) is None, "the end of the lease")


def test_of_two_triggers_one_is_refused(on_both: Site, target: Target) -> None:
    here = on_both
    pipeline = here.pipeline(target)
    here.trigger(pipeline)
    with pytest.raises(ConflictError) as raised:
        here.trigger(pipeline)
    assert raised.value.code == "store.run_unfinished"
    assert len(here.platform.runs.list(OPERATOR, pipeline.id)) == 1


def test_no_more_runs_than_were_asked_for_are_taken_up_at_a_time(here: Site, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    pipelines = [here.pipeline(("parquet", {"url": str(tmp_path / str(n))})) for n in range(3)]
    ids = [here.trigger(pipeline) for pipeline in pipelines]
    here.start("worker", "--workers", "1", FAILPOINT=f"before_publish=hold:{hold}")
    for id in ids:  # the oldest first
        until(hold.exists, "the publish")
        assert here.run(id).status is RunStatus.RUNNING
        assert sum(here.run(other).status is RunStatus.RUNNING for other in ids) == 1
        hold.unlink()
        assert here.ended(id).status is RunStatus.SUCCEEDED


def test_what_a_run_can_not_start_with_is_its_failure(here: Site, target: Target) -> None:
    pipeline = here.pipeline(target)
    gone = here.platform.connections.get(OPERATOR, pipeline.source)
    here.store.connections.save(type(gone)(**{**vars_of(gone), "connector": "no_such"}))
    id = here.trigger(pipeline)
    here.start("worker")
    run = here.ended(id)
    assert run.status is RunStatus.FAILED
    assert run.error
    assert any(run.error.code in line for line in here.log(id))


def vars_of(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def test_a_process_that_dies_is_tried_again_and_the_rows_are_exact(here: Site, target: Target) -> None:
    id = here.trigger(here.pipeline(target, tuning=SOON))
    here.start("worker", FAILPOINT="after_stage=kill@2")
    run = here.ended(id)
    assert run.status is RunStatus.SUCCEEDED
    assert run.attempt > 1
    assert any("worker.run_died" in line for line in here.log(id))
    assert_holds(target, loaded())


def test_a_process_that_always_dies_fails_the_run(here: Site, target: Target) -> None:
    id = here.trigger(here.pipeline(target, tuning={**SOON, "max_retries": 1}))
    here.start("worker", FAILPOINT="after_stage=kill")
    run = here.ended(id)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 2)
    assert run.error and run.error.code == "worker.run_died"


def test_a_source_that_says_nothing_ends_the_attempt_and_is_tried_again(here: Site, target: Target) -> None:
    tuning = {**SOON, "max_retries": 1, "stall_after": timedelta(seconds=0.4)}
    id = here.trigger(here.pipeline(target, {**LOAD, "delay": 5}, tuning=tuning))
    here.start("worker")
    run = here.ended(id)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 2)
    assert [s.error.code for s in run.streams if s.error] == ["engine.stalled"]


# Leaving


def test_a_worker_that_is_told_to_stop_hands_its_runs_over(here: Site, target: Target) -> None:
    pipeline = here.pipeline(target, {**LOAD, "delay": 0.3})
    id = here.trigger(pipeline)
    leaving = here.start("worker")
    until(lambda: any(s.counts.read for s in here.run(id).streams), "the first rows")
    leaving.signal(signal.SIGINT)
    assert leaving.end().code == 0
    run = here.run(id)
    assert (run.status, run.cancelling) == (RunStatus.QUEUED, False)
    assert here.store.leases.get(pipeline.id) is None
    here.start("worker")
    assert here.ended(id).status is RunStatus.SUCCEEDED
    assert_holds(target, loaded())


def test_the_second_signal_waits_for_no_checkpoint(here: Site, target: Target) -> None:
    id = here.trigger(here.pipeline(target, STUCK))
    leaving = here.start("worker")
    until(lambda: any(s.counts.read for s in here.run(id).streams), "the first rows")
    leaving.signal(signal.SIGTERM)
    leaving.wait_for("stopping: ")
    leaving.signal(signal.SIGTERM)
    leaving.wait_for("stopping at once")
    assert leaving.end().code == 0
    assert here.run(id).status is RunStatus.QUEUED


# Cancelling


@contextmanager
def work(here: Site, limit: int = 1) -> Iterator[Worker]:
    """A worker in this process; its runs are in processes of their own."""
    said: list[tuple[str, str]] = []
    place = Place(folder=here.folder / "data", environ=here.environ)
    working = Worker(
        here.store, place, limit, timedelta(seconds=30), lambda level, event, **_: said.append((level, event))
    )
    thread = threading.Thread(target=working.run)
    thread.start()
    yield working
    working.abort()
    thread.join(HANGS)
    assert not thread.is_alive()


def test_what_waits_is_cancelled_at_once(here: Site, target: Target) -> None:
    id = here.trigger(here.pipeline(target))
    assert here.platform.runs.cancel(OPERATOR, id).status is RunStatus.CANCELLED
    with work(here):
        other = here.trigger(here.pipeline(target))
        assert here.ended(other).status is RunStatus.SUCCEEDED
    assert here.run(id).attempt == 1
    assert not here.log(id)


def test_what_runs_is_cancelled_at_the_next_checkpoint(here: Site, target: Target) -> None:
    pipeline = here.pipeline(target, {**LOAD, "delay": 0.3})
    id = here.trigger(pipeline)
    with work(here):
        until(lambda: any(s.counts.read for s in here.run(id).streams), "the first rows")
        assert here.platform.runs.cancel(OPERATOR, id).cancelling
        run = here.ended(id)
        assert (run.status, run.attempt, run.error) == (RunStatus.CANCELLED, 1, None)
        again = here.trigger(pipeline)
        assert here.ended(again).status is RunStatus.SUCCEEDED
    assert_holds(target, loaded())


def test_a_cancelled_run_that_hangs_is_killed(
    here: Site, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "KILL_AFTER", 0.0)
    monkeypatch.setitem(here.environ, "HEADRACE_FAILPOINT", f"before_publish=hold:{tmp_path / 'hold'}")
    id = here.trigger(here.pipeline(target))
    with work(here):
        until((tmp_path / "hold").exists, "the publish")
        here.platform.runs.cancel(OPERATOR, id)
        assert here.ended(id).status is RunStatus.CANCELLED


def test_a_cancel_that_meets_the_last_commit_changes_nothing(
    here: Site, target: Target, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    here.environ["HEADRACE_FAILPOINT"] = f"after_publish=hold:{hold}"
    id = here.trigger(here.pipeline(target))
    with work(here):
        until(hold.exists, "the publish")
        here.platform.runs.cancel(OPERATOR, id)
        hold.unlink()
        assert here.ended(id).status is RunStatus.SUCCEEDED
    assert_holds(target, loaded())


def run_here(here: Site, pipeline: Pipeline) -> Iterator[Run]:
    """As the command line does it."""
    source, target = here.platform.pipelines.ends(OPERATOR, pipeline)
    ready = job(pipeline, source, target)
    yield here.platform.runs.run(OPERATOR, ready, Stop(), Nobody())


def test_a_run_of_the_command_line_can_be_cancelled_too(
    here: Site, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "LOOK", 0.05)
    monkeypatch.setattr(execution, "GENTLE", 0.0)
    pipeline = here.pipeline(target, STUCK)
    ended: list[Run] = []
    thread = threading.Thread(target=lambda: ended.extend(run_here(here, pipeline)))
    thread.start()
    until(lambda: any(s.counts.read for r in runs_of(here, pipeline) for s in r.streams), "the first rows")
    here.platform.runs.cancel(OPERATOR, runs_of(here, pipeline)[0].id)
    thread.join(HANGS)
    assert [run.status for run in ended] == [RunStatus.CANCELLED]


def runs_of(here: Site, pipeline: Pipeline) -> list[Run]:
    return list(here.platform.runs.list(OPERATOR, pipeline.id))


# Secrets


def test_no_secret_is_in_the_arguments_or_the_environment_of_a_run(
    here: Site, target: Target, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    id = here.trigger(here.pipeline(target))
    working = here.start(
        "worker",
        FAILPOINT=f"before_publish=hold:{hold}",
        ADMIN_PASSWORD="canary-3c1",
        SMTP_PASSWORD="canary-4",
    )
    until(hold.exists, "the publish")
    (child,) = children(working.pid)
    seen = Path(f"/proc/{child}/environ").read_text() + Path(f"/proc/{child}/cmdline").read_text()
    assert "canary" not in seen
    assert here.environ["HEADRACE_STORE"] not in seen
    hold.unlink()
    assert here.ended(id).status is RunStatus.SUCCEEDED


# Following


def test_the_log_of_a_run_is_followed_to_its_end(here: Site, target: Target) -> None:
    id = here.trigger(here.pipeline(target))
    lines = follow(here.platform.runs, id, lambda: OPERATOR, pause=lambda: None)
    with work(here):
        seen = [line.line for line in lines]
    assert seen == list(range(1, len(here.log(id)) + 1))
    assert len(seen) > 1
    assert [line.line for line in follow(here.platform.runs, id, lambda: OPERATOR, after=1)] == seen[1:]
