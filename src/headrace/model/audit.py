"""Who changed what: entries that are only ever added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """`actor` is a user's id, or `local` for the operator of this machine, or `anyone`.

    `action` is dotted (`pipelines.delete`), `object` the id that it was done to; `detail` holds no
    secret. `workspace` is None for what belongs to no workspace.
    """

    id: int
    at: datetime
    actor: str
    workspace: str | None
    action: str
    object: str | None
    detail: Mapping[str, Any] = field(default_factory=dict)
