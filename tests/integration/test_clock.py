"""Schedules ask for runs once, however many clocks there are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace.control.access import OPERATOR
from headrace.control.clock import Clock
from headrace.control.platform import open_store
from headrace.model.pipeline import Pipeline
from headrace.model.run import Run, RunStatus, Trigger
from tests.integration.site import Site, site

YEARLY = "0 0 1 1 *"


@pytest.fixture
def here(tmp_path: Path, store_url: str) -> Iterator[Site]:
    with site(tmp_path, store_url) as found:
        yield found


def due(here: Site, ago: timedelta = timedelta(minutes=1), **more: object) -> Pipeline:
    """A pipeline whose schedule asked for a run that long ago."""
    made = here.pipeline(("parquet", {"url": "lake"}), schedule=YEARLY, **more)
    return here.store.pipelines.save(made, datetime.now(UTC) - ago)


def clock(here: Site) -> Clock:
    return Clock(here.store, lambda level, event, **about: None)


def runs(here: Site, pipeline: Pipeline) -> list[Run]:
    return list(here.platform.runs.list(OPERATOR, pipeline.id))


def test_a_schedule_that_is_due_asks_for_one_run(here: Site) -> None:
    pipeline = due(here)
    assert [clock(here).tick(), clock(here).tick()] == [1, 0]
    (run,) = runs(here, pipeline)
    assert (run.trigger, run.status) == (Trigger.SCHEDULE, RunStatus.QUEUED)


def test_of_many_moments_that_nobody_was_there_for_one_makes_a_run(here: Site) -> None:
    pipeline = due(here, timedelta(days=5000))
    assert clock(here).tick() == 1
    here.platform.runs.cancel(OPERATOR, runs(here, pipeline)[0].id)
    assert clock(here).tick() == 0


def test_two_clocks_of_two_servers_fire_a_schedule_once(here: Site) -> None:
    pipelines = [due(here) for _ in range(5)]
    other = open_store(here.folder / "data", here.environ)
    clocks = [Clock(store, lambda level, event, **about: None) for store in (here.store, other)]
    ready = threading.Barrier(2)
    fired: list[int] = []

    def tick(mine: Clock) -> None:
        ready.wait()
        fired.append(mine.tick())

    threads = [threading.Thread(target=tick, args=(mine,)) for mine in clocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert sum(fired) == len(pipelines)
    assert [len(runs(here, pipeline)) for pipeline in pipelines] == [1] * 5


def test_while_a_run_is_unfinished_the_next_one_is_skipped_and_its_log_says_so(here: Site) -> None:
    pipeline = due(here)
    id = here.trigger(pipeline)
    assert clock(here).tick() == 0
    assert [run.id for run in runs(here, pipeline)] == [id]
    assert any("is skipped" in line for line in here.log(id))
    assert not here.store.schedules.due()


def test_a_pipeline_that_is_paused_is_not_asked_for(here: Site) -> None:
    pipeline = due(here, paused=True)
    assert clock(here).tick() == 0
    assert runs(here, pipeline) == []


def test_a_change_of_the_schedule_sets_the_next_moment_anew(here: Site) -> None:
    pipeline = due(here)
    (seen,) = here.store.schedules.due()
    here.platform.pipelines.update(OPERATOR, replace(pipeline, schedule="30 6 * * *"))
    assert here.store.schedules.due() == []
    assert here.store.schedules.fire(seen, lambda moment: moment) is None
    assert runs(here, pipeline) == []


def test_a_clock_that_goes_slow_does_not_repeat_a_moment(here: Site) -> None:
    due(here)
    (seen,) = here.store.schedules.due()
    asked: list[datetime] = []

    def following(moment: datetime) -> datetime:
        asked.append(moment)
        return moment + timedelta(days=1)

    late = replace(seen, at=seen.at)
    assert isinstance(here.store.schedules.fire(late, following), Run)
    assert asked[0] >= seen.at
