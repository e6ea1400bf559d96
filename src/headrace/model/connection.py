"""A connector with its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """`settings` hold no secret; `secrets` names the settings that are sealed in the store.

    `team` owns it; None leaves it to all members of the workspace.
    """

    id: str
    name: str
    connector: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    team: str | None = None
    version: int = 0
    extras: Mapping[str, Any] = field(default_factory=dict)
