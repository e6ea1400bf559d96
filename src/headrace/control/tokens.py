"""Service accounts: tokens with which programs act for a user."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from headrace.control import token
from headrace.control.access import Actor, Guarded, Permission, needs
from headrace.control.token import Claims, SigningKeys
from headrace.errors import ConfigError
from headrace.model.user import ServiceToken
from headrace.store import Store

LONGEST_DAYS = 365


class Tokens(Guarded):
    def __init__(self, store: Store, keys: SigningKeys):
        super().__init__(store)
        self._keys = keys

    @needs(Permission.PERSON, changes=True)
    def create(self, actor: Actor, name: str = "", days: int = 90) -> tuple[ServiceToken, str]:
        """The token's text comes with it, this once. It works in the actor's workspaces, not on people."""
        if not 1 <= days <= LONGEST_DAYS:
            raise ConfigError(
                "tokens.days",
                f"a token lives 1 to {LONGEST_DAYS} days",
                field="expires_in_days",
                remedy="Choose a number within.",
            )
        user = self._store.users.get(actor.id)
        now = datetime.now(UTC)
        ends = now + timedelta(days=days)
        claims = Claims(user=user.id, id=token.new_id(), version=user.version, expires_at=ends, service=True)
        text = self._keys.sign(claims)
        kept = ServiceToken(id=claims.id, user=user.id, name=name, created_at=now, expires_at=ends)
        return self._store.tokens.add_service(kept, token.hash(text)), text

    @needs(Permission.PERSON)
    def list(self, actor: Actor) -> Sequence[ServiceToken]:
        """One's own, the newest first."""
        return self._store.tokens.services(actor.id)

    @needs(Permission.PERSON, changes=True)
    def revoke(self, actor: Actor, id: str) -> None:
        """Raises NotFoundError for one of somebody else."""
        self._store.tokens.revoke_service(actor.id, id)
