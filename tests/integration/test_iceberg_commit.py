"""What a commit to an Iceberg table does when others write, when replies are lost and when disks are full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException
from sqlalchemy.exc import OperationalError

from headrace.connector import Token, WriteMode
from headrace.connectors.iceberg.commit import PROPERTY
from headrace.errors import Fenced, NotFoundError, OutcomeUnknown, StageLost, TransientError
from tests.integration.iceberg_lake import Lake, interfere, stream
from tests.waiting import HANGS

APPEND, REPLACE, UPSERT = WriteMode.APPEND, WriteMode.REPLACE, WriteMode.UPSERT
ORDERS = stream()
NAME = ("public", "orders")


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path / "lake")
    yield lake
    lake.target.close()


def lose_reply() -> None:
    raise OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly"))


def append_as_another(lake: Lake, id: int) -> None:
    catalog = lake.foreign()
    table = catalog.load_table(NAME)
    table.append(pa.table({"id": [id], "note": ["foreign"]}))
    catalog.close()


def ids(lake: Lake) -> list[int]:
    return [row["id"] for row in lake.rows(ORDERS)]


def test_the_same_token_again_changes_nothing(lake: Lake) -> None:
    staged = lake.stage(ORDERS, APPEND, [{"id": 1}])
    for _ in range(2):
        lake.target.publish(ORDERS, APPEND, [staged], lake.token(1))
    assert ids(lake) == [1]
    assert len(lake.table(ORDERS).metadata.snapshots) == 1


def test_an_older_epoch_is_fenced_off(lake: Lake) -> None:
    lake.load(ORDERS, APPEND, [{"id": 1}])
    lake.target.publish(ORDERS, APPEND, [], lake.token(5, epoch=3))
    late = lake.stage(ORDERS, APPEND, [{"id": 2}])
    with pytest.raises(Fenced):
        lake.target.publish(ORDERS, APPEND, [late], lake.token(6, epoch=2))
    with pytest.raises(Fenced):
        lake.target.publish(ORDERS, APPEND, [late], lake.token(4, epoch=3))
    assert ids(lake) == [1]


@pytest.mark.parametrize("newer", ["rows", "nothing"])
def test_a_worker_that_was_overtaken_between_look_and_commit_is_fenced_off(lake: Lake, newer: str) -> None:
    lake.load(ORDERS, UPSERT, [{"id": 1}])
    staged = lake.stage(ORDERS, UPSERT, [{"id": 1, "note": "zombie"}, {"id": 2}])
    other = Lake(lake.config.warehouse)

    def overtake() -> None:
        taken = [other.stage(ORDERS, UPSERT, [{"id": 7}])] if newer == "rows" else []
        other.target.publish(ORDERS, UPSERT, taken, other.token(2, epoch=9))

    interfere(lake, before=overtake)
    with pytest.raises(Fenced):
        lake.target.publish(ORDERS, UPSERT, [staged], lake.token(2))
    assert ids(lake) == [1, *([7] if newer == "rows" else [])]
    other.target.close()


@pytest.mark.parametrize("mode", list(WriteMode))
def test_a_foreign_append_in_between_is_neither_lost_nor_in_the_way(lake: Lake, mode: WriteMode) -> None:
    lake.load(ORDERS, mode, [{"id": 1, "note": "old"}])
    staged = lake.stage(ORDERS, mode, [{"id": 1, "note": "new"}, {"id": 3, "note": "new"}])

    def meanwhile() -> None:
        append_as_another(lake, 2)
        append_as_another(lake, 3)

    interfere(lake, before=meanwhile)
    lake.target.publish(ORDERS, mode, [staged], lake.token(2))
    found = [(row["id"], row["note"]) for row in lake.rows(ORDERS)]
    assert (
        found
        == {
            APPEND: [(1, "new"), (1, "old"), (2, "foreign"), (3, "foreign"), (3, "new")],
            UPSERT: [(1, "new"), (2, "foreign"), (3, "new")],
            REPLACE: [(1, "new"), (3, "new")],
        }[mode]
    )
    append_as_another(lake, 4)
    assert lake.target.committed(ORDERS, "p") == lake.token(2)


def test_two_pipelines_on_one_table_keep_a_token_each(lake: Lake) -> None:
    lake.load(ORDERS, APPEND, [{"id": 1}])
    other = Token(pipeline="q", epoch=7, sequence=40, position={"lsn": 'a"\U0001f600'})
    lake.target.publish(ORDERS, APPEND, [lake.stage(ORDERS, APPEND, [{"id": 2}])], other)
    lake.load(ORDERS, APPEND, [{"id": 3}])
    assert lake.target.committed(ORDERS, "q") == other
    assert lake.target.committed(ORDERS, "p") == lake.token(2)
    assert ids(lake) == [1, 2, 3]


def test_a_token_whose_property_is_gone_is_found_in_the_snapshots(lake: Lake) -> None:
    lake.load(ORDERS, APPEND, [{"id": 1}])
    append_as_another(lake, 2)
    catalog = lake.foreign()
    with catalog.load_table(NAME).transaction() as transaction:
        transaction.remove_properties(f"{PROPERTY}p")
    catalog.close()
    assert lake.target.committed(ORDERS, "p") == lake.token(1)


def test_a_table_that_the_user_dropped_has_no_token_and_takes_no_old_rows(lake: Lake) -> None:
    staged = lake.stage(ORDERS, APPEND, [{"id": 1}])
    lake.publish(ORDERS, APPEND)
    catalog = lake.foreign()
    catalog.drop_table(NAME)
    catalog.close()
    assert lake.target.committed(ORDERS, "p") is None
    assert lake.target.describe(ORDERS) is None
    with pytest.raises(NotFoundError):
        lake.target.publish(ORDERS, APPEND, [staged], lake.token(2))
    lake.target.prepare(ORDERS, APPEND)
    with pytest.raises(StageLost, match="made anew"):
        lake.target.publish(ORDERS, APPEND, [staged], lake.token(2))
    lake.target.discard(ORDERS, [staged])


@pytest.mark.parametrize("mode", list(WriteMode))
def test_a_lost_reply_to_a_commit_that_was_made_is_a_success(lake: Lake, mode: WriteMode) -> None:
    lake.load(ORDERS, mode, [{"id": 1}, {"id": 2}])
    staged = lake.stage(ORDERS, mode, [{"id": 2}, {"id": 3}])
    interfere(lake, after=lose_reply)
    for _ in range(2):
        lake.target.publish(ORDERS, mode, [staged], lake.token(2))
    assert ids(lake) == {APPEND: [1, 2, 2, 3], UPSERT: [1, 2, 3], REPLACE: [2, 3]}[mode]


@pytest.mark.parametrize("mode", list(WriteMode))
def test_a_commit_that_may_have_been_made_is_left_open_and_can_be_made_again(
    lake: Lake, mode: WriteMode
) -> None:
    lake.load(ORDERS, mode, [{"id": 1}, {"id": 2}])
    staged = lake.stage(ORDERS, mode, [{"id": 2}, {"id": 3}])
    interfere(lake, before=lose_reply)
    with pytest.raises(OutcomeUnknown) as caught:
        lake.target.publish(ORDERS, mode, [staged], lake.token(2))
    assert caught.value.code == "iceberg.commit_unknown"
    assert ids(lake) == [1, 2]
    assert lake.target.committed(ORDERS, "p") == lake.token(1)
    lake.target.publish(ORDERS, mode, [staged], lake.token(2))
    assert ids(lake) == {APPEND: [1, 2, 2, 3], UPSERT: [1, 2, 3], REPLACE: [2, 3]}[mode]


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_commit_that_was_made_but_is_called_a_conflict_loses_no_file(lake: Lake, overtaken: bool) -> None:
    lake.load(ORDERS, UPSERT, [{"id": 1}, {"id": 2}])
    staged = lake.stage(ORDERS, UPSERT, [{"id": 2}, {"id": 3}])

    def conflict_with_itself() -> None:
        if overtaken:
            other = Lake(lake.config.warehouse)
            other.target.publish(ORDERS, UPSERT, [], other.token(3, epoch=2))
            other.target.close()
        raise CommitFailedException("the transport sent it twice")

    interfere(lake, after=conflict_with_itself)
    lake.target.publish(ORDERS, UPSERT, [staged], lake.token(2))
    assert ids(lake) == [1, 2, 3]


WRITER = """
import sys
from tests.integration.iceberg_lake import Lake, stream
from headrace.connector import WriteMode
folder, pipeline = sys.argv[1:]
lake, orders = Lake(folder), stream()
for n in range(4):
    staged = lake.stage(orders, WriteMode.APPEND, [{"id": n, "note": pipeline}])
    lake.target.publish(orders, WriteMode.APPEND, [staged], lake.token(n + 1, pipeline=pipeline))
lake.target.close()
"""


def test_processes_that_begin_at_once_on_a_new_table_all_get_their_rows_in(tmp_path: Path) -> None:
    names = ("p", "q")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "lake", name]) for name in names]
    assert [writer.wait(HANGS) for writer in writers] == [0, 0]
    lake = Lake(tmp_path / "lake")
    found = {(row["note"], row["id"]) for row in lake.rows(ORDERS)}
    assert found == {(name, n) for name in names for n in range(4)}
    assert all(lake.target.committed(ORDERS, name) == lake.token(4, pipeline=name) for name in names)
    lake.target.close()


def test_threads_stage_and_look_while_another_publishes(lake: Lake) -> None:
    lake.load(ORDERS, APPEND, [])
    staged: list[Any] = []

    def stage(n: int) -> None:
        staged.append(lake.stage(ORDERS, APPEND, [{"id": n}]))

    threads = [threading.Thread(target=stage, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    append_as_another(lake, 100)
    for thread in threads:
        thread.join()
    lake.publish(ORDERS, APPEND, *staged)
    assert sorted(ids(lake)) == [0, 1, 2, 3, 4, 5, 100]


FULL = """
import json, os, resource, sys
import pyarrow as pa
from tests.integration.iceberg_lake import Lake, stream
from headrace.connector import Batch, WriteMode
from headrace.errors import TransientError

def full(limit, action):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        action()
    except TransientError as error:
        return error.code
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

lake = Lake(sys.argv[1])
for mode in WriteMode:
    orders = stream(mode.value)
    lake.load(orders, mode, [{"id": -1, "note": "before"}])
    notes = [os.urandom(50).hex() for _ in range(5000)]
    rows = pa.record_batch([pa.array(range(5000), pa.int64()), pa.array(notes)], schema=orders.schema)
    noise = Batch(orders.id, rows)
    codes = [full(100_000, lambda: lake.stage_batches(orders, mode, [noise]))]
    staged = lake.stage_batches(orders, mode, [noise])
    codes.append(full(1_000, lambda: lake.publish(orders, mode, staged)))
    counts = [lake.table(orders).scan().count()]
    lake.publish(orders, mode, staged)
    counts.append(lake.table(orders).scan().count())
    print(json.dumps([codes, counts]))
lake.target.close()
"""


def test_a_full_disk_leaves_tables_as_they_were_and_the_same_rows_go_in_later(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, tmp_path / "lake"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.returncode == 0, done.stderr
    full = ["iceberg.disk_full", "iceberg.disk_full"]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [[full, [1, 5000 if mode is REPLACE else 5001]] for mode in WriteMode]


def test_a_conflict_without_end_gives_up_and_says_so(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.connectors.iceberg.commit.ATTEMPTS", 2)
    lake.load(ORDERS, APPEND, [])
    staged = lake.stage(ORDERS, APPEND, [{"id": 1}])
    catalog = interfere(lake)

    def always() -> None:
        append_as_another(lake, 0)
        catalog.before = always

    catalog.before = always
    with pytest.raises(TransientError) as caught:
        lake.target.publish(ORDERS, APPEND, [staged], lake.token(2))
    assert caught.value.code == "iceberg.conflict"
    assert ids(lake) == [0, 0]


def test_every_file_of_a_local_table_is_on_the_disk_before_the_publish_returns(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    really = os.fsync

    def fsync(handle: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{handle}").readlink()))
        really(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    lake.load(ORDERS, UPSERT, [{"id": 1}])
    lake.load(ORDERS, UPSERT, [{"id": 1, "note": "b"}])
    folder = tmp_path / "lake" / "public" / "orders"
    files = {str(path) for path in folder.rglob("*") if path.is_file()}
    assert len(files) >= 8
    assert files | {str(folder / "data"), str(folder / "metadata")} <= synced
