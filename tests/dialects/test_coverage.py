"""Each API's `coverage.toml` says of every documented operation whether it is there, and is right."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace.dialects
from headrace.control.platform import Platform
from headrace.dialects.door import Door
from tests.dialects.conftest import Caller

ROOT = Path(headrace.dialects.__path__[0])
DIALECTS = sorted(path.parent.name for path in ROOT.glob("*/coverage.toml"))
STATES = ("done", "partial", "notyet", "never")


def coverage(dialect: str) -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads((ROOT / dialect / "coverage.toml").read_text())


def listed(dialect: str, *states: str) -> set[str]:
    found = coverage(dialect)
    return {
        operation for state in states for group in found.get(state, ()) for operation in group["operations"]
    }


def served(dialect: str, platform: Platform) -> set[str]:
    """The operations that the application describes."""
    app = import_module(f"headrace.dialects.{dialect}").app(Door(platform))
    paths = app.openapi()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def test_every_dialect_says_what_it_covers() -> None:
    assert sorted(path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()) == DIALECTS


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_listed_is_what_is_there(dialect: str, platform: Platform) -> None:
    found = coverage(dialect)
    assert set(found) <= set(STATES)
    assert listed(dialect, "done", "partial") == served(dialect, platform)
    assert not listed(dialect, "notyet", "never") & served(dialect, platform)
    every = [
        operation for state in STATES for group in found.get(state, ()) for operation in group["operations"]
    ]
    assert len(every) == len(set(every))
    assert all(group["reason"] for state in STATES[1:] for group in found.get(state, ()))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_description_is_there_for_anybody(dialect: str, address: str, platform: Platform) -> None:
    document = httpx.get(f"{address}/api/openapi/{dialect}.json").json()
    found = {f"{m.upper()} {path}" for path, methods in document["paths"].items() for m in methods}
    assert found == served(dialect, platform)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_not_there_is_answered_as_not_found(dialect: str, ann: Caller) -> None:
    some = "a1b2c3d4-e5f6-7890-abcd-ef1234567890"
    for operation in listed(dialect, "notyet", "never"):
        method, path = operation.split(" ", 1)
        if method == "WEBSOCKET":
            continue
        answer: httpx.Response = ann(method, path.replace("{id}", some), {} if method != "GET" else None)
        assert answer.status_code in (404, 405), operation
