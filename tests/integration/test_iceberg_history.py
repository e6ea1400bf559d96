"""Expiry and removal of orphans against whatever else goes on: nothing that somebody needs is removed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import Maintained, Maintenance, Staged, WriteMode
from headrace.connectors.iceberg import history
from headrace.errors import ConfigError, HeadraceError, StageLost, TransientError
from tests.integration.iceberg_lake import SLICE, Lake, interfere, stream

APPEND, UPSERT = WriteMode.APPEND, WriteMode.UPSERT
ORDERS = stream()
NAME = ("public", "orders")
EXPIRE = Maintenance(compact=False, orphans=False, expire_after=0, keep_snapshots=1)
ORPHANS = Maintenance(compact=False, expire=False)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    lake = Lake(tmp_path / "lake")
    for n in range(3):
        lake.load(ORDERS, UPSERT, [{"id": n, "note": "old"}])
    yield lake
    lake.target.close()


def error_of(done: list[Maintained]) -> HeadraceError | None:
    (one,) = done
    return one.error


def maintained(lake: Lake, wanted: Maintenance) -> None:
    assert error_of(list(lake.target.maintain(wanted))) is None


def age(folder: Path, days: float = 5) -> None:
    """Make all files of the lake look old."""
    then = time.time() - days * 86_400
    for path in folder.rglob("*"):
        if path.is_file() and "catalog.db" not in path.name:
            os.utime(path, (then, then))


def staged_long_ago(lake: Lake, mode: WriteMode, folder: Path) -> Staged:
    staged = lake.stage(ORDERS, mode, [{"id": 50, "note": "staged"}])
    age(folder)
    return replace(staged, detail=staged.detail | {"at": staged.detail["at"] - 5 * 86_400})


def test_a_tag_that_is_set_while_snapshots_expire_is_kept(lake: Lake) -> None:
    first = lake.table(ORDERS).metadata.snapshots[0].snapshot_id

    def tag() -> None:
        catalog = lake.foreign()
        catalog.load_table(NAME).manage_snapshots().create_tag(first, "audit").commit()
        catalog.close()

    interfere(lake, before=tag)
    assert error_of(list(lake.target.maintain(EXPIRE))) is None
    table = lake.table(ORDERS)
    assert table.metadata.refs["audit"].snapshot_id == first
    assert table.scan(snapshot_id=first).to_arrow().num_rows == 1


def test_two_expiries_at_once_do_each_others_work(lake: Lake, tmp_path: Path) -> None:
    other = Lake(tmp_path / "lake")
    interfere(lake, before=lambda: maintained(other, EXPIRE))
    assert error_of(list(lake.target.maintain(EXPIRE))) is None
    assert len(lake.table(ORDERS).metadata.snapshots) == 1
    assert len(lake.rows(ORDERS)) == 3
    other.target.close()


def test_a_branch_keeps_as_many_snapshots_as_its_owner_wants(lake: Lake) -> None:
    catalog = lake.foreign()
    table = catalog.load_table(NAME)
    now = table.current_snapshot()
    assert now is not None
    table.manage_snapshots().create_branch(now.snapshot_id, "audit", min_snapshots_to_keep=2).commit()
    catalog.close()
    (done,) = lake.target.maintain(EXPIRE)
    assert done.counts["snapshots_out"] == 1


@pytest.mark.parametrize("mode", [APPEND, UPSERT])
def test_what_is_cleared_away_between_look_and_commit_is_not_committed(
    lake: Lake, tmp_path: Path, mode: WriteMode
) -> None:
    staged = staged_long_ago(lake, mode, tmp_path)
    other = Lake(tmp_path / "lake")
    interfere(lake, before=lambda: maintained(other, ORPHANS))
    with pytest.raises(StageLost, match="cleared"):
        lake.publish(ORDERS, mode, staged)
    assert len(lake.rows(ORDERS)) == 3
    other.target.close()


def test_files_of_a_long_load_count_by_their_first(lake: Lake) -> None:
    writer = lake.target.open(ORDERS, APPEND, SLICE)
    opened = time.time()
    while time.time() <= opened:
        time.sleep(0.001)
    late = writer.stage()
    writer.close()
    assert late.detail["at"] <= opened


def test_what_was_staged_long_ago_is_committed_if_nothing_was_cleared(lake: Lake, tmp_path: Path) -> None:
    staged = staged_long_ago(lake, UPSERT, tmp_path)
    lake.publish(ORDERS, UPSERT, staged)
    assert error_of(list(lake.target.maintain(ORPHANS))) is None
    assert len(lake.rows(ORDERS)) == 4


@pytest.mark.parametrize("place", ["orders", "orders/data/inside"])
def test_a_table_that_shares_its_folder_with_another_keeps_all_files(
    lake: Lake, tmp_path: Path, place: str
) -> None:
    catalog = lake.foreign()
    if place == "orders":
        catalog.rename_table(NAME, ("public", "before"))
    else:
        at = catalog.load_table(NAME).location() + "/data/inside"
        table = catalog.create_table(("public", "before"), pa.schema({"id": pa.int64()}), location=at)
        table.append(pa.table({"id": [7]}))
    lake.load(ORDERS, UPSERT, [{"id": 9, "note": "new"}])
    age(tmp_path)
    (done,) = lake.target.maintain(replace(ORPHANS, tables=("public.orders",)))
    assert isinstance(done.error, ConfigError)
    assert "public.before" in str(done.error)
    assert catalog.load_table(("public", "before")).scan().to_arrow().num_rows > 0
    catalog.close()


def test_a_table_that_takes_the_name_while_orphans_go_keeps_its_files(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waste = tmp_path / "lake/public/orders/data/left.parquet"
    waste.write_bytes(b"12345")
    age(tmp_path)
    listing = history._old_files

    def meanwhile(*args: Any) -> Any:
        found = list(listing(*args))
        catalog = lake.foreign()
        catalog.rename_table(NAME, ("public", "before"))
        catalog.close()
        lake.target.prepare(ORDERS, UPSERT)
        return found

    monkeypatch.setattr(history, "_old_files", meanwhile)
    error = error_of(list(lake.target.maintain(ORPHANS)))
    assert isinstance(error, TransientError)
    catalog = lake.foreign()
    assert catalog.load_table(("public", "before")).scan().to_arrow().num_rows == 3
    catalog.close()


def test_a_table_that_cannot_be_read_keeps_no_other_from_its_turn(lake: Lake, tmp_path: Path) -> None:
    catalog = lake.foreign()
    broken = catalog.create_table(("public", "broken"), pa.schema({"id": pa.int64()}))
    Path(broken.metadata_location.removeprefix("file://")).unlink()
    catalog.close()
    done = list(lake.target.maintain(replace(EXPIRE, orphans=True)))
    assert [(one.table, one.step, one.error is None) for one in done] == [
        ("public.broken", "expire", False),
        ("public.orders", "expire", True),
        ("public.orders", "orphans", True),
    ]
