"""Imports of files under servers that are processes, and die."""

from __future__ import annotations

from pathlib import Path

from headrace.model.file import FileStatus, ImportPlan
from tests.integration.site import kill, site
from tests.integration.uploads import Person
from tests.waiting import until


def test_a_server_that_dies_in_an_import_is_succeeded_by_the_next_one(tmp_path: Path) -> None:
    held = tmp_path / "held"
    with site(tmp_path, f"sqlite:///{tmp_path}/store.db") as here:
        first = here.start("serve", "--port", "0", FAILPOINT=f"before_publish=hold:{held}")
        ann = Person(here.platform)
        file = ann.upload("a.csv", b"id\n" + b"\n".join(b"%d" % n for n in range(100)))
        here.platform.files.plan(ann.actor, file.id, ImportPlan(table="t"))
        here.platform.files.start(ann.actor, file.id)
        until(held.exists, "the import is about to publish")
        kill(first)
        held.unlink()
        here.start("serve", "--port", "0")
        until(
            lambda: here.platform.files.get(ann.actor, file.id).status is not FileStatus.IMPORTING,
            "the import is carried on",
        )
        found = here.platform.files.get(ann.actor, file.id)
        assert (found.status, found.imported) == (FileStatus.COMPLETED, 100), found.error
        assert sorted(ann.table()["id"].to_pylist()) == list(range(100))
