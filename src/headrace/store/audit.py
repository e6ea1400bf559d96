"""The audit log: entries are added and read, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select

from headrace.model.audit import AuditEntry
from headrace.store.database import Database
from headrace.store.schema import audit


class Audit:
    def __init__(self, database: Database):
        self._database = database

    def add(
        self,
        actor: str,
        action: str,
        object: str | None = None,
        *,
        workspace: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Note that `actor` did `action` to `object`; `detail` is plain data without a secret."""
        row = {"actor": actor, "action": action, "object": object, "workspace": workspace}
        with self._database.write() as transaction:
            transaction.execute(insert(audit).values(at=datetime.now(UTC), detail=dict(detail or {}), **row))

    def list(
        self, workspace: str | None = None, *, before: int | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        """The newest first, of one workspace or of all; `before` is the id where the last page ended."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if workspace is not None:
            query = query.where(audit.c.workspace == workspace)
        if before is not None:
            query = query.where(audit.c.id < before)
        with self._database.read() as transaction:
            return [AuditEntry(**row._mapping) for row in transaction.execute(query)]
