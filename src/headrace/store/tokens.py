"""What lets people and programs in, at rest as hashes only: sessions, service and one-time tokens."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from headrace.errors import NotFoundError
from headrace.model.user import ServiceToken, Session
from headrace.store.database import Database
from headrace.store.schema import one_time_tokens, revoked_tokens, service_tokens, sessions


class Tokens:
    def __init__(self, database: Database):
        self._database = database

    # Cookie sessions

    def open_session(self, session: Session, hash: str) -> Session:
        values = {name: getattr(session, name) for name in Session.__slots__}
        with self._database.write() as transaction:
            transaction.execute(delete(sessions).where(sessions.c.expires_at < _now()))
            transaction.execute(insert(sessions).values(hash=hash, **values))
        return session

    def session(self, hash: str) -> Session | None:
        with self._database.read() as transaction:
            row = transaction.execute(select(sessions).where(sessions.c.hash == hash)).one_or_none()
        if row is None or row.expires_at <= _now():
            return None
        return Session(**{name: getattr(row, name) for name in Session.__slots__})

    def close_session(self, id: str) -> None:
        with self._database.write() as transaction:
            transaction.execute(delete(sessions).where(sessions.c.id == id))

    def close_sessions(self, user: str, *, keep: str | None = None) -> None:
        """All of the user's sessions, but `keep`, and all one-time tokens."""
        with self._database.write() as transaction:
            mine = sessions.c.user == user
            transaction.execute(delete(sessions).where(mine, sessions.c.id != (keep or "")))
            transaction.execute(delete(one_time_tokens).where(one_time_tokens.c.user == user))

    # Bearer tokens that were given up before they ended

    def revoke(self, id: str, expires_at: datetime) -> None:
        """Refuse the token with that id from now on; it is forgotten once it would have ended anyway."""
        with self._database.write() as transaction:
            transaction.execute(delete(revoked_tokens).where(revoked_tokens.c.expires_at < _now()))
            transaction.execute(self._database.add(revoked_tokens), {"id": id, "expires_at": expires_at})

    def revoked(self, id: str) -> bool:
        with self._database.read() as transaction:
            return (
                transaction.execute(select(revoked_tokens).where(revoked_tokens.c.id == id)).first()
                is not None
            )

    # Service accounts

    def add_service(self, token: ServiceToken, hash: str) -> ServiceToken:
        values = {name: getattr(token, name) for name in ServiceToken.__slots__}
        with self._database.write() as transaction:
            transaction.execute(insert(service_tokens).values(hash=hash, **values))
        return token

    def service(self, id: str, hash: str) -> ServiceToken | None:
        """The token, unless it was revoked or is too old."""
        mine = service_tokens.c.id == id, service_tokens.c.hash == hash
        with self._database.read() as transaction:
            row = transaction.execute(select(service_tokens).where(*mine)).one_or_none()
        if row is None or row.revoked_at is not None or row.expires_at <= _now():
            return None
        return _read_service(row)

    def services(self, user: str) -> list[ServiceToken]:
        """The newest first."""
        query = select(service_tokens).where(service_tokens.c.user == user)
        query = query.order_by(service_tokens.c.created_at.desc(), service_tokens.c.id)
        with self._database.read() as transaction:
            return [_read_service(row) for row in transaction.execute(query)]

    def revoke_service(self, user: str, id: str) -> None:
        """Raises NotFoundError for a token of somebody else."""
        mine = service_tokens.c.user == user, service_tokens.c.id == id
        with self._database.write() as transaction:
            done = transaction.execute(update(service_tokens).where(*mine).values(revoked_at=_now()))
            if not done.rowcount:
                raise NotFoundError("store.no_token", f"there is no service token {id}")

    # One-time tokens

    def add_once(self, user: str, purpose: str, hash: str, expires_at: datetime) -> None:
        """In place of an earlier one for the same purpose."""
        now = _now()
        row = {"user": user, "purpose": purpose, "hash": hash, "created_at": now, "expires_at": expires_at}
        old = one_time_tokens.c.user == user, one_time_tokens.c.purpose == purpose
        with self._database.write() as transaction:
            transaction.execute(delete(one_time_tokens).where(*old))
            transaction.execute(insert(one_time_tokens).values(row))

    def once(self, purpose: str, hash: str, *, take: bool) -> str | None:
        """The user of a one-time token that is still good; `take` makes it good no more."""
        this = one_time_tokens.c.hash == hash, one_time_tokens.c.purpose == purpose
        with self._database.write() as transaction:
            row = transaction.execute(select(one_time_tokens).where(*this).with_for_update()).one_or_none()
            if row is None or row.expires_at <= _now():
                return None
            if take:
                transaction.execute(delete(one_time_tokens).where(*this))
        user: str = row.user
        return user


def _now() -> datetime:
    return datetime.now(UTC)


def _read_service(row: Row[Any]) -> ServiceToken:
    return ServiceToken(**{name: getattr(row, name) for name in ServiceToken.__slots__})
