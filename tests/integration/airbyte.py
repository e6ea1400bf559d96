"""A lake that is filled from the source of `tests/airbyte/source_things.py` by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace import catalog
from headrace.connector.packages import Package
from tests.airbyte.wheel import wheel
from tests.cli import Cli, Result
from tests.crash.tables import _iceberg as table_of

THINGS = "airbyte-source-things"
TOKEN = "canary/first+secret"


def yes(what: str, licence: str) -> bool:
    return True


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the connectors of the tests are installed, once a test process."""
    folder = tmp_path_factory.mktemp("connectors")
    try:
        catalog.look_in(folder)
        for module in ("source_things", "source_hostile"):
            catalog.install(Package(path=wheel(tmp_path_factory.mktemp("wheels"), module)), yes)
    finally:
        catalog.look_in(None)
    yield folder


@pytest.fixture
def connectors(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, known to the catalogue and to command lines."""
    monkeypatch.setenv("HEADRACE_CONNECTORS_FOLDER", str(installed))
    catalog.look_in(installed)
    yield installed
    catalog.look_in(None)


@dataclass
class Lake:
    """A project in `folder` that reads the things of a file; `settings` go to the connector."""

    cli: Cli
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "things.jsonl"

    def write(self, ids: Iterable[int], **values: Any) -> None:
        """The things in the file from now on."""
        self.data.write_text("".join(json.dumps(thing(id) | values) + "\n" for id in ids))

    def project(self, stream: dict[str, Any] | None = None, tuning: str = "", **settings: Any) -> None:
        source = {"path": str(self.data), "credentials": {"kind": "token", "token": "${TOKEN}"}} | settings
        stream = stream or {"name": "things", "read": "incremental"}
        (self.folder / "headrace.yaml").write_text(
            f"connections:\n"
            f"  app: {json.dumps({'connector': THINGS} | source)}\n"
            f"  lake: {{url: 'iceberg:./lake'}}\n"
            f"pipelines:\n"
            f"  p: {{from: app, to: lake, streams: [{json.dumps(stream)}],"
            f" tuning: {{retry_backoff: 10ms{tuning}}}}}\n"
        )

    def run(self) -> Result:
        return self.cli("run", "p", "--json")

    def rows(self, name: str = "things") -> list[dict[str, Any]]:
        """What is in the table, by id."""
        settings = {"warehouse": str(self.folder / "lake")}
        found: list[dict[str, Any]] = table_of(settings, (None, name), None).to_pylist()  # type: ignore[arg-type]
        return sorted(found, key=lambda row: row["id"])

    def ids(self, name: str = "things") -> list[int]:
        return [row["id"] for row in self.rows(name)]

    def logs(self, run: str) -> str:
        return self.cli("logs", run).out


def thing(id: int) -> dict[str, Any]:
    return {
        "id": id,
        "name": f"thing {id}",
        "at": "2026-01-02T03:04:05.5+01:00",
        "tags": ["a"],
        "more": {"n": 1},
    }


def counted(result: Result) -> tuple[str, int, int]:
    """How the one run of a command ended, and the rows that it read and wrote."""
    (run,) = result.document["runs"]
    return run["status"], run["read"], run["written"]


def error_of(result: Result) -> dict[str, Any]:
    """The error of the one stream of the one run."""
    (run,) = result.document["runs"]
    (stream,) = run["streams"]
    error: dict[str, Any] = stream["error"]
    return error
