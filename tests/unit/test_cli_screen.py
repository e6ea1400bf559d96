"""What is printed where, and what never is."""

from __future__ import annotations

import io
import json

import pytest

from headrace.cli.options import Common
from headrace.cli.screen import Column, Screen, many, size
from headrace.errors import AuthError

COLUMNS = (Column("name", "name"), Column("rows", "rows", right=True))
ROWS = [{"name": "a", "rows": 1_000_000}, {"name": "b\x1b[31m\nc", "rows": None}]


def test_a_table_off_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(Common()).rows("things", ROWS, COLUMNS)
    assert capsys.readouterr() == (
        "name               rows\na             1,000,000\nb\\x1b[31m\\nc          –\n",
        "",
    )


def test_json_is_one_document_and_ndjson_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(Common(json=True)).rows("things", ROWS, COLUMNS)
    assert json.loads(capsys.readouterr().out) == {"version": 1, "things": ROWS}
    Screen(Common(output="ndjson")).rows("things", ROWS, COLUMNS)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"version": 1, "event": "thing", **row} for row in ROWS]


def test_an_error_shows_cause_and_cure_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(Common(quiet=True)).fail(AuthError("x.denied", "no entry", field="password", remedy="Knock."))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: no entry\n  code    x.denied\n  field   password\n  remedy  Knock.\n"


def test_quiet_silences_talk_and_verbose_adds_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    for common in (Common(quiet=True), Common(), Common(verbose=1)):
        screen = Screen(common)
        screen.say("one")
        screen.say("two", verbose=True)
    assert capsys.readouterr().err == "one\none\ntwo\n"


def test_a_secret_is_masked_in_every_form() -> None:
    screen = Screen(Common())
    screen.hide(['p"ss\\word', "ab", "postgres"], public=["postgres"])
    assert screen.clean('x p"ss\\word y') == "x ******** y"
    assert screen.clean(json.dumps('p"ss\\word')) == '"********"'
    assert screen.clean("ab cab ab") == "******** cab ********"
    assert screen.clean("postgres") == "postgres"
    assert screen.clean("postgresql://me:oh%40no@h:5432/d") == "postgresql://me:********@h:5432/d"
    assert screen.clean("postgresql://me:${NAME:-word}@h/d") == "postgresql://me:********@h/d"
    assert screen.clean("postgresql://me:${NAME}@h/d") == "postgresql://me:${NAME}@h/d"


def test_control_characters_are_spelled_out() -> None:
    screen = Screen(Common())
    assert screen.line("a\r\nb\x1b]0;x\x07\x9b") == "a\\r\\nb\\x1b]0;x\\x07\\x9b"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 50, "1024.0 TiB")],
)
def test_bytes_are_shown_in_their_unit(count: int | None, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("width", "titles"), [(60, "name rows rate why"), (50, "name rows rate"), (40, "name rows")]
)
def test_a_narrow_terminal_goes_without_spare_columns(
    monkeypatch: pytest.MonkeyPatch, width: int, titles: str
) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    columns = (*COLUMNS, Column("rate", "rate", right=True, spare=1), Column("why", "why", spare=2))
    Screen(Common(no_color=True)).rows(
        "things", [{"name": "n" * 30, "rows": 10**9, "rate": 10**6, "why": "disk_full"}], columns
    )
    head, line, *_ = terminal.getvalue().splitlines()
    assert head.split() == titles.split()
    assert "1,000,000,000" in line


def test_one_thing_is_not_many() -> None:
    assert (many(1, "row"), many(0, "row"), many(2000, "row")) == ("1 row", "0 rows", "2,000 rows")
