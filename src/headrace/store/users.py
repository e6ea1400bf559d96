"""Users: who they are, the hash of their password, and the version that their tokens must carry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection as Transaction
from sqlalchemy import Row, Select, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from headrace.errors import ConflictError, NotFoundError
from headrace.model.user import User
from headrace.store.database import Database, taken
from headrace.store.page import Page, contains, read_page
from headrace.store.schema import members, one_time_tokens, users


class Users:
    def __init__(self, database: Database):
        self._database = database

    def add(self, user: User, password: str | None) -> User:
        """`password` is a hash. Raises ConflictError (`store.email_taken`), whatever the case."""
        now = datetime.now(UTC)
        values = {name: getattr(user, name) for name in User.__slots__}
        values |= {"email_key": key(user.email), "password": password, "updated_at": now}
        with _no_twins(), self._database.write() as transaction:
            transaction.execute(insert(users).values(values))
        return user

    def get(self, id: str) -> User:
        return self._one(select(users).where(users.c.id == id))

    def by_email(self, email: str) -> User:
        return self._one(select(users).where(users.c.email_key == key(email)))

    def password(self, email: str) -> tuple[User, str | None] | None:
        """The user of an address with the hash of the password; None when there is none."""
        with self._database.read() as transaction:
            row = transaction.execute(select(users).where(users.c.email_key == key(email))).one_or_none()
        return (_read(row), row.password) if row else None

    def list(
        self, *, seen_by: str | None = None, search: str = "", offset: int = 0, limit: int = 50
    ) -> Page[User]:
        """By age. `seen_by` leaves only that user, those in a workspace with them, and an exact address."""
        query = select(users).order_by(users.c.created_at, users.c.id)
        if seen_by is not None:
            theirs = select(members.c.workspace).where(members.c.user == seen_by)
            beside = select(members.c.user).where(members.c.workspace.in_(theirs))
            exact = users.c.email_key == key(search)
            query = query.where(or_(users.c.id == seen_by, users.c.id.in_(beside), exact))
        if search:
            query = query.where(contains(users.c.email, search))
        with self._database.read() as transaction:
            rows, total = read_page(transaction, query, offset, limit)
        return Page([_read(row) for row in rows], total)

    def update(self, id: str, **values: Any) -> User:
        """Change columns; a new `password` is a hash.

        Raises ConflictError for an address of another user, and (`store.last_admin`) rather than leave
        no active administrator.
        """
        if "email" in values:
            values["email_key"] = key(values["email"])
        with _no_twins(), self._database.write() as transaction:
            self._keep_an_admin(transaction, id, values)
            change = update(users).where(users.c.id == id).values(updated_at=datetime.now(UTC), **values)
            if not transaction.execute(change).rowcount:
                raise missing(id)
            if "email" in values:  # what was sent to the old address proves nothing of the new one
                transaction.execute(delete(one_time_tokens).where(one_time_tokens.c.user == id))
            return _read(transaction.execute(select(users).where(users.c.id == id)).one())

    def renew(self, id: str, *, keep: str | None = None, **values: Any) -> User:
        """As `update`, and all tokens given out before die, but the one with the id `keep`."""
        return self.update(id, version=users.c.version + 1, kept=keep, **values)

    def delete(self, id: str) -> None:
        """Memberships and tokens go too. Raises ConflictError for the last administrator."""
        with self._database.write() as transaction:
            self._keep_an_admin(transaction, id, {"admin": False})
            if not transaction.execute(delete(users).where(users.c.id == id)).rowcount:
                raise missing(id)

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are users."""
        with self._database.read() as transaction:
            return set(transaction.scalars(select(users.c.id).where(users.c.id.in_(list(ids)))))

    def _keep_an_admin(self, transaction: Transaction, id: str, values: dict[str, Any]) -> None:
        if values.get("admin", True) and values.get("active", True):
            return
        admins = set(
            transaction.scalars(select(users.c.id).where(users.c.admin, users.c.active).with_for_update())
        )
        if admins == {id}:
            raise ConflictError(
                "store.last_admin",
                "this is the last active administrator",
                remedy="Make somebody else an administrator first.",
            )

    def _one(self, query: Select[Any]) -> User:
        with self._database.read() as transaction:
            row = transaction.execute(query).one_or_none()
        if row is None:
            raise missing("of that name")
        return _read(row)


def key(email: str) -> str:
    """An address as it is compared."""
    return email.casefold()


def missing(label: str) -> NotFoundError:
    return NotFoundError("store.no_user", f"there is no user {label}", remedy="List the users.")


@contextmanager
def _no_twins() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        if not taken(error, users.c.email_key):
            raise
        raise ConflictError(
            "store.email_taken",
            "there is a user with that address already",
            field="email",
            remedy="Sign in, or choose another address.",
        ) from None


def _read(row: Row[Any]) -> User:
    return User(**{name: getattr(row, name) for name in User.__slots__})
