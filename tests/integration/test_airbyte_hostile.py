"""A connector that means harm gets at nothing, and its end is told for what it was."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from headrace import catalog
from headrace.connector import Batch, Checkpoint, Event, ReadMode, Remark, StreamRead
from headrace.errors import ConfigError, DataError, HeadraceError, TransientError
from tests.cli import process
from tests.integration.airbyte import connectors, installed
from tests.waiting import HANGS, until

__all__ = ["connectors", "installed"]
HOSTILE = "airbyte-source-hostile"
SECRET = "canary +/secret"
Act = Callable[..., list[Event]]


@pytest.fixture
def act(connectors: Path, monkeypatch: pytest.MonkeyPatch) -> Act:
    """Let it act; its events, and how its read ended as the last of them if that was badly."""

    def read(what: str, limits: str = "", **more: str) -> list[Event]:
        monkeypatch.setenv("HEADRACE_CONNECTORS_LIMITS", limits)
        source = catalog.source(HOSTILE, {"act": what, "secret": SECRET, **more})
        (stream,) = source.discover()
        (slice,) = source.slices([StreamRead(stream=stream, mode=ReadMode.INCREMENTAL)], {})
        events: list[Any] = []
        try:
            events.extend(source.read(slice, {}))
        except HeadraceError as error:
            events.append(error)
        return events

    return read


def rows(events: list[Event]) -> list[dict[str, Any]]:
    return [row for event in events if isinstance(event, Batch) for row in event.rows.to_pylist()]


def log(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Remark))


def alive(words: str) -> bool:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if words in (folder / "cmdline").read_bytes().decode().replace("\0", " "):
                return True
        except OSError:
            continue
    return False


def test_it_sees_no_environment_but_its_own(connectors: Path, tmp_path: Path) -> None:
    settings = {"connector": HOSTILE, "act": "environment", "folder": str(tmp_path)}
    (tmp_path / "headrace.yaml").write_text(f"connections: {{app: {json.dumps(settings)}}}\n")
    process("check", "app", folder=tmp_path, CANARY="canary-71f2", HEADRACE_CONNECTORS_FOLDER=str(connectors))
    seen = (tmp_path / "seen").read_text()
    assert set(json.loads(seen.splitlines()[0])) <= {
        "PATH", "HOME", "TMPDIR", "LANG", "TZ", "PYTHONUNBUFFERED", "PYTHONNOUSERSITE", "LC_CTYPE",
        "PYTHONDONTWRITEBYTECODE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
    }  # fmt: skip
    assert "canary-71f2" not in seen


@pytest.mark.parametrize("how", ["fork", "fork away"])
def test_a_fork_bomb_is_put_out(act: Act, how: str) -> None:
    ended = act(how, "processes=40 grace=1")[-1]
    assert isinstance(ended, ConfigError | TransientError)
    until(lambda: not alive("source-hostile read"), "the end of its processes")


def test_what_it_leaves_running_is_ended(act: Act) -> None:
    assert rows(act("leave"))
    assert not alive("sleep 100000")


@pytest.mark.parametrize(
    ("how", "limits", "words"),
    [
        ("memory", "address=400MiB", "memory"),
        ("memory of many", "memory=150MiB", "memory"),
        ("file", "file=20MiB", "File too large"),
        ("disk", "disk=20MiB", "disk"),
    ],
)
def test_it_can_not_use_up_the_machine(act: Act, how: str, limits: str, words: str) -> None:
    ended = act(how, limits)[-1]
    assert isinstance(ended, ConfigError | TransientError)
    assert ended.code in ("airbyte.limit", "airbyte.died")
    assert words in ended.message


def test_a_line_without_an_end_is_cut_off(act: Act) -> None:
    ended = act("line", "line=4MiB")[-1]
    assert isinstance(ended, DataError) and ended.code == "airbyte.line_too_long"


def test_one_that_ignores_the_request_to_end_is_killed(
    connectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_CONNECTORS_LIMITS", "grace=0.2")
    source = catalog.source(HOSTILE, {"act": "stubborn", "folder": str(tmp_path)})
    (stream,) = source.discover()
    (slice,) = source.slices([StreamRead(stream=stream)], {})
    ended: list[BaseException] = []

    def read() -> None:
        try:
            list(source.read(slice, {}))
        except HeadraceError as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    until((tmp_path / "stubborn").exists, "one that ignores the signal")
    source.interrupt()
    thread.join(HANGS)
    assert not thread.is_alive()
    assert [getattr(error, "code", "") for error in ended] == ["airbyte.interrupted"]
    assert not alive("source-hostile read")


def test_one_that_takes_too_long_is_ended(act: Act, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_CONNECTORS_LIMITS", "grace=0.1 check=0.5")
    source = catalog.source(HOSTILE, {"act": "stubborn", "folder": str(tmp_path)})
    with pytest.raises(TransientError) as raised:
        source.check()
    assert raised.value.code == "airbyte.too_slow"


def test_secrets_are_masked_however_they_are_written(act: Act) -> None:
    events = act("secrets")
    ended = events[-1]
    assert isinstance(ended, TransientError) and ended.message == "the connector: ****"
    shown = log(events)
    assert shown.count("here: ") == 15
    inner = base64.b64encode(f"user:{SECRET}".encode()).decode()
    for secret in (SECRET, quote(SECRET, safe=""), inner[8:-4]):
        assert secret not in shown
    assert "\x1b" not in shown and "\r" not in shown


def test_a_state_before_its_records_covers_none_of_them(act: Act) -> None:
    events = act("state first")
    kinds = [type(event).__name__ for event in events if not isinstance(event, Remark)]
    assert kinds[0] == "Checkpoint" and kinds[-1] == "TransientError"
    assert [event.position["sequence"] for event in events if isinstance(event, Checkpoint)][-1] == 1


def test_a_flood_of_words_is_cut_down_and_the_rest_counted(act: Act) -> None:
    events = act("flood", "log_lines=100")
    told = [event.text for event in events if isinstance(event, Remark)]
    assert len(told) < 10_000
    assert any(text.endswith("more lines came too fast and were left out") for text in told)
    assert len(rows(events)) == 1


def test_what_is_no_message_goes_into_the_log_and_a_record_without_data_is_refused(act: Act) -> None:
    events = act("junk")
    assert isinstance(events[-1], DataError) and events[-1].code == "airbyte.bad_record"
