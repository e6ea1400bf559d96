"""`${NAME}`, `${NAME:-default}` and `${file:path}`."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli.reference import resolve
from headrace.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain $5 {x}", "plain $5 {x}"),
        ("${A}", "one"),
        ("<${A}|${A}>", "<one|one>"),
        ("${EMPTY}", ""),
        ("${EMPTY:-two}", "two"),
        ("${NONE:-two}", "two"),
        ("${NONE:-}", ""),
        ("$${A}", "${A}"),
        ("${file:secret}", "s3cret"),
    ],
)
def test_a_reference_is_filled_in(tmp_path: Path, text: str, filled: str) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    assert resolve(text, {"A": "one", "EMPTY": ""}, tmp_path) == filled


def test_what_is_filled_in_is_not_looked_at_again(tmp_path: Path) -> None:
    assert resolve("${A}", {"A": "${B}", "B": "x"}, tmp_path) == "${B}"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("${NONE}", "project.unset_variable"),
        ("${file:none}", "project.unreadable_file"),
        ("${}", "project.bad_reference"),
        ("${A", "project.bad_reference"),
        ("${A-b}", "project.bad_reference"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(text, {"A": "one"}, tmp_path)
    assert caught.value.code == code
