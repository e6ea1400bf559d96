"""Ctrl-C, SIGTERM and SIGKILL on a real process, and what the next run makes of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli import Process, Result, process

LINE = ("run", "--to", "parquet:./out", "--parallelism", "1", "--from")
SLOW = "generator:orders,customers?rows=80&slices=4&batch_rows=10&delay=0.5"
STUCK = "generator:orders?rows=4000&slices=2&batch_rows=10&delay=0.5"


def interrupted(folder: Path, address: str, *signals: int) -> Result:
    """A run that gets the signals one by one, each once the one before was heard."""
    going = Process(*LINE, address, "-o", "ndjson", folder=folder)
    going.wait_for('"progress"')
    for number, word in zip(signals, ("at the next checkpoint", "at once"), strict=False):
        going.signal(number)
        going.wait_for(word)
    return going.end()


def last(done: Result) -> dict[str, object]:
    event: dict[str, object] = json.loads(done.out.splitlines()[-1])
    return event


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_ends_the_run_at_a_checkpoint_and_the_next_run_finishes_it(
    tmp_path: Path, number: int, code: int
) -> None:
    done = interrupted(tmp_path, SLOW, number)
    assert (done.code, last(done)["status"]) == (code, "cancelled")
    assert "Traceback" not in done.err
    again = process(*LINE, SLOW, "--json", folder=tmp_path)
    (run,) = again.document["runs"]
    assert (again.code, run["status"], run["written"]) == (0, "succeeded", 160)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_the_run_at_once(tmp_path: Path, number: int, code: int) -> None:
    done = interrupted(tmp_path, STUCK, number, number)
    assert (done.code, last(done)["status"]) == (code, "cancelled")
    assert not list(tmp_path.glob("out/**/orders/*.parquet")) or last(done)["written"] == 0


def test_a_run_that_was_killed_is_carried_on_at_once(tmp_path: Path) -> None:
    going = Process(*LINE, SLOW, "-o", "ndjson", folder=tmp_path)
    going.wait_for('"succeeded"')
    going.signal(signal.SIGKILL)
    assert going.end().code == -signal.SIGKILL
    again = process(*LINE, SLOW, "--json", folder=tmp_path)
    (run,) = again.document["runs"]
    assert (again.code, run["status"], run["attempt"], run["written"]) == (0, "succeeded", 2, 160)
    (only,) = process("status", "--json", folder=tmp_path).document["runs"]
    assert only["run"] == run["run"]
