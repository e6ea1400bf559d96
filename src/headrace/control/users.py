"""Users: everyone's own account, and all of them for administrators."""

from __future__ import annotations

from typing import Any, TypedDict

from headrace.control import password as passwords
from headrace.control.access import Actor, Guarded, Permission, denied, needs
from headrace.control.sessions import address_of, new_user
from headrace.control.settings import Settings
from headrace.errors import AuthError, ConflictError, NotFoundError
from headrace.model.directory import Directory
from headrace.model.user import User
from headrace.store import Page, Store


class UserChange(TypedDict, total=False):
    """What is absent stays. The last three are for administrators."""

    email: str
    password: str
    workspace: str | None
    active: bool
    admin: bool
    verified: bool


class Users(Guarded):
    def __init__(self, store: Store, settings: Settings):
        super().__init__(store)
        self._settings = settings

    @needs(Permission.PERSON)
    def list(self, actor: Actor, *, search: str = "", offset: int = 0, limit: int = 50) -> Page[User]:
        """By age. Who is no administrator sees themselves, those in a workspace with them, and the user
        whose exact address they search for."""
        seen_by = None if actor.admin else actor.id
        return self._store.users.list(seen_by=seen_by, search=search, offset=offset, limit=limit)

    @needs(Permission.PERSON)
    def get(self, actor: Actor, id: str) -> User:
        """Oneself, or anyone for administrators. Raises AuthError for every other id, known or not."""
        _refuse_others(actor, id)
        return self._store.users.get(id)

    @needs(Permission.PERSON)
    def by_email(self, actor: Actor, email: str) -> User:
        """As `get`; to everyone but administrators, other addresses are not found."""
        if not actor.admin and actor.email.casefold() != email.casefold():
            raise NotFoundError("store.no_user", f"there is no user {email!r}", remedy="Check the address.")
        return self._store.users.by_email(email)

    @needs(Permission.ADMINISTER, changes=True)
    def create(self, actor: Actor, email: str, password: str, *, admin: bool = False) -> User:
        """Raises ConfigError (`users.email`, `password.weak`), ConflictError (`store.email_taken`)."""
        return new_user(self._store, self._settings, email, password, admin=admin)

    @needs(Permission.ADMINISTER)
    def bootstrap(self, actor: Actor) -> User | None:
        """Make the administrator that the environment names, unless there is a user of that address: for
        who starts a server, as the operator."""
        email, password = self._settings.admin_email, self._settings.admin_password
        if not email or password is None:
            return None
        try:
            return self._store.users.by_email(email)
        except NotFoundError:
            return self.create(actor, email, password.get_secret_value(), admin=True)

    @needs(Permission.PERSON, changes=True)
    def update(self, actor: Actor, id: str, changes: UserChange) -> User:
        """Change oneself, or anyone as an administrator.

        A new password or a deactivation ends all tokens and cookies, but the one that the actor came
        with. A new address is not verified. Raises what `create` raises, AuthError, NotFoundError for a
        workspace that the user is not in, ConflictError (`store.last_admin`).
        """
        _refuse_others(actor, id)
        if not actor.admin and {"active", "admin", "verified"} & set(changes):
            raise denied("users.administer")
        user = self._store.users.get(id)
        values: dict[str, Any] = dict(changes)
        if "email" in changes:
            values["email"] = address_of(changes["email"])
            if values["email"].casefold() != user.email.casefold():
                values.setdefault("verified", False)
        if "password" in changes:
            values["password"] = self._new_password(values.get("email", user.email), changes["password"])
        if (workspace := changes.get("workspace")) is not None:
            self._refuse_foreign(user, workspace)
        if "password" in changes or not changes.get("active", True):
            return self._renew(actor, id, values)
        return self._store.users.update(id, **values)

    @needs(Permission.PERSON, changes=True)
    def change_password(self, actor: Actor, old: str, new: str) -> User:
        """Raises AuthError (`users.wrong_password`), ConfigError (`password.weak`)."""
        user = self._store.users.get(actor.id)
        found = self._store.users.password(user.email)
        right, _ = passwords.matches(old, found[1] if found else None)
        if not right:
            raise AuthError("users.wrong_password", "the old password is wrong", field="old_password")
        return self._renew(actor, user.id, {"password": self._new_password(user.email, new)})

    @needs(Permission.ADMINISTER, changes=True)
    def delete(self, actor: Actor, id: str) -> None:
        """Raises ConflictError for the last administrator (`store.last_admin`), and for the sole owner of
        a workspace or team with other members (`users.sole_owner`)."""
        if names := self._store.workspaces.left_alone_by(id):
            raise ConflictError(
                "users.sole_owner",
                f"this user is the only owner of {', '.join(names)}",
                remedy="Make another member an owner there first.",
            )
        self._store.users.delete(id)

    @needs(Permission.ADMINISTER)
    def export(self, actor: Actor) -> Directory:
        """All users, workspaces, teams and memberships; no password and no token."""
        return self._store.directories.read()

    @needs(Permission.ADMINISTER, changes=True)
    def replace_all(self, actor: Actor, directory: Directory) -> None:
        """Make users, workspaces, teams and memberships as in the directory, or change nothing.

        Who is not in it is deleted, but for the actor, whose own account stays as it is. Users who are
        known keep their password; new ones have none until they ask for one. Raises ConfigError
        (`directory.twice`, `directory.dangling`), ConflictError (`store.in_use`).
        """
        for user in directory.users:
            address_of(user.email)
        self._store.directories.replace(directory, actor.id)
        for user in directory.users:
            if not user.active and user.id != actor.id:
                self._store.tokens.close_sessions(user.id)

    def _renew(self, actor: Actor, id: str, values: dict[str, Any]) -> User:
        keep = actor.token if actor.id == id else None
        user = self._store.users.renew(id, keep=keep, **values)
        self._store.tokens.close_sessions(id, keep=keep)
        return user

    def _new_password(self, email: str, text: str) -> str:
        passwords.refuse_weak(text, email, self._settings.password_minimum)
        return passwords.hash(text)

    def _refuse_foreign(self, user: User, workspace: str) -> None:
        if user.admin:
            self._store.workspaces.get(workspace)
        elif self._store.workspaces.member(workspace, user.id) is None:
            raise NotFoundError("store.no_workspace", f"there is no workspace {workspace}", field="workspace")


def _refuse_others(actor: Actor, id: str) -> None:
    if actor.id != id and not actor.admin:
        raise denied("users.others")
