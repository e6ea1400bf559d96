"""Files become tables: every row once, the bad ones told, and nothing when it can't be."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.control.importers import Importers
from headrace.control.platform import Platform
from headrace.control.worker import Place
from headrace.engine.stop import Stop
from headrace.errors import ConfigError, ConflictError
from headrace.model.file import FileStatus, ImportMode, ImportPlan
from tests.integration.uploads import Person
from tests.waiting import until

CSV = b"order_id,customer_name,amount\n1001,Alice,150.00\n1002,Bob,299.50\n"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform.open(tmp_path / "data", {})
    yield platform
    platform.close()


@pytest.fixture
def ann(platform: Platform) -> Person:
    return Person(platform)


def test_columns_are_named_anew_left_out_or_kept(ann: Person) -> None:
    plan = ImportPlan(
        table="sales", namespace="shop.raw", columns={"customer_name": "customer", "amount": None}
    )
    file = ann.bring("a.csv", CSV, plan)
    assert (file.status, file.imported, file.rejected) == (FileStatus.COMPLETED, 2, 0)
    assert file.completed_at is not None
    assert ann.table("sales", "shop.raw").to_pylist() == [
        {"order_id": 1001, "customer": "Alice"}, {"order_id": 1002, "customer": "Bob"},
    ]  # fmt: skip


def test_every_type_reaches_the_table_as_it_is(ann: Person) -> None:
    ann.bring(
        "a.csv",
        b"b,i,d,f,day,at,tz,t,s\n"
        b"yes,1,1.50,1e3,2024-01-02,2024-01-02 03:04:05,2024-01-02T03:04:05Z,10:30,x\n",
    )
    kinds = {f.name: str(f.type) for f in ann.table().schema}
    assert kinds == {
        "b": "bool", "i": "int64", "d": "decimal128(38, 2)", "f": "double", "day": "date32[day]",
        "at": "timestamp[us]", "tz": "timestamp[us, tz=UTC]", "t": "time64[us]", "s": kinds["s"],
    }  # fmt: skip
    assert ann.table()["d"][0].as_py() == Decimal("1.50")


def test_bad_rows_are_counted_and_told_and_the_good_ones_stay(ann: Person) -> None:
    data = b'a,b\n1,x\n2\n3,"open\n4,y\nno,z\n'
    file = ann.bring("a.csv", data, ImportPlan(table="t", types={"a": "INTEGER"}))
    assert (file.status, file.imported, file.rejected) == (FileStatus.COMPLETED, 2, 3)
    assert {(r.code, r.count, r.first_line) for r in file.reasons} == {
        ("COLUMN_COUNT", 1, 3), ("UNTERMINATED_QUOTE", 1, 4), ("TYPE_MISMATCH", 1, 6),
    }  # fmt: skip
    found = ann.platform.files.rejects(ann.actor, file.id)
    assert found.total == 3
    mismatch = next(r for r in found.items if r.code == "TYPE_MISMATCH")
    assert (mismatch.line, mismatch.column) == (6, "a")
    assert '"no"' in mismatch.raw
    assert file.profile is not None
    assert (file.imported or 0) + (file.rejected or 0) == file.profile.rows


def test_ten_thousand_rejects_are_kept_and_all_are_counted(ann: Person) -> None:
    data = b"a,b\n1,2\n" + b"x\n" * 12_000 + b"\0,1\n3,4\n"
    data = b"a,b\n" + b"9,9\n" * 20_000 + data
    file = ann.bring("a.csv", data, ImportPlan(table="t", types={"a": "INTEGER"}))
    assert (file.imported, file.rejected) == (20_002, 12_002)
    assert {r.code: (r.count, r.first_line) for r in file.reasons} == {
        "COLUMN_COUNT": (12_000, 20_004), "NUL_BYTE": (1, 32_004), "TYPE_MISMATCH": (1, 20_002),
    }  # fmt: skip
    assert ann.platform.files.rejects(ann.actor, file.id).total == 10_001


def test_too_many_rejects_fail_the_import_and_nothing_is_committed(ann: Person) -> None:
    data = b"a,b\n1,2\n3\n4\n"
    assert ann.bring("a.csv", data, ImportPlan(table="t", max_rejected=2)).status is FileStatus.COMPLETED
    file = ann.bring("a.csv", data, ImportPlan(table="t", max_rejected=1))
    assert file.status is FileStatus.FAILED
    assert file.error is not None and file.error.code == "files.too_many_rejects"
    assert (file.imported, file.rejected) == (0, 2)
    assert len(ann.table()) == 1


def test_a_file_without_one_good_row_fails(ann: Person) -> None:
    file = ann.bring("a.csv", b"a\nx\ny\n", ImportPlan(table="t", types={"a": "INTEGER"}))
    assert file.status is FileStatus.FAILED
    assert file.error is not None and file.error.code == "files.no_good_rows"
    assert (file.imported, file.rejected) == (0, 2)


def test_a_file_with_nothing_but_a_header_makes_an_empty_table(ann: Person) -> None:
    file = ann.bring("a.csv", b"a,b\n")
    assert (file.status, file.imported, file.rejected) == (FileStatus.COMPLETED, 0, 0)
    assert ann.table().num_rows == 0
    assert ann.table().schema.names == ["a", "b"]


def test_a_failed_import_may_be_tried_again_with_another_plan(ann: Person) -> None:
    file = ann.bring("a.csv", b"a\nx\n", ImportPlan(table="t", types={"a": "INTEGER"}))
    assert file.status is FileStatus.FAILED
    ann.platform.files.plan(ann.actor, file.id, ImportPlan(table="t2"))
    file = ann.finish(file.id)
    assert (file.status, file.imported, file.rejected, file.error) == (FileStatus.COMPLETED, 1, 0, None)
    assert ann.platform.files.rejects(ann.actor, file.id).total == 0


def test_a_table_grows_by_rows_and_by_columns(ann: Person) -> None:
    ann.bring("a.csv", b"a,b\n1,x\n")
    file = ann.bring("b.csv", b"a,c\n2,y\n")
    assert file.status is FileStatus.COMPLETED, file.error
    rows = sorted(ann.table().to_pylist(), key=lambda row: row["a"])
    assert rows == [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": None, "c": "y"}]


def test_a_type_that_does_not_fit_the_table_fails_and_names_the_column(ann: Person) -> None:
    ann.bring("a.csv", b"a,b\n1,2\n")
    file = ann.bring("b.csv", b"a,b\n1,text\n")
    assert file.status is FileStatus.FAILED
    assert file.error is not None and "b" in file.error.message
    assert ann.table().to_pylist() == [{"a": 1, "b": 2}]


def test_a_table_is_replaced_or_left_alone_as_asked(ann: Person) -> None:
    ann.bring("a.csv", b"a\n1\n")
    assert ann.bring("b.csv", b"a\n2\n", ImportPlan(table="t", mode=ImportMode.REPLACE)).imported == 1
    assert ann.table().to_pylist() == [{"a": 2}]
    file = ann.bring("c.csv", b"a\n3\n", ImportPlan(table="t", mode=ImportMode.FAIL_IF_EXISTS))
    assert file.error is not None and file.error.code == "files.table_exists"
    assert ann.bring("d.csv", b"a\n4\n", ImportPlan(table="u", mode=ImportMode.FAIL_IF_EXISTS)).imported == 1


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (ImportPlan(table="1a"), "files.table_name"),
        (ImportPlan(table="a;drop"), "files.table_name"),
        (ImportPlan(table="x" * 129), "files.table_name"),
        (ImportPlan(table="t", namespace="a..b"), "files.namespace"),
        (ImportPlan(table="t", columns={"nope": "x"}), "files.no_column"),
        (ImportPlan(table="t", types={"nope": "STRING"}), "files.no_column"),
        (ImportPlan(table="t", types={"amount": "MONEY"}), "files.type"),
        (ImportPlan(table="t", columns={"amount": "ORDER_ID"}), "files.same_column"),
        (
            ImportPlan(table="t", columns=dict.fromkeys(("order_id", "customer_name", "amount"))),
            "files.nothing_left",
        ),
        (ImportPlan(table="t", max_rejected=-1), "files.max_rejected"),
    ],
)
def test_a_plan_that_can_not_be_is_refused(ann: Person, plan: ImportPlan, code: str) -> None:
    file = ann.upload("a.csv", CSV)
    with pytest.raises(ConfigError) as raised:
        ann.platform.files.plan(ann.actor, file.id, plan)
    assert raised.value.code == code


def test_an_import_needs_a_plan_and_happens_once(ann: Person) -> None:
    file = ann.upload("a.csv", CSV)
    with pytest.raises(ConfigError) as raised:
        ann.platform.files.start(ann.actor, file.id)
    assert raised.value.code == "files.no_plan"
    ann.platform.files.plan(ann.actor, file.id, ImportPlan(table="t"))
    ann.platform.files.start(ann.actor, file.id)
    for call in (
        lambda: ann.platform.files.start(ann.actor, file.id),
        lambda: ann.platform.files.plan(ann.actor, file.id, ImportPlan(table="t")),
        lambda: ann.platform.files.delete(ann.actor, file.id),
    ):
        with pytest.raises(ConflictError):
            call()
    assert ann.platform.importer.step(Stop())
    assert ann.platform.files.get(ann.actor, file.id).status is FileStatus.COMPLETED
    with pytest.raises(ConflictError):
        ann.platform.files.start(ann.actor, file.id)
    assert len(ann.table()) == 2


def test_processes_beside_a_worker_do_what_comes(ann: Person, tmp_path: Path) -> None:
    swept: list[int] = []
    importers = make_importers(ann, tmp_path, lambda: swept.append(1))
    thread = threading.Thread(target=importers.run)
    thread.start()
    try:
        for name in ("t1", "t2"):
            file = ann.upload("a.csv", CSV)
            ann.platform.files.plan(ann.actor, file.id, ImportPlan(table=name))
            ann.platform.files.start(ann.actor, file.id)
            until(lambda id=file.id: status(ann, id) is FileStatus.COMPLETED, "the import ends")  # type: ignore[misc]
    finally:
        importers.stop()
        thread.join()
    assert len(ann.table("t1")) == len(ann.table("t2")) == 2
    assert swept == [1]


def test_a_file_that_every_process_dies_of_has_failed(
    ann: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_FAILPOINT", "before_publish=kill")
    importers = make_importers(ann, tmp_path, lambda: None)
    file = ann.upload("a.csv", CSV)
    ann.platform.files.plan(ann.actor, file.id, ImportPlan(table="t"))
    ann.platform.files.start(ann.actor, file.id)
    thread = threading.Thread(target=importers.run)
    thread.start()
    try:
        until(lambda: status(ann, file.id) is FileStatus.FAILED, "it is given up")
    finally:
        importers.stop()
        thread.join()
    error = ann.platform.files.get(ann.actor, file.id).error
    assert error is not None and error.code == "worker.import_died"


def make_importers(ann: Person, folder: Path, sweep: Any) -> Importers:
    place = Place(folder=folder / "data", environ=dict(os.environ))
    return Importers(ann.platform._store, place, sweep, lambda *_, **__: None)


def status(ann: Person, id: str) -> FileStatus:
    return ann.platform.files.get(ann.actor, id).status


def test_workspaces_have_tables_of_their_own(ann: Person) -> None:
    bob = Person(ann.platform, "bob")
    ann.bring("a.csv", b"a\n1\n")
    bob.bring("a.csv", b"a\n2\n")
    assert ann.table().to_pylist() == [{"a": 1}]
    assert bob.table().to_pylist() == [{"a": 2}]


def test_typed_files_are_imported_with_nested_values(ann: Person) -> None:
    import io

    import pyarrow.parquet as pq

    table = pa.table(
        {"id": [1, 2], "o": [{"x": 1, "y": ["a"]}, None], "u": pa.array([2**63, 1], pa.uint64())}
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    file = ann.bring("a.parquet", out.getvalue())
    assert file.status is FileStatus.COMPLETED, file.error
    assert ann.table().to_pylist() == [
        {"id": 1, "o": {"x": 1, "y": ["a"]}, "u": Decimal(2**63)}, {"id": 2, "o": None, "u": Decimal(1)},
    ]  # fmt: skip


def test_json_lines_lose_only_their_bad_ones(ann: Person) -> None:
    data = b'{"a": 1}\n[1]\n\n{"a": 2\n{"a": 3, "b": {"c": "x"}}\n'
    file = ann.bring("a.jsonl", data)
    assert (file.imported, file.rejected) == (2, 2)
    assert {(r.code, r.first_line) for r in file.reasons} == {("NOT_AN_OBJECT", 2), ("BAD_JSON", 4)}
    assert ann.table().to_pylist() == [{"a": 1, "b_c": None}, {"a": 3, "b_c": "x"}]
