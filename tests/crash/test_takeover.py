"""Workers and servers die, freeze or lose their store in mid-load: another goes on, the rows are exact."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace.control.access import OPERATOR
from headrace.model.run import RunStatus, Trigger
from servers.postgres import PostgresServer
from servers.tcp_proxy import TcpProxy
from tests.crash.tables import Target
from tests.crash.truth import LOAD, assert_holds, loaded
from tests.integration.site import Site, children, kill, site
from tests.waiting import until

SOON = {"retry_backoff": timedelta(milliseconds=1)}


@pytest.fixture
def here(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with site(tmp_path, f"sqlite:///{tmp_path}/headrace.db") as found:
        yield found


@pytest.mark.parametrize(
    ("point", "target"),
    [("after_stage", "iceberg"), ("before_publish", "postgres"), ("after_publish", "iceberg")],
    indirect=["target"],
)
def test_the_run_of_a_worker_that_was_killed_is_taken_over(
    here: Site, target: Target, tmp_path: Path, point: str
) -> None:
    hold = tmp_path / "hold"
    id = here.trigger(here.pipeline(target))
    dying = here.start("worker", FAILPOINT=f"{point}=hold:{hold}")
    until(hold.exists, "the middle of the load")
    dying.signal(signal.SIGKILL)  # its run's process finds out by itself, while another worker begins
    dying.end()
    here.start("worker")
    run = here.ended(id)
    assert (run.status, run.committed) == (RunStatus.SUCCEEDED, LOAD["rows"])
    assert run.attempt >= 2
    assert_holds(target, loaded())


@pytest.mark.parametrize("target", ["iceberg"], indirect=True)
def test_when_everything_is_killed_a_new_start_ends_the_run(
    here: Site, target: Target, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    pipeline = here.pipeline(target)
    id = here.trigger(pipeline)
    dying = here.start("serve", "--port", "0", FAILPOINT=f"before_publish=hold:{hold}")
    until(hold.exists, "the middle of the load")
    kill(dying)
    assert here.run(id).status is RunStatus.RUNNING
    here.start("serve", "--port", "0")
    assert here.ended(id).status is RunStatus.SUCCEEDED
    assert_holds(target, loaded())
    (only,) = here.platform.runs.list(OPERATOR, pipeline.id)
    assert only.attempt == 2


def test_a_run_that_a_worker_left_behind_waits_again_where_no_worker_is(here: Site, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    id = here.trigger(here.pipeline(("parquet", {"url": str(tmp_path / "lake")})))
    dying = here.start("worker", FAILPOINT=f"before_publish=hold:{hold}")
    until(hold.exists, "the middle of the load")
    kill(dying)
    here.start("serve", "--port", "0", "--no-worker")
    until(lambda: here.run(id).status is RunStatus.QUEUED, "the run's return to the queue")


@pytest.mark.parametrize("target", ["iceberg", "postgres"], indirect=True)
def test_a_worker_that_was_frozen_past_its_lease_leaves_when_it_thaws(
    here: Site, target: Target, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    pipeline = here.pipeline(target)
    id = here.trigger(pipeline)
    frozen = here.start("worker", FAILPOINT=f"before_publish=hold:{hold}", LEASE_SECONDS="3")
    until(hold.exists, "the middle of the load")
    processes = [frozen.pid, *children(frozen.pid)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    here.start("worker")
    run = here.ended(id)
    assert (run.status, run.attempt) == (RunStatus.SUCCEEDED, 2)
    hold.unlink()  # it wakes in the midst of its publish
    for pid in reversed(processes):
        os.kill(pid, signal.SIGCONT)
    frozen.wait_for("taken over by another worker")
    assert here.run(id) == run
    assert_holds(target, loaded())


@pytest.mark.parametrize("target", ["iceberg"], indirect=True)
@pytest.mark.parametrize("lease", [30, 1], ids=["for less than a lease", "for longer"])
def test_a_store_that_was_away_in_mid_load_costs_an_attempt_and_no_row(
    postgres_server: PostgresServer, postgres_url: str, target: Target, tmp_path: Path, lease: int
) -> None:
    hold = tmp_path / "hold"
    server = postgres_server
    with TcpProxy(server.host, server.port) as proxy, site(tmp_path, postgres_url) as here:
        id = here.trigger(here.pipeline(target, tuning=SOON))
        through = postgres_url.replace(f":{server.port}/", f":{proxy.port}/")
        working = here.start(
            "worker", STORE=through, FAILPOINT=f"after_stage=hold:{hold}@3", LEASE_SECONDS=str(lease)
        )
        until(hold.exists, "the middle of the load")
        proxy.refusing = True
        proxy.cut()
        hold.unlink()  # what was staged can't be remembered now
        working.wait_for("the store is away")
        if lease == 1:
            until(lambda: not children(working.pid), "the end of a process that has lost its lease")
        proxy.refusing = False
        run = here.ended(id)
        assert (run.status, run.committed) == (RunStatus.SUCCEEDED, LOAD["rows"])
        working.wait_for("the store is back")
    assert_holds(target, loaded())


def test_two_servers_and_two_workers_share_the_work_of_one_store(postgres_url: str, tmp_path: Path) -> None:
    def lake(number: int) -> Target:
        return "parquet", {"url": str(tmp_path / f"lake{number}")}

    with site(tmp_path, postgres_url) as here:
        pipelines = [here.pipeline(lake(n)) for n in range(4)]
        ids = [here.trigger(pipeline) for pipeline in pipelines]
        scheduled = here.pipeline(lake(4), schedule="0 0 1 1 *")
        past = datetime.now(UTC) - timedelta(days=800)  # two moments that nobody was there for
        here.store.pipelines.save(scheduled, past)
        starts = [("serve", "--port", "0"), ("serve", "--port", "0"), ("worker",), ("worker",)]
        for arguments in starts:
            here.start(*arguments, WORKER_RUNS="1")
        for id in ids:
            run = here.ended(id)
            assert (run.status, run.attempt) == (RunStatus.SUCCEEDED, 1)
        until(lambda: here.platform.runs.list(OPERATOR, scheduled.id), "the scheduled run")
        (run,) = here.platform.runs.list(OPERATOR, scheduled.id)
        assert run.trigger is Trigger.SCHEDULE
        assert (here.ended(run.id).status, run.attempt) == (RunStatus.SUCCEEDED, 1)
        assert not here.store.schedules.due()
        assert [r.id for r in here.platform.runs.list(OPERATOR, scheduled.id)] == [run.id]
    for number in range(5):
        assert_holds(lake(number), loaded())
