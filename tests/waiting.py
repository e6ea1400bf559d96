"""Wait for an event, however long the machine takes: no test is decided by a duration."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg

HANGS = 120.0  # seconds after which it is certain that what is waited for never comes


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + HANGS
    while not holds():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.01)


def held_up(db: psycopg.Connection[Any]) -> bool:
    """Is a session of ours at work in this database, and waits there for a lock or in `pg_sleep`?"""
    found = db.execute(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'headrace'"
        " AND state = 'active' AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep')"
    )
    return found.rowcount > 0
