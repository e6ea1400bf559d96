"""The audit log, for those who answer for a workspace or for the installation."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.control.access import Actor, Guarded, Permission, needs
from headrace.model.audit import AuditEntry


class Audits(Guarded):
    @needs(Permission.AUDIT_READ)
    def list(self, actor: Actor, *, before: int | None = None, limit: int = 100) -> Sequence[AuditEntry]:
        """The newest first, of the actor's workspace; `before` is the last id of the page before."""
        return self._store.audit.list(actor.place, before=before, limit=limit)

    @needs(Permission.ADMINISTER)
    def all(self, actor: Actor, *, before: int | None = None, limit: int = 100) -> Sequence[AuditEntry]:
        """The newest first, of the whole installation."""
        return self._store.audit.list(before=before, limit=limit)
