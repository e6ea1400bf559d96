"""A connector with its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from headrace.model.run import ErrorReport

INTERNAL = "internal"
"""The extra of a connection that is no one's to choose: it belongs to something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """How the last try of a connection went; `stale` says that its settings were changed since."""

    at: datetime
    error: ErrorReport | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """`settings` hold no secret; `secrets` names the settings that are sealed in the store. `streams` are
    the ids of what was found at the other end when it was last looked for.

    `team` owns it; None leaves it to all members of the workspace. The store fills in when it was made
    and changed.
    """

    id: str
    name: str
    connector: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    team: str | None = None
    version: int = 0
    tested: Tested | None = None
    streams: tuple[str, ...] | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = field(default=None, compare=False)
    updated_at: datetime | None = field(default=None, compare=False)
