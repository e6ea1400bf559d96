"""The import of a file is killed at every step; whoever carries on leaves each row in the table once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from headrace.control.platform import Platform
from headrace.engine import failpoint
from headrace.engine.failpoint import POINTS
from headrace.engine.stop import Stop
from headrace.model.file import File, FileStatus, ImportMode, ImportPlan
from headrace.store.imports import Imports
from headrace.store.schema import files
from tests.crash.worker import KILLED, fork
from tests.integration.uploads import Person
from tests.waiting import HANGS, until

ROWS = 300
DATA = b"id,name\n" + b"".join(b"%d,name %d\n" % (n, n) for n in range(ROWS)) + b"only one\n" * 5

OURS = ("claim", "keep_rejects", "save_staged", "finish")
"""Calls to the store, before each of which the worker dies."""


@pytest.fixture
def ann(tmp_path: Path) -> Iterator[Person]:
    platform = Platform.open(tmp_path / "data", {})
    yield Person(platform)
    platform.close()


def wanted(ann: Person, mode: ImportMode = ImportMode.APPEND) -> File:
    file = ann.upload("a.csv", DATA)
    ann.platform.files.plan(ann.actor, file.id, ImportPlan(table="t", mode=mode))
    return ann.platform.files.start(ann.actor, file.id)


def worker(folder: Path, point: str) -> None:
    """Do the import that waits, and die at a point."""
    if point in OURS:
        die_before(point)
    else:
        failpoint.arm(point)
    platform = Platform.open(folder, {})
    platform.importer.step(Stop())
    platform.close()


def die_before(name: str) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if name == "save_staged":
        from headrace.control import importing

        importing._State.save_staged = die  # type: ignore[method-assign]
    else:
        setattr(Imports, name, die)


def run(folder: Path, point: str) -> int | None:
    process = fork.Process(target=worker, args=(folder, point))
    process.start()
    process.join(HANGS)
    return process.exitcode


def assert_once(ann: Person, file: File) -> None:
    found = ann.platform.files.get(ann.actor, file.id)
    assert (found.status, found.imported, found.rejected) == (FileStatus.COMPLETED, ROWS, 5), found.error
    assert [(r.code, r.count, r.first_line) for r in found.reasons] == [("COLUMN_COUNT", 5, ROWS + 2)]
    assert ann.platform.files.rejects(ann.actor, file.id).total == 5
    assert sorted(ann.table()["id"].to_pylist()) == list(range(ROWS))


@pytest.mark.parametrize(
    ("point", "mode"),
    [
        *((point, ImportMode.APPEND) for point in (*(f"{p}=kill" for p in POINTS), *OURS)),
        ("after_publish=kill", ImportMode.REPLACE),
        ("keep_rejects", ImportMode.FAIL_IF_EXISTS),
        ("finish", ImportMode.FAIL_IF_EXISTS),
    ],
)
def test_an_import_killed_at_any_step_is_exact_when_carried_on(
    tmp_path: Path, ann: Person, point: str, mode: ImportMode
) -> None:
    file = wanted(ann, mode)
    assert run(tmp_path / "data", point) == KILLED
    assert ann.platform.importer.step(Stop())
    assert_once(ann, file)
    assert not ann.platform.importer.step(Stop())


def test_a_lost_reply_to_the_publish_is_looked_into(tmp_path: Path, ann: Person) -> None:
    file = wanted(ann)
    assert run(tmp_path / "data", "after_publish=lose") == 0
    assert_once(ann, file)


def test_a_worker_that_wakes_up_after_another_took_over_publishes_nothing(
    tmp_path: Path, ann: Person
) -> None:
    file, held = wanted(ann), tmp_path / "held"
    process = fork.Process(target=worker, args=(tmp_path / "data", f"before_publish=hold:{held}"))
    process.start()
    until(held.exists, "the first worker is about to publish")
    with ann.platform._store._database.write() as transaction:  # as if it had slept past its lease
        transaction.execute(update(files).values(expires_at=datetime.now(UTC)))
    assert ann.platform.importer.step(Stop())
    assert_once(ann, file)
    held.unlink()
    process.join(HANGS)
    assert process.exitcode == 0
    assert_once(ann, file)


def test_two_files_go_into_one_table_at_once(tmp_path: Path, ann: Person) -> None:
    first, second = wanted(ann), wanted(ann)
    processes = [fork.Process(target=worker, args=(tmp_path / "data", "")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANGS)
    while ann.platform.importer.step(Stop()):
        pass
    for file in (first, second):
        assert ann.platform.files.get(ann.actor, file.id).imported == ROWS
    assert sorted(ann.table()["id"].to_pylist()) == sorted([*range(ROWS), *range(ROWS)])
