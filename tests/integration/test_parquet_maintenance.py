"""Orphans in a folder of Parquet tables: what lost loads left goes, what may yet be published stays."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.connector import Batch, Maintenance, Slice, Staged
from headrace.connectors.parquet.log import Commit, Log, Manifest
from headrace.connectors.parquet.target import ParquetTarget
from headrace.errors import NotFoundError, StageLost
from tests.cli import in_process
from tests.integration.parquet_folder import (
    APPEND,
    ORDERS,
    REPLACE,
    append,
    data_keys,
    ids,
    place,
    rows,
    stage,
    target,
    token,
)

NOW = Maintenance(orphans_after=0)
DAYS = Maintenance(orphans_after=3)


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return place(request.param, request, tmp_path)


@pytest.fixture
def local(tmp_path: Path) -> dict[str, Any]:
    return {"url": str(tmp_path / "out")}


def maintain(to: ParquetTarget, wanted: Maintenance) -> dict[str, int]:
    """How many files went, by table."""
    done = list(to.maintain(wanted))
    assert [one.error for one in done if one.error] == []
    assert {one.step for one in done} <= {"orphans"}
    return {one.table: one.counts["files_removed"] for one in done}


def age(to: ParquetTarget, days: float, staged: Staged | None = None) -> Staged | None:
    """All files, and what was staged, are older by so many days."""
    for path in Path(to.config.url).rglob("*"):
        then = path.stat().st_mtime - days * 86_400
        os.utime(path, (then, then))
    return staged and replace(staged, detail=staged.detail | {"at": staged.detail["at"] - days * 86_400})


def test_files_that_no_commit_names_are_removed_and_the_table_stays(settings: dict[str, Any]) -> None:
    to = target(settings, partition_by="country")
    append(to, [1, 2], token(1))
    lost = stage(to, rows(3) + rows(4, country="a=b/c"))
    assert len(data_keys(to)) == 3
    (planned,) = to.maintain(replace(NOW, dry_run=True))
    assert planned.counts == {"files_removed": 2, "bytes_removed": lost.bytes}
    assert len(data_keys(to)) == 3
    (done,) = to.maintain(NOW)
    assert (done.table, done.step, done.counts) == ("public.orders", "orphans", planned.counts)
    assert len(data_keys(to)) == 1
    assert maintain(to, NOW) == {"public.orders": 0}
    append(to, [5], token(2))
    assert ids(target(settings)) == [1, 2, 5]
    assert maintain(to, replace(NOW, orphans=False)) == {}


def test_what_was_staged_not_long_ago_is_left_and_can_be_published(local: dict[str, Any]) -> None:
    to = target(local)
    append(to, [1], token(1))
    stage(to, rows(2))
    age(to, 4)
    young = stage(to, rows(3))
    assert maintain(to, DAYS) == {"public.orders": 1}
    to.publish(ORDERS, APPEND, [young], token(2))
    assert ids(to) == [1, 3]
    assert maintain(to, DAYS) == {"public.orders": 0}


def test_rows_whose_files_were_cleared_away_are_refused_and_read_again(local: dict[str, Any]) -> None:
    to = target(local)
    append(to, [1], token(1))
    old = age(to, 4, stage(to, rows(2)))
    assert old
    assert maintain(target(local), DAYS) == {"public.orders": 1}
    with pytest.raises(StageLost, match="cleared"):
        to.publish(ORDERS, APPEND, [old], token(2))
    to.discard(ORDERS, [old])
    assert to.committed(ORDERS, "p") == token(1)
    append(to, [2], token(2))
    assert ids(to) == [1, 2]


def test_a_publish_that_has_looked_before_the_files_went_is_refused(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    to, other = target(settings), target(settings)
    append(to, [1], token(1))
    staged = stage(to, rows(2))
    add, cleared = Log.add, []

    def add_late(log: Log, last: Manifest | None, commit: Commit, keep: Any) -> bool:
        if commit.token and not cleared:
            cleared.append(maintain(other, NOW))
        return add(log, last, commit, keep)

    monkeypatch.setattr(Log, "add", add_late)
    with pytest.raises(StageLost):
        to.publish(ORDERS, APPEND, [staged], token(2))
    assert cleared == [{"public.orders": 1}]
    assert ids(to) == [1]


def test_a_publish_that_lands_before_the_fence_keeps_its_files(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    to, other = target(settings), target(settings)
    append(to, [1], token(1))
    staged = stage(to, rows(2))
    fence = Log.fence

    def fence_late(log: Log, until: float, keep: Any) -> Manifest:
        to.publish(ORDERS, APPEND, [staged], token(2))
        return fence(log, until, keep)

    monkeypatch.setattr(Log, "fence", fence_late)
    assert maintain(other, NOW) == {"public.orders": 0}
    assert ids(to) == [1, 2]


def test_files_of_replaced_rows_are_kept_for_their_readers(local: dict[str, Any]) -> None:
    to = target(local, keep_replaced_hours=24)
    append(to, [1], token(1))
    to.publish(ORDERS, REPLACE, [stage(to, rows(2), mode=REPLACE)], token(2))
    age(to, 10)
    stage(to, rows(3))
    age(to, 10)
    assert maintain(to, DAYS) == {"public.orders": 1}
    assert len(data_keys(to)) == 2


def test_a_file_that_a_killed_writer_left_half_written_is_removed(local: dict[str, Any]) -> None:
    to = target(local, row_group_rows=1, partition_by="country")
    append(to, [1], token(1))
    writer = to.open(ORDERS, APPEND, Slice(key="s", reads=()))
    writer.write(Batch.of(ORDERS, rows(2)))
    commit = to.storage.create("public/orders/_commits/2")
    commit.write(b"{")
    assert len(list(to.storage.unfinished())) == 2
    assert maintain(to, DAYS) == {"public.orders": 0}
    assert maintain(to, NOW) == {"public.orders": 2}
    assert list(to.storage.unfinished()) == []
    commit.close()
    writer.close()
    assert ids(to) == [1]


def test_files_of_others_and_of_tables_inside_are_left_alone(settings: dict[str, Any]) -> None:
    to = target(settings)
    outer, inner = replace(ORDERS, namespace=None, name="a"), replace(ORDERS, namespace="a", name="data")
    for stream in (outer, inner):
        append(to, [1], token(1), stream)
    others = [
        "a/data/notes.parquet", "a/readme.txt", f"a/{'0' * 32}.parquet", f"theirs/data/{'0' * 32}.parquet",
        f"_odd/data/{'0' * 32}.parquet", f"a/data/x/{'0' * 32}.parquet", f"a/b/c/data/{'0' * 32}.parquet",
    ]  # fmt: skip
    for key in others:
        to.storage.put(key, b"1")
    before = {file.key for file in to.storage.list()}
    assert maintain(to, NOW) == {"a": 0, "a.data": 0}
    lost = stage(to, rows(2), inner)
    assert maintain(to, NOW) == {"a": 0, "a.data": 1}
    fences = {file.key for file in to.storage.list()} - before
    assert fences == {f"a/data/_commits/{2:020}.json"}
    assert before <= {file.key for file in to.storage.list()}
    with pytest.raises(StageLost):
        to.publish(inner, APPEND, [lost], token(2))
    assert (ids(to, outer), ids(to, inner)) == ([1], [1])


def test_what_a_table_that_was_never_published_left_goes_when_it_is_named(settings: dict[str, Any]) -> None:
    to = target(settings)
    odd = replace(ORDERS, namespace="my shop", name="_orders.v2")
    lost = stage(to, rows(1), odd)
    assert maintain(to, NOW) == {}
    with pytest.raises(NotFoundError, match=r"nope") as caught:
        maintain(to, replace(NOW, tables=("nope",)))
    assert caught.value.remedy == f"There are: {odd.id}."
    assert maintain(to, replace(NOW, tables=(odd.id,))) == {odd.id: 1}
    assert (to.describe(odd), to.wear(odd)) == (None, None)
    with pytest.raises(NotFoundError):
        ids(to, odd)
    with pytest.raises(StageLost):
        target(settings).publish(odd, APPEND, [lost], token(1))
    append(to, [2], token(1), odd)
    assert ids(target(settings), odd) == [2]


def test_a_table_whose_log_cannot_be_read_keeps_its_files_and_no_other_from_its_turn(
    local: dict[str, Any],
) -> None:
    to = target(local)
    broken = replace(ORDERS, name="broken")
    for stream in (broken, ORDERS):
        append(to, [1], token(1), stream)
        stage(to, rows(2), stream)
    (Path(to.config.url) / f"public/broken/_commits/{1:020}.json").write_text("{}")
    first, second = to.maintain(NOW)
    assert (first.table, first.error and first.error.code) == ("public.broken", "parquet.manifest")
    assert (second.table, second.counts["files_removed"]) == ("public.orders", 1)
    assert len(data_keys(to)) == 3


def test_no_further_table_is_begun_once_maintenance_is_to_stop(local: dict[str, Any]) -> None:
    to = target(local)
    for name in ("a", "b"):
        append(to, [1], token(1), replace(ORDERS, name=name))
    turns = iter([False, True])
    assert maintain(to, replace(NOW, stopping=lambda: next(turns))) == {"public.a": 0}


def test_the_command_removes_orphans_of_parquet_tables(
    local: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    to, cli = target(local), in_process(capsys)
    append(to, [1], token(1))
    lost = stage(to, rows(2))
    age(to, 2)
    command = ("maintain", f"parquet:{to.config.url}", "--orphan-days", "1", "--json")
    row = {"table": "public.orders", "step": "orphans", "dry_run": False, "error": None}
    assert cli(*command).document["maintenance"] == [
        row | {"counts": {"files_removed": 1, "bytes_removed": lost.bytes}}
    ]
    assert len(data_keys(to)) == 1
