"""What the store keeps of files and of their imports, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from headrace.errors import ConflictError, Fenced, NotFoundError, TooLarge
from headrace.model.file import (
    File,
    FileProfile,
    FileReject,
    FileStatus,
    ImportMode,
    ImportPlan,
    ReadOptions,
    RejectReason,
)
from headrace.model.run import ErrorReport
from headrace.model.workspace import LOCAL
from headrace.store import Store
from tests.integration.tenants import file_in

MINUTE = timedelta(minutes=1)
PLAN = ImportPlan(table="t", columns={"a": "b", "c": None}, types={"a": "DATE"}, mode=ImportMode.REPLACE)
OPTIONS = ReadOptions(delimiter=";", null_values=("NA", "-"), header=True)
PROFILE = FileProfile(columns=(), rows=3, preview=('{"a": 1.50}',), schema="", warnings=("w",))


def planned(store: Store) -> File:
    file = store.files.add(file_in(LOCAL), None)
    return store.files.plan(file.id, PLAN, OPTIONS)


def reject(line: int, code: str = "BAD_JSON") -> FileReject:
    return FileReject(line=line, column=None, code=code, message="m", raw="r")


def test_a_file_comes_back_as_it_was_kept(store: Store) -> None:
    file = planned(store)
    store.files.save_profile(file.id, OPTIONS, PROFILE)
    found = store.files.get(file.id)
    assert (found.plan, found.options, found.profile) == (PLAN, OPTIONS, PROFILE)
    assert found.status is FileStatus.PREVIEWING
    assert store.files.list().items == [replace(found, profile=None)]


def test_reading_in_another_way_forgets_what_was_found(store: Store) -> None:
    file = planned(store)
    store.files.save_profile(file.id, OPTIONS, PROFILE)
    store.files.plan(file.id, None, ReadOptions())
    found = store.files.get(file.id)
    assert (found.profile, found.plan) == (None, None)
    store.files.save_profile(file.id, OPTIONS, PROFILE)  # comes late
    assert store.files.get(file.id).profile is None


def test_a_file_that_can_not_be_read_has_failed(store: Store) -> None:
    file = store.files.add(file_in(LOCAL), None)
    error = ErrorReport(code="x.y", message="m")
    store.files.save_profile(file.id, ReadOptions(), error)
    found = store.files.get(file.id)
    assert (found.status, found.error) == (FileStatus.FAILED, error)


def test_the_quota_counts_content_that_is_there(store: Store) -> None:
    file = store.files.add(file_in(LOCAL, size=70), 100)
    with pytest.raises(TooLarge):
        store.files.add(file_in(LOCAL, size=31), 100)
    store.imports.removed([file.id])
    store.files.add(file_in(LOCAL, size=100), 100)
    assert store.files.used() == 100


def test_one_worker_at_a_time_has_an_import(store: Store) -> None:
    file = planned(store)
    assert store.imports.claim("w1", MINUTE) is None
    store.files.start(file.id)
    assert store.imports.waits()
    claimed = store.imports.claim("w1", MINUTE)
    assert claimed is not None
    found, first = claimed
    assert (found.id, first.epoch) == (file.id, 1)
    assert not store.imports.waits() and store.imports.claim("w2", MINUTE) is None
    assert store.imports.holders() == ["w1"]
    assert store.imports.claim("w2", MINUTE, dead=["w1"], only="other") is None
    second = store.imports.claim("w2", MINUTE, dead=["w1"])
    assert second is not None and second[1].epoch == 2
    for call in (
        lambda: store.imports.renew(first, MINUTE),
        lambda: store.imports.keep_rejects(first, 0, [reject(1)]),
        lambda: store.imports.raise_epoch(first, 9),
        lambda: store.imports.replan(first, PLAN),
        lambda: store.imports.finish(first, (1, 0), (), None),
    ):
        with pytest.raises(Fenced):
            call()
    store.imports.release(first)  # which does nothing
    assert store.imports.holders() == ["w2"]


def test_rejects_are_kept_once_and_the_end_is_remembered(store: Store) -> None:
    file = planned(store)
    store.files.start(file.id)
    claimed = store.imports.claim("w", MINUTE)
    assert claimed is not None
    lease = claimed[1]
    for _ in range(2):
        store.imports.keep_rejects(lease, 0, [reject(2), reject(5, "NUL_BYTE")])
    store.imports.keep_rejects(lease, 2, [reject(9)])
    assert {code: r.line for code, r in store.imports.first_rejects(lease).items()} == {
        "BAD_JSON": 2, "NUL_BYTE": 5,
    }  # fmt: skip
    reasons = (RejectReason(code="BAD_JSON", count=2, first_line=2, example="m"),)
    store.imports.finish(lease, (7, 3), reasons, None)
    found = store.files.get(file.id)
    assert (found.status, found.imported, found.rejected) == (FileStatus.COMPLETED, 7, 3)
    assert found.reasons == reasons and found.completed_at is not None
    page = store.files.rejects(file.id, offset=1, limit=1)
    assert (page.total, [r.line for r in page.items]) == (3, [5])
    for call in (store.files.start, store.files.delete):
        if call == store.files.start:
            with pytest.raises(ConflictError):
                call(file.id)
        else:
            call(file.id)
    with pytest.raises(NotFoundError):
        store.files.get(file.id)


def test_content_that_nobody_touches_is_outdated(store: Store) -> None:
    file = store.files.add(file_in(LOCAL), None)
    soon = datetime.now(UTC) + MINUTE
    assert [kept.file for kept in store.imports.outdated(soon)] == [file.id]
    assert store.imports.outdated(soon - timedelta(hours=1)) == []
    assert store.imports.unknown([file.id, "gone"]) == {"gone"}
    store.imports.removed([file.id])
    assert store.files.get(file.id).removed and store.imports.outdated(soon) == []
