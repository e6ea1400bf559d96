"""A platform on both databases, with and without mail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.control.platform import Platform
from headrace.store import Store
from tests.integration.people import Inbox, Smtp
from tests.integration.tenants import platform_of


@pytest.fixture
def make(store: Store, tmp_path: Path) -> Iterator[Callable[..., Platform]]:
    made: list[Platform] = []

    def platform(**environ: Any) -> Platform:
        made.append(platform_of(store, tmp_path, {"HEADRACE_REGISTRATION": "open"} | environ))
        return made[-1]

    yield platform
    for each in made:
        each.mailer.close()


@pytest.fixture
def platform(make: Callable[..., Platform]) -> Platform:
    """Registration is open."""
    return make()


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, int]]:
    inbox = Inbox()
    controller = Smtp(inbox, hostname="127.0.0.1", port=0)
    controller.start()
    yield inbox, controller.port
    controller.stop()


@pytest.fixture
def mailing(inbox: tuple[Inbox, int], make: Callable[..., Platform]) -> tuple[Platform, Inbox]:
    platform = make(
        HEADRACE_SMTP_HOST="127.0.0.1", HEADRACE_SMTP_PORT=str(inbox[1]), HEADRACE_SMTP_SECURITY="none"
    )
    return platform, inbox[0]
