"""Fresh targets for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from headrace import catalog
from headrace.connector import Config
from tests.crash.tables import Target


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """A fresh target of the kind that the test is parametrised with."""
    kind: str = request.param
    if kind == "postgres":
        url = request.getfixturevalue("postgres_url")
        yield kind, settings_of("postgres", url)
    else:
        yield kind, settings_of(kind, f"{kind}:{tmp_path / 'lake'}")


def settings_of(connector: str, url: str) -> Mapping[str, Any]:
    """The raw settings that an address stands for."""
    config: type[Config] = catalog.connector(connector).config
    return config.from_url(url)
