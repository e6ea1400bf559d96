"""A connector of the Airbyte protocol, in an environment and a process of its own, read into a lake."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headrace import catalog
from headrace.connector import Checkpoint, ReadMode, Stream, StreamRead
from headrace.control.access import OPERATOR
from headrace.control.connections import stored
from headrace.control.platform import Platform
from headrace.errors import ConfigError, HeadraceError
from headrace.model.connection import Connection
from headrace.store import Store
from tests.cli import Process, in_process
from tests.integration.airbyte import (
    THINGS,
    TOKEN,
    Lake,
    connectors,
    counted,
    error_of,
    installed,
    thing,
)
from tests.integration.tenants import platform_of
from tests.waiting import until

__all__ = ["connectors", "installed"]
pytestmark = pytest.mark.usefixtures("connectors")


@pytest.fixture
def lake(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKEN", TOKEN)
    return Lake(in_process(capsys), tmp_path)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {"path": str(folder / "things.jsonl"), "credentials": {"kind": "token", "token": TOKEN}} | more


def left_behind(folder: Path) -> list[str]:
    """The command lines of processes that work on something in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode()
            where = str((process / "cwd").readlink())
        except OSError:
            continue
        if "source-things" in words and (str(folder) in words or "headrace-call" in where):
            found.append(words)
    return found


def test_its_settings_are_those_that_it_names_itself() -> None:
    config = catalog.connector(THINGS).config
    assert config.secret_fields() == {"credentials.token", "credentials.password"}
    with pytest.raises(ConfigError) as raised:
        config.parse({"path": "x", "credentials": {"kind": "token", "token": "t"}, "evry": 1})
    assert (raised.value.field, raised.value.remedy) == ("evry", "Did you mean 'every'?")
    with pytest.raises(ConfigError) as raised:
        config.parse({"path": "x", "credentials": {"kind": "token"}})
    assert raised.value.field == "credentials.token"
    with pytest.raises(ConfigError) as raised:
        config.parse({"path": "x", "credentials": {"kind": "token", "token": "t"}, "every": 0})
    assert raised.value.field == "every"


def test_a_check_says_what_the_connector_says(tmp_path: Path) -> None:
    source = catalog.source(THINGS, settings(tmp_path))
    with pytest.raises(ConfigError) as raised:
        source.check()
    assert raised.value.message == f"the connector: no {tmp_path / 'things.jsonl'}"
    (tmp_path / "things.jsonl").touch()
    source.check()


def test_an_incremental_read_goes_on_where_the_last_one_ended(lake: Lake) -> None:
    lake.write(range(1, 251))
    lake.project()
    assert counted(lake.run()) == ("succeeded", 250, 250)
    assert counted(lake.run()) == ("succeeded", 0, 0)
    lake.write(range(1, 301))
    assert counted(lake.run()) == ("succeeded", 50, 50)
    assert lake.ids() == list(range(1, 301))
    assert lake.rows()[0] == thing(1) | {
        "at": datetime(2026, 1, 2, 2, 4, 5, 500_000, tzinfo=UTC),
        "more": '{"n":1}',
        "_extracted_at": datetime.fromtimestamp(1_700_000_000, UTC),
        "_field_changes": None,
        "_extra": None,
    }


def test_a_full_read_swaps_the_table(lake: Lake) -> None:
    lake.project({"name": "whole"})
    lake.write(range(1, 31))
    assert counted(lake.run()) == ("succeeded", 30, 30)
    lake.write(range(11, 21))
    assert counted(lake.run()) == ("succeeded", 10, 10)
    assert lake.ids("whole") == list(range(11, 21))
    lake.write([])
    assert counted(lake.run()) == ("succeeded", 0, 0)
    assert lake.ids("whole") == []


@pytest.mark.parametrize(
    "how", [{"status": "INCOMPLETE"}, {"status": "RUNNING"}, {"mode": "error in the end"}]
)
def test_a_full_read_that_is_not_complete_leaves_the_old_rows(lake: Lake, how: dict[str, Any]) -> None:
    lake.project({"name": "whole"})
    lake.write([1, 2])
    lake.run()
    lake.write([3])
    lake.project({"name": "whole"}, ", max_retries: 0", **how)
    result = lake.run()
    assert counted(result)[0] == "failed"
    assert error_of(result)["code"] in ("airbyte.incomplete", "airbyte.system_error")
    assert lake.ids("whole") == [1, 2]


@pytest.mark.parametrize("state_type", ["STREAM", "GLOBAL", "LEGACY"])
def test_a_state_comes_back_letter_by_letter(tmp_path: Path, state_type: str) -> None:
    lake = Lake(lambda *_: None, tmp_path)  # type: ignore[arg-type, return-value]
    lake.write(range(1, 151))
    source = catalog.source(THINGS, settings(tmp_path, state_type=state_type))
    (slice,) = source.slices([reading(source)], {})
    positions = [event.position for event in source.read(slice, {}) if isinstance(event, Checkpoint)]
    assert [position["sequence"] for position in positions] == [1, 2]
    assert '"exactly": 1.1' in positions[0]["state"] and state_type in positions[0]["state"]
    events = list(source.read(slice, positions[0]))
    assert sum(event.rows.num_rows for event in events if hasattr(event, "rows")) == 50
    assert [event.position for event in events if isinstance(event, Checkpoint)] == [positions[1]]


def reading(source: Any, name: str = "things", mode: ReadMode = ReadMode.INCREMENTAL) -> StreamRead:
    (stream,) = [stream for stream in source.discover() if stream.id == name]
    return StreamRead(stream=stream, mode=mode)


def test_a_source_without_states_keeps_its_rows_and_says_that_all_will_be_read_again(lake: Lake) -> None:
    lake.write(range(1, 11))
    lake.project(state_type="none")
    result = lake.run()
    assert counted(result) == ("succeeded", 10, 10)
    assert "the source gave no position" in lake.logs(result.document["runs"][0]["run"])
    assert counted(lake.run()) == ("succeeded", 10, 10)
    assert lake.ids() == list(range(1, 11))  # by upsert


@pytest.mark.parametrize("at", [1, 100, 150, 250])
def test_a_connector_that_is_killed_costs_no_row_and_doubles_none(lake: Lake, at: int) -> None:
    lake.write(range(1, 251))
    lake.project(tuning=", commit_interval: 0s", mode="die", at=at, once=str(lake.folder / "once"))
    assert counted(lake.run())[0] == "succeeded"
    assert (lake.folder / "once").exists()
    assert lake.ids() == list(range(1, 251))


def test_a_run_that_is_killed_takes_its_connector_along_and_the_next_one_is_exact(lake: Lake) -> None:
    lake.write(range(1, 251))
    lake.project(tuning=", commit_interval: 0s", mode="hang", at=150, once=str(lake.folder / "once"))
    process = Process("run", "p", folder=lake.folder)
    until((lake.folder / "things.hangs").exists, "a connector that hangs")
    assert left_behind(lake.folder)
    process.signal(signal.SIGKILL)
    process.end()
    until(lambda: not left_behind(lake.folder), "the end of the connector")
    assert counted(lake.run())[0] == "succeeded"
    assert lake.ids() == list(range(1, 251))


def test_a_run_that_is_told_to_stop_ends_its_connector(lake: Lake) -> None:
    lake.write(range(1, 251))
    lake.project(mode="hang", at=150)
    process = Process("run", "p", folder=lake.folder)
    until((lake.folder / "things.hangs").exists, "a connector that hangs")
    process.signal(signal.SIGINT)
    process.wait_for("once more")
    process.signal(signal.SIGINT)
    assert process.end().code != 0
    until(lambda: not left_behind(lake.folder), "the end of the connector")


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("config", "airbyte.config_error", "it went wrong with ****"),
        ("transient", "airbyte.transient_error", "it went wrong with ****"),
        ("system", "airbyte.system_error", "it went wrong with ****"),
        ("exit", "airbyte.died", "exit code 7\n  a line of stderr\n  no way with"),
        ("die", "airbyte.died", "SIGKILL"),
        ("foreign", "airbyte.unknown_stream", "'other' when asked for things"),
    ],
)
def test_what_goes_wrong_is_told_without_secrets(lake: Lake, mode: str, code: str, words: str) -> None:
    lake.write(range(1, 11))
    lake.project(tuning=", max_retries: 0", mode=mode, at=5)
    result = lake.run()
    assert error_of(result)["code"] == code
    assert words in error_of(result)["message"]
    shown = result.out + result.err + lake.logs(result.document["runs"][0]["run"])
    assert TOKEN not in shown and json.dumps(TOKEN)[1:-1] not in shown
    assert not any(TOKEN.encode() in file.read_bytes() for file in lake.folder.glob(".headrace/*.db*"))


def test_a_fault_that_passes_is_tried_again(lake: Lake) -> None:
    lake.write(range(1, 11))
    lake.project(mode="transient", at=5, once=str(lake.folder / "once"))
    assert counted(lake.run())[0] == "succeeded"
    assert lake.ids() == list(range(1, 11))


def test_a_value_that_does_not_fit_becomes_null_and_a_row_without_its_key_is_rejected(lake: Lake) -> None:
    lines = [thing(1), thing(2) | {"at": "yesterday", "new": 1.50}, thing(3) | {"id": "three"}]
    lake.data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    lake.project({"name": "whole"})
    result = lake.run()
    (run,) = result.document["runs"]
    assert (run["status"], run["read"], run["written"], run["rejected"]) == ("succeeded", 3, 2, 1)
    row = lake.rows("whole")[1]
    assert (row["at"], row["_extra"]) == (None, '{"new":1.5}')
    assert json.loads(row["_field_changes"]) == [
        {"field": "at", "change": "NULLED", "reason": "not a date and time"}
    ]
    rejects = lake.cli("rejects", "p", "--json").document["rejects"]
    assert [reject["code"] for reject in rejects] == ["airbyte.value.key"]


def test_a_stream_that_can_only_be_read_in_full_says_so(lake: Lake) -> None:
    lake.write([1])
    lake.project({"name": "whole", "read": "incremental"})
    assert error_of(lake.run())["code"] == "airbyte.no_incremental"
    lake.project({"name": "things", "read": "incremental", "cursor": "name"})
    assert error_of(lake.run())["code"] == "airbyte.cursor_is_fixed"


def test_a_setting_that_the_connector_renews_is_stored_at_once(store: Store, tmp_path: Path) -> None:
    Lake(lambda *_: None, tmp_path).write([1, 2])  # type: ignore[arg-type, return-value]
    platform: Platform = platform_of(store, tmp_path)
    catalog.look_in(Path(os.environ["HEADRACE_CONNECTORS_FOLDER"]))
    draft = Connection(id="", name="app", connector=THINGS)
    given = settings(tmp_path, mode="renew", at=1)
    known = platform.connections.create(OPERATOR, draft, given)
    assert TOKEN not in repr(platform.connections.get(OPERATOR, known.id))
    here = store.within(OPERATOR.place)
    source = stored(here, known.id).source()
    (slice,) = source.slices([reading(source)], {})
    events = source.read(slice, {})
    said = [event.text for event in events if hasattr(event, "text")]
    assert "the connector changed its settings (credentials): they are stored" in said
    assert "now with ****" in said
    renewed = here.connections.settings(known.id)
    assert renewed == given | {"credentials": {"kind": "token", "token": "canary-second"}}
    platform.mailer.close()


def test_settings_that_can_not_be_stored_are_a_warning(lake: Lake) -> None:
    lake.write([1, 2])
    lake.project(mode="renew", at=1)
    result = lake.run()
    assert counted(result)[0] == "succeeded"
    log = lake.logs(result.document["runs"][0]["run"])
    assert "which can't be kept here" in log and "canary-second" not in log


def test_nothing_of_a_call_is_left(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> None:
    lake.write([1])
    source = catalog.source(THINGS, settings(lake.folder))
    assert isinstance(next(iter(source.discover())), Stream)
    mine = f"/proc/{os.getpid()}/fd"
    open_files = len(os.listdir(mine))  # noqa: PTH208
    with pytest.raises(HeadraceError):
        list(source.read(source.slices([reading(source)], {})[0], {"state": "no JSON"}))  # type: ignore[index]
    assert len(os.listdir(mine)) == open_files  # noqa: PTH208
