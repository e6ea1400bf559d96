"""Runs the suites over every connector of the catalogue; a waiver that is not needed fails."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace import catalog
from headrace.connector import Source, Target
from tests.conformance.homes import SOURCES, TARGETS, SourceHome, TargetHome

KINDS = ("notimpl", "notyet", "never")
WAIVERS = tomllib.loads(Path(__file__).with_name("waivers.toml").read_text())["waiver"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever the catalogue lists is tested: there is no list to forget."""
    specs = catalog.connectors()
    for fixture, role in (("source_home", "source"), ("target_home", "target")):
        if fixture in metafunc.fixturenames:
            names = [name for name, spec in specs.items() if getattr(spec, role)]
            metafunc.parametrize(fixture, names, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        params = item.callspec.params
        connector = params.get("source_home") or params.get("target_home")
        for waiver in WAIVERS:
            if (waiver["connector"], waiver["test"]) == (connector, item.originalname):
                reason = f"{waiver['kind']}: {waiver['reason']}"
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture
def source_home(request: pytest.FixtureRequest, tmp_path: Path) -> SourceHome:
    assert request.param in SOURCES, f"give {request.param} a home in tests/conformance/homes.py"
    home = SOURCES[request.param](request, tmp_path)
    home.connector = request.param
    return home


@pytest.fixture
def target_home(request: pytest.FixtureRequest, tmp_path: Path) -> TargetHome:
    assert request.param in TARGETS, f"give {request.param} a home in tests/conformance/homes.py"
    return TARGETS[request.param](request, tmp_path)


@pytest.fixture
def source(source_home: SourceHome) -> Iterator[Source[Any]]:
    opened = open_source(source_home)
    yield opened
    opened.close()


def open_source(home: SourceHome) -> Source[Any]:
    return catalog.source(home.connector, home.settings)


@pytest.fixture
def target(target_home: TargetHome) -> Iterator[Target[Any]]:
    opened = catalog.target(*target_home.target)
    yield opened
    opened.close()
